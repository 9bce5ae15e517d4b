"""What the networks for surfaces see, on surfaces that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.pipelines.surface import (
    FINDER_CHANNELS,
    MOST_LOG,
    PIXEL_UNIT_NM,
    SPREAD_UNIT_NM,
    WORKING_PIXEL_NM,
    finder_input,
    finder_view,
    in_unit_range,
    nm_per_unit,
    on_working_pixels,
    remove_line_offsets,
    unit_range,
)


def surface(shape=(60, 80), *, period=9.0, height=0.03):
    """A corrugation without any step."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (height * np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / (1.3 * period))).astype(np.float32)


def bump(shape, place, sigma):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-0.5 * ((y - place[0]) ** 2 + (x - place[1]) ** 2) / sigma**2).astype(np.float32)


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = np.where(image > 0.3 * image.max(), image, 0).astype(float)
    return np.array([(y * weight).sum(), (x * weight).sum()]) / weight.sum()


# Line offsets


def test_offsets_of_lines_go_and_the_surface_stays(rng):
    flat = surface((120, 100))
    offsets = 0.3 * rng.normal(size=(120, 1)).astype(np.float32)
    left = remove_line_offsets(flat + offsets) - flat
    # What is left is the slow part of the offsets: nearly the same in neighbouring rows, and the same along a row.
    assert np.ptp(left, axis=1).max() < 1e-5
    assert np.std(np.diff(left[:, 0])) < 0.1 * np.std(np.diff(offsets[:, 0]))


@pytest.mark.parametrize("angle", [90, 60, 30])
def test_a_step_is_kept(angle):
    """A step at any angle but that of the lines themselves crosses few rows' medians: its height is what it was."""
    y, x = np.mgrid[:100, :100]
    side = (x - 50) * np.sin(np.deg2rad(angle)) - (y - 50) * np.cos(np.deg2rad(angle)) > 0
    heights = surface((100, 100)) + 0.2 * side.astype(np.float32)
    assert np.abs(remove_line_offsets(heights) - heights).max() < 0.02


def test_rows_that_are_missing_in_part_or_whole_are_left_out(rng):
    flat = surface((80, 60))
    offsets = 0.3 * rng.normal(size=(80, 1)).astype(np.float32)
    heights = flat + offsets
    heights[30:34] = np.nan
    heights[50, :40] = np.nan
    there = np.isfinite(heights)
    left = remove_line_offsets(heights) - flat
    np.testing.assert_array_equal(np.isfinite(left), there)
    for rows in (slice(0, 30), slice(34, 80)):
        assert np.nanstd(np.diff(np.nanmean(left[rows], axis=1))) < 0.06
    assert not np.isfinite(remove_line_offsets(np.full((5, 7), np.nan, np.float32))).any()


@pytest.mark.parametrize("shape", [(1, 9), (2, 9), (9, 1), (1, 1)])
def test_images_of_few_pixels_have_no_offsets_to_speak_of(shape):
    out = remove_line_offsets(np.ones(shape, np.float32))
    assert out.shape == shape
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, 1)


# Working pixels


@pytest.mark.parametrize(
    ("shape", "pixel", "working"),
    [
        ((100, 120), (0.02, 0.02), (25, 30)),  # finer ones are averaged
        ((100, 120), (0.04, 0.02), (50, 30)),  # to squares
        ((100, 120), (0.08, 0.08), (100, 120)),
        ((100, 120), (0.3, 0.3), (100, 120)),  # coarser ones stay
        ((100, 120), (0.3, 0.15), (100, 60)),
        ((3, 1), (0.01, 0.01), (1, 1)),
        ((1, 500), (0.01, 0.02), (1, 125)),
    ],
)
def test_sizes_and_factors(shape, pixel, working):
    seen = on_working_pixels(np.zeros(shape, np.float32), pixel, 1.0)
    assert seen.heights.shape == seen.valid.shape == working
    assert seen.heights.dtype == np.float32
    assert seen.pixel_size_nm == max(*pixel, WORKING_PIXEL_NM)
    assert seen.factor == (working[0] / shape[0], working[1] / shape[1])
    assert seen.valid.all()


def test_without_calibration_pixels_stay():
    heights = surface((30, 50))
    seen = on_working_pixels(heights, None, None)
    assert seen.factor == (1.0, 1.0)
    assert seen.pixel_size_nm is None
    assert seen.nm_per_unit is None
    assert seen.heights.shape == (30, 50)


