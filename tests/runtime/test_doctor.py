"""The examination of the installation tests every network of every package."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from spm_runtime.doctor import examine
from spm_runtime.models import load_package

SHIPPED = Path(__file__).resolve().parents[2] / "exported_models" / "atoms"
FIRST, ATTACHED = "model atoms", "model atoms/scale"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of a package with a second network, the only one that is examined besides those installed."""
    monkeypatch.setenv("SPM_MODELS", str(tmp_path))
    return Path(shutil.copytree(SHIPPED, tmp_path / "atoms"))


def models():
    found = [finding for finding in examine() if finding.topic.startswith("model ")]
    assert len({finding.topic for finding in found}) == len(found)
    return {finding.topic: finding for finding in found}


def with_test_output(folder, change):
    """Store another test output of the attached network, with its right hash."""
    file = folder / "rdf.yaml"
    rdf = yaml.safe_load(file.read_text(encoding="utf-8"))
    tensor = rdf["config"]["spm"]["attachments"]["scale"]["outputs"][0]["test_tensor"]
    stored = folder / tensor["source"]
    np.save(stored, change(np.load(stored)))
    tensor["sha256"] = hashlib.sha256(stored.read_bytes()).hexdigest()
    file.write_text(yaml.safe_dump(rdf, sort_keys=False), encoding="utf-8")


def test_every_network_of_a_package_is_tested_and_named_with_its_difference(package):
    found = models()
    for topic, file in ((FIRST, "weights.onnx"), (ATTACHED, "scale.onnx")):
        assert found[topic].state == "ok"
        assert file in found[topic].text
        difference = float(found[topic].text.rsplit(maxsplit=1)[-1])
        assert 0 <= difference <= load_package(package).tolerance


@pytest.mark.parametrize("file", ["scale.onnx", "scale_test_input.npy", "scale_test_output_logits.npy"])
def test_a_damaged_file_of_an_attached_network_is_a_problem_of_that_network(package, file):
    damaged = package / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    found = models()
    assert found[FIRST].state == "ok"
    assert found[ATTACHED].state == "problem"
    for text in (str(damaged.resolve()), "sha256", "install the model package again"):
        assert text in found[ATTACHED].text


def test_a_missing_attached_network_is_a_problem(package):
    (package / "scale.onnx").unlink()
    found = models()
    assert found[ATTACHED].state == "problem"
    assert str((package / "scale.onnx").resolve()) in found[ATTACHED].text


@pytest.mark.parametrize(
    ("change", "seen"),
    [(lambda values: values + np.float32(0.5), "test outputs differ"), (lambda values: values[:, :-1], "has shape")],
)
def test_an_attached_network_that_does_not_reproduce_its_output_is_named_with_file_and_remedy(package, change, seen):
    with_test_output(package, change)
    found = models()
    assert found[FIRST].state == "ok"
    assert found[ATTACHED].state == "problem"
    for text in (str((package / "scale.onnx").resolve()), "atoms/scale", seen, "nstall the model package again"):
        assert text in found[ATTACHED].text


def test_a_description_that_cannot_be_read_is_a_problem_of_the_package(package):
    (package / "rdf.yaml").write_text("name: [", encoding="utf-8")
    found = models()
    assert found[FIRST].state == "problem"
    assert ATTACHED not in found
