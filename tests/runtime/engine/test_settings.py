"""What is looked for, with which model and which parameters, when there are several tasks."""

import dataclasses
import shutil

import numpy as np
import pytest
import yaml

from spm_runtime import models as models_module
from spm_runtime.engine import settings as settings_module
from spm_runtime.engine.analysis import process
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.settings import Settings, check_settings, fingerprint
from spm_runtime.errors import ModelError, ParameterError
from spm_runtime.pipelines.tip_classical import CLASSICAL
from spm_runtime.results import Defects, Map


@pytest.fixture
def two_tasks(monkeypatch):
    """A version that can do defects too."""
    monkeypatch.setattr(settings_module, "PIPELINES", {"atoms": None, "defects": None})


@pytest.fixture(autouse=True)
def only_these_models(package, monkeypatch):
    """No package that the source tree carries is found."""
    monkeypatch.setattr(models_module, "model_roots", lambda: (package.parent,))


@pytest.fixture
def install(package):
    """Make a model package beside the one for atoms; nothing but its description is ever read."""

    def make(name, *, task=None, parameters=("threshold",)):
        folder = shutil.copytree(package, package.parent / name)
        rdf = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))
        spm = rdf["config"]["spm"]
        rdf["name"], spm["task"] = name, task or name
        spm["parameters"] = dict.fromkeys(parameters, spm["parameters"]["threshold"])
        (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf), encoding="utf-8")
        return folder

    return make


def test_stm_images_are_searched_for_defects_and_atoms_once_both_models_are_there(two_tasks, install):
    assert Settings().tasks_for("stm") == ("atoms",)
    assert Settings().possible_tasks == ("atoms",)
    before = fingerprint(Settings())
    install("defects")
    assert Settings().tasks_for("stm") == ("defects", "atoms")
    assert Settings().tasks_for("stem") == Settings().tasks_for("unknown") == ("atoms",)
    assert Settings().tasks_for("afm") == ()
    assert Settings().possible_tasks == ("atoms", "defects")
    assert fingerprint(Settings()) != before  # what was done without the new model is done again
    check_settings(Settings())


def test_a_model_of_a_task_that_this_version_cannot_do_changes_nothing(two_tasks, package, install):
    install("restore")
    install("strain")
    assert Settings().tasks_for("afm") == ()
    assert Settings().possible_tasks == ("atoms",)


def test_surfaces_are_restored_with_the_package_where_it_is_installed_and_without_a_network_where_not(install):
    assert Settings().tasks_for("afm") == ("restore",)
    assert Settings().method("restore") is CLASSICAL
    before = fingerprint(Settings())
    check_settings(Settings(params={"tip_px": 21}))
    install("restore")
    assert Settings().tasks_for("afm") == ("restore",)
    assert Settings().method("restore").folder.name == "restore"
    assert fingerprint(Settings()) != before
    with pytest.raises(ParameterError, match="tip_px"):
        check_settings(Settings(params={"tip_px": 21}))


def test_a_built_in_method_says_what_to_do_and_needs_no_package(install):
    install("restore")
    settings = Settings(model="classical", params={"tip_px": 21})
    for modality in ("stm", "stem", "afm", "unknown"):
        assert settings.tasks_for(modality) == ("restore",)
    assert settings.possible_tasks == ("restore",)
    assert settings.method("restore") is CLASSICAL
    check_settings(settings)
    assert len({fingerprint(one) for one in (settings, Settings(model="classical"), Settings())}) == 3
    assert fingerprint(settings) == fingerprint(Settings(model="classical", params={"tip_px": 21.0}))


@pytest.mark.parametrize(
    "params", [{"tip_px": 20}, {"tip_px": 1}, {"tip_px": 15.5}, {"full": 0.5}, {"threshold_nm": -1}]
)
def test_values_that_a_built_in_method_cannot_take_are_refused_before_the_first_scan(params):
    with pytest.raises(ParameterError, match=next(iter(params))):
        check_settings(Settings(model="classical", params=params))


