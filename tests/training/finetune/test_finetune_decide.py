"""What is kept, from the figures alone."""

import dataclasses

import numpy as np
import pytest

from spm_training.defects.score import Interval
from spm_training.finetune.decide import (
    LEAST_KEPT,
    MOST_LOST_F1,
    MOST_MORE_FALSE,
    MOST_WORSE_ERROR,
    FinderFigures,
    PatchFigures,
    judge_finder,
    judge_patches,
)
from spm_training.finetune.judge import f1_of, paired_difference

FINDER = FinderFigures(
    planted_f1=(0.6, 0.7),
    planted_recall=(0.6, 0.7),
    change=Interval(0.1, 0.04, 0.16),
    kept=1.0,
    others=(1.0, 1.0),
    simulated_f1=(0.80, 0.79),
    false_per_empty=(0.3, 0.3),
)
PATCHES = PatchFigures(
    error=(2e-3, 1e-3),
    ratio=Interval(0.5, 0.4, 0.6),
    novelty=(1.5, 0.8),
    new=(1.0, 0.0),
    simulated_error=(1e-3, 1.05e-3),
)


def test_a_finder_that_wins_is_taken():
    verdict = judge_finder(FINDER)
    assert verdict.tuned
    assert "+0.100 [+0.040, +0.160]" in verdict.reason
    assert judge_finder(dataclasses.replace(FINDER, kept=float("nan"))).tuned  # nothing was sure: nothing is lost


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"change": Interval(0.1, -0.01, 0.2)}, "could tell from chance"),
        ({"change": Interval(float("nan"), float("nan"), float("nan"))}, "could tell from chance"),
        ({"kept": LEAST_KEPT - 0.01}, "are still found"),
        ({"simulated_f1": (0.8, 0.8 - MOST_LOST_F1 - 0.001)}, "is lost on simulated surfaces"),
        ({"false_per_empty": (0.1, 0.1 + MOST_MORE_FALSE + 0.01)}, "more marks are made per simulated image"),
    ],
)
def test_a_finder_that_does_not_is_not(change, said):
    verdict = judge_finder(dataclasses.replace(FINDER, **change))
    assert not verdict.tuned
    assert said in verdict.reason


@pytest.mark.parametrize(
    ("change", "tuned", "said"),
    [
        ({}, True, "0.50 [0.40, 0.60]"),
        ({"ratio": Interval(0.9, 0.8, 1.01)}, False, "could tell from chance"),
        ({"simulated_error": (1.0, MOST_WORSE_ERROR + 0.01)}, False, "on simulated surfaces it grows"),
        ({"new": (0.0, 0.5)}, False, "more of them are called new"),
    ],
)
def test_an_autoencoder_is_taken_where_the_error_falls(change, tuned, said):
    verdict = judge_patches(dataclasses.replace(PATCHES, **change))
    assert verdict.tuned is tuned
    assert said in verdict.reason


def test_f1_of_counts():
    np.testing.assert_allclose(f1_of(np.array([[1, 1, 1], [2, 0, 0], [0, 0, 0]])), [0.5, 1.0, np.nan])


def test_a_gain_everywhere_is_told_from_chance_and_a_draw_is_not(rng):
    before = np.stack([rng.integers(2, 5, 40), rng.integers(0, 2, 40), rng.integers(1, 3, 40)], axis=1)
    after = before + np.array([1, 0, -1])
    gain = paired_difference(before, after)
    assert gain.value == pytest.approx(float(f1_of(after.sum(axis=0)) - f1_of(before.sum(axis=0))))
    assert 0 < gain.low <= gain.value <= gain.high
    swapped = np.where(rng.random((40, 1)) < 0.5, before + np.array([1, 0, -1]), before - np.array([1, 0, -1]))
    draw = paired_difference(before, swapped)
    assert draw.low < 0 < draw.high
