"""`spm-train study lattice-offsets`: a report in seconds, from a run or from nothing."""

import json

import pytest
from click.testing import CliRunner

from spm_runtime.errors import ParameterError
from spm_training.cli import cli
from spm_training.run import RunFolder
from spm_training.studies.lattice_offsets import LatticeOffsetsOptions, study_lattice_offsets

QUICK = ("training.threads=1", "data.validation_images=16", "data.steps_per_epoch=2")


def test_from_nothing_to_a_report_and_from_a_run(tmp_path, tiny_recipe_of, trained):
    words = ["study", "lattice-offsets", "--out", str(tmp_path / "a"), "--smoke", "--device", "cpu"]
    done = CliRunner().invoke(cli, [*words, *(word for one in QUICK for word in ("--set", one))])
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "a" / "lattice-offsets.json").read_text(encoding="utf-8"))
    assert list(numbers["levels"]) == ["low", "medium", "high"]
    image = [one["ways"]["maxima of the image"] for one in numbers["levels"].values()]
    # Known order: little noise leaves more atoms to the maxima of an image, and the untrained votes are behind.
    assert image[0]["f1"] > image[2]["f1"]
    assert image[0]["f1"] > 0.6
    assert image[0]["rms_px"] < 1.5
    assert numbers["levels"]["low"]["ways"]["votes of the patches"]["f1"] < image[0]["f1"]
    assert 0 < numbers["levels"]["low"]["vote_near"] < 0.6
    text = (tmp_path / "a" / "lattice-offsets.html").read_text(encoding="utf-8")
    assert text.count("<img") == 1
    assert "hexagonal-2, high" in text
    run = RunFolder(tmp_path / "a" / "cae-twin")
    options = LatticeOffsetsOptions(run, images=1, side_px=64)
    assert study_lattice_offsets(tmp_path / "b", options, resume=False, device="cpu", report=str)
    again = json.loads((tmp_path / "b" / "lattice-offsets.json").read_text(encoding="utf-8"))
    assert again == numbers
    assert not (tmp_path / "b" / "cae-twin").exists()
    with pytest.raises(ParameterError, match="holds lattice-offsets"):
        study_lattice_offsets(tmp_path / "b", options, resume=False, device="cpu", report=str)
    trained(tiny_recipe_of("training.epochs=1", name="cae-a"), tmp_path / "other")
    other = LatticeOffsetsOptions(RunFolder(tmp_path / "other"), images=1, side_px=64)
    with pytest.raises(ParameterError, match="expected one of the recipe cae-twin"):
        study_lattice_offsets(tmp_path / "c", other, resume=False, device="cpu", report=str)