def test_a_missing_model_is_said_where_nothing_else_is_left(two_tasks, package, install):
    install("defects")
    shutil.rmtree(package)
    assert Settings().tasks_for("stm") == ("defects",)
    assert Settings().tasks_for("stem") == ("atoms",)
    with pytest.raises(ModelError, match="atoms"):
        check_settings(Settings())
    with pytest.raises(ModelError, match="atoms"):
        check_settings(Settings(tasks=("atoms",)))
    check_settings(Settings(tasks=("defects",)))


def test_a_task_that_is_asked_for_is_never_left_out(two_tasks, package):
    settings = Settings(tasks=("defects", "atoms"))
    assert settings.tasks_for("stem") == ("defects", "atoms")
    with pytest.raises(ModelError, match="defects"):
        check_settings(settings)


def test_a_model_says_what_to_look_for(two_tasks, package, install):
    mine = install("my-defects", task="defects")
    for model in ("my-defects", mine):
        for modality in ("stm", "stem", "afm"):
            assert Settings(model=model).tasks_for(modality) == ("defects",)
        assert Settings(model=model).possible_tasks == ("defects",)
    assert Settings(model=mine, tasks=("atoms",)).tasks_for("stm") == ("atoms",)
    with pytest.raises(ModelError, match="nonsense"):
        check_settings(Settings(model="nonsense"))
    with pytest.raises(ParameterError, match=r"'strain'.*this version has: atoms, defects"):
        check_settings(Settings(model=install("strain")))


def test_every_model_takes_the_parameters_that_it_has(two_tasks, package, install):
    install("defects", parameters=("threshold", "least_area"))
    settings = Settings(params={"least_area": 0.25, "threshold": 0.75})
    assert settings.params_for("defects") == {"least_area": 0.25, "threshold": 0.75}
    assert settings.params_for("atoms") == {"threshold": 0.75}
    check_settings(settings)
    only = Settings(params={"least_area": 0.25})
    assert only.params_for("atoms") == {}
    assert len({fingerprint(Settings()), fingerprint(settings), fingerprint(only)}) == 3
    with pytest.raises(ParameterError, match="least_area"):
        check_settings(Settings(tasks=("atoms",), params={"least_area": 0.25}))


@pytest.mark.parametrize("params", [{"least_aria": 0.25}, {"least_area": 2.0}])
def test_a_parameter_that_no_model_has_or_allows_is_refused(two_tasks, package, install, params):
    install("defects", parameters=("least_area",))
    with pytest.raises(ParameterError, match=next(iter(params))):
        check_settings(Settings(params=params))


def test_a_scan_gets_one_folder_with_what_both_tasks_found(tmp_path, two_tasks, fake, install, save_scan):
    install("defects", parameters=("least_area",))
    asked = []

    def analyse(scan, task, *, params, **options):
        asked.append((task, params))
        result = fake(scan, task, params={}, **options)
        if task == "atoms":
            return result
        one = np.ones(1, np.float32)
        found = Defects(
            np.array([[3.0, 4.0]]), np.array([[5.0, 6.0]]), np.array([7.0]), np.zeros(1, np.int32), ("vacancy",), one, one,
            np.ones(1, np.int8),
        )  # fmt: skip
        mask = Map("mask", np.zeros(scan.shape, bool))
        return dataclasses.replace(result, atoms=None, defects=found, maps=(mask,), quantities={})

    path = save_scan(tmp_path / "a.npy")
    settings = Settings(tasks=("defects", "atoms"), params={"least_area": 0.25, "threshold": 0.75})
    (outcome,) = process(Job(path, "a.npy"), tmp_path / "out", settings, analyse=analyse)
    assert (outcome.status, outcome.reason) == ("done", "")
    assert outcome.counts == {"defects": 1, "atoms": 1}
    assert asked == [("defects", {"least_area": 0.25}), ("atoms", {"threshold": 0.75})]
    names = {file.name for file in (tmp_path / "out" / "a.npy").iterdir()}
    assert names == {"atoms.csv", "confidence.tif", "defects.csv", "mask.tif", "overlay.png", "result.json"}
