"""Packages for `--task denoise` on the disk, with networks made by hand: through the session, the engine and the commands."""

import csv
import hashlib
import json

import numpy as np
import pytest
import tifffile
import yaml
from click.testing import CliRunner
from gwyfile.objects import GwyContainer, GwyDataField, GwySIUnit
from scipy import ndimage

import spm_runtime as spm
from spm_runtime.cli import main
from spm_runtime.engine.analysis import process
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.settings import Settings
from spm_runtime.errors import AdatomError, ModelError
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_runtime.pipelines.fourier_wiener import without_residue

onnx = pytest.importorskip("onnx", reason="onnx comes with the extra `train`")

SIDE = 16


def tensor(name, shape):
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def model_of(nodes, inputs, outputs, constants):
    arrays = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "test", inputs, outputs, arrays)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def identity():
    """What is given back as it is."""
    shape = ["b", 1, "h", "w"]
    node = onnx.helper.make_node("Identity", ["image"], ["denoised"])
    return model_of([node], [tensor("image", shape)], [tensor("denoised", shape)], {})


def mean3():
    """The mean of 3 × 3 pixels, less at the border."""
    shape = ["b", 1, "h", "w"]
    node = onnx.helper.make_node("AveragePool", ["image"], ["denoised"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return model_of([node], [tensor("image", shape)], [tensor("denoised", shape)], {})


def patch_mean():
    """An autoencoder of patches whose one latent number is the mean."""
    node = onnx.helper.make_node
    nodes = [
        node("ReduceMean", ["patch"], ["mean"], axes=[2, 3], keepdims=1),
        node("Flatten", ["mean"], ["latent"]),
        node("Mul", ["patch", "nothing"], ["zero"]),
        node("Add", ["zero", "mean"], ["denoised"]),
    ]
    shape = ["b", 1, SIDE, SIDE]
    outputs = [tensor("denoised", shape), tensor("latent", ["b", 1])]
    return model_of(nodes, [tensor("patch", shape)], outputs, {"nothing": np.float32(0)})


#: Settings, network, input and outputs of its test.
RAMP = np.linspace(-0.5, 0.5, SIDE * SIDE, dtype=np.float32).reshape(1, 1, SIDE, SIDE)
SMOOTH = np.array(
    [
        [np.mean(RAMP[0, 0, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]) for x in range(SIDE)]
        for y in range(SIDE)
    ],
    np.float32,
)[None, None]  # fmt: skip
KINDS = {
    "identity": ({"kind": "image"}, identity, {"image": RAMP}, {"denoised": RAMP}),
    "mean3": ({"kind": "image"}, mean3, {"image": RAMP}, {"denoised": SMOOTH}),
    "patches": (
        {"kind": "patch", "patch_px": SIDE, "stride_px": 4}, patch_mean, {"patch": RAMP + 0.25},
        {"denoised": np.full_like(RAMP, 0.25), "latent": np.array([[0.25]])},
    ),
}  # fmt: skip


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a package of a kind."""
    root = tmp_path / "models"
    root.mkdir()
    monkeypatch.setenv("SPM_MODELS", str(root))
    monkeypatch.setenv("SPM_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("spm_runtime.models.model_roots", lambda: (root,))

    def make(kind, name="denoise"):
        settings, network, inputs, outputs = KINDS[kind]
        folder = root / name
        folder.mkdir()

        def described(arrays):
            for key, array in arrays.items():
                np.save(folder / f"{key}.npy", np.asarray(array, np.float32))
                sha256 = hashlib.sha256((folder / f"{key}.npy").read_bytes()).hexdigest()
                yield {"id": key, "test_tensor": {"source": f"{key}.npy", "sha256": sha256}}

        content = network()
        (folder / "weights.onnx").write_bytes(content)
        block = {
            "task": "denoise", "modalities": ["stm", "afm"], "size_multiple": 4, "halo_px": 4, "tolerance": 1e-5,
            "pixel_size_nm": {"minimum": 0.005, "maximum": 0.5}, "training": {}, "metrics": {}, "settings": settings,
            "known_failures": ["it knows nothing"], "parameters": {},
        }  # fmt: skip
        rdf = {
            "name": name, "version": "0.0.1", "description": "a test", "config": {"spm": block},
            "weights": {"onnx": {"source": "weights.onnx", "sha256": hashlib.sha256(content).hexdigest()}},
            "inputs": list(described(inputs)), "outputs": list(described(outputs)),
        }  # fmt: skip
        (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def file(tmp_path, rng):
    """A noisy lattice in metres on a high offset, tilted, in a format that knows its unit and its pixels."""
    y, x = np.mgrid[:70, :90]
    heights = 1e-10 * (np.cos(y / 2) + np.sin(x / 2)) + 2e-11 * rng.standard_normal((70, 90)) + 1e-12 * x + 1e-6
    path = tmp_path / "scans" / "a.gwy"
    path.parent.mkdir()
    unit = GwySIUnit(unitstr="m")
    container = GwyContainer()
    container["/0/data"] = GwyDataField(heights, xreal=9e-9, yreal=7e-9, si_unit_xy=unit, si_unit_z=unit)
    container["/0/data/title"] = "Z"
    container.typecodes["/0/data/title"] = "s"
    with path.open("wb") as stream:
        container.tofile(stream)
    return path


@pytest.mark.parametrize("kind", list(KINDS))
def test_run_leaves_the_denoised_scan_and_says_what_it_did(install, file, tmp_path, kind):
    install(kind)
    out = tmp_path / "out"
    done = CliRunner().invoke(
        main, ["run", str(file), "--out", str(out), "--task", "denoise", "--device", "cpu", "--gwy"]
    )
    assert done.exit_code == 0, done.output
    scan = spm.open(file)
    folder = out / "a.gwy"
    found = tifffile.imread(folder / "denoised.tif")
    view = denoise_view(scan.image)
    expected = {
        "identity": lambda: scan.image,
        # At the border the network sees fewer pixels, and beyond the padding.
        "mean3": lambda: view.restored(
            without_residue(ndimage.uniform_filter(view.image, 3, mode="nearest"), view.image)
        ),
        "patches": lambda: view.restored(np.zeros_like(view.image)),
    }[kind]()
    assert found.dtype == np.float32
    inner = np.s_[4:-4, 4:-4]
    np.testing.assert_allclose(found[inner], expected[inner], atol=5e-11 if kind == "patches" else 1e-12)
    task = json.loads((folder / "result.json").read_text(encoding="utf-8"))["tasks"]["denoise"]
    assert (task["model"]["name"], task["provider"], task["files"]) == (
        "denoise",
        "CPUExecutionProvider",
        ["denoised.tif"],
    )
    assert task["quantities"]["noise_before_nm"] == pytest.approx(0.02, rel=0.15)
    assert (folder / "overlay.png").is_file()
    with (out / "summary.csv").open(encoding="utf-8-sig", newline="") as table:
        (row,) = csv.DictReader(table)
    assert (row["status"], row["tasks"]) == ("done", "denoise")
    assert float(row["noise_before"]) == pytest.approx(task["quantities"]["noise_before"], rel=1e-4)
    assert (float(row["taken_away_rms"]) < 1e-3) == (kind == "identity")


def test_a_package_says_by_itself_what_it_is_for(install, file, tmp_path):
    folder = install("mean3", "quiet")
    for model in ("quiet", str(folder)):
        (outcome,) = process(Job(file, "a.gwy"), tmp_path / "out", Settings(model=model, device="cpu"), skip_done=True)
        assert (outcome.status, list(outcome.document["tasks"])) == ("done", ["denoise"])
    assert outcome.reused  # the same weights
    with pytest.raises(ModelError, match="'denoise'"):  # no package of that name
        spm.analyse(spm.open(file), "denoise")
    with pytest.raises(ModelError, match="made for the task 'denoise', expected 'atoms'"):
        spm.analyse(spm.open(file), "atoms", model="quiet")


def test_the_doctor_reproduces_its_test_outputs(install):
    for kind in KINDS:
        install(kind, kind)
    found = CliRunner().invoke(main, ["doctor"])
    lines = {line.split()[2]: line for line in found.output.splitlines() if line.split()[1:2] == ["model"]}
    for kind in KINDS:
        assert lines[kind].startswith("ok"), found.output
        assert "reproduced" in lines[kind]


def test_scans_of_other_pixels_or_another_modality_are_denoised_with_a_warning(install, file, tmp_path):
    install("mean3")
    settings = Settings(tasks=("denoise",), device="cpu", pixel_size_nm=4.0)
    (outcome,) = process(Job(file, "a.gwy"), tmp_path / "out", settings)
    assert outcome.status == "done"
    assert any("pixel size 4 nm is outside" in warning for warning in outcome.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean3", "patches"])
def test_every_real_scan_is_denoised_in_its_own_values(install, real_data, tmp_path, kind):
    install(kind)
    count = 0
    for path in sorted((real_data / "stm").iterdir()):
        try:
            scan = spm.open(path)
        except AdatomError:  # an extra that is not installed
            continue
        result = spm.analyse(scan, "denoise", device="cpu")
        (layer,) = result.maps
        assert (layer.unit, layer.data.shape) == (scan.unit, scan.shape)
        np.testing.assert_array_equal(np.isfinite(layer.data), scan.valid)
        if kind == "mean3":  # little is taken away of what is many pixels wide
            assert result.quantities["taken_away_rms"] < 0.3
        if count % 4 == 0:
            result.save(tmp_path / path.name)
        count += 1
    assert count >= 10
