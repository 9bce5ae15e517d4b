"""Peaks of a score map against a window-by-window search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spm_kernels import local_maxima


def reference(score, window, threshold, valid=None):
    """Maxima of the clipped window; of every 8-connected plateau the maximum nearest to their centroid."""
    r = window // 2
    usable = np.isfinite(score) if valid is None else np.isfinite(score) & valid
    values = np.where(usable, score, -np.inf)
    height, width = score.shape
    is_top = np.zeros(score.shape, bool)
    for y, x in np.argwhere(usable & (values > threshold)):
        around = values[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1]
        is_top[y, x] = values[y, x] == around.max()
    peaks, seen = [], set()
    for start in map(tuple, np.argwhere(is_top).tolist()):
        if start in seen:
            continue
        plateau, todo = [], [start]
        seen.add(start)
        while todo:
            y, x = todo.pop()
            plateau.append((y, x))
            for v in range(max(y - 1, 0), min(y + 2, height)):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    if (v, u) not in seen and values[v, u] == values[start]:
                        seen.add((v, u))
                        todo.append((v, u))
        members = [p for p in plateau if is_top[p]]
        n, (sum_y, sum_x) = len(members), np.sum(members, axis=0).tolist()
        peaks.append(min(members, key=lambda p: ((n * p[0] - sum_y) ** 2 + (n * p[1] - sum_x) ** 2, p)))
    return sorted(peaks, key=lambda p: (-values[p], p))


def as_list(yx):
    return [tuple(p) for p in yx.tolist()]


LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, np.nan, np.inf, -np.inf])
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
FEW_LEVELS = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=LEVELS))
FLOATS = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-1, 1, width=32)))


@settings(deadline=None, max_examples=200)
@given(score=FEW_LEVELS | FLOATS, radius=st.integers(0, 14), threshold=st.sampled_from([-2.0, 0.1, 0.5]))
def test_equals_a_search_window_by_window(score, radius, threshold):
    found = local_maxima(score, window_px=2 * radius + 1, threshold=threshold)
    assert found.dtype == np.int32
    assert as_list(found) == reference(score, 2 * radius + 1, threshold)


@settings(deadline=None, max_examples=100)
@given(score=FEW_LEVELS, radius=st.integers(0, 4), data=st.data())
def test_masked_pixels_neither_peak_nor_suppress(score, radius, data):
    valid = data.draw(arrays(np.bool_, score.shape))
    found = local_maxima(score, window_px=2 * radius + 1, threshold=0.1, valid=valid)
    assert as_list(found) == reference(score, 2 * radius + 1, 0.1, valid)
    blanked = np.where(valid, score, np.float32(np.nan))
    assert as_list(found) == as_list(local_maxima(blanked, window_px=2 * radius + 1, threshold=0.1))


@settings(deadline=None, max_examples=50)
@given(score=FEW_LEVELS, shift=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_peaks_move_with_the_image(score, shift):
    canvas = np.full((24, 24), np.nan, np.float32)
    canvas[shift[0] : shift[0] + score.shape[0], shift[1] : shift[1] + score.shape[1]] = score
    expected = local_maxima(score, window_px=5, threshold=0.1) + np.array(shift)
    assert as_list(local_maxima(canvas, window_px=5, threshold=0.1)) == as_list(expected)


@pytest.mark.parametrize("window", [3, 7, 31, 101])
def test_large_map_of_smooth_noise(rng, window):
    score = rng.standard_normal((90, 70)).astype(np.float32)
    for _ in range(4):
        score = (score + np.roll(score, 1, 0) + np.roll(score, 1, 1)) / np.float32(3)
    assert as_list(local_maxima(score, window_px=window, threshold=0.0)) == reference(score, window, 0.0)


def test_saturated_column_gives_its_middle():
    y, x = np.mgrid[:30, :40]
    score = np.clip(2.0 - np.hypot(y - 11, x - 23) / 4, 0, 1).astype(np.float32)
    assert as_list(local_maxima(score, window_px=5, threshold=0.5)) == [(11, 23)]


def test_a_plateau_larger_than_the_window_is_one_peak():
    horseshoe = np.zeros((20, 20), np.float32)
    horseshoe[2:18, 2:4] = horseshoe[2:18, 16:18] = horseshoe[16:18, 2:18] = 1.0
    assert len(local_maxima(horseshoe, window_px=3, threshold=0.5)) == 1
    assert len(local_maxima(np.ones((50, 60), np.float32), window_px=3, threshold=0.5)) == 1


def test_order_is_by_score_then_position():
    score = np.zeros((9, 9), np.float32)
    score[[7, 1, 1, 4], [1, 7, 1, 4]] = 0.5, 0.5, 0.5, 0.9
    assert as_list(local_maxima(score, window_px=3, threshold=0.1)) == [(4, 4), (1, 1), (1, 7), (7, 1)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (5, 0)])
def test_empty_map_has_no_peaks(shape):
    assert local_maxima(np.empty(shape, np.float32), window_px=3, threshold=0.0).shape == (0, 2)


def test_missing_map_has_no_peaks():
    assert local_maxima(np.full((6, 5), np.nan, np.float32), window_px=3, threshold=-np.inf).shape == (0, 2)


def test_borders_count():
    score = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert as_list(local_maxima(score, window_px=3, threshold=0.0)) == [(2, 3)]
    assert as_list(local_maxima(score[::-1, ::-1], window_px=3, threshold=0.0)) == [(0, 0)]


def test_input_is_not_changed_and_may_be_read_only(rng):
    score = rng.random((20, 30)).astype(np.float32)
    before = score.copy()
    writable = local_maxima(score, window_px=3, threshold=0.0)
    score.setflags(write=False)
    np.testing.assert_array_equal(local_maxima(score, window_px=3, threshold=0.0), writable)
    np.testing.assert_array_equal(score, before)


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        (np.zeros((3, 3)), {}, "score: expected a float32 array of shape .* got float64 array of shape"),
        (np.zeros(3, np.float32), {}, r"got float32 array of shape \(3,\)"),
        ([[1.0]], {}, "got list"),
        (np.zeros((3, 3), np.float32), {"window_px": 4}, "window_px: expected an odd number .* got 4"),
        (np.zeros((3, 3), np.float32), {"window_px": -1}, "window_px"),
        (np.zeros((3, 3), np.float32), {"threshold": np.nan}, "threshold: expected a number"),
        (np.zeros((3, 3), np.float32), {"valid": np.ones((3, 2), bool)}, "valid: expected a bool array of shape"),
        (np.zeros((3, 3), np.float32), {"valid": np.ones((3, 3))}, "valid: .* got float64"),
    ],
)
def test_wrong_arguments_are_named(score, options, message):
    with pytest.raises(ValueError, match=message):
        local_maxima(score, **{"window_px": 3, "threshold": 0.0, **options})
