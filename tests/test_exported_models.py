"""Every shipped model package: whole, honest, reproducible."""

import shutil
from pathlib import Path

import pytest

from spm_runtime.errors import ModelError
from spm_runtime.models import load_package
from spm_runtime.session import Session, self_test

FOLDER = Path(__file__).resolve().parent.parent / "exported_models"
PACKAGES = sorted(path.parent for path in FOLDER.glob("*/rdf.yaml"))


def test_there_is_a_default_for_every_task_that_the_runtime_has():
    from spm_runtime.pipelines import PIPELINES, find_method

    assert [find_method(task).task for task in PIPELINES] == list(PIPELINES)


def test_all_packages_together_stay_small():
    total = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    assert total < 100 * 2**20


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_is_whole_and_reproduces_its_test_tensors(folder):
    package = load_package(folder)
    assert package.name == folder.name
    assert self_test(Session(package, "cpu")) <= package.tolerance


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_has_a_card_that_says_what_it_cannot_do(folder):
    package = load_package(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert package.version in card
    assert package.known_failures
    assert "spm-train evaluate" in card  # a number stands beside its command
    assert package.training["commit"]


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_other_tools_can_open_a_package(folder, tmp_path):
    """The description follows bioimage.io's format, and the check would notice if it did not."""
    pytest.importorskip("bioimageio.spec", reason="bioimageio.spec comes with the extra `train`")
    from spm_training.packages.card import validate_description

    validate_description(folder)
    broken = shutil.copytree(folder, tmp_path / folder.name)
    file = broken / "rdf.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("inputs:", "entries:", 1), encoding="utf-8")
    with pytest.raises(ModelError, match="bioimage"):
        validate_description(broken)
