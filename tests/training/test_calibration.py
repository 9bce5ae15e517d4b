"""Calibration, coverage and pixel locking of samples whose distribution is known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.models import find_model
from spm_training.calibration import (
    MAX_KNOTS,
    coverage,
    fit_calibration,
    knots_of,
    on_top_of,
    pixel_locking,
    reliability,
    write_knots,
)
from spm_training.graphs.base import Calibration, read_calibration


def test_honest_scores_lie_on_the_diagonal(rng):
    score = rng.random(50_000)
    honest = reliability(score, rng.random(50_000) < score)
    assert honest.count.sum() == 50_000
    np.testing.assert_allclose(honest.mean_score, np.arange(0.05, 1, 0.1), atol=0.01)
    np.testing.assert_allclose(honest.share_true, honest.mean_score, atol=0.03)
    assert honest.expected_error < 0.02


def test_the_expected_error_of_a_known_case():
    """Ten at 0.95 of which five are true, ten at 0.15 of which one is: (0.45 + 0.05) / 2."""
    score = np.repeat([0.95, 0.15], 10)
    is_true = np.r_[np.arange(10) < 5, np.arange(10) < 1]
    told = reliability(score, is_true)
    assert told.expected_error == pytest.approx(0.25)
    assert told.count[[1, 9]].tolist() == [10, 10]
    assert np.isnan(told.share_true[0])


def test_scores_at_the_ends_and_none_at_all():
    assert reliability([0.0, 1.0], [False, True]).count[[0, -1]].tolist() == [1, 1]
    nothing = reliability([], [])
    assert np.isnan(nothing.expected_error)
    assert nothing.picture().size == reliability([0.5], [True]).picture().size


def test_the_diagram_shows_the_points_where_they_are():
    """One bin at (0.55, 1): blue there, and nowhere on the lower half."""
    pixels = np.asarray(reliability([0.55] * 9, [True] * 9).picture())
    blue = (pixels == (0, 96, 192)).all(axis=-1)
    y, x = np.argwhere(blue).mean(axis=0)
    assert (x, y) == (pytest.approx(60 + 400 * 0.55, abs=1), pytest.approx(60, abs=1))


def test_honest_deviations_cover_what_a_normal_distribution_does(rng):
    std = rng.uniform(0.05, 0.4, 40_000)
    error = rng.normal(size=(40_000, 2)) * std[:, None]
    told = coverage(error, std)
    assert told.count == 80_000
    assert told.within_one == pytest.approx(0.6827, abs=0.01)
    assert told.within_two == pytest.approx(0.9545, abs=0.01)
    assert told.robust_std == pytest.approx(1.0, abs=0.02)
    assert coverage(error, std / 2).robust_std == pytest.approx(2.0, abs=0.04)


def test_unknown_deviations_are_left_out():
    told = coverage([[0.1, -0.1], [np.nan, np.nan], [1.0, 1.0], [1.0, 1.0]], [0.2, 0.2, np.nan, 0.0])
    assert (told.count, told.within_one) == (2, 1.0)
    assert told.robust_std == pytest.approx(1.4826 * 0.5)
    assert coverage(np.zeros((0, 2)), []).count == 0


def test_uniform_positions_are_not_locked_and_rounded_ones_are(rng):
    yx = rng.uniform(0, 500, (20_000, 2))
    free = pixel_locking(yx)
    assert free.count == 40_000
    assert free.chi_square < 3
    assert free.largest_deviation < 0.06
    rounded = pixel_locking(np.rint(yx) + 0.01)
    assert rounded.largest_deviation == pytest.approx(9.0)
    biased = pixel_locking(yx - 0.1 * np.sin(2 * np.pi * yx) / (2 * np.pi))
    assert biased.largest_deviation == pytest.approx(0.1, abs=0.05)
    assert biased.chi_square > 10 * free.chi_square


def test_negative_positions_and_none():
    assert pixel_locking([[-0.25, 0.75]]).largest_deviation == pytest.approx(9.0)
    assert np.isnan(pixel_locking(np.zeros((0, 2))).chi_square)


def test_the_fit_recovers_a_known_curve(rng):
    raw = rng.uniform(-0.1, 1.2, 60_000)
    truth = np.clip(raw, 0, 1) ** 2
    x, y = fit_calibration(raw, rng.random(60_000) < truth)
    np.testing.assert_allclose(np.interp(raw, x, y), truth, atol=0.05)
    calibrated = reliability(np.interp(raw, x, y), rng.random(60_000) < truth)
    assert calibrated.expected_error < 0.02


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(200, 3000), st.floats(0.1, 8))
def test_knots_are_few_and_ascend(seed, count, power):
    random = np.random.default_rng(seed)
    raw = np.round(random.random(count), 3)  # with ties
    x, y = fit_calibration(raw, random.random(count) < raw**power) if power < 5 else fit_calibration(raw, raw > 0.5)
    assert 2 <= len(x) == len(y) <= MAX_KNOTS
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    assert 0 <= y[0] < y[-1] <= 1


def test_scores_that_tell_nothing_cannot_be_calibrated():
    with pytest.raises(ValueError, match="right from wrong"):
        fit_calibration(np.linspace(0, 1, 500), np.ones(500, bool))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_second_fit_on_top_of_a_first_is_one_map(seed):
    random = np.random.default_rng(seed)

    def knots(count):
        inner = np.sort(random.choice(np.arange(1, 20), (2, count)), axis=1)
        inner = np.unique(inner[0]), np.unique(inner[1])
        size = min(map(len, inner))
        return tuple(np.r_[0.0, one[:size] / 20, 1.0] for one in inner)

    first, second = knots(6), knots(6)
    x, y = on_top_of(first, second)
    assert len(x) <= MAX_KNOTS + 2
    Calibration(tuple(x), tuple(y))
    score = np.linspace(0, 1, 400)
    np.testing.assert_allclose(np.interp(score, x, y), np.interp(np.interp(score, *first), *second), atol=0.03)
    assert on_top_of(None, second) is second


def test_many_knots_become_few_that_say_nearly_the_same():
    bent = np.linspace(0, 1, 18)
    first, second = (bent, bent**2), (bent, bent**0.7)
    x, y = on_top_of(first, second)
    assert len(x) == MAX_KNOTS + 2
    score = np.linspace(0, 1, 400)
    np.testing.assert_allclose(np.interp(score, x, y), np.interp(np.interp(score, *first), *second), atol=0.01)


def test_a_package_knows_its_calibration():
    shipped = knots_of(find_model("atoms"))
    assert shipped is not None
    Calibration(*map(tuple, shipped))


def test_the_exporter_reads_the_knots(tmp_path, rng):
    raw = rng.random(5000)
    x, y = fit_calibration(raw, rng.random(5000) < raw)
    write_knots(tmp_path / "new" / "knots.json", x, y)
    assert set(json.loads((tmp_path / "new" / "knots.json").read_text(encoding="utf-8"))) == {"raw", "probability"}
    calibration = read_calibration(tmp_path / "new" / "knots.json")
    np.testing.assert_array_equal(calibration.raw, x)
    np.testing.assert_array_equal(calibration.probability, y)
