"""Suppression of overlapping squares against a comparison of all with all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spm_kernels import box_nms


def overlap(a, b, side):
    """Intersection over union of two squares."""
    dy, dx = np.maximum(side - np.abs(a - b), 0.0)
    return dy * dx / (2.0 * side * side - dy * dx)


def reference(yx, score, side, iou):
    order = sorted(range(len(yx)), key=lambda i: (-score[i], yx[i, 0], yx[i, 1], i))
    kept = []
    for i in order:
        if all(overlap(yx[i], yx[j], side) <= iou for j in kept):
            kept.append(i)
    return kept


COUNT = st.integers(0, 40)
ANYWHERE = COUNT.flatmap(lambda n: arrays(np.float64, (n, 2), elements=st.floats(-20, 20)))
ON_A_GRID = COUNT.flatmap(lambda n: arrays(np.float64, (n, 2), elements=st.integers(-16, 16).map(lambda k: k / 4)))


@settings(deadline=None, max_examples=200)
@given(
    yx=ANYWHERE | ON_A_GRID,
    side=st.sampled_from([0.3, 1.0, 2.75, 9.0, 100.0]),
    iou=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]),
    data=st.data(),
)
def test_equals_a_comparison_of_all_with_all(yx, side, iou, data):
    score = data.draw(arrays(np.float32, len(yx), elements=st.sampled_from([0.1, 0.5, 0.50000006, 0.9, np.inf])))
    kept = box_nms(yx, score, side_px=side, iou=iou)
    assert kept.dtype == np.int64
    assert kept.tolist() == reference(yx, score, side, iou)


@settings(deadline=None, max_examples=50)
@given(yx=ON_A_GRID, data=st.data())
def test_the_order_of_the_input_does_not_matter(yx, data):
    score = data.draw(arrays(np.float32, len(yx), elements=st.sampled_from([0.25, 0.5, 1.0])))
    shuffled = np.array(data.draw(st.permutations(range(len(yx)))), np.int64)
    kept = yx[box_nms(yx, score, side_px=2.0)]
    again = yx[shuffled][box_nms(yx[shuffled], score[shuffled], side_px=2.0)]
    np.testing.assert_array_equal(kept, again)


@pytest.mark.parametrize("iou", [0.05, 0.3, 0.6])
def test_many_squares(rng, iou):
    yx, score = rng.uniform(0, 100, (800, 2)), rng.random(800).astype(np.float32)
    kept = box_nms(yx, score, side_px=7.3, iou=iou)
    assert kept.tolist() == reference(yx, score, 7.3, iou)


@pytest.mark.parametrize("offset", [0.0, -1e5, 1e8])
def test_far_from_the_origin(rng, offset):
    yx = offset + rng.integers(0, 1024, (500, 2)) / 16  # exact at every offset
    score = rng.random(500).astype(np.float32)
    assert box_nms(yx, score, side_px=3.0).tolist() == box_nms(yx - offset, score, side_px=3.0).tolist()


def test_peaks_as_integers(rng):
    yx = rng.integers(0, 50, (100, 2)).astype(np.int32)
    score = rng.random(100).astype(np.float32)
    assert box_nms(yx, score, side_px=4.0).tolist() == reference(yx.astype(float), score, 4.0, 0.3)


def test_no_squares():
    assert box_nms(np.empty((0, 2)), np.empty(0, np.float32), side_px=1.0).shape == (0,)


def test_equal_squares_leave_the_best():
    yx, score = np.ones((4, 2)), np.array([0.1, 0.7, 0.9, 0.2], np.float32)
    assert box_nms(yx, score, side_px=2.0).tolist() == [2]
    assert box_nms(yx, score, side_px=2.0, iou=1.0).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize(
    ("yx", "score", "options", "message"),
    [
        (
            np.zeros((3, 3)),
            np.zeros(3, np.float32),
            {},
            r"yx: expected .* \(N, 2\), got float64 array of shape \(3, 3\)",
        ),
        (np.zeros((3, 2)), np.zeros(2, np.float32), {}, r"score: expected .* \(3,\).* got"),
        (np.zeros((3, 2)), np.zeros(3, np.int64), {}, "score: .* got int64"),
        (np.zeros((3, 2), complex), np.zeros(3), {}, "yx: .* got complex128"),
        (np.full((1, 2), np.nan), np.zeros(1), {}, "yx: expected finite .* in row 0"),
        (np.full((1, 2), 1e12), np.zeros(1), {}, "yx: expected finite pixel coordinates below"),
        (np.zeros((2, 2)), np.array([0.0, np.nan]), {}, "score: expected numbers, got NaN in row 1"),
        (np.zeros((1, 2)), np.zeros(1), {"side_px": 0.0}, "side_px: expected a finite number above 0, got 0.0"),
        (np.zeros((1, 2)), np.zeros(1), {"side_px": np.inf}, "side_px"),
        (np.ones((1, 2)), np.zeros(1), {"side_px": 1e-15}, "side_px: expected a side that is not tiny"),
        (np.zeros((1, 2)), np.zeros(1), {"iou": 1.5}, "iou: expected a number from 0 to 1, got 1.5"),
        (np.zeros((1, 2)), np.zeros(1), {"iou": np.nan}, "iou"),
    ],
)
def test_wrong_arguments_are_named(yx, score, options, message):
    with pytest.raises(ValueError, match=message):
        box_nms(yx, score, **{"side_px": 1.0, **options})
