"""From maps to defects, on maps that are drawn by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spm_runtime.pipelines.marks import REACH, SHARED, Marks, find_marks, regions_of

SHAPE = (40, 50)


def peak(place, *, height=0.9, sigma=1.5, shape=SHAPE):
    y, x = np.mgrid[: shape[0], : shape[1]]
    square = (y - place[0]) ** 2 + (x - place[1]) ** 2
    return (height * np.exp(-0.5 * square / sigma**2)).astype(np.float32)


def find(presence, *, radius=3.0, chance=None, threshold=0.3, valid=None):
    kinds = np.stack([np.full(presence.shape, 0.25), np.full(presence.shape, 0.75)]) if chance is None else chance
    return find_marks(
        presence,
        np.broadcast_to(np.float32(radius), presence.shape),
        kinds.astype(np.float32),
        threshold=threshold,
        valid=np.ones(presence.shape, bool) if valid is None else valid,
    )


def marks_at(places, radii, scores=None):
    count = len(places)
    return Marks(
        np.array(places, float).reshape(-1, 2),
        np.linspace(0.9, 0.5, count, dtype=np.float32) if scores is None else np.array(scores, np.float32),
        np.array(radii, float),
        np.full((count, 2), 0.5, np.float32),
    )


def disc(place, radius, shape=SHAPE):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(y - place[0], x - place[1]) <= radius


# Peaks


def test_peaks_come_best_first_with_what_the_maps_say_there():
    places, heights = np.array([(8, 9), (30, 40), (20, 12)]), (0.6, 0.9, 0.4)
    presence = np.max([peak(place, height=height) for place, height in zip(places, heights, strict=True)], axis=0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius, chance = (3 + 0.01 * y).astype(np.float32), np.stack([x / 100, 1 - x / 100]).astype(np.float32)
    found = find_marks(presence, radius, chance, threshold=0.3, valid=np.ones(SHAPE, bool))
    order = [1, 0, 2]
    assert len(found) == 3
    np.testing.assert_allclose(found.yx_px, places[order], atol=0.01)
    np.testing.assert_allclose(found.score, np.array(heights)[order], rtol=1e-6)
    np.testing.assert_allclose(found.radius_px, 3 + 0.01 * places[order, 0], rtol=1e-6)
    np.testing.assert_allclose(found.chance[:, 0], places[order, 1] / 100, rtol=1e-6)
    assert (found.yx_px.dtype, found.score.dtype, found.radius_px.dtype) == (np.float64, np.float32, np.float64)
    assert found.chance.flags.c_contiguous


def test_what_is_below_the_threshold_or_missing_is_none():
    presence = np.maximum(peak((10, 10), height=0.29), peak((30, 30)))
    assert len(find(presence)) == 1
    assert len(find(presence, threshold=0.2)) == 2
    valid = np.ones(SHAPE, bool)
    valid[25:] = False
    assert len(find(presence, valid=valid)) == 0
    none = find(np.zeros(SHAPE, np.float32), threshold=0.0)
    assert none.yx_px.shape == (0, 2)
    assert none.chance.shape == (0, 2)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, -0.2), (-0.45, 0.4), (0.49, 0.49)])
def test_centres_are_sub_pixel(offset):
    place = np.array([20.0, 25.0]) + offset
    found = find(peak(place, sigma=1.0))
    np.testing.assert_allclose(found.yx_px, [place], atol=0.25)
    # Nearer than the pixel itself.
    if np.hypot(*offset) > 0.3:
        assert np.hypot(*(found.yx_px[0] - place)) < 0.6 * np.hypot(*offset)


@pytest.mark.parametrize("place", [(0, 25), (39, 25), (20, 0), (20, 49), (0, 0), (39, 49)])
def test_a_centre_at_the_border_is_not_pushed_inwards(place):
    found = find(peak(place))
    np.testing.assert_allclose(found.yx_px, [place], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 3)])
def test_maps_of_few_pixels(shape):
    presence = np.zeros(shape, np.float32)
    presence[-1, -1] = 0.8
    found = find(presence)
    assert len(found) == 1
    np.testing.assert_array_equal(found.yx_px, [(shape[0] - 1, shape[1] - 1)])
    assert regions_of(found, presence)[-1, -1] == 0


@pytest.mark.parametrize(("apart", "radius", "kept"), [(4, 10.0, 1), (5, 10.0, 1), (7, 10.0, 2), (4, 5.0, 2)])
def test_of_two_that_share_their_extent_the_better_one_stays(apart, radius, kept):
    presence = np.maximum(peak((20, 20), height=0.7, sigma=0.7), peak((20, 20 + apart), sigma=0.7))
    found = find(presence, radius=radius)
    assert len(found) == kept
    np.testing.assert_allclose(found.yx_px[0], (20, 20 + apart), atol=0.05)


def test_the_larger_of_the_two_radii_counts_whichever_is_better():
    x = np.broadcast_to(np.arange(SHAPE[1]), SHAPE)
    presence = np.maximum(peak((20, 15), height=0.7, sigma=0.7), peak((20, 20), height=0.9, sigma=0.7))
    for large in (x < 18, x > 18):
        assert len(find(presence, radius=np.where(large, 12.0, 2.0))) == 1


def test_what_a_worse_one_suppresses_comes_back_when_it_goes_itself():
    """A chain: the second goes because of the first, so that the third stays."""
    heights = (0.9, 0.7, 0.5)
    presence = np.max([peak((20, 15 + 5 * i), height=h, sigma=0.7) for i, h in enumerate(heights)], axis=0)
    found = find(presence, radius=10.0)
    np.testing.assert_allclose(found.score, [0.9, 0.5], rtol=1e-3)


@settings(deadline=None, max_examples=25)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.floats(0, 1, width=16)),
    st.floats(1, 12),
    st.floats(0, 0.9),
    st.randoms(use_true_random=False),
)
def test_marks_of_any_map(presence, radius, threshold, random):
    rng = np.random.default_rng(random.getrandbits(32))
    valid = rng.random(presence.shape) < 0.9
    inside = rng.random(presence.shape).astype(np.float32)
    radii = (radius * rng.uniform(0.5, 1.5, presence.shape)).clip(1).astype(np.float32)
    found = find(presence, radius=radii, threshold=threshold, valid=valid)
    assert (np.diff(found.score) <= 0).all()
    assert (found.score > threshold).all()
    assert (np.abs(found.yx_px - np.rint(found.yx_px)) <= 0.5).all()
    assert ((found.yx_px > -0.5) & (found.yx_px < np.array(presence.shape) - 0.5)).all()
    for i in range(len(found)):
        for j in range(i):
            distance = np.hypot(*(found.yx_px[i] - found.yx_px[j]))
            assert distance >= SHARED * max(found.radius_px[i], found.radius_px[j]) - 1e-9
    # Of the best peak there is always a mark.
    highest = np.max(presence[valid], initial=0)
    assert len(found) == 0 or found.score[0] == highest
    assert (len(found) > 0) == (highest > threshold)

    owner = regions_of(found, inside)
    assert owner.dtype == np.int32
    assert owner.min() >= -1
    assert owner.max() < max(len(found), 1)
    np.testing.assert_array_equal(owner, slow_regions(found, inside))


def slow_regions(marks, inside):
    """The definition, pixel by pixel."""
    owner = np.full(inside.shape, -1)
    for y, x in np.ndindex(inside.shape):
        best = np.inf
        for index in range(len(marks)):
            radius = max(marks.radius_px[index], 1.0)
            distance = np.hypot(y - marks.yx_px[index, 0], x - marks.yx_px[index, 1]) / radius
            if inside[y, x] > 0.5 and distance <= REACH and distance < best:
                owner[y, x], best = index, distance
    for index in reversed(range(len(marks))):
        owner[tuple(np.clip(np.rint(marks.yx_px[index]).astype(int), 0, np.array(inside.shape) - 1))] = index
    return owner


# Regions


def test_a_region_is_what_lies_inside():
    inside = np.where(disc((20, 25), 6), 0.8, 0.1).astype(np.float32)
    inside[2, 2] = 0.9  # on nothing that was found
    owner = regions_of(marks_at([(20, 25)], [5.0]), inside)
    np.testing.assert_array_equal(owner == 0, disc((20, 25), 6))
    assert owner[2, 2] == -1


def test_a_region_reaches_one_and_a_half_radii():
    owner = regions_of(marks_at([(20, 25)], [4.0]), np.ones(SHAPE, np.float32))
    np.testing.assert_array_equal(owner == 0, disc((20, 25), 6.0))


def test_touching_defects_share_by_distance_in_radii():
    owner = regions_of(marks_at([(20, 15), (20, 30)], [10.0, 5.0]), np.ones(SHAPE, np.float32))
    row = owner[20, 10:31]
    # Twice as large a defect reaches twice as far: the border lies two thirds of the way.
    np.testing.assert_array_equal(row, [0] * 15 + [0 if row[15] == 0 else 1] + [1] * 5)


def test_a_centre_belongs_to_its_defect_even_where_nothing_is_inside():
    owner = regions_of(marks_at([(5, 5), (39.4, 49.4)], [3.0, 3.0]), np.zeros(SHAPE, np.float32))
    assert owner[5, 5] == 0
    assert owner[39, 49] == 1
    assert (owner >= 0).sum() == 2


def test_of_two_at_one_pixel_the_better_one_has_it():
    owner = regions_of(marks_at([(10.2, 10.1), (9.8, 9.9)], [0.4, 0.4]), np.zeros(SHAPE, np.float32))
    assert owner[10, 10] == 0


def test_a_region_at_the_border_is_cut_by_it():
    owner = regions_of(marks_at([(0, 0)], [4.0]), np.ones(SHAPE, np.float32))
    np.testing.assert_array_equal(owner == 0, disc((0, 0), 6))


def test_without_marks_there_are_no_regions():
    none = marks_at([], [])
    assert len(none) == 0
    assert (regions_of(none, np.ones(SHAPE, np.float32)) == -1).all()