@pytest.mark.parametrize(("pixel", "sigma"), [((0.02, 0.02), (8, 8)), ((0.03, 0.02), (6, 9)), ((0.055, 0.02), (3, 9))])
@pytest.mark.parametrize("place", [(0.31, 0.62), (0.5, 0.123)])
def test_a_feature_is_where_the_factor_says(pixel, sigma, place):
    """To a tenth of a working pixel, at any place of the image, for pixels that are averaged and not square."""
    shape = (241, 403)
    centre = np.array(place) * shape
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.exp(-0.5 * (((y - centre[0]) / sigma[0]) ** 2 + ((x - centre[1]) / sigma[1]) ** 2)).astype(np.float32)
    seen = on_working_pixels(image, pixel, 1.0)
    expected = (centre + 0.5) * seen.factor - 0.5
    np.testing.assert_allclose(centroid(seen.heights), expected, atol=0.1)


def test_averaging_keeps_the_mean_and_lowers_the_noise(rng):
    noise = rng.normal(size=(160, 160)).astype(np.float32)
    small = on_working_pixels(noise, (0.02, 0.02), 1.0).heights
    assert abs(float(small.mean())) < 0.02
    assert 0.1 < small.std() < 0.3


def test_tilt_and_height_of_the_whole_go():
    y, x = np.mgrid[:40, :60]
    seen = on_working_pixels((3.0 * y - 0.5 * x + 1000).astype(np.float32), (0.1, 0.1), 1.0)
    assert np.abs(seen.heights).max() < 1e-3


def test_missing_pixels_are_zero_and_take_no_part():
    heights = surface((120, 120)) + 5
    heights[:, 70:] = np.nan
    heights[3, 5] = np.inf
    for pixel in ((0.02, 0.02), (0.1, 0.1), None):
        seen = on_working_pixels(heights, pixel, 1.0)
        edge = round(70 * seen.factor[1])
        assert np.isfinite(seen.heights).all()
        assert seen.valid[:, : edge - 1].mean() > 0.99
        assert not seen.valid[:, edge + 1 :].any()
        np.testing.assert_array_equal(seen.heights[~seen.valid], 0)
        # Beside the gap nothing is pulled towards it: 5 units would be.
        assert np.abs(seen.heights).max() < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (50, 50)])
@pytest.mark.parametrize("value", [0.0, -0.0, 7.5, -1e-9, np.nan])
@pytest.mark.parametrize("pixel", [None, (0.02, 0.02), (0.3, 0.05)])
def test_constant_and_tiny_images_are_silent(shape, value, pixel):
    seen = on_working_pixels(np.full(shape, value, np.float32), pixel, 1.0)
    maps = finder_input(seen)
    assert maps.shape == (4, *seen.heights.shape)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps[:2], 0)
    assert np.isfinite(maps).all()


# Units


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("m", 1e9), ("nm", 1.0), ("Å", 0.1), ("angstrom", 0.1), ("A", None), ("V", None), ("", None), (" m ", 1e9)],
)
def test_a_current_in_ampere_is_no_height_in_angstrom(unit, expected):
    assert nm_per_unit(unit) == expected


# The finder's view


def test_the_view_of_a_surface_by_hand(rng):
    """White noise less its median is white noise, and fine; a half that stands higher is coarse."""
    noise = rng.normal(0, 0.02, (100, 120)).astype(np.float32)
    view = finder_view(on_working_pixels(noise, (0.1, 0.1), 1.0))
    assert view.log_pixel == pytest.approx(np.log(0.1 / PIXEL_UNIT_NM))
    assert view.log_spread == pytest.approx(np.log(0.02 / SPREAD_UNIT_NM), abs=0.05)
    assert np.std(view.maps[1]) < 0.1
    seen = on_working_pixels(noise + np.float32(0.3) * (np.arange(120) >= 60), (0.1, 0.1), 1.0)
    view = finder_view(seen)
    spread = SPREAD_UNIT_NM * np.exp(view.log_spread)
    fine, coarse = np.sinh(view.maps[0]) * spread, np.sinh(view.maps[1]) * 4 * spread
    far = np.s_[:, 10:40], np.s_[:, 80:110]
    # The plane took a part of the step: it is told from the levelled heights.
    np.testing.assert_allclose((fine + coarse) - seen.heights, np.median((fine + coarse) - seen.heights), atol=2e-3)
    assert np.std(fine[far[0]]) == pytest.approx(0.02, rel=0.1)
    for part in far:
        assert abs(np.median(fine[part])) < 0.005
    maps = view.stacked(("pixel", "coarse", "fine"))
    np.testing.assert_array_equal(maps[0], np.float32(view.log_pixel))
    np.testing.assert_array_equal(maps[1], view.maps[1])
    np.testing.assert_array_equal(maps[2], view.maps[0])
    assert maps.dtype == np.float32


