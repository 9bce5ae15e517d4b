"""Scores of defects: one to one, only what is required can be missed, steps and borders counted as they are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import v_measure_score

from spm_runtime.errors import ParameterError
from spm_runtime.models import find_model
from spm_training.defects.evaluate import evaluate, evaluate_all, marks, package_finder
from spm_training.defects.scenes import DefectOptions, evaluation_scenes, scan_of, validation_scenes
from spm_training.defects.score import (
    LEAST_TOLERANCE_NM,
    f1_interval,
    judge_defects,
    near_step,
    score_scene,
    step_length_px,
    tolerance_px,
    total_counts,
    v_measure,
    v_measure_interval,
)
from spm_training.metrics import Counts
from spm_training.simulate.surfaces import DEFECT_CLASSES, NOISE_LEVELS, Defects

SMALL = DefectOptions(images=2, side_px=128, families=("si111-7x7", "tmd", "au111"))


@pytest.fixture(scope="module")
def shown():
    return list(evaluation_scenes(SMALL))


def truth_of(scene, which=None, shift=0.0):
    chosen = scene.required if which is None else which
    truth = scene.defects
    return marks(
        truth.yx_px[chosen] + shift, truth.radius_px[chosen], names=[DEFECT_CLASSES[k] for k in truth.kind[chosen]]
    )


def knows(shown):
    """A finder that gives the truth, told by the image."""
    by_image = {scan_of(one.scene).image.tobytes(): one.scene for one in shown}
    return lambda scan: truth_of(by_image[scan.image.tobytes()])


def nothing(_):
    return marks(np.empty((0, 2)), 1.0)


def test_the_scenes_are_the_same_every_time_all_different_and_no_others_may_be_tuned_on(shown):
    again = list(evaluation_scenes(SMALL))
    assert all(np.array_equal(a.scene.image, b.scene.image) for a, b in zip(shown, again, strict=True))
    tuning, others = list(validation_scenes(SMALL)), list(validation_scenes(SMALL, first=3))
    every = (*shown, *tuning, *others)
    assert len({one.scene.image.tobytes() for one in every}) == len(every) == 3 * SMALL.total
    for one in shown:
        low, high = NOISE_LEVELS[one.noise]
        assert low <= one.scene.detectability <= high
        assert one.empty == (len(one.scene.defects) == 0) or not one.empty
    assert {one.scene.family for one in shown if not one.empty} == set(SMALL.families)


def test_a_familys_images_do_not_depend_on_which_others_there_are(shown):
    alone = {one[:2]: one.scene for one in evaluation_scenes(replace(SMALL, images=1, families=("tmd",)))}
    among = [one for one in shown if one.scene.family == "tmd"]
    assert among
    for one in among:
        assert np.array_equal(one.scene.image, alone[one.noise, one.empty].image)


def test_the_scan_is_what_a_file_would_give(shown):
    scene = shown[0].scene
    scan = scan_of(scene)
    assert (scan.unit, scan.modality) == ("m", "stm")
    assert scan.pixel_size_nm == (scene.pixel_size_nm, scene.pixel_size_nm)
    np.testing.assert_allclose(scan.image * 1e9, scene.image, rtol=1e-6)


def test_the_truth_scores_one_and_nothing_scores_zero(shown):
    told = []
    scores = evaluate_all({"truth": knows(shown), "nothing": nothing}, SMALL, on_image=told.append)
    assert len(told) == 2 * len(shown)
    perfect, empty = total_counts(scores["truth"]), total_counts(scores["nothing"])
    required = sum(int(one.scene.required.sum()) for one in shown)
    assert (perfect.true_positive, perfect.false_positive, perfect.false_negative) == (required, 0, 0)
    assert (empty.f1, empty.false_negative, empty.precision) == (0.0, required, 1.0)
    assert v_measure(scores["truth"]) == 1.0
    assert np.isnan(v_measure(scores["nothing"]))
    assert all(score.seconds > 0 for score in scores["truth"])


def test_an_oracle_is_shown_the_scene(shown):
    scores = evaluate_all({}, SMALL, oracles={"oracle": truth_of})["oracle"]
    assert total_counts(scores).f1 == 1.0


@pytest.mark.parametrize(("share", "found"), [(0.9, True), (1.1, False)])
def test_a_mark_counts_within_the_tolerance_alone(shown, share, found):
    scene = next(one.scene for one in shown if one.scene.required.any())
    first = np.flatnonzero(scene.required)[:1]
    alone = replace(scene, defects=Defects(**{name: values[first] for name, values in vars(scene.defects).items()}))
    reach = tolerance_px(alone.defects.radius_px, scene.pixel_size_nm)[0]
    assert reach >= LEAST_TOLERANCE_NM / scene.pixel_size_nm - 1e-9
    place = alone.defects.yx_px + share * reach * np.array([[0.6, 0.8]])
    counts = score_scene(marks(place, 2.0), alone, noise="clear").counts
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (found, not found, not found)


def test_what_is_not_required_is_forgiven_once():
    yx = np.array([[10.0, 10.0], [40.0, 40.0]])
    tolerance, required = np.array([3.0, 3.0]), np.array([True, False])
    judged = judge_defects(np.array([[40.0, 41.0], [40.0, 39.0], [10.0, 10.0], [90.0, 90.0]]), yx, tolerance, required)
    assert judged.pairs.found.tolist() == [2]
    assert judged.forgiven.tolist() == [0] or judged.forgiven.tolist() == [1]
    assert len(judged.wrong) == 2
    assert judged.missed.tolist() == []


def test_one_mark_answers_one_defect_and_a_required_one_goes_first():
    yx = np.array([[10.0, 10.0], [12.0, 10.0]])
    tolerance = np.array([5.0, 5.0])
    one = judge_defects(np.array([[11.9, 10.0]]), yx, tolerance, np.array([True, False]))
    assert (one.pairs.truth.tolist(), one.forgiven.tolist()) == ([0], [])
    both = judge_defects(np.array([[11.9, 10.0]]), yx, tolerance, np.array([True, True]))
    assert (len(both.pairs), both.missed.tolist()) == (1, [0])


def test_as_many_pairs_as_possible_with_tolerances_of_their_own():
    # The mark between both defects is nearer to the first, which another mark can answer; only it reaches the second.
    yx = np.array([[10.0, 10.0], [20.0, 10.0]])
    judged = judge_defects(np.array([[13.0, 10.0], [8.0, 10.0]]), yx, np.array([4.0, 8.0]), np.array([True, True]))
    assert len(judged.pairs) == 2
    assert len(judge_defects(np.empty((0, 2)), yx, np.array([4.0, 8.0]), np.array([True, True])).missed) == 2


def right_by_score(found, truth, tolerance, score):
    """A mark is right when the marks up to it, best score first, answer one defect more than without it."""

    def most(chosen):
        partner = {}

        def answers(mark, seen):
            for defect in np.flatnonzero(np.hypot(*(truth - found[mark]).T) <= tolerance):
                if defect not in seen:
                    seen.add(defect)
                    if defect not in partner or answers(partner[defect], seen):
                        partner[defect] = mark
                        return True
            return False

        return sum(answers(mark, set()) for mark in chosen)

    order = np.argsort(-score)
    return {int(mark) for n, mark in enumerate(order) if most(order[: n + 1]) > most(order[:n])}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_with_scores_a_mark_is_right_as_it_is_without_those_of_lower_score(seed):
    rng = np.random.default_rng(seed)
    found, truth = rng.uniform(0, 30, (rng.integers(1, 14), 2)), rng.uniform(0, 30, (rng.integers(1, 9), 2))
    tolerance, score = rng.uniform(3, 9, len(truth)), rng.permutation(len(found)) / len(found)
    judged = judge_defects(found, truth, tolerance, np.ones(len(truth), bool), score=score)
    assert set(judged.pairs.found.tolist()) == right_by_score(found, truth, tolerance, score)
    plain = judge_defects(found, truth, tolerance, np.ones(len(truth), bool))
    assert len(plain.pairs) == len(judged.pairs)  # as many as possible either way


def test_the_scores_of_judged_marks_are_kept(shown):
    scene = next(one.scene for one in shown if one.scene.required.any() and not one.scene.required.all())
    truth = scene.defects
    optional = np.flatnonzero(~scene.required)[:1]
    wrong = np.array([[-50.0, -50.0]])
    yx = np.concatenate([truth.yx_px[scene.required], truth.yx_px[optional], wrong])
    told = score_scene(marks(yx, 2.0), scene, noise="clear")
    assert len(told.score) <= len(yx) - 1 + int(told.false_positives > 1)
    assert int(told.is_true.sum()) == told.counts.true_positive
    assert int((~told.is_true).sum()) == told.false_positives
    assert not told.is_true[np.argmin(told.score)]  # the far one has the lowest rank


@pytest.mark.parametrize("degrees", [0, 10, 22.5, 30, 45, 60, 80, 90])
def test_the_length_of_a_step_does_not_depend_on_its_direction(degrees):
    angle = np.deg2rad(degrees)
    y, x = np.mgrid[:200, :200] - 99.5
    upper = np.cos(angle) * x + np.sin(angle) * y > 0.3
    steps = np.zeros(upper.shape, bool)
    for axis in (0, 1):
        edge = np.diff(upper, axis=axis)
        steps |= np.insert(edge, 0, False, axis) | np.insert(edge, edge.shape[axis], False, axis)
    chord = 200 / max(abs(np.cos(angle)), abs(np.sin(angle)))
    assert step_length_px(steps) == pytest.approx(chord, rel=0.08)


def test_marks_at_steps_are_blamed_on_them(shown):
    scene = next(one.scene for one in shown if one.scene.steps.any())
    pixel = scene.pixel_size_nm
    on = np.argwhere(scene.steps)[::40].astype(float)
    assert near_step(on, scene.steps, pixel).all()
    assert not near_step(on, np.zeros_like(scene.steps), pixel).any()
    single = np.zeros((64, 64), bool)
    single[:, 30:32] = True
    places = np.array([[10.0, 31.0 + 1.4 / 0.1], [10.0, 31.0 + 1.6 / 0.1]])
    assert near_step(places, single, 0.1).tolist() == [True, False]
    score = score_scene(marks(on, 2.0), scene, noise="clear")
    assert score.false_at_steps == score.false_positives
    assert score.step_nm == pytest.approx(step_length_px(scene.steps) * pixel)


def test_v_measure_is_that_of_the_matched_defects(shown):
    def relabelled(scene):
        found = truth_of(scene)
        return replace(found, kind=np.arange(len(found), dtype=np.int32) % 2, names=("even", "odd"))

    scores = evaluate_all({}, SMALL, oracles={"two": relabelled})["two"]
    true = np.concatenate([one.scene.defects.kind[one.scene.required] for one in shown])
    found = np.concatenate([np.arange(one.scene.required.sum()) % 2 for one in shown])
    assert v_measure(scores) == pytest.approx(v_measure_score(true, found))


def test_the_bootstrap_covers_the_figure(shown):
    def half(scene):
        chosen = scene.required.copy()
        chosen[np.flatnonzero(chosen)[::2]] = False
        return truth_of(scene, chosen)

    scores = evaluate_all({}, SMALL, oracles={"half": half})["half"]
    interval = f1_interval([score.counts for score in scores])
    assert 0 < interval.low <= interval.value <= interval.high < 1
    assert interval.value == total_counts(scores).f1
    assert np.isnan(f1_interval([]).value)
    nothing_there = f1_interval([Counts()])
    assert nothing_there.value == 1.0
    assert np.isnan(nothing_there.low)
    classes = v_measure_interval(scores, samples=20)
    assert classes.low <= classes.value <= classes.high == 1.0


def test_marks_are_ordered_by_their_score():
    found = marks(
        np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([2.0, 5.0]), score=np.array([0.1, 7.0]), names=["b", "a"]
    )
    assert found.yx_px.tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert [found.names[kind] for kind in found.kind] == ["a", "b"]
    assert found.size_px.tolist() == [[10.0, 10.0], [4.0, 4.0]]
    assert np.all(np.diff(found.score) < 0)


def test_a_package_of_another_task_is_refused():
    with pytest.raises(ParameterError, match="expected one of the task 'defects'"):
        package_finder(find_model("atoms"))


def test_one_finder_alone_gives_the_same_scores(shown):
    assert total_counts(evaluate(knows(shown), SMALL)).f1 == 1.0
