"""The top-hat of pairs against the opening by SciPy, and what a double tip leaves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spm_kernels import dilate, erode, pair_top_hat

HEIGHTS = st.floats(-100, 100, width=32)
IMAGES = st.tuples(st.integers(1, 12), st.integers(1, 20)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=HEIGHTS | st.sampled_from([np.nan, np.inf]))
)


def by_definition(image, height, offset, row_step):
    """White top-hat with `erode` and `dilate`; the mean over the pixels whose opening lies in the image."""
    (dy, dx), (rows, columns) = offset, image.shape
    half = max(abs(dy), abs(dx))
    pair = np.full((2 * half + 1, 2 * half + 1), -np.inf, np.float32)
    pair[half + dy, half + dx] = -height
    pair[half, half] = max(pair[half, half], 0)
    known = np.isfinite(image)
    filled = np.where(known, image, np.float32(np.nan))
    opened = dilate(erode(filled, pair), pair)
    values = []
    for y in range(abs(dy), rows - abs(dy), row_step):
        for x in range(abs(dx), columns - abs(dx)):
            if known[y, x] and known[y + dy, x + dx] and known[y - dy, x - dx]:
                values.append(max(float(image[y, x]) - float(opened[y, x]), 0.0))
    return np.mean(values) if values else np.nan


@settings(deadline=None, max_examples=80)
@given(IMAGES, st.floats(0, 50, width=32), st.integers(1, 3))
def test_it_is_what_an_opening_takes_away(image, height, row_step):
    found = pair_top_hat(image, np.array([height], np.float32), reach_px=3, row_step=row_step)
    assert found.shape == (1, 7, 7)
    for offset in [(0, 0), (1, 2), (-3, 1), (0, -2), (2, 0)]:
        expected = by_definition(image, np.float32(height), offset, row_step)
        np.testing.assert_allclose(found[0, offset[0] + 3, offset[1] + 3], expected, rtol=1e-4, atol=2e-4)


def test_a_double_tip_leaves_nothing_for_its_own_pair():
    rng = np.random.default_rng(3)
    surface = np.zeros((96, 96), np.float32)
    surface[rng.integers(0, 96, 60), rng.integers(0, 96, 60)] = rng.uniform(1, 3, 60)
    y, x = np.mgrid[-10:11, -10:11]
    single = (-0.1 * (y**2 + x**2)).astype(np.float32)
    tip = np.maximum(single, np.roll(single, (-3, 5), (0, 1)) - np.float32(0.5))
    heights = np.array([0.0, 0.25, 0.5, 1.0], np.float32)
    found = pair_top_hat(dilate(surface, tip), heights, reach_px=8)
    # Pairs nearer than the flanks reach are compatible with any tip.
    y, x = np.mgrid[-8:9, -8:9]
    found[:, np.hypot(y, x) < 3] = np.inf
    k, v, u = np.unravel_index(int(np.argmin(found)), found.shape)
    assert (heights[k], v - 8, u - 8) == (0.5, -3, 5)
    assert found[k, v, u] < 0.1 * np.median(found[k])


def test_no_pixel_no_mean():
    found = pair_top_hat(np.zeros((3, 9), np.float32), np.zeros(1, np.float32), reach_px=2)
    assert np.isnan(found[0, [0, 4]]).all()
    assert np.isfinite(found[0, 1:4]).all()


@pytest.mark.parametrize(
    ("heights", "reach", "step", "match"),
    [
        (np.zeros(2), 2, 1, "heights: expected finite float32"),
        (np.full(1, np.nan, np.float32), 2, 1, "heights"),
        (np.zeros(1, np.float32), -1, 1, "reach_px"),
        (np.zeros(1, np.float32), 1, 0, "row_step"),
    ],
)
def test_wrong_arguments_are_refused(heights, reach, step, match):
    with pytest.raises(ValueError, match=match):
        pair_top_hat(np.zeros((8, 8), np.float32), heights, reach_px=reach, row_step=step)
