import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.levelling import fill_with_nearest, fit_level, fit_plane, level_for_display, level_for_network


def lattice(shape=(96, 96), spacing=9.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (np.cos(2 * np.pi * y / spacing) + np.cos(2 * np.pi * x / spacing)).astype(np.float32)


def test_a_plane_is_found_and_missing_pixels_do_not_matter():
    y, x = np.mgrid[:20, :30]
    plane = (3.0 * y - 2.0 * x + 5.0).astype(np.float32)
    holed = plane.copy()
    holed[3:9, 4:20] = np.nan
    assert fit_plane(holed) == pytest.approx(plane, abs=1e-3)


def test_the_level_of_a_lattice_is_its_plane_whatever_stands_on_it():
    y, x = np.mgrid[:96, :96]
    tilted = lattice() + 0.4 * y - 0.1 * x + 7
    level = fit_level(tilted)
    assert level == pytest.approx(fit_plane(tilted.astype(np.float32)), abs=1e-4)
    tilted[40, 50] += 1e4
    assert fit_level(tilted)[:40] == pytest.approx(level[:40], abs=0.02)


def test_every_terrace_is_its_own_level():
    y, x = np.mgrid[:96, :192]
    steps = 10 * (x // 64).astype(float)
    scan = lattice((96, 192)) + steps + 0.05 * y
    scan[20:40, 100:] = np.nan
    flat = scan - fit_level(scan)
    terraces = [np.nanmean(flat[:, n + 16 : n + 48]) for n in (0, 64, 128)]
    assert np.ptp(terraces) < 0.5 * 4  # half of the corrugation may be left of a step
    beside = np.abs(np.arange(192)[:, None] - [64, 128]).min(axis=1) > 5  # farther from the steps than the smoothing
    assert np.nanmax(np.abs(flat[:, beside])) < 4.5  # of the corrugation 2, and what may be left


@pytest.mark.parametrize("value", [np.nan, 0.0, 3e-6])
def test_the_level_of_a_constant_image(value):
    level = fit_level(np.full((20, 30), value, np.float32))
    assert level == pytest.approx(np.nan_to_num(value), rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(gain=st.floats(1e-12, 1e6), offset=st.floats(-10, 10))
def test_gain_and_offset_do_not_matter(gain, offset):
    """An instrument's units are arbitrary: the same surface in metres and in counts is the same to the network."""
    image = lattice()
    same = level_for_network(((image + offset) * gain).astype(np.float32))
    assert same == pytest.approx(level_for_network(image), abs=0.02)


def test_a_tilt_does_not_matter():
    image = lattice()
    tilted = image + np.linspace(0, 5, image.shape[1], dtype=np.float32)
    inner = np.s_[20:-20, 20:-20]
    assert np.corrcoef(level_for_network(tilted)[inner].ravel(), level_for_network(image)[inner].ravel())[0, 1] > 0.98


def test_a_step_leaves_the_atoms_of_both_terraces():
    image = lattice()
    stepped = image.copy()
    stepped[:, 48:] += 20  # ten times the corrugation
    levelled = level_for_network(stepped)
    for part in (np.s_[:, :40], np.s_[:, 56:]):
        assert np.corrcoef(levelled[part].ravel(), image[part].ravel())[0, 1] > 0.8


def test_range_and_missing_pixels():
    image = lattice()
    image[50, 50] = 1e4
    image[:10] = np.nan
    levelled = level_for_network(image)
    assert levelled.dtype == np.float32
    assert np.abs(levelled).max() <= 4
    assert (levelled[:10] == 0).all()


@pytest.mark.parametrize("image", [np.full((20, 20), 3.0), np.full((20, 20), np.nan), np.full((1, 1), 2.0)])
def test_nothing_to_level(image):
    image = image.astype(np.float32)
    assert (level_for_network(image) == 0).all()
    assert level_for_display(image).shape == image.shape


def test_the_display_uses_the_whole_range_and_marks_missing_black():
    image = lattice()
    image[:10] = np.nan
    shown = level_for_display(image)
    assert shown.dtype == np.uint8
    assert shown[10:].min() == 0
    assert shown.max() == 255
    assert (shown[:10] == 0).all()


@given(seed=st.integers(0, 99), share=st.floats(0, 0.9))
@settings(max_examples=40, deadline=None)
def test_what_is_missing_gets_the_nearest_value_that_is_there(seed, share):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(7, 9)).astype(np.float32)
    there = rng.random(values.shape) >= share
    there[3, 4] = True
    found = fill_with_nearest(values, there)
    assert found.dtype == np.float32
    known = np.argwhere(there)
    for place in np.ndindex(values.shape):
        distance = np.hypot(*(known - place).T)
        nearest = known[np.isclose(distance, distance.min())]
        assert found[place] in values[tuple(nearest.T)]
