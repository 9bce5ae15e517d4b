"""Scenes of crystals: heights, widths, noise and bounds in units of what a microscope shows."""

from dataclasses import replace

import numpy as np
import pytest

from spm_training.simulate import stem
from spm_training.simulate.crystals import CRYSTALS
from spm_training.simulate.scene import REQUIRED_HEIGHT


@pytest.fixture
def seen(monkeypatch):
    """What the microscope of the latest scene was, and which columns it was made for."""
    parts = {}
    bound, normalised = stem._bound, stem._normalised

    def spied_bound(microscope, noise):
        parts.update(microscope=microscope, noise=noise)
        return bound(microscope, noise)

    def spied_normalised(tables, to_table, crystal, columns, shape):
        parts.update(crystal=crystal, columns=columns)
        return normalised(tables, to_table, crystal, columns, shape)

    monkeypatch.setattr(stem, "_bound", spied_bound)
    monkeypatch.setattr(stem, "_normalised", spied_normalised)
    return parts


def scene_of(family, seed, *, shape=(80, 96), spacing=10.0, d_prime=8.0):
    return stem.simulate_crystal(np.random.default_rng([seed, 1]), family, shape, spacing, d_prime)


def gaussian_microscope(sigma_yx_px, *, angle=0.0, steps_per_px=8.0):
    """A microscope whose columns are Gaussians, turned by an angle."""
    reach = int(5 * max(sigma_yx_px) * steps_per_px)
    v = np.arange(-reach, reach + 1) / steps_per_px
    table = np.exp(-0.5 * ((v[:, None] / sigma_yx_px[0]) ** 2 + (v[None] / sigma_yx_px[1]) ** 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return stem._Microscope(table[None].astype(np.float32), steps_per_px * turn, 0)


@pytest.mark.parametrize("angle", [0.0, 0.5, np.pi / 4])
@pytest.mark.parametrize("sigma", [(1.5, 1.5), (2.0, 1.2)])
def test_the_bound_of_a_gaussian_is_the_textbook_one(sigma, angle):
    """I along an axis is π σ_y σ_x / (2 σ² s²), whatever the direction of the axes."""
    noise = 0.1
    bound = stem._bound(gaussian_microscope(sigma, angle=angle), noise)
    expected = noise * np.sqrt(2 * (sigma[0] ** 2 + sigma[1] ** 2) / (np.pi * sigma[0] * sigma[1]))
    assert bound == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("family", ["mos2-2h", "fcc-110", "graphene"])
def test_fits_of_one_column_reach_the_bound(family, seen, rng):
    """Maximum likelihood fits of a column of known shape in white noise."""
    scene_of(family, 2, spacing=12.0, d_prime=15.0)
    microscope, noise = seen["microscope"], seen["noise"]
    half = 0.05
    model = microscope.one()
    slopes = [
        (microscope.one(plus) - microscope.one(minus)).ravel() / (2 * half)
        for plus, minus in (((half, 0), (-half, 0)), ((0, half), (0, -half)))
    ]
    solve = np.linalg.pinv(np.stack(slopes).T)
    errors = []
    for _ in range(250):
        image = model + noise * rng.normal(size=model.shape)
        place = np.zeros(2)
        for _ in range(3):  # the slopes of the true place stand in for those nearby
            place += solve @ (image - microscope.one(tuple(place))).ravel()
        errors.append(place)
    assert np.sqrt(np.mean(np.sum(np.square(errors), axis=1))) == pytest.approx(
        stem._bound(microscope, noise), rel=0.15
    )


@pytest.mark.parametrize("family", list(CRYSTALS))
def test_detectability_is_the_column_over_the_noise_and_widths_are_those_of_the_columns(family, seen):
    ratios = []
    for seed in range(4):
        scene = scene_of(family, seed, spacing=12.0, d_prime=6.0 + seed)
        one = seen["microscope"].one()
        middle = len(one) // 2
        assert one[middle, middle] == pytest.approx(1.0, abs=1e-5) == one.max()
        assert scene.detectability == 6.0 + seed
        assert scene.noise_px == pytest.approx(np.sqrt((one**2).sum()) / scene.detectability)
        steps = [(2, 0), (-2, 0), (0, 2), (0, -2)]
        beside = np.mean([one[middle + dy, middle + dx] for dy, dx in steps])
        ratios.append(2 / np.sqrt(-2 * np.log(beside)) / scene.width_px)
        assert scene.width_px <= stem.WIDEST * scene.spacing_px + 1e-9
    assert np.median(ratios) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("family", ["mos2-2h", "graphene", "diamond-110", "nanoparticle", "isolated-atoms"])
def test_coarse_pixels_still_sample_the_columns(family, seen):
    """At 0.6 px the neighbours of a peak hold a quarter of it."""
    for seed in range(5):
        scene = scene_of(family, seed, spacing=2.3)
        assert scene.width_px >= stem.NARROWEST_PX - 1e-9
        one = seen["microscope"].one()
        middle = len(one) // 2
        beside = np.mean([one[middle + dy, middle + dx] for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1))])
        assert beside > 0.8 * np.exp(-0.5 / stem.NARROWEST_PX**2)


