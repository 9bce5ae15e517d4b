"""Probabilities of defects: what a known curve becomes, what the bounds give, and the command from package to package."""

import json
import sys

import numpy as np
import pytest

from spm_runtime.errors import ParameterError
from spm_runtime.models import load_package
from spm_training import cli
from spm_training.defects import run
from spm_training.defects.calibrate import DefectCalibration, ToldMarks, marks_told, with_ends
from spm_training.defects.evaluate import marks
from spm_training.defects.scenes import DefectOptions, validation_scenes
from spm_training.export import ExportOptions, export_run
from spm_training.graphs.base import Calibration, read_calibration
from spm_training.recipe import load_recipe
from spm_training.run import RunFolder
from spm_training.simulate.surfaces import NOISE_LEVELS


def curve(score):
    return np.clip(2 * np.asarray(score) - 0.4, 0, 1)


@pytest.fixture
def told(rng):
    """Scenes of a finder whose marks are right as often as `curve` says, and never where there are no defects."""
    images = []
    for n in range(240):
        score = rng.uniform(0.1, 1, 30)
        is_true = rng.random(30) < curve(score)
        required = int(is_true.sum()) + 2
        images.append(ToldMarks(list(NOISE_LEVELS)[n % 3], False, required, score, is_true))
    return images


def test_scores_become_the_share_of_right_marks(told):
    fitted = DefectCalibration(told, 0.3)
    x, y = fitted.knots
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    Calibration(tuple(x), tuple(y))  # strictly ascending
    score = np.linspace(0.1, 0.99, 50)
    np.testing.assert_allclose(np.interp(score, x, y), curve(score), atol=0.06)
    expected = np.concatenate([one.score for one in told])
    expected = expected[expected >= 0.3]
    assert fitted.before.expected_error == pytest.approx(np.abs(curve(expected) - expected).mean(), abs=0.03)
    assert fitted.after.expected_error < 0.03
    assert fitted.before.count.sum() == fitted.after.count.sum() == len(expected)


def test_the_table_counts_what_lies_above_the_bound(told, rng):
    empty = [ToldMarks("low", True, 0, np.array([0.15, 0.45, 0.75]), np.zeros(3, bool)) for _ in range(4)]
    fitted = DefectCalibration([*told, *empty], 0.3)
    row = next(row for row in fitted.rows if row.probability == 0.5)
    assert np.interp(row.raw, *fitted.knots) == pytest.approx(0.5)
    above = [(one.score >= row.raw, one) for one in told]
    right = sum(int(one.is_true[there].sum()) for there, one in above)
    marked, required = sum(int(there.sum()) for there, _ in above), sum(one.required for one in told)
    assert (row.precision, row.recall) == (right / marked, right / required)
    assert row.false_per_empty == int(row.raw <= 0.45) + 1
    assert set(row.f1) == set(NOISE_LEVELS)
    assert row.mean_f1 == pytest.approx(2 * right / (marked + required), abs=0.02)
    best = fitted.best
    assert best.mean_f1 == max(one.mean_f1 for one in fitted.rows)
    # Where marks are independent, F1 is best when a mark at the bound is right with half of the best F1.
    assert best.probability == pytest.approx(best.mean_f1 / 2, abs=0.11)
    text = fitted.markdown()
    assert f"at a probability of {best.probability:.2f}" in text
    assert "| bound | score | F1 clear | F1 medium | F1 low | mean F1 | P / R | false per empty image |" in text


def test_no_score_is_without_order():
    """Beyond the outer knots too: marks are sorted by what becomes of their scores."""
    x, y = with_ends(np.array([0.1, 0.4, 0.8]), np.array([0.0, 0.6, 1.0]))
    score = np.linspace(0, 1, 200)
    assert (np.diff(np.interp(score, x, y)) > 0).all()
    np.testing.assert_allclose(y[1:-1], [0.0, 0.6, 1.0], atol=1.01e-3)


