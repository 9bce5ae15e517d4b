"""The evaluation: its images are its own, and a perfect finder is perfect."""

from types import SimpleNamespace

import numpy as np
import pytest

from spm_runtime.errors import ParameterError
from spm_training.atoms.evaluate import (
    EvaluationOptions,
    Found,
    evaluate,
    evaluate_all,
    evaluation_scenes,
    package_finder,
    score_scene,
    validation_scenes,
)
from spm_training.atoms.report import Report, Subject
from spm_training.metrics import Counts
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS

SMALL = EvaluationOptions(
    1, 64, (7.0, 9.0), families=("square", "hexagonal", "honeycomb", "dichalcogenide", "isolated")
)


@pytest.fixture(scope="module")
def scenes():
    return list(evaluation_scenes(SMALL))


def perfect(scenes):
    return [
        score_scene(Found(scene.yx_px, scene.spacing_px * 1.05), scene, noise=noise, seconds=0.1)
        for noise, scene in scenes
    ]


SUBJECT = Subject("atoms", "1.0.0", "0" * 64)


def test_every_family_is_shown_at_every_noise_level(scenes):
    assert len(scenes) == SMALL.total == len(SMALL.families) * len(NOISE_LEVELS)
    assert {(scene.family, noise) for noise, scene in scenes} == {(f, n) for f in SMALL.families for n in NOISE_LEVELS}
    for noise, scene in scenes:
        low, high = NOISE_LEVELS[noise]
        assert low <= scene.detectability <= high
        assert scene.image.shape == (64, 64)


def test_the_images_are_always_the_same_and_all_different(scenes):
    again = list(evaluation_scenes(SMALL))
    assert all(np.array_equal(a[1].image, b[1].image) for a, b in zip(scenes, again, strict=True))
    assert len({scene.image.tobytes() for _, scene in scenes}) == len(scenes)


def test_a_perfect_finder_scores_one(scenes):
    report = Report(SUBJECT, SMALL, perfect(scenes))
    everything, *rest = report.rows()
    assert everything.group == "all"
    assert everything.images == len(scenes)
    for row in (everything, *rest):
        assert (row.f1_quarter, row.f1_half, row.precision, row.recall, row.jaccard) == (1, 1, 1, 1, 1)
        assert row.scale_within_tenth == 1.0
        assert row.rms_px == 0.0 or np.isnan(row.rms_px)
    assert sum(row.atoms for row in rest if row.group.startswith("family")) == everything.atoms


def test_a_finder_with_a_known_error_scores_what_it_must(scenes):
    noise, scene = next((n, s) for n, s in scenes if s.family == "square" and s.required.sum() > 10)
    moved = scene.yx_px + np.array([0.3 * scene.spacing_px, 0.0])
    score = score_scene(Found(moved, 2 * scene.spacing_px), scene, noise=noise, seconds=0.0)
    assert score.counts[0.25].true_positive < score.counts[0.5].true_positive
    assert Report(SUBJECT, SMALL, [score]).rows()[0].scale_within_tenth == 0.0
    none = score_scene(Found(np.zeros((0, 2)), 1.0), scene, noise=noise, seconds=0.0)
    row = Report(SUBJECT, SMALL, [none]).rows()[0]
    assert (row.recall, row.precision) == (0.0, 1.0)
    assert np.isnan(row.rms_px)
    assert np.isnan(row.chamfer_px)


def test_a_finder_is_called_once_for_every_image(scenes):
    truth = {scene.image.tobytes(): scene for _, scene in scenes}
    seen = []
    finder = lambda image: Found(truth[image.tobytes()].yx_px, truth[image.tobytes()].spacing_px)  # noqa: E731
    scores = evaluate(finder, SMALL, on_image=seen.append)
    assert scores == seen
    assert len(scores) == SMALL.total
    assert Report(SUBJECT, SMALL, scores).rows()[0].f1_quarter == 1.0


def test_finders_are_scored_side_by_side_and_timed_against_one_yardstick(scenes):
    calls = []

    def finder(name):
        return lambda image: (calls.append(name), Found(np.zeros((0, 2)), 1.0))[1]

    scores = evaluate_all({"a": finder("a"), "b": finder("b")}, SMALL, compare_time=True)
    assert calls == ["a", "b"] * (SMALL.total + 1)  # the first image warms them up
    for one, other in zip(scores["a"], scores["b"], strict=True):
        assert one.blob_log_seconds == other.blob_log_seconds > 0
    assert np.isnan(evaluate(finder("c"), SMALL)[0].blob_log_seconds)


def test_what_a_finder_says_of_each_position_is_kept(scenes):
    noise, scene = next((n, s) for n, s in scenes if s.required.sum() > 10 and not s.required.all())
    far = np.array([[-100.0, -100.0]])
    yx = np.concatenate([scene.yx_px + 0.1, far])
    score, std = np.linspace(0, 1, len(yx)), np.linspace(0.1, 0.2, len(yx))
    kept = score_scene(Found(yx, 8.0, score, std), scene, noise=noise, seconds=0.0).detections
    assert len(kept.score) == scene.required.sum() + 1  # those that answer optional columns are left out
    np.testing.assert_array_equal(kept.is_true, np.arange(len(kept.score)) < scene.required.sum())
    np.testing.assert_allclose((kept.found_yx_px - kept.true_yx_px)[kept.is_true], 0.1, atol=1e-9)
    assert np.isnan(kept.true_yx_px[-1]).all()
    np.testing.assert_array_equal(kept.score, np.append(score[:-1][scene.required], 1.0))
    np.testing.assert_array_equal(kept.std_px, np.append(std[:-1][scene.required], 0.2))
    assert score_scene(Found(yx, 8.0), scene, noise=noise, seconds=0.0).detections is None


def test_errors_at_the_bound_score_one(scenes, rng):
    """Positions that scatter by the bound of each column, counted over all of them."""
    scores = []
    for noise, scene in scenes:
        error = rng.normal(size=scene.yx_px.shape) * scene.crb_px[:, None] / np.sqrt(2)
        scores.append(score_scene(Found(scene.yx_px + error, 8.0), scene, noise=noise, seconds=0.0))
    counts = sum((one.counts[0.5] for one in scores if one.noise == "clear"), Counts())
    assert counts.true_positive > 100
    assert counts.rms_over_bound == pytest.approx(1.0, abs=0.1)


def test_the_default_is_every_family_and_a_family_has_the_same_images_in_any_company(scenes):
    assert EvaluationOptions().families == FAMILIES
    alone = list(evaluation_scenes(EvaluationOptions(1, 64, (7.0, 9.0), families=("honeycomb",))))
    there = [scene for _, scene in scenes if scene.family == "honeycomb"]
    assert all(np.array_equal(a.image, b.image) for (_, a), b in zip(alone, there, strict=True))


def test_validation_scenes_are_others(scenes):
    others = list(validation_scenes(SMALL))
    assert [(noise, scene.family) for noise, scene in others] == [(noise, scene.family) for noise, scene in scenes]
    assert not {scene.image.tobytes() for _, scene in others} & {scene.image.tobytes() for _, scene in scenes}


def test_an_unknown_task_has_no_evaluation():
    package = SimpleNamespace(task="restore", folder="models/restore")
    with pytest.raises(ParameterError, match="'restore' has no evaluation"):
        package_finder(package)
