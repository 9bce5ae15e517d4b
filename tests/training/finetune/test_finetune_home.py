"""The whole path with the smoke settings: what is written, what it says, and that nothing is left behind where it stops."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import yaml

from spm_runtime import open as open_scan
from spm_runtime.errors import ParameterError
from spm_runtime.models import load_package
from spm_runtime.pipelines import analyse
from spm_training import cli
from spm_training.finetune import home as module
from spm_training.finetune.decide import Verdict
from spm_training.finetune.home import FINDER, PATCHES, Home, fit_at_home
from spm_training.finetune.write import check_name

QUICK = ("training.threads=1", "training.epochs=1")


@pytest.fixture(scope="module")
def tuned(user_scans, package, tmp_path_factory):
    """A new package of which the autoencoder was taken and the finder was not, and what was said; not to be changed."""
    out, said = tmp_path_factory.mktemp("out") / "my-surface", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "judge_finder", lambda figures: Verdict(False, "it was no better"))
        patch.setattr(module, "judge_patches", lambda figures: Verdict(True, "it was better"))
        home = Home(user_scans, out, "0.2.0", smoke=True, overrides=QUICK, device="cpu")
        report = fit_at_home(package, home, report=said.append)
    assert report == out / "before-after.html"
    return out, said


def test_nothing_else_is_left_beside_it(tuned):
    out, _ = tuned
    assert [path.name for path in out.parent.iterdir()] == ["my-surface"]


def test_the_runtime_uses_it(tuned, user_scans):
    out, _ = tuned
    result = analyse(open_scan(user_scans / "scan-1.gwy"), "defects", model=out, device="cpu")
    assert (result.model.name, result.model.version) == ("my-surface", "0.2.0")
    assert "error_map" in {one.name for one in result.maps}


def test_what_was_not_taken_is_that_of_the_parent(tuned, package):
    new = load_package(tuned[0])
    assert new.sha256 == package.sha256
    assert new.attached["encoder"].sha256 != package.attached["encoder"].sha256
    assert new.settings["novelty_distance"] != package.settings["novelty_distance"]
    assert {name: new.settings[name] for name in ("classes", "channels", "clip_percent", "smoothing_px")} == {
        name: package.settings[name] for name in ("classes", "channels", "clip_percent", "smoothing_px")
    }
    knots = [
        yaml.safe_load((one.folder / "rdf.yaml").read_text(encoding="utf-8"))["config"]["spm"]["calibration"]
        for one in (new, package)
    ]
    assert knots[0] == knots[1]
    assert {name: one.default for name, one in new.parameters.items()} == {
        name: one.default for name, one in package.parameters.items()
    }


def test_card_and_report_say_where_it_comes_from(tuned, package):
    out, said = tuned
    training = load_package(out).training
    assert package.reference.sha256 in training["parent"]
    assert (training["scans_learned_from"], training["scans_held_out"]) == (3, 1)
    assert "unlabelled" in training["data"]
    assert (training["finder"], training["patch_autoencoder"]) == ("that of the parent", "went on learning")
    assert float(training["flop"]) > float(training["flop_at_home"]) > 0
    card = (out / "README.md").read_text(encoding="utf-8")
    for text in ("it was no better", "F1, planted defects", "nobody has labelled", package.reference.sha256):
        assert text in card
    page = (out / "before-after.html").read_text(encoding="utf-8")
    for text in ("it was better", "scan-0.gwy", "current.gwy", "values in A", "data:image/png"):
        assert text in page
    numbers = json.loads((out / "before-after.json").read_text(encoding="utf-8"))
    assert numbers["verdicts"][FINDER]["tuned"] is False
    assert numbers["verdicts"][PATCHES]["tuned"] is True
    assert any("1 files left out" in line for line in said)
    assert any("FLOP" in line for line in said)


def test_a_tuned_finder_differs(user_scans, package, tmp_path, monkeypatch):
    """Without patch autoencoders, through the command; the finder is taken."""
    alone = dataclasses.replace(package, attached={})
    monkeypatch.setattr("spm_training.finetune.command.find_model", lambda name: alone)
    monkeypatch.setattr(module, "judge_finder", lambda figures: Verdict(True, "it was better"))
    out = tmp_path / "tuned"
    words = ["fit", "defects", "--data", user_scans, "--model", "mine", "--out", out, "--smoke", "--device", "cpu"]
    words += [word for entry in QUICK for word in ("--set", entry)]
    monkeypatch.setattr(sys, "argv", ["spm-train", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert load_package(out).sha256 != package.sha256
    changed = np.load(out / "test_output_presence.npy") - np.load(package.folder / "test_output_presence.npy")
    assert np.any(changed)


def test_ctrl_c_leaves_nothing(user_scans, package, tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "go_on", stop)
    monkeypatch.setattr("spm_training.finetune.command.find_model", lambda name: package)
    words = ["fit", "defects", "--data", user_scans, "--model", "mine", "--out", tmp_path / "tuned", "--smoke"]
    monkeypatch.setattr(sys, "argv", ["spm-train", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.EXIT_INTERRUPTED
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_or_a_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="exists already"):
        check_name(tmp_path)
    for name in ("tuned.v2", "new"):
        with pytest.raises(ParameterError, match="no name for a model"):
            check_name(tmp_path / name)
    assert check_name(tmp_path / "Au111 at 4K") == "Au111 at 4K"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "ae1", "--data", "."), "reads none"),
        (("fit", "defects", "--data", ".", "--resume"), "no --resume"),
        (("fit", "defects", "--model", "defects"), "expected with --data alone"),
        (("fit", "defects", "--data", ".", "--set", "data.bath=3"), "data.bath"),
    ],
)
def test_mistakes_are_named(words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["spm-train", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
