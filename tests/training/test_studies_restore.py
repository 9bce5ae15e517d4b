"""The study of the losses of restorers."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from spm_runtime.errors import ParameterError
from spm_training.cli import cli
from spm_training.restore.metrics import Quality
from spm_training.restore.scenes import RestoreOptions
from spm_training.run import RunFolder
from spm_training.studies.restore_losses import (
    WEIGHTINGS,
    RestoreLossesOptions,
    Weighting,
    best_of,
    study_restore_losses,
)
from spm_training.trained import trained_network

TWO = {"MAE": WEIGHTINGS["MAE"], "all": Weighting(1.0, 0.5, 2.0)}
TINY = RestoreLossesOptions(
    TWO,
    ("training.threads=1", "training.epochs=1", "data.steps_per_epoch=1"),
    RestoreOptions(images=1, side_px=64, families=("blunt", "hackathon"), modalities=("afm",)),
    smoke=True,
)


def study(out, options=TINY, **more):
    lines = []
    file = study_restore_losses(out, options, **{"resume": False, "device": "cpu", "report": lines.append, **more})
    return file, lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of two weightings with what it said, not to be changed."""
    out = tmp_path_factory.mktemp("study")
    file, lines = study(out)
    return out, file, lines


def test_every_weighting_is_there_once():
    assert len({one.folder for one in WEIGHTINGS.values()}) == len(WEIGHTINGS)
    assert all(one.mae == 1.0 for one in WEIGHTINGS.values())
    assert WEIGHTINGS["MAE"] == (1, 0, 0)
    assert WEIGHTINGS["MAE + SSIM + gradient"] == (1, 1, 1)


def test_the_report_says_what_was_found(finished):
    out, file, lines = finished
    page = file.read_text(encoding="utf-8")
    numbers = json.loads((out / "restore-losses.json").read_text(encoding="utf-8"))
    assert numbers["scans"] == 2
    assert numbers["steps"] == 1
    assert list(numbers["weightings"]) == ["MAE", "all"]
    assert numbers["weightings"]["all"]["ssim"] != numbers["weightings"]["MAE"]["ssim"] or lines
    assert numbers["weightings"]["MAE"]["wins"] == [0, 0, 0]
    assert numbers["recommended"] in TWO
    assert f"<b>Recommendation.</b> {numbers['recommended']}" in page
    assert page.count("<img") == 2
    assert "afm hackathon" in page
    assert "FLOP in all" in lines[0]


def test_weightings_begin_with_the_same_weights_and_learn_what_they_say(finished):
    out, _, _ = finished
    recipes = {name: RunFolder(out / weights.folder).recipe() for name, weights in TWO.items()}
    assert {recipe.training.seed for recipe in recipes.values()} == {recipes["MAE"].training.seed}
    for name, weights in TWO.items():
        loss = recipes[name].loss
        assert (loss.mae_weight, loss.ssim_weight, loss.gradient_weight) == weights
        assert loss.touched_weight == 0
    rows = {name: RunFolder(out / weights.folder).metrics()[-1] for name, weights in TWO.items()}
    for term in ("mae", "dissimilarity", "gradient"):  # one step: the same crops through the same weights
        assert rows["MAE"][f"train_{term}"] == pytest.approx(rows["all"][f"train_{term}"], rel=1e-4)
    assert rows["MAE"]["train_loss"] == pytest.approx(rows["MAE"]["train_mae"], rel=1e-5)
    trained = [trained_network(RunFolder(out / weights.folder))[0] for weights in TWO.values()]
    assert any(not torch.equal(a, b) for a, b in zip(*(one.state_dict().values() for one in trained), strict=True))


def test_a_finished_study_is_written_anew_without_training(finished):
    out, _, _ = finished
    _, lines = study(out, resume=True)
    assert sum("finished already" in line for line in lines) == len(TWO)
    with pytest.raises(ParameterError, match=r"restore-losses\.html already"):
        study(out)


def test_the_best_is_best_by_most_measures():
    qualities = {"a": Quality(20.0, 0.7, 0.3), "b": Quality(21.0, 0.8, 0.4), "c": Quality(22.0, 0.6, 0.2)}
    assert best_of(qualities) == "b"
    equal = {"a": Quality(20.0, 0.7, 0.3), "b": Quality(21.0, 0.6, np.nextafter(0.3, 1))}
    assert best_of(equal) == "b"
    assert best_of({"a": Quality(1.0, 1.0, 1.0), "b": Quality(1.0, 1.0, 1.0)}) == "a"


def test_the_command_takes_overrides_of_the_recipe(tmp_path):
    words = ["study", "restore-losses", "--out", str(tmp_path / "study"), "--smoke", "--device", "cpu"]
    refused = CliRunner().invoke(cli, [*words, "--set", "data.nonsense=1"])
    assert isinstance(refused.exception, ParameterError)
    assert "nonsense" in str(refused.exception)
