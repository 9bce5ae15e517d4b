"""Dilation, erosion and certainty against SciPy and against the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from spm_kernels import certainty_map, dilate, erode

SHAPES = st.tuples(st.integers(1, 13), st.integers(1, 80))
HEIGHTS = st.integers(-9, 9).map(float) | st.floats(-100, 100, width=32)
MISSING = st.sampled_from([np.nan, np.inf, -np.inf])
COMPLETE = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=HEIGHTS))
SURFACES = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=HEIGHTS | MISSING))
ODD = st.sampled_from([1, 3, 5, 7])
TIPS = st.tuples(ODD, ODD).flatmap(lambda shape: arrays(np.float32, shape, elements=HEIGHTS))
ENDING_TIPS = st.tuples(ODD, ODD).flatmap(
    lambda shape: arrays(np.float32, shape, elements=HEIGHTS | st.just(-np.inf)).filter(lambda t: np.isfinite(t).any())
)


def scipy_dilate(surface, tip):
    """A missing pixel and what lies outside are −inf."""
    known = np.where(np.isfinite(surface), surface, np.float32(-np.inf))
    result = ndimage.grey_dilation(known, structure=tip, mode="constant", cval=-np.inf)
    return np.where(np.isneginf(result), np.float32(np.nan), result)


def scipy_erode(image, tip):
    known = np.where(np.isfinite(image), image, np.float32(np.inf))
    result = ndimage.grey_erosion(known, structure=tip, mode="constant", cval=np.inf)
    return np.where(np.isposinf(result), np.float32(np.nan), result)


def single_touches(image, tip, tolerance):
    """The definition: every image pixel lists the surface pixels that its tip rests on."""
    rows, columns = tip.shape
    surface = erode(image, tip)
    certain = np.zeros(image.shape, bool)
    for y in range(rows // 2, image.shape[0] - rows // 2):
        for x in range(columns // 2, image.shape[1] - columns // 2):
            places = [
                (y - v, x - u)
                for v in range(-(rows // 2), rows // 2 + 1)
                for u in range(-(columns // 2), columns // 2 + 1)
                if image[y, x] - tip[v + rows // 2, u + columns // 2] <= surface[y - v, x - u] + np.float32(tolerance)
            ]
            if len(places) == 1:
                certain[places[0]] = True
    return certain


def paraboloid(side, curvature):
    v = np.arange(side) - side // 2
    return (-curvature * (v[:, None] ** 2 + v**2)).astype(np.float32)


@settings(deadline=None, max_examples=150)
@given(SURFACES, ENDING_TIPS, st.integers(1, 3))
def test_dilation_is_that_of_scipy_to_the_last_bit(surface, tip, threads):
    np.testing.assert_array_equal(dilate(surface, tip, threads=threads), scipy_dilate(surface, tip))


@settings(deadline=None, max_examples=150)
@given(SURFACES, ENDING_TIPS, st.integers(1, 3))
def test_erosion_is_that_of_scipy_to_the_last_bit(image, tip, threads):
    np.testing.assert_array_equal(erode(image, tip, threads=threads), scipy_erode(image, tip))


def test_a_rough_surface_under_a_wide_tip(rng):
    """Where most rows of the tip are left out, over several blocks of columns."""
    surface = (40 * ndimage.gaussian_filter(rng.standard_normal((150, 230)), 3)).astype(np.float32)
    tip = paraboloid(31, 0.05)
    image = dilate(surface, tip)
    np.testing.assert_array_equal(image, scipy_dilate(surface, tip))
    np.testing.assert_array_equal(erode(image, tip, threads=2), scipy_erode(image, tip))


@settings(deadline=None, max_examples=60)
@given(
    SHAPES.flatmap(lambda s: arrays(np.float32, s, elements=st.integers(-50, 50).map(float))),
    st.tuples(ODD, ODD).flatmap(lambda s: arrays(np.float32, s, elements=st.integers(-20, 0).map(float))),
)
def test_erosion_gives_back_no_less_than_the_surface_and_the_image_again(surface, tip):
    image = dilate(surface, tip)
    back = erode(image, tip)
    assert (back >= surface).all()
    np.testing.assert_array_equal(dilate(back, tip), image)
    assert (dilate(erode(surface, tip), tip) <= surface).all()  # what a tip of this shape can explain of any image


@settings(deadline=None, max_examples=60)
@given(COMPLETE, TIPS)
def test_erosion_and_dilation_are_dual(surface, tip):
    np.testing.assert_array_equal(erode(surface, tip), -dilate(-surface, np.ascontiguousarray(tip[::-1, ::-1])))


def test_a_spike_shows_the_tip():
    tip = np.array([[-3, -2, -9], [-1, 0, -4], [-5, -6, -7]], np.float32)
    surface = np.full((9, 11), -100.0, np.float32)
    surface[4, 5] = 10.0
    np.testing.assert_array_equal(dilate(surface, tip)[3:6, 4:7], 10 + tip)


def test_nothing_is_known_where_no_pixel_lies_under_the_tip():
    surface = np.full((9, 9), np.nan, np.float32)
    surface[4, 4] = 1.0
    for function in (dilate, erode):
        known = np.isfinite(function(surface, np.zeros((3, 3), np.float32)))
        assert known.sum() == 9
        assert known[3:6, 3:6].all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0)])
def test_empty_images(shape):
    empty, tip = np.zeros(shape, np.float32), np.zeros((3, 3), np.float32)
    assert dilate(empty, tip).shape == erode(empty, tip, threads=2).shape == certainty_map(empty, tip).shape == shape


WHOLE = st.integers(-9, 9).map(float)


@settings(deadline=None, max_examples=100)
@given(
    st.tuples(st.integers(1, 10), st.integers(1, 12)).flatmap(
        lambda s: arrays(np.float32, s, elements=WHOLE | st.just(np.nan))
    ),
    st.tuples(ODD, ODD).flatmap(lambda s: arrays(np.float32, s, elements=WHOLE)),
    st.sampled_from([0.0, 1.0, 2.5]),
)
def test_certainty_is_its_definition(image, tip, tolerance):
    np.testing.assert_array_equal(certainty_map(image, tip, tolerance=tolerance), single_touches(image, tip, tolerance))


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float32, (14, 17), elements=st.integers(-50, 50).map(float)),
    st.tuples(ODD, ODD).flatmap(lambda s: arrays(np.float32, s, elements=st.integers(-20, 0).map(float))),
)
def test_certain_pixels_are_right(surface, tip):
    image = dilate(surface, tip)
    certain = certainty_map(image, tip)
    np.testing.assert_array_equal(erode(image, tip)[certain], surface[certain])


def test_the_bottom_of_a_trench_is_not_certain():
    surface = np.zeros((40, 40), np.float32)
    surface[:, 18:22] = -50.0
    surface += np.linspace(0, 1, 40, dtype=np.float32) ** 2  # no two points are level
    image = dilate(surface, paraboloid(15, 0.4))
    certain = certainty_map(image, paraboloid(15, 0.4), tolerance=1e-5)
    assert not certain[:, 18:22].any()
    assert certain[10:30, 26:32].mean() > 0.9


def test_inputs_are_not_changed_and_may_be_read_only_and_strided(rng):
    surface = rng.standard_normal((20, 60)).astype(np.float32)
    tip = paraboloid(5, 0.1)
    tip[0] -= 1
    before, tip_before = surface.copy(), tip.copy()
    expected = [f(surface, tip) for f in (dilate, erode, certainty_map)]
    np.testing.assert_array_equal(surface, before)
    np.testing.assert_array_equal(tip, tip_before)
    surface.setflags(write=False)
    tip.setflags(write=False)
    for function, result in zip((dilate, erode, certainty_map), expected, strict=True):
        np.testing.assert_array_equal(function(surface, tip), result)
        np.testing.assert_array_equal(function(surface.T, tip.T), result.T)


TIP = np.zeros((3, 3), np.float32)


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        (dilate, (np.zeros((3, 3)), TIP), {}, "surface: expected a float32 array"),
        (erode, (np.zeros(3, np.float32), TIP), {}, "image"),
        (dilate, (TIP, np.zeros((2, 3), np.float32)), {}, r"tip: expected odd numbers of pixels.*\(2, 3\)"),
        (dilate, (TIP, np.zeros((3, 3))), {}, "tip: expected a float32 array.*float64"),
        (erode, (TIP, np.full((3, 3), np.nan, np.float32)), {}, "tip: expected finite heights"),
        (erode, (TIP, np.full((3, 3), -np.inf, np.float32)), {}, "no height at all"),
        (dilate, (TIP, TIP), {"threads": 0}, "threads: expected 1 or more, got 0"),
        (certainty_map, (TIP, TIP), {"tolerance": -1.0}, "tolerance"),
        (certainty_map, (TIP, TIP), {"tolerance": np.nan}, "tolerance"),
    ],
)
def test_wrong_arguments_are_named(function, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)