def test_forgiven_marks_are_left_out_and_the_best_of_two_is_right():
    shown = next(
        one
        for one in validation_scenes(DefectOptions(images=4, side_px=128, families=("si111-7x7", "tmd")))
        if one.scene.required.any() and not one.scene.required.all()
    )
    truth = shown.scene.defects
    one, optional = truth.yx_px[shown.scene.required][:1], truth.yx_px[~shown.scene.required][:1]
    yx = np.concatenate([one, one + 0.5, optional, [[-99.0, -99.0]]])
    found = marks(yx, 2.0, score=np.array([0.2, 0.9, 0.5, 0.1]))  # the better one is farther away
    told = marks_told(lambda _: found, shown)
    assert (told.noise, told.empty, told.required) == (shown.noise, False, int(shown.scene.required.sum()))
    assert told.score.tolist() == [1.0, 0.5, 0.25]  # ranks, without that of the optional one
    assert told.is_true.tolist() == [True, False, False]


@pytest.fixture(scope="module")
def finder_run(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "defects"
    trained(load_recipe("defects", smoke=True, overrides=("training.epochs=1", "training.threads=1")), folder)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def package(finder_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "defects"
    export_run(finder_run, folder, ExportOptions("0.1.0"))
    return folder


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["spm-train", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def test_from_a_package_to_knots_to_a_calibrated_package_and_once_more(
    finder_run, package, monkeypatch, capsys, tmp_path, told
):
    """The finder is a second old: its marks are replaced by those of a known curve, all else is what a user runs."""

    def fit(one, file):
        images = iter(told)
        monkeypatch.setattr("spm_training.defects.calibrate.marks_told", lambda *_: next(images))
        words = ("--images", 40, "--side-px", 32, "--family", "tmd", "--fit-calibration", file)
        code, out, err = call(monkeypatch, capsys, "evaluate", one, *words)
        assert code == 0, err
        assert "Best mean F1 of the noise levels" in out
        assert "knots written" in out
        return read_calibration(file), out

    first, out = fit(package, tmp_path / "new" / "knots.json")
    assert "the package's own calibration included" not in out
    assert np.interp(0.5, first.raw, first.probability) == pytest.approx(0.6, abs=0.08)
    folder = tmp_path / "calibrated"
    code, _, err = call(
        monkeypatch, capsys, "export", finder_run.path, "--to", folder, "--no-evaluate",
        "--calibration", tmp_path / "new" / "knots.json",
    )  # fmt: skip
    assert code == 0, err
    before, after = (load_package(one).test_tensors()[1]["presence"] for one in (package, folder))
    np.testing.assert_allclose(after, np.interp(before, first.raw, first.probability), atol=1e-3)
    # The same marks again, as scores of the calibrated package: the new knots are those of the network, both in one.
    both, out = fit(folder, tmp_path / "both.json")
    assert "the package's own calibration included" in out
    raw = np.linspace(0.1, 0.95, 30)
    twice = np.interp(np.interp(raw, first.raw, first.probability), first.raw, first.probability)
    np.testing.assert_allclose(np.interp(raw, both.raw, both.probability), twice, atol=0.04)


def test_a_finder_that_tells_nothing_is_refused(package, monkeypatch, capsys, tmp_path):
    nothing = ToldMarks("clear", False, 0, np.linspace(0.1, 1, 100), np.zeros(100, bool))
    monkeypatch.setattr("spm_training.defects.calibrate.marks_told", lambda *_: nothing)
    file = tmp_path / "knots.json"
    words = ("--images", 1, "--side-px", 32, "--family", "tmd", "--fit-calibration", file)
    code, _, err = call(monkeypatch, capsys, "evaluate", package, *words)
    assert code == 2
    assert "right from wrong" in err
    assert not file.exists()


def test_one_package_at_a_time(monkeypatch):
    with pytest.raises(ParameterError, match="0 packages"):
        run.run_calibration([], DefectOptions(), None, device="cpu", bar=None, say=None)


def test_knots_are_plain_json(told, tmp_path):
    fitted = DefectCalibration(told, 0.3)
    run.write_knots(tmp_path / "k.json", *fitted.knots)
    content = json.loads((tmp_path / "k.json").read_text(encoding="utf-8"))
    assert set(content) == {"raw", "probability"}
