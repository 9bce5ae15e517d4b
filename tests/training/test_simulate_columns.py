"""The simulator's truth is true: positions, spacings, noise and bounds, for every family."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from spm_training.simulate import columns as columns_module
from spm_training.simulate import stem as stem_module
from spm_training.simulate.columns import (
    FAMILIES,
    NOISE_LEVELS,
    PAPER_FAMILIES,
    UNSEEN_FAMILIES,
    simulate_columns,
)
from spm_training.simulate.crystals import CRYSTALS
from spm_training.simulate.disturb import add_noise, support
from spm_training.simulate.lattices import ARRANGEMENTS, nearest_neighbour_distances
from spm_training.simulate.scene import in_frame

#: No lattice, hence no spacing but that of their width.
LONELY = ("isolated", "isolated-atoms")


@pytest.fixture
def bare(monkeypatch):
    """Columns and nothing else: no noise, background, adsorbates or gain."""
    for module in (columns_module, stem_module):
        monkeypatch.setattr(module, "background", lambda rng, shape, spacing: np.zeros(shape))
        monkeypatch.setattr(module, "adsorbates", lambda rng, shape, spacing, tall: np.zeros(shape))
        monkeypatch.setattr(module, "add_noise", lambda rng, image, noise, stm, spacing: image)
        monkeypatch.setattr(module, "arbitrary_units", lambda rng, image: image.astype(np.float32))


def scene_of(family, seed, *, shape=(96, 120), spacing=(11.0, 14.0), detectability=(150.0, 200.0)):
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    return simulate_columns(rng, shape=shape, families=[family], spacing_px=spacing, detectability=detectability)


@pytest.mark.parametrize("family", ["graphene", "square"])
@pytest.mark.usefixtures("bare")
def test_columns_just_outside_the_frame_are_truth_that_nobody_asks_for(family):
    """A larger frame around the same columns would show them: what the rim holds continues the lattice."""
    outside = 0
    for seed in range(6):
        scene = scene_of(family, seed)
        rim = ~in_frame(scene.yx_px, scene.image.shape)
        assert not scene.required[rim].any()
        assert scene.required[~rim].any()
        outside += rim.sum()
        # The rim is as full as the image: columns per area.
        height, width = scene.image.shape
        area = (height + scene.spacing_px) * (width + scene.spacing_px) - height * width
        inner = (~rim).sum() / (height * width)
        if (~rim).sum() > 80 and inner * area > 20:
            assert rim.sum() / area == pytest.approx(inner, rel=0.6)
    assert outside > 50


def test_pixels_reach_half_a_pixel_beyond_their_centres():
    yx = np.array([[-0.5, 0.0], [-0.51, 0.0], [9.49, 19.49], [9.5, 3.0], [4.0, 20.4], [11.4, -2.4]])
    np.testing.assert_array_equal(in_frame(yx, (10, 20)), [True, False, True, False, False, False])
    np.testing.assert_array_equal(in_frame(yx, (10, 20), margin_px=2.0), np.ones(6, bool))


def well_inside(yx, shape, margin):
    return np.all((yx > margin) & (yx < np.asarray(shape) - 1 - margin), axis=1)


def vertex(patch):
    """Where the parabolas through a 3×3 patch peak, relative to its middle."""
    place = []
    for line in (patch[:, 1].astype(float), patch[1].astype(float)):
        place.append((line[2] - line[0]) / (2 * max(2 * line[1] - line[0] - line[2], 1e-9)))
    return np.array(place)


def test_names():
    assert set(CRYSTALS) | set(ARRANGEMENTS) == set(FAMILIES)
    assert len(set(FAMILIES)) == len(FAMILIES) >= 25
    assert set(PAPER_FAMILIES) == {"mos2-2h", "res2-1t"} <= set(FAMILIES)
    assert set(UNSEEN_FAMILIES) < set(FAMILIES)
    assert not set(UNSEEN_FAMILIES) & set(PAPER_FAMILIES)
    assert {"graphene", "honeycomb", "perovskite-001", "wse2-2h", "isolated-atoms", "isolated"} <= set(UNSEEN_FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_is_the_same_scene_at_any_shape_and_all_is_finite(family):
    for seed, shape in enumerate([(64, 80), (16, 16), (9, 70), (70, 9)]):
        first, second = (
            scene_of(family, seed, shape=shape, spacing=(3.0, 12.0), detectability=(4.0, 30.0)) for _ in "ab"
        )
        for name, value in vars(first).items():
            np.testing.assert_array_equal(value, getattr(second, name))
        assert first.family == family
        assert first.image.shape == shape
        assert first.image.dtype == np.float32
        assert np.isfinite(first.image).all()
        assert np.ptp(first.image) > 0
        count = len(first.yx_px)
        assert first.required.shape == first.sublattice.shape == first.crb_px.shape == (count,)
        assert in_frame(first.yx_px, shape, margin_px=0.5 * first.spacing_px).all()
        assert in_frame(first.yx_px[first.required], shape).all()
        assert (first.crb_px > 0).all()
        assert np.isfinite(first.crb_px).all()
    assert not np.array_equal(scene_of(family, 0).image, scene_of(family, 1).image)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("bare")
def test_columns_are_maxima_of_the_image_where_the_truth_says(family):
    """Where no neighbour leans on them; to a small part of their width."""
    errors = []
    for seed in range(8):
        scene = scene_of(family, seed)
        yx = scene.yx_px[scene.required]
        alone = nearest_neighbour_distances(yx) > 0.6 * scene.spacing_px
        for place in yx[alone & well_inside(yx, scene.image.shape, 3)]:
            i, j = np.rint(place).astype(int)
            error = np.array([i, j]) + vertex(scene.image[i - 1 : i + 2, j - 1 : j + 2]) - place
            errors.append(np.hypot(*error) / scene.width_px)
    assert len(errors) > 20
    assert np.median(errors) < 0.1
    assert np.quantile(errors, 0.8) < 0.25


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_are_brighter_than_their_surroundings_under_all_disturbances(family):
    contrasts = []
    for seed in range(8):
        scene = scene_of(family, seed, shape=(128, 128), spacing=(9.0, 13.0))
        yx = scene.yx_px[scene.required]
        yx = yx[well_inside(yx, (128, 128), 7)]
        if len(yx) == 0:
            continue
        y, x = np.rint(yx).astype(int).T
        ring = [
            scene.image[np.rint(y + 0.5 * scene.spacing_px * np.sin(a)).astype(int),
                        np.rint(x + 0.5 * scene.spacing_px * np.cos(a)).astype(int)]
            for a in np.arange(0, 2 * np.pi, np.pi / 4)
        ]  # fmt: skip
        contrasts.append(np.mean(scene.image[y, x] > np.median(ring, axis=0)))
    assert len(contrasts) >= 4
    assert np.median(contrasts) > 0.95


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in LONELY])
def test_the_spacing_is_the_mean_nearest_neighbour_distance(family):
    measured = []
    for seed in range(8):
        scene = scene_of(family, seed, shape=(200, 200), spacing=(8.0, 12.0))
        yx = scene.yx_px[scene.required]
        if len(yx) > 60:
            measured.append(np.median(nearest_neighbour_distances(yx)) / scene.spacing_px)
    assert len(measured) >= 2
    assert np.median(measured) == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("family", LONELY)
def test_atoms_without_neighbours_have_their_width_for_a_scale(family):
    for seed in range(10):
        scene = scene_of(family, seed)
        assert scene.width_px / scene.spacing_px == pytest.approx(0.21, abs=0.021)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_column_is_narrower_than_its_pixels_can_sample(family):
    for seed in range(6):
        assert scene_of(family, seed, spacing=(2.2, 3.0)).width_px >= 0.6 - 1e-9


def test_a_range_of_spacings_and_detectabilities_is_kept_to():
    scenes = [
        simulate_columns(np.random.default_rng(seed), shape=(32, 32), spacing_px=(5.0, 9.0), detectability=(4.0, 5.0))
        for seed in range(40)
    ]
    assert all(5 <= scene.spacing_px <= 9 for scene in scenes)
    assert all(4 <= scene.detectability <= 5 for scene in scenes)
    assert np.std([scene.spacing_px for scene in scenes]) > 0.4


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


def gaussian(shape, place, sigma):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("family", list(ARRANGEMENTS))
def test_detectability_is_the_column_over_the_noise(family):
    """The root of the sum of squares of a Gaussian column, the mean over its places between the pixels, over σ of the noise."""
    for seed in range(6):
        scene = scene_of(family, seed, spacing=(2.2, 2.7), detectability=(4.0, 20.0))
        fine = gaussian((401, 401), (200, 200), 10 * scene.width_px)
        energy = np.sqrt((fine**2).sum() / 10**2)
        assert scene.detectability == pytest.approx(energy / scene.noise_px, rel=2e-3)


def test_the_noise_has_the_stated_deviation():
    """White where the electronics are fast; on a column, where the shot noise has its full strength."""
    image = np.zeros((200, 200))
    image[:, 100:] = 1.0
    measured = []
    for seed in range(12):
        noisy = add_noise(np.random.default_rng(seed), image, 0.1, stm=False, spacing=8.0)[:, 110:]
        noisy = noisy - np.median(noisy, axis=1, keepdims=True)  # offsets of lines are no noise of a pixel
        measured.append(np.std(noisy))
    assert np.quantile(measured, 0.75) == pytest.approx(0.1, rel=0.02)
    assert max(measured) < 0.103


@pytest.mark.parametrize("family", ["square", "fcc-001"])
def test_the_noise_of_a_scene_falls_as_its_detectability_grows(family, monkeypatch):
    """Equal seeds are equal but for the noise, whose strength alone differs; its deviation is the stated one at most."""
    for module in (columns_module, stem_module):
        monkeypatch.setattr(module, "arbitrary_units", lambda rng, image: image.astype(np.float64))
    shares = []
    for seed in range(12):
        five, ten, twenty = (
            scene_of(family, seed, spacing=(5.0, 5.5), detectability=(d, d)) for d in (5.0, 10.0, 20.0)
        )
        np.testing.assert_array_equal(five.yx_px, twenty.yx_px)
        assert five.noise_px == pytest.approx(2 * ten.noise_px)
        first, second = five.image - ten.image, ten.image - twenty.image
        np.testing.assert_allclose(first, 2 * second, atol=1e-3 * np.abs(first).max())
        shares.append(np.std(first) / (five.noise_px - ten.noise_px))
    assert max(shares) < 1.03
    assert max(shares) > 0.95
    assert min(shares) > 0.4


def fitted(image, model, start, steps=6):
    """Maximum likelihood in white noise: least squares by Gauss–Newton over the position."""
    place = np.array(start, float)
    half = 0.05
    for _ in range(steps):
        slopes = [
            (model(place + shift) - model(place - shift)).ravel() / (2 * half)
            for shift in (np.array([half, 0]), np.array([0, half]))
        ]
        place += np.linalg.lstsq(np.stack(slopes).T, (image - model(place)).ravel(), rcond=None)[0]
    return place


@pytest.mark.parametrize(("sigma", "d_prime"), [(0.8, 20.0), (2.0, 12.0)])
def test_the_bound_of_a_gaussian_is_that_of_its_fisher_information_and_of_fits(rng, sigma, d_prime):
    scene = scene_of("isolated", 3, spacing=(sigma / 0.21,) * 2, detectability=(d_prime, d_prime))
    heights = 2 * scene.width_px / (scene.detectability * scene.crb_px)
    assert ((heights > 0.02) & (heights < 2.6)).all()
    bound = float(scene.crb_px[0] * heights[0])  # of a full-height column

    def model(place):
        return gaussian((21, 21), place, scene.width_px)

    truth = np.array([10.2, 9.7])
    slopes = [(model(truth + s) - model(truth - s)).ravel() / 0.02 for s in (np.array([0.01, 0]), np.array([0, 0.01]))]
    information = np.stack(slopes) @ np.stack(slopes).T / scene.noise_px**2
    assert bound == pytest.approx(np.sqrt(np.trace(np.linalg.inv(information))), rel=0.02)
    errors = [
        fitted(model(truth) + scene.noise_px * rng.normal(size=(21, 21)), model, truth) - truth for _ in range(400)
    ]
    assert np.sqrt(np.mean(np.sum(np.square(errors), axis=1))) == pytest.approx(bound, rel=0.12)


@pytest.mark.usefixtures("bare")
def test_the_bound_of_a_column_goes_with_its_height():
    """The bound says how high a column is; in an image of nothing else the brightness says the same."""
    compared = 0
    for seed in range(12):
        scene = columns_module._simulate(np.random.default_rng(seed), "isolated", (96, 120), 12.0, 150.0)
        heights = 2 * scene.width_px / (scene.detectability * scene.crb_px)
        alone = nearest_neighbour_distances(scene.yx_px) > 1.2 * scene.spacing_px
        for place, height in zip(scene.yx_px[alone], heights[alone], strict=True):
            i, j = np.rint(place).astype(int)
            if 0 <= i < 96 and 0 <= j < 120 and scene.contrast == "stem":  # no terraces, no dark vacancies
                expected = height * gaussian((96, 120), place, scene.width_px)[i, j]
                assert scene.image[i, j] == pytest.approx(expected, abs=0.02)
                compared += 1
    assert compared > 10


@pytest.mark.usefixtures("bare")
def test_an_enlarged_scene_is_the_coarse_one_on_a_finer_grid():
    """Positions, widths and bounds grow with the image."""
    coarse = scene_of("isolated", 5, shape=(40, 50), spacing=(4.0, 4.0))
    large = columns_module._enlarge(coarse, (110, 130), 12.0)
    assert large.image.shape == (110, 130)
    assert large.spacing_px == 12.0
    assert large.width_px == pytest.approx(3 * coarse.width_px)
    inside = in_frame((coarse.yx_px + 0.5) * 3 - 0.5, (110, 130), margin_px=6.0)
    np.testing.assert_allclose(large.yx_px, (coarse.yx_px[inside] + 0.5) * 3 - 0.5)
    np.testing.assert_allclose(large.crb_px, 3 * coarse.crb_px[inside])
    np.testing.assert_array_equal(large.required, coarse.required[inside] & in_frame(large.yx_px, (110, 130)))


def test_gain_and_offset_are_arbitrary():
    ranges = [np.ptp(simulate_columns(np.random.default_rng(seed), shape=(32, 32)).image) for seed in range(40)]
    assert np.ptp(np.log10(ranges)) > 1


def test_noise_levels_have_names():
    for name, (low, high) in NOISE_LEVELS.items():
        scene = simulate_columns(np.random.default_rng(1), shape=(32, 32), detectability=(low, high))
        assert scene.noise == name


def test_a_support_is_rough_from_the_size_of_an_atom_on():
    """It varies by a tenth of a column to a whole one; most of it within ten spacings, some within one."""
    spacing = 8.0
    for seed in range(10):
        field = support(np.random.default_rng(seed), (256, 256), spacing)
        assert field.shape == (256, 256)
        assert 0.1 <= field.std() <= 1.0
        wide = ndimage.gaussian_filter(field, 10 * spacing)
        fine = field - ndimage.gaussian_filter(field, 0.5 * spacing)
        assert wide.std() < 0.5 * field.std()
        assert 0.05 * field.std() < fine.std() < 0.8 * field.std()


def test_single_atoms_lie_on_a_support_more_often_than_not(monkeypatch):
    bumps = []
    monkeypatch.setattr(stem_module, "support", lambda rng, shape, spacing: bumps.append(shape) or np.zeros(shape))
    for seed in range(40):
        scene_of("isolated-atoms", seed)
    assert 15 < len(bumps) < 33
    scene_of("fcc-001", 1)
    assert len(bumps) < 33


def test_images_too_blurred_to_tell_columns_apart_ask_for_none():
    """STM with a blunt tip; never in the electron microscope."""
    empty = [len(scene_of("hexagonal", seed, shape=(48, 48), spacing=(6.0, 7.0)).yx_px) == 0 for seed in range(80)]
    assert 0 < np.mean(empty) < 0.2
    assert all(len(scene_of("fcc-111", seed, shape=(48, 48), spacing=(6.0, 7.0)).yx_px) for seed in range(20))


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="unknown families"):
        simulate_columns(np.random.default_rng(0), shape=(32, 32), families=["cubic"])
