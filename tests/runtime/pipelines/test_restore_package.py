"""A package for `--task restore` on the disk, with two small networks: through the session, the engine and the doctor."""

import hashlib
import json

import numpy as np
import pytest
import tifffile
import yaml
from click.testing import CliRunner
from gwyfile.objects import GwyContainer, GwyDataField, GwySIUnit

import spm_runtime as spm
from spm_runtime.cli import main
from spm_runtime.engine.analysis import process
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.settings import Settings
from spm_runtime.errors import DeviceError, ModelError
from spm_runtime.models import load_package
from spm_runtime.pipelines.relief import EVIDENCE, TIP_PX, relief_view
from spm_runtime.pipelines.tip_candidates import FACTORS, FACTS
from spm_runtime.pipelines.tip_classical import CLASSICAL
from spm_runtime.pipelines.tip_drawn import CODE_WIDTH, TIP_FAMILIES
from spm_runtime.scan import Scan
from spm_runtime.session import Session

onnx = pytest.importorskip("onnx", reason="onnx comes with the extra `train`")

#: How much higher than the image the surface is drawn, in units of its relief, and the certainty that is told.
RISE, TOUCHED = 0.125, 0.8
#: What is foreseen for the candidates.
JUDGED = [0.0, -0.125, -0.25, -0.125, 0.0, 0.0, 0.125, 0.125, 0.125, 0.125]


def tensor(name, shape):
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def model_of(nodes, inputs, outputs, constants):
    arrays = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "test", inputs, outputs, arrays)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def main_network():
    """The image, risen by a share of the sum of the first numbers of the code: the probabilities of the families."""
    node = onnx.helper.make_node
    nodes = [
        node("Slice", ["code", "first", "last", "second_axis"], ["families"]),
        node("ReduceSum", ["families", "axes"], ["sum"], keepdims=0),
        node("Mul", ["sum", "share"], ["rise"]),
        node("Add", ["image", "rise"], ["restored"]),
        node("Mul", ["image", "nothing"], ["zero"]),
        node("Add", ["zero", "certainty"], ["touched"]),
    ]
    shape = ["b", 1, "h", "w"]
    constants = {
        "axes": np.array([0, 1]),
        "first": np.array([0]),
        "last": np.array([TIP_FAMILIES]),
        "second_axis": np.array([1]),
        "share": np.float32(RISE),
        "nothing": np.float32(0),
        "certainty": np.float32(TOUCHED),
    }
    inputs = [tensor("image", shape), tensor("code", ["b", "n"])]
    return model_of(nodes, inputs, [tensor("restored", shape), tensor("touched", shape)], constants)


