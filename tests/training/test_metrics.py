"""Matching and scores: cases by hand, brute force, properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spm_training.metrics import Counts, chamfer_px, count, judge, match, unforgiven

points = arrays(np.float64, st.tuples(st.integers(0, 5), st.just(2)), elements=st.integers(0, 12).map(lambda n: n / 4))


def brute_force(found, truth, tolerance):
    """Most pairs, then smallest sum of distances, over all one-to-one assignments."""
    distance = np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1))
    best = (0, 0.0)
    for size in range(min(len(found), len(truth)), 0, -1):
        sums = [
            distance[list(rows), list(columns)].sum()
            for rows in itertools.combinations(range(len(found)), size)
            for columns in itertools.permutations(range(len(truth)), size)
            if (distance[list(rows), list(columns)] <= tolerance).all()
        ]
        if sums:
            return size, min(sums)
    return best


@settings(deadline=None, max_examples=60)
@given(points, points, st.sampled_from([0.3, 0.6, 1.0]))
def test_the_matching_is_optimal(found, truth, tolerance):
    pairs = match(found, truth, tolerance)
    size, total = brute_force(found, truth, tolerance)
    assert len(pairs) == size
    assert pairs.distance_px.sum() == pytest.approx(total)
    assert len(set(pairs.found.tolist())) == len(set(pairs.truth.tolist())) == size
    np.testing.assert_allclose(np.hypot(*(found[pairs.found] - truth[pairs.truth]).T), pairs.distance_px, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(points, points, st.randoms(use_true_random=False))
def test_order_does_not_matter(found, truth, random):
    required = np.arange(len(truth)) % 3 != 0
    a, b = list(range(len(found))), list(range(len(truth)))
    random.shuffle(a)
    random.shuffle(b)
    straight = count(found, truth, required, 0.6)
    shuffled = count(found[a], truth[b], required[b], 0.6)
    assert (straight.true_positive, straight.false_negative) == (shuffled.true_positive, shuffled.false_negative)
    assert len(match(found, truth, 0.6)) == len(match(truth, found, 0.6))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_jaccard_follows_from_f1(tp, fp, fn):
    counts = Counts(tp, fp, fn)
    assert counts.jaccard == pytest.approx(counts.f1 / (2 - counts.f1))
    if tp:
        harmonic = 2 * counts.precision * counts.recall / (counts.precision + counts.recall)
        assert counts.f1 == pytest.approx(harmonic)


def test_greedy_would_lose_a_pair():
    found = np.array([[0.0, 0.0], [0.0, 1.0]])
    truth = np.array([[0.0, 0.9], [0.0, 1.9]])
    assert len(match(found, truth, 1.0)) == 2


def test_one_found_position_answers_one_true_one():
    counts = count(np.array([[5.0, 5.0]]), np.array([[5.0, 4.8], [5.0, 5.2]]), np.array([True, True]), 1.0)
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (1, 0, 1)


def test_a_known_case():
    truth = np.array([[0, 0], [0, 10], [10, 0], [10, 10]], float)
    found = np.array([[0.3, 0.4], [0, 10], [50, 50]], float)
    counts = count(found, truth, np.ones(4, bool), 1.0)
    assert (counts.precision, counts.recall) == (pytest.approx(2 / 3), 0.5)
    assert counts.rms_px == pytest.approx(np.sqrt(0.25 / 2))


def test_optional_positions_are_neither_required_nor_punished():
    truth = np.array([[0, 0], [5, 5]], float)
    required = np.array([True, False])
    both = count(truth, truth, required, 1.0)
    one = count(truth[:1], truth, required, 1.0)
    assert (both.f1, one.f1) == (1.0, 1.0)
    beside = count(np.array([[0, 0], [9, 9]], float), truth, required, 1.0)
    assert (beside.true_positive, beside.false_positive) == (1, 1)
    twice = count(np.array([[0, 0], [5, 5], [5, 5.1]], float), truth, required, 1.0)
    assert twice.false_positive == 1
    np.testing.assert_array_equal(unforgiven(truth, truth, required, 1.0), truth[:1])


def test_nothing_found_and_nothing_there():
    empty = np.zeros((0, 2))
    some = np.array([[1.0, 1.0]])
    yes = np.ones(1, bool)
    assert count(empty, empty, np.zeros(0, bool), 1.0).f1 == 1.0
    assert count(some, empty, np.zeros(0, bool), 1.0).f1 == 0.0
    assert count(empty, some, yes, 1.0).recall == 0.0
    assert np.isnan(count(empty, some, yes, 1.0).rms_px)
    with pytest.raises(ValueError, match="positive"):
        match(some, some, 0.0)


def test_the_tolerance_is_inclusive():
    assert len(match(np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]]), 1.0)) == 1
    assert len(match(np.array([[0.0, 0.0]]), np.array([[0.0, 1.0001]]), 1.0)) == 0


def test_chamfer_is_the_sum_of_both_mean_distances():
    a = np.array([[0.0, 0.0], [0.0, 4.0]])
    b = np.array([[0.0, 1.0]])
    assert chamfer_px(a, b) == pytest.approx((1 + 3) / 2 + 1)
    assert chamfer_px(a, b) == chamfer_px(b, a)
    assert chamfer_px(a, a) == 0.0
    empty = np.zeros((0, 2))
    assert chamfer_px(empty, empty) == 0.0
    assert chamfer_px(a, empty) == np.inf


def test_thousands_of_positions_are_matched_at_once(rng):
    truth = rng.uniform(0, 1000, (4000, 2))
    found = (truth + rng.normal(0, 0.2, truth.shape))[rng.permutation(4000)]
    pairs = match(found, truth, 3.0)
    assert len(pairs) > 3990


def test_every_position_is_judged_once():
    truth = np.array([[0, 0], [5, 5], [9, 9]], float)
    found = np.array([[0.2, 0], [5, 5.1], [20, 20], [0, 0.4]], float)
    judged = judge(found, truth, np.array([True, False, True]), 1.0)
    assert (judged.pairs.found.tolist(), judged.pairs.truth.tolist()) == ([0], [0])
    assert (judged.forgiven.tolist(), judged.wrong.tolist(), judged.missed.tolist()) == ([1], [2, 3], [2])


def test_the_bound_is_that_of_the_columns_that_were_found():
    truth = np.array([[0, 0], [5, 5], [9, 9]], float)
    crb = np.array([0.3, 0.4, 100.0])
    counts = judge(truth[:2] + np.array([0.0, 0.5]), truth, np.ones(3, bool), 1.0).counts(crb)
    assert counts.rms_over_bound == pytest.approx(0.5 / np.sqrt((0.09 + 0.16) / 2))
    both = counts + Counts(2, 0, 0, 0.5, 0.25)
    assert both.rms_over_bound == pytest.approx(np.sqrt(1.0 / 0.5))
    assert np.isnan(judge(truth, truth, np.ones(3, bool), 1.0).counts().rms_over_bound)
