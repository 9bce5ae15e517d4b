"""The simulator's truth is true."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS, simulate_columns
from spm_training.simulate.lattices import ARRANGEMENTS, nearest_neighbour_distances


def test_the_same_seed_is_the_same_scene():
    first, second = (simulate_columns(np.random.default_rng(7), shape=(64, 80)) for _ in range(2))
    assert (first.image == second.image).all()
    assert (first.yx_px == second.yx_px).all()
    assert first.image.shape == (64, 80)


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_stand_where_the_truth_says(family):
    """In scenes with next to no noise the brightness at the columns exceeds that between them."""
    contrasts = []
    for seed in range(12):
        rng = np.random.default_rng([seed, FAMILIES.index(family)])
        scene = simulate_columns(
            rng, shape=(128, 128), families=[family], spacing_px=(9.0, 13.0), detectability=(150.0, 200.0)
        )
        yx = scene.yx_px[scene.required]
        yx = yx[np.all((yx > 6) & (yx < 121), axis=1)]
        if len(yx) == 0:
            continue
        y, x = np.rint(yx).astype(int).T
        ring = [
            scene.image[np.rint(y + 0.5 * scene.spacing_px * np.sin(a)).astype(int),
                        np.rint(x + 0.5 * scene.spacing_px * np.cos(a)).astype(int)]
            for a in np.arange(0, 2 * np.pi, np.pi / 4)
        ]  # fmt: skip
        contrasts.append(np.mean(scene.image[y, x] > np.median(ring, axis=0)))
    assert len(contrasts) >= 6
    assert np.median(contrasts) > 0.95


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "isolated"])
def test_the_spacing_is_the_mean_nearest_neighbour_distance(family):
    measured = []
    for seed in range(10):
        scene = simulate_columns(
            np.random.default_rng(seed), shape=(256, 256), families=[family], spacing_px=(8.0, 12.0)
        )
        yx = scene.yx_px[scene.required]
        if len(yx) > 100:
            measured.append(np.median(nearest_neighbour_distances(yx)) / scene.spacing_px)
    assert np.median(measured) == pytest.approx(1.0, abs=0.12)


def test_7x7_has_twelve_adatoms_and_a_corner_hole_per_cell():
    """Distances of the dimer–adatom–stacking-fault model, in units of the 1×1 lattice constant."""
    sites = ARRANGEMENTS["si111-7x7"](np.random.default_rng(0), 60.0)
    assert len(sites.yx) / len(sites.holes) == pytest.approx(12, rel=0.05)
    unit = np.sqrt(3.0)  # nearest adatoms are √3 apart
    holes = sites.holes[np.hypot(*sites.holes.T) < 40]
    cell = nearest_neighbour_distances(holes) * unit
    assert cell == pytest.approx(np.full(len(holes), 7.0))
    distance, _ = cKDTree(sites.yx).query(holes, k=7)
    assert distance[:, :6] * unit == pytest.approx(np.full((len(holes), 6), np.sqrt(3.0)))
    assert (distance[:, 6] * unit > 2.5).all()
    inner = np.hypot(*sites.yx.T) < 40
    assert nearest_neighbour_distances(sites.yx)[inner] == pytest.approx(np.ones(inner.sum()))


def test_isolated_atoms_keep_their_distance():
    for seed in range(20):
        sites = ARRANGEMENTS["isolated"](np.random.default_rng(seed), 20.0)
        assert nearest_neighbour_distances(sites.yx).min() >= 1.0


def test_the_noise_is_that_of_the_stated_detectability():
    """At spacings too narrow to be enlarged images the noise is white (or smoothed along the line), of the stated strength."""
    for seed in range(40):
        scene = simulate_columns(
            np.random.default_rng(seed), shape=(32, 32), spacing_px=(2.5, 2.7), detectability=(4, 5)
        )
        assert scene.detectability == pytest.approx(np.sqrt(np.pi) * scene.width_px / scene.noise_px)
        assert 4 <= scene.detectability <= 5


def test_gain_and_offset_are_arbitrary():
    ranges = [np.ptp(simulate_columns(np.random.default_rng(seed), shape=(32, 32)).image) for seed in range(40)]
    assert np.ptp(np.log10(ranges)) > 1


def test_noise_levels_have_names():
    for name, (low, high) in NOISE_LEVELS.items():
        scene = simulate_columns(np.random.default_rng(1), shape=(32, 32), detectability=(low, high))
        assert scene.noise == name


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="unknown families"):
        simulate_columns(np.random.default_rng(0), shape=(32, 32), families=["cubic"])


def test_every_scene_is_finite_with_its_columns_inside():
    for seed in range(150):
        scene = simulate_columns(np.random.default_rng(seed), shape=(48, 64))
        assert np.isfinite(scene.image).all()
        assert np.ptp(scene.image) > 0
        assert ((scene.yx_px >= -0.5) & (scene.yx_px < np.array([48, 64]) - 0.5)).all()
        assert len(scene.required) == len(scene.sublattice) == len(scene.yx_px)