def marks_network():
    """Every second pixel of the image, as two points, two values and one feature."""
    node = onnx.helper.make_node
    nodes = [
        node("AveragePool", ["image"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["small", "small"], ["values"], axis=1),
        node("Exp", ["values"], ["points"]),
        node("Identity", ["small"], ["features"]),
    ]
    outputs = [tensor(name, ["b", count, "r", "c"]) for name, count in (("points", 2), ("values", 2), ("features", 1))]
    return model_of(nodes, [tensor("image", ["b", 1, "h", "w"])], outputs, {})


def judge_network():
    """The third candidate is the best of ten."""
    node = onnx.helper.make_node
    nodes = [
        node("ReduceMean", ["facts"], ["mean"], axes=[1], keepdims=1),
        node("Mul", ["mean", "nothing"], ["zero"]),
        node("Add", ["zero", "judged"], ["errors"]),
    ]
    constants = {"nothing": np.float32(0), "judged": np.array([JUDGED], np.float32)}
    inputs = [tensor("facts", ["b", FACTS + CODE_WIDTH])]
    return model_of(nodes, inputs, [tensor("errors", ["b", len(FACTORS)])], constants)


def tip_network():
    """Always the same round tip."""
    node = onnx.helper.make_node
    away = (np.arange(TIP_PX) - TIP_PX // 2) ** 2 / 64.0
    nodes = [
        node("ReduceMean", ["evidence"], ["mean"], axes=[1], keepdims=1),
        node("Mul", ["mean", "nothing"], ["zero"]),
        node("Add", ["zero", "picture"], ["visible"]),
        node("ReduceMean", ["zero"], ["one"], axes=[1, 2], keepdims=0),
        node("ReduceMean", ["one"], ["number"], axes=[1], keepdims=1),
        node("Add", ["number", "chances"], ["families"]),
        node("Identity", ["zero"], ["second"]),
    ]
    side = ["b", len(EVIDENCE) + 3, TIP_PX, TIP_PX]
    outputs = [
        tensor("visible", ["b", 1, TIP_PX, TIP_PX]),
        tensor("second", ["b", 1, TIP_PX, TIP_PX]),
        tensor("families", ["b", 4]),
    ]
    constants = {
        "nothing": np.float32(0),
        "picture": np.exp(-np.add.outer(away, away)).astype(np.float32),
        "chances": np.array([[0.7, 0.1, 0.1, 0.1]], np.float32),
    }
    return model_of(nodes, [tensor("evidence", side)], outputs, constants)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "restore"
    folder.mkdir(parents=True)

    def stored(name, array):
        np.save(folder / f"{name}.npy", np.asarray(array, np.float32))
        return {"source": f"{name}.npy", "sha256": sha256((folder / f"{name}.npy").read_bytes())}

    def described(prefix, arrays):
        return [{"id": name, "test_tensor": stored(f"{prefix}_{name}", array)} for name, array in arrays.items()]

    contents = {
        "weights.onnx": main_network(),
        "tip.onnx": tip_network(),
        "marks.onnx": marks_network(),
        "judge.onnx": judge_network(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    image = np.linspace(-0.5, 0.5, 32 * 32).reshape(1, 1, 32, 32)
    evidence = np.zeros((1, len(EVIDENCE) + 3, TIP_PX, TIP_PX))
    away = (np.arange(TIP_PX) - TIP_PX // 2) ** 2 / 64.0
    tip = {
        "source": "tip.onnx", "sha256": sha256(contents["tip.onnx"]), "training": {},
        "inputs": described("tip", {"evidence": evidence}),
        "outputs": described("tip", {
            "visible": np.exp(-np.add.outer(away, away))[None, None], "families": [[0.7, 0.1, 0.1, 0.1]],
            "second": np.zeros((1, 1, TIP_PX, TIP_PX)),
        }),
    }  # fmt: skip
    judge = {
        "source": "judge.onnx", "sha256": sha256(contents["judge.onnx"]), "training": {},
        "inputs": described("judge", {"facts": np.ones((1, FACTS + CODE_WIDTH))}),
        "outputs": described("judge", {"errors": [JUDGED]}),
    }  # fmt: skip
    small = np.full((1, 1, 8, 8), 0.5)
    marks = {
        "source": "marks.onnx", "sha256": sha256(contents["marks.onnx"]), "training": {},
        "inputs": described("marks", {"image": np.full((1, 1, 16, 16), 0.5)}),
        "outputs": described("marks", {
            "points": np.exp(np.repeat(small, 2, axis=1)), "values": np.repeat(small, 2, axis=1), "features": small,
        }),
    }  # fmt: skip
    spm_block = {
        "task": "restore", "modalities": ["afm"], "size_multiple": 16, "halo_px": 0,
        "pixel_size_nm": {"minimum": 0.5, "maximum": 20.0}, "tolerance": 1e-4, "training": {}, "metrics": {},
        "known_failures": ["it does nothing"], "parameters": {}, "attachments": {"tip": tip, "marks": marks, "judge": judge},
        "settings": {"channels": ["image"], "families": ["blunt", "double", "hackathon", "convolution"]},
    }  # fmt: skip
    rdf = {
        "name": "restore", "version": "0.0.1", "description": "a test", "config": {"spm": spm_block},
        "weights": {"onnx": {"source": "weights.onnx", "sha256": sha256(contents["weights.onnx"])}},
        "inputs": described("main", {"image": image, "code": [[0.5, 0.25, 0.25, 0.0, 7.0]]}),
        "outputs": described("main", {"restored": image + RISE, "touched": np.full_like(image, TOUCHED)}),
    }  # fmt: skip
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf), encoding="utf-8")
    monkeypatch.setenv("SPM_MODELS", str(folder.parent))
    monkeypatch.setenv("SPM_STATE", str(tmp_path / "state"))
    return folder


@pytest.fixture
def scan(rng):
    y, x = np.mgrid[:70, :90]
    heights = 5e-9 * (np.cos(y / 5) + np.sin(x / 7)) + 1e-10 * rng.standard_normal((70, 90))
    return Scan(heights.astype(np.float32), unit="m", pixel_size_nm=(2.0, 2.0), modality="afm", channel="Height")


@pytest.fixture
def file(tmp_path, scan):
    """The scan as a file of a format that knows its unit, its pixels and that it is an AFM image."""
    path = tmp_path / "scans" / "a.gwy"
    path.parent.mkdir()
    container = GwyContainer()
    container["/0/data"] = GwyDataField(
        scan.image.astype(np.float64), xreal=180e-9, yreal=140e-9, si_unit_xy=GwySIUnit(unitstr="m"),
        si_unit_z=GwySIUnit(unitstr="m"),
    )  # fmt: skip
    container["/0/data/title"] = "Height"
    container.typecodes["/0/data/title"] = "s"
    with path.open("wb") as stream:
        container.tofile(stream)
    return path


def test_the_package_reproduces_its_test_outputs_and_the_doctor_says_so(package):
    found = CliRunner().invoke(main, ["doctor"])
    assert found.exit_code == 0, found.output
    lines = {line.split()[2]: line for line in found.output.splitlines() if line.split()[1:2] == ["model"]}
    for name, word in (("restore", "reproduced"), ("restore/tip", "reproduced"), ("classical", "built in")):
        assert lines[name].startswith("ok")
        assert word in lines[name]


def test_the_network_restores_what_its_pixels_fit(package, scan):
    result = spm.analyse(scan, "restore", device="cpu")
    found = {layer.name: layer.data for layer in result.maps}
    change = found["restored"] - scan.image
    assert np.ptp(change) < 1e-3 * change.mean()
    assert change.mean() == pytest.approx(RISE * relief_view(scan.image).scale, rel=1e-3)
    assert np.all(found["certainty"] == np.float32(TOUCHED))
    assert (result.model.name, result.instead_of) == ("restore", None)
    assert result.quantities["family_blunt"] == pytest.approx(0.7)
    loaded = load_package(package)
    assert Session(loaded.attached["tip"], "cpu").package.name == "restore/tip"


def process_twice(file, out, settings):
    (first,), (second,) = (process(Job(file, "a.gwy"), out, settings, skip_done=True) for _ in range(2))
    assert (first.status, first.reason) == ("done", "")
    assert second.reused
    return first.document["tasks"]["restore"]


@pytest.mark.parametrize(
    ("settings", "model", "asked"),
    [
        (Settings(tasks=("restore",), device="cpu"), "restore", None),
        (Settings(tasks=("restore",), device="cpu", pixel_size_nm=40.0), "classical", "restore"),
        (Settings(model="classical", params={"tip_px": 9}), "classical", None),
    ],
)
def test_a_result_is_recognised_whichever_method_made_it(package, file, tmp_path, settings, model, asked):
    task = process_twice(file, tmp_path / "out", settings)
    assert task["model"]["name"] == model
    assert (task["instead_of"] and task["instead_of"]["name"]) == asked
    assert any("without a network" in warning for warning in task["warnings"]) == (asked is not None)
    assert {"restored.tif", "certainty.tif", "tip.tif"} == set(task["files"])
    restored = tifffile.imread(tmp_path / "out" / "a.gwy" / "restored.tif")
    assert restored.shape == (70, 90)
    # Another model, or another value, and the scan is analysed again.
    (again,) = process(
        Job(file, "a.gwy"), tmp_path / "out", Settings(model="classical", params={"tip_px": 11}), skip_done=True
    )
    assert not again.reused


def test_run_and_watch_take_the_built_in_method(package, file, tmp_path):
    out = tmp_path / "out"
    for words in (("run", file), ("watch", file.parent, "--once", "--poll-s", "0.05")):
        arguments = [*map(str, words), "--out", str(out), "--model", "classical", "--param", "tip_px=9", "--gwy"]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        task = json.loads((out / "a.gwy" / "result.json").read_text(encoding="utf-8"))["tasks"]["restore"]
        assert (task["model"]["name"], task["provider"], task["parameters"]["tip_px"]) == ("classical", "Numba", 9)
        assert task["model"]["sha256"] == CLASSICAL.reference.sha256
    listed = CliRunner().invoke(main, ["models"]).output
    assert "classical 1.0.0  task restore  built in" in listed
    assert "--param tip_px=15" in listed


def test_the_built_in_method_by_its_name_and_where_no_package_is(package, scan, monkeypatch):
    asked = spm.analyse(scan, "restore", model="classical")
    monkeypatch.setattr("spm_runtime.models.model_roots", lambda: ())
    without = spm.analyse(scan, "restore")
    assert without.model == asked.model == CLASSICAL.reference
    assert "not installed" in without.warnings[0]
    assert without.warnings[1:] == asked.warnings
    np.testing.assert_array_equal(without.maps[0].data, asked.maps[0].data)
    with pytest.raises(ModelError, match="made for the task 'restore'"):
        spm.analyse(scan, "atoms", model="classical")
    with pytest.raises(DeviceError, match="classical"):
        spm.analyse(scan, "restore", model="classical", require_gpu=True)
    with pytest.raises(ModelError, match="'atoms'"):
        spm.analyse(scan, "atoms")