def test_a_look_is_blurred_to_a_width_and_never_sharpened():
    seed, crystal = stem._trial(np.random.default_rng(0), "mos2-2h")
    assert len(CRYSTALS["mos2-2h"](np.random.default_rng(seed), 2.0).yx_nm) == len(crystal.yx_nm)
    look = stem._draw_look(np.random.default_rng(1))
    _, width = look.tables(crystal)
    assert look.sampled(width, 0.5 * width) == (look, width)
    coarse, wanted = look.sampled(width, 3.0 * width)
    assert wanted == pytest.approx(1.8 * width)
    assert coarse.tables(crystal)[1] == pytest.approx(wanted, rel=0.1)
    assert replace(coarse, blur_steps=look.blur_steps) == look


@pytest.mark.parametrize("family", ["nanoparticle", "perovskite-001", "mos2-2h", "random-crystal"])
def test_heights_are_in_units_of_what_is_in_the_frame(family, seen):
    """A tenth of the heavy columns in the frame is at least as bright as a full-height one, and one is just that."""
    compared = 0
    for seed in range(8):
        scene_of(family, seed, shape=(48, 48), spacing=8.0)
        columns, microscope = seen["columns"], seen["microscope"]
        inside = np.all((columns.yx >= 0) & (columns.yx < 48), axis=1) & ~stem._light(seen["crystal"])[columns.kind]
        peaks = microscope.peaks[columns.kind[inside]]
        if len(peaks):
            assert np.isclose(peaks, 1.0, atol=1e-6).any()
            assert (peaks >= 1 - 1e-6).mean() >= 0.1 - 1e-9
            assert (peaks > 1 + 1e-6).sum() <= 0.1 * len(peaks) + 1
            compared += 1
    assert compared >= 4


def test_a_particle_shows_columns_though_its_thickest_lies_beside_the_frame(seen):
    scenes = [scene_of("nanoparticle", seed, shape=(64, 64), spacing=8.0) for seed in range(12)]
    shown = [scene for scene in scenes if len(scene.yx_px) > 10]
    assert len(shown) >= 6
    assert np.median([scene.required.mean() for scene in shown]) > 0.5


def test_light_columns_beside_heavy_ones_are_not_required(seen):
    for seed in range(6):
        scene = scene_of("mos2-2h", seed, spacing=12.0)
        kinds = seen["crystal"].kinds
        assert sorted(set().union(*kinds)) == ["Mo", "S"]
        by_site = [scene.required[scene.sublattice == site] for site in np.unique(scene.sublattice)]
        assert len(by_site) == 2
        assert sorted(bool(one.any()) for one in by_site) == [False, True]
    for seed in range(3):  # alone, light elements are all there is
        assert scene_of("graphene", seed).required.mean() > 0.5


def test_required_columns_are_bright_enough(seen):
    """The bound of a column is that of a full-height one over its height."""
    for seed in range(4):
        scene = scene_of("alloy", seed, spacing=9.0)
        bound = stem._bound(seen["microscope"], seen["noise"])
        heights = bound / scene.crb_px
        assert (heights[scene.required] >= REQUIRED_HEIGHT - 1e-9).all()
        assert 0.5 < np.median(heights[scene.required]) < 1.6
