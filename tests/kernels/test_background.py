"""Running median against sorting every window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spm_kernels import sliding_median


def lower_median(values):
    return np.sort(values)[(len(values) - 1) // 2]


def reference(image, radius, usable):
    """Lower median of the usable pixels of every clipped window."""
    result = np.full(image.shape, np.nan, np.float32)
    for y, x in np.ndindex(image.shape):
        window = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        if usable[window].any():
            result[y, x] = lower_median(image[window][usable[window]])
    return result


def quantised(image, usable, levels):
    """Every pixel replaced by the lower median of its level; levels begin at equally spaced ranks."""
    ordered = np.sort(image[usable])
    levels = min(levels, len(ordered))
    bounds = np.unique([ordered[k * len(ordered) // levels] for k in range(levels)])
    result = image.copy()
    for low, high in zip(bounds, [*bounds[1:], np.inf], strict=True):
        inside = usable & (image >= low) & (image < high)
        result[inside] = lower_median(image[inside])
    return result


SHAPES = st.tuples(st.integers(1, 14), st.integers(1, 14))
VALUES = st.integers(-9, 9).map(float) | st.floats(-100, 100, width=32) | st.sampled_from([np.nan, np.inf])
IMAGES = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=VALUES))


@settings(deadline=None, max_examples=200)
@given(image=IMAGES, radius=st.integers(0, 16), levels=st.sampled_from([2, 3, 31, 33, 64, 1000]), data=st.data())
def test_exact_on_the_quantised_image(image, radius, levels, data):
    valid = data.draw(arrays(np.bool_, image.shape, elements=st.booleans(), fill=st.just(True)))
    usable = np.isfinite(image) & valid
    result = sliding_median(image, radius_px=radius, valid=valid, levels=levels)
    if not usable.any():
        assert np.isnan(result).all()
        return
    np.testing.assert_array_equal(result, reference(quantised(image, usable, levels), radius, usable))


@settings(deadline=None, max_examples=50)
@given(image=IMAGES, radius=st.integers(0, 5))
def test_true_median_where_there_are_as_many_levels_as_pixels(image, radius):
    np.testing.assert_array_equal(sliding_median(image, radius_px=radius), reference(image, radius, np.isfinite(image)))


@settings(deadline=None, max_examples=50)
@given(image=IMAGES, radius=st.integers(0, 5), levels=st.sampled_from([2, 8, 40]))
def test_commutes_with_every_rising_map(image, radius, levels):
    # Quantiles, order and the lower median know nothing of the values' distances.
    stretched = (image.astype(np.float64) ** 3 + 10 * image.astype(np.float64)).astype(np.float32)
    median = sliding_median(image, radius_px=radius, levels=levels).astype(np.float64)
    np.testing.assert_array_equal(
        sliding_median(stretched, radius_px=radius, levels=levels), (median**3 + 10 * median).astype(np.float32)
    )


@pytest.mark.parametrize(("height", "width", "radius"), [(60, 75, 16), (1, 300, 8), (300, 1, 8), (40, 40, 100)])
def test_larger_images(rng, height, width, radius):
    image = (1e-10 * rng.standard_normal((height, width))).astype(np.float32)
    image[rng.random(image.shape) < 0.1] = np.nan
    usable = np.isfinite(image)
    expected = reference(quantised(image, usable, 256), radius, usable)
    np.testing.assert_array_equal(sliding_median(image, radius_px=radius, levels=256), expected)


def test_within_one_level_of_the_true_median_beside_a_high_step(rng):
    image = rng.standard_normal((80, 80)).astype(np.float32)
    image[:, 37:] += 500.0  # a step 500 times as high as the corrugation
    result = sliding_median(image, radius_px=6)
    truth = reference(image, 6, np.ones(image.shape, bool))
    ordered = np.sort(image.ravel())
    ranks = np.abs(np.searchsorted(ordered, result) - np.searchsorted(ordered, truth))
    assert ranks.max() <= image.size / 1024 + 1
    assert np.abs(result - truth)[:, :30].max() < 0.1  # 1024 equal ranges of values would be 0.5 wide


def test_moves_with_the_image(rng):
    image = rng.standard_normal((40, 50)).astype(np.float32)
    whole = sliding_median(image, radius_px=4, levels=4096)
    canvas = np.full((60, 80), np.nan, np.float32)
    canvas[11:51, 23:73] = image
    np.testing.assert_array_equal(sliding_median(canvas, radius_px=4, levels=4096)[11:51, 23:73], whole)


def test_fills_what_is_missing_and_leaves_what_is_too_far():
    image = np.full((20, 20), 3.0, np.float32)
    image[5:15, 5:15] = np.nan
    result = sliding_median(image, radius_px=2)
    assert result[6, 6] == 3.0
    assert np.isnan(result[7:13, 7:13]).all()
    assert np.isnan(result).sum() == 36


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0), (3, 4)])
def test_empty_and_missing_images(shape):
    result = sliding_median(np.full(shape, np.nan, np.float32), radius_px=3)
    assert result.shape == shape
    assert result.dtype == np.float32
    assert np.isnan(result).all()


def test_input_is_not_changed_and_may_be_read_only(rng):
    image = rng.standard_normal((20, 30)).astype(np.float32)
    before = image.copy()
    writable = sliding_median(image, radius_px=3)
    image.setflags(write=False)
    np.testing.assert_array_equal(sliding_median(image, radius_px=3), writable)
    np.testing.assert_array_equal(sliding_median(image.T, radius_px=3), writable.T)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((3, 3)), {}, "image: expected a float32 array"),
        (np.zeros((3, 3, 1), np.float32), {}, "image"),
        (np.zeros((3, 3), np.float32), {"radius_px": -1}, "radius_px: expected 0 or more pixels, got -1"),
        (np.zeros((3, 3), np.float32), {"levels": 1}, "levels: expected a number from 2 to 8192, got 1"),
        (np.zeros((3, 3), np.float32), {"valid": np.ones((2, 3), bool)}, "valid"),
    ],
)
def test_wrong_arguments_are_named(image, options, message):
    with pytest.raises(ValueError, match=message):
        sliding_median(image, **{"radius_px": 1, **options})