@settings(deadline=None, max_examples=15)
@given(st.floats(-13, 4), st.floats(-1000, 1000), st.integers(0, 1000))
def test_unit_and_zero_of_the_heights_do_not_matter(decades, offset, seed):
    """From picometres written in kilometres (1e-13) to counts, on top of a thousand times the corrugation."""
    image = surface((40, 50), height=1.0) + 0.1 * np.random.default_rng(seed).normal(size=(40, 50)).astype(np.float32)
    gain = np.float32(10.0**decades)
    plain = finder_input(on_working_pixels(image, (0.1, 0.1), 1.0))
    other = finder_input(on_working_pixels(gain * (image + np.float32(offset)), (0.1, 0.1), 1.0 / float(gain)))
    # The sliding median tells 1024 levels apart: rounding moves a pixel to the next one.
    np.testing.assert_allclose(other, plain, atol=0.03)
    assert np.abs(other - plain).mean() < 2e-3


def test_what_is_not_known_is_zero():
    image = surface((40, 50))
    view = finder_view(on_working_pixels(image, None, None))
    assert view.log_spread is None
    assert view.log_pixel is None
    stacked = view.stacked(FINDER_CHANNELS)
    np.testing.assert_array_equal(stacked[2:], 0)
    known = finder_input(on_working_pixels(image, (0.1, 0.1), 1e-3))
    np.testing.assert_allclose(known[:2], stacked[:2], atol=1e-5)


@pytest.mark.parametrize(("pixel", "gain"), [(1e4, 1e6), (1e-6, 1e-9)])
def test_numbers_of_another_world_are_kept_within_bounds(pixel, gain):
    view = finder_view(on_working_pixels(surface((40, 50)), (pixel, pixel), gain))
    assert abs(view.log_spread) <= MOST_LOG
    assert abs(view.log_pixel) <= MOST_LOG


def test_a_flat_image_with_one_spot_stays_finite():
    """More than half of the pixels are equal: the robust spread is 0."""
    image = np.zeros((60, 60), np.float32)
    image[30, 30] = 1e-10
    maps = finder_input(on_working_pixels(image, None, 1e9))
    assert np.isfinite(maps).all()
    assert maps[0, 30, 30] == maps[0].max() > 5


def test_missing_pixels_are_zero_in_the_view(rng):
    image = rng.normal(size=(50, 60)).astype(np.float32)
    image[20:30] = np.nan
    maps = finder_input(on_working_pixels(image, (0.1, 0.1), 1.0))
    np.testing.assert_array_equal(maps[:2, 20:30], 0)
    assert (maps[0, :20] != 0).mean() > 0.9


# The autoencoders' range


@settings(deadline=None, max_examples=25)
@given(st.floats(-12, 3), st.floats(-5, 5), st.sampled_from([0.0, 0.2, 5.0]))
def test_the_unit_range_is_that_of_the_image_at_any_unit(decades, offset, clip):
    image = np.linspace(0, 1, 1001, dtype=np.float32).reshape(77, 13) + np.float32(offset)
    scaled = in_unit_range(np.float32(10.0**decades) * image, clip)
    assert scaled.dtype == np.float32
    assert scaled.min() == 0
    assert scaled.max() == 1
    expected = np.clip((np.linspace(0, 1, 1001) - clip / 100) / (1 - clip / 50), 0, 1)
    np.testing.assert_allclose(scaled.ravel(), expected, atol=2e-3)


def test_missing_and_constant_images_are_one_half():
    image = np.array([[0, np.nan, 2]], np.float32)
    np.testing.assert_array_equal(in_unit_range(image, 0.0), [[0, 0.5, 1]])
    np.testing.assert_array_equal(in_unit_range(np.full((2, 3), 7e-9, np.float32), 0.0), 0.5)
    np.testing.assert_array_equal(in_unit_range(np.full((2, 3), np.nan, np.float32), 1.0), 0.5)
    assert unit_range(np.full((2, 2), np.nan), 0.0) == (0.0, 1.0)
