"""What a network that denoises is to make of an image: what nobody can know stays in it."""

import numpy as np
import pytest
from scipy import ndimage

from spm_runtime.levelling import fit_plane
from spm_training.recipe import load_recipe
from spm_training.simulate.lattice_pairs import draw_lattice_image, without_noise
from spm_training.simulate.surfaces import simulate_surface
from spm_training.sources import source_files
from spm_training.tasks import lattice_images
from spm_training.tasks.lattice_images import LatticeCrops, drawn_by


def surfaces(count, side_px=128, **values):
    for seed in range(count):
        yield simulate_surface(np.random.default_rng(seed), shape=(side_px, side_px), **values)


def spread(image):
    return float((image - image.mean()).std())


def test_no_plane_and_no_drift_counts_as_noise():
    planes, slow = [], []
    for surface in surfaces(12):
        before, after = (
            surface.image.astype(np.float64) - truth for truth in (surface.clean, without_noise(surface))
        )  # fmt: skip
        planes.append([spread(fit_plane(one.astype(np.float32))) / spread(one) for one in (before, after)])
        slow.append([spread(ndimage.gaussian_filter(one, 32)) / spread(one) for one in (before, after)])
    for before, after in (np.max(planes, axis=0), np.max(slow, axis=0)):
        assert before > 0.08
        assert after < before / 3


def test_a_jump_of_the_apex_stays_in_the_image():
    found = 0
    for surface in surfaces(40, 64, noise="clear"):
        if not surface.jumps.any():
            continue
        found += 1
        jump = surface.jumps.ravel()
        (places,) = np.nonzero(np.diff(jump))
        truth = (without_noise(surface) - surface.clean).ravel()
        for place in places:
            # The rest of the target is smooth.
            assert truth[place + 1] - truth[place] == pytest.approx(
                jump[place + 1] - jump[place], rel=0.1, abs=surface.white_noise_nm
            )
    assert found >= 2


def test_white_noise_and_the_offsets_of_lines_are_to_be_taken_away():
    """The target is as smooth as the clean image: it holds nothing of what is fine."""
    for surface in surfaces(6, noise="low"):
        if surface.jumps.any():
            continue
        rough = [
            np.diff(truth - surface.clean, axis=axis).std()
            for truth in (surface.image.astype(np.float64), without_noise(surface))
            for axis in (0, 1)
        ]
        assert rough[2] < 0.05 * rough[0]
        assert rough[3] < 0.05 * rough[1]


def test_pairs_hold_that_target():
    recipe = load_recipe("denoise", smoke=True, overrides=("lattices.surfaces_share=1", "lattices.inverted_share=0"))
    drawn = {name: value for name, value in drawn_by(recipe).items() if name != "sources"}
    for seed in range(8):
        pair = draw_lattice_image(np.random.default_rng(seed), 0, **drawn)
        left = pair.image.astype(np.float64) - pair.clean
        assert spread(fit_plane(left.astype(np.float32))) < 0.1 * spread(left)


def test_the_cache_depends_on_all_that_makes_an_image():
    files = source_files(draw_lattice_image.__module__)
    for name in (
        "spm_runtime.pipelines.denoise_view",
        "spm_runtime.levelling",
        "spm_kernels.background",
        "spm_training.simulate.lattice_pairs",
        "spm_training.simulate.stm_lattices",
        "spm_training.simulate.splat",
        "spm_training.simulate.surfaces.scanner",
        "spm_training.simulate.surfaces.materials",
    ):
        assert name in files
    # Networks, recipes and what reads the cache have no say: a new network may learn from the same images.
    assert not [name for name in files if name.startswith(("spm_training.recipe", "spm_training.tasks"))]


def test_changed_sources_are_simulated_anew(tmp_path, monkeypatch):
    recipe = load_recipe("denoise", smoke=True, overrides=(f"data.cache={(tmp_path / 'cache').as_posix()}",))
    calls = []
    draw = lattice_images.draw_lattice_image
    monkeypatch.setattr(lattice_images, "source_digest", lambda *_: digest)
    digest = "old"
    crops = LatticeCrops(recipe, 0)

    def counted(*args, **options):
        calls.append(1)
        return draw(*args, **options)

    counted.__module__ = draw.__module__
    monkeypatch.setattr(lattice_images, "draw_lattice_image", counted)
    for _ in range(2):
        crops[0, 0]
    assert len(calls) == 1
    digest = "new"
    crops[0, 0]
    assert len(calls) == 2
