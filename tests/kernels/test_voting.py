"""Votes and errors of overlapping windows beside plain loops over the windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_kernels import PatchGrid, majority_vote, squared_error_map


def reference_vote(labels, grid, classes):
    votes = np.zeros((classes, *grid.shape), int)
    h, w = grid.side_px
    for (y, x), label in zip(grid.origins, labels.ravel(), strict=True):
        if label >= 0:
            votes[label, y : y + h, x : x + w] += 1
    return np.where(votes.any(axis=0), votes.argmax(axis=0), -1)


def reference_errors(image, windows, grid):
    sums, count = np.zeros(grid.shape), np.zeros(grid.shape)
    h, w = grid.side_px
    for (y, x), window in zip(grid.origins, windows, strict=True):
        part = image[y : y + h, x : x + w]
        sums[y : y + h, x : x + w] += (window[: part.shape[0], : part.shape[1]] - part) ** 2
        count[y : y + h, x : x + w] += 1
    with np.errstate(invalid="ignore"):
        return sums / count


@st.composite
def grids(draw):
    side = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return PatchGrid(shape, side, draw(st.integers(1, min(side))), regular=draw(st.booleans()))


@settings(deadline=None, max_examples=80)
@given(grid=grids(), classes=st.integers(1, 7), seed=st.integers(0, 99))
def test_both_maps_equal_the_plain_loops(grid, classes, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, classes, (len(grid.rows), len(grid.columns)), dtype=np.int32)
    found = majority_vote(labels, grid, classes=classes)
    assert found.shape == grid.shape
    np.testing.assert_array_equal(found, reference_vote(labels, grid, classes))
    image = rng.normal(size=grid.shape).astype(np.float32)
    windows = rng.normal(size=(len(grid), *grid.side_px)).astype(np.float32)
    errors = squared_error_map(image, windows, grid)
    np.testing.assert_allclose(errors, reference_errors(image, windows, grid), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stride", [4, 5, 8])
def test_every_pixel_has_a_vote_to_the_last_row(stride):
    """A window aligned with the border covers what the stride leaves over."""
    grid = PatchGrid((75, 101), (32, 32), stride)
    labels = np.full((len(grid.rows), len(grid.columns)), 2, np.int32)
    labels[-1] = 5
    found = majority_vote(labels, grid, classes=6)
    assert (found >= 0).all()
    assert (found[-1] == 5).all()
    assert (found[0] == 2).all()


def test_a_missing_pixel_leaves_its_neighbours_alone():
    image = np.zeros((40, 40), np.float32)
    image[7, 9] = np.nan
    grid = PatchGrid(image.shape, (16, 16), 8)
    found = squared_error_map(image, np.ones((len(grid), 16, 16), np.float32), grid)
    assert np.argwhere(np.isnan(found)).tolist() == [[7, 9]]
    assert np.nanmin(found) == np.nanmax(found) == 1


GRID = PatchGrid((20, 20), (8, 8), 4)
LABELS = np.zeros((4, 4), np.int32)
IMAGE = np.zeros((20, 20), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: majority_vote(LABELS[:3], GRID, classes=2), r"labels: expected an int32 array of shape \(4, 4\)"),
        (lambda: majority_vote(LABELS.astype(np.int64), GRID, classes=2), "labels: expected an int32"),
        (lambda: majority_vote(LABELS + np.int32(2), GRID, classes=2), "below classes = 2, got 2"),
        (lambda: majority_vote(LABELS, GRID, classes=0), "classes: expected 1"),
        (lambda: squared_error_map(IMAGE[1:], np.zeros((16, 8, 8), np.float32), GRID), "image: expected the shape"),
        (lambda: squared_error_map(IMAGE, np.zeros((15, 8, 8), np.float32), GRID), "windows: expected a float32"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
