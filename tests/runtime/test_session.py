"""Providers are chosen explicitly and read back."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spm_runtime import session as module
from spm_runtime.errors import DeviceError, ModelError, ModelIntegrityError
from spm_runtime.models import load_package
from spm_runtime.session import GpuCard, Session, card_problem, self_test, shared_session

SHIPPED = Path(__file__).resolve().parents[2] / "exported_models" / "atoms"
NO_GPU = not module.gpu_cards()


@pytest.fixture(scope="module")
def package():
    return load_package(SHIPPED)


def test_the_cpu_reproduces_the_test_tensors(package):
    session = Session(package, "cpu")
    assert session.provider == "CPUExecutionProvider"
    assert self_test(session) <= package.tolerance


def test_a_wrong_test_output_is_a_failure(package, tmp_path):
    strict = dataclasses.replace(package, tolerance=0.0)
    session = Session(strict, "cpu")
    session.package = dataclasses.replace(package, tolerance=-1.0)
    with pytest.raises(ModelIntegrityError, match="test outputs differ"):
        self_test(session)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_an_error_that_names_the_package(package, value):
    """A single pixel is enough: it would go on into maps and pictures."""

    class Broken:
        def get_outputs(self):
            return network.get_outputs()

        def run(self, names, inputs):
            first, *others = network.run(names, inputs)
            first = first.copy()
            first.flat[-1] = value
            return [first, *others]

    session = Session(package, "cpu")
    network, session._session = session._session, Broken()
    inputs, _ = package.test_tensors()
    with pytest.raises(ModelError, match=r"model atoms .* holds NaN or infinity on CPUExecutionProvider"):
        session.run(inputs)
    with pytest.raises(ModelError):
        self_test(session)


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_without_a_card_cuda_fails_loudly(package, device):
    with pytest.raises(DeviceError, match=r"--device cpu"):
        Session(package, device)


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_require_gpu_fails_loudly(package):
    with pytest.raises(DeviceError, match="GPU is required"):
        Session(package, "auto", require_gpu=True)
    with pytest.raises(DeviceError, match="GPU is required"):
        Session(package, "cpu", require_gpu=True)


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_auto_without_a_card_is_the_cpu(package):
    assert Session(package, "auto").provider == "CPUExecutionProvider"


def test_a_card_that_does_not_load_is_never_silent(package, monkeypatch):
    """A driver that reports a card, but CUDA libraries that do not load: auto says so, cuda refuses."""
    monkeypatch.setattr(module, "gpu_cards", lambda: (GpuCard("Test", (8, 6), (13, 0)),))
    monkeypatch.setattr(module, "_built_for", lambda: "13.0")
    monkeypatch.setattr(module, "_load", lambda data, package, wanted, threads: _Fake())
    session = Session(package, "auto")
    assert session.provider == "CPUExecutionProvider"
    assert "not used" in session.warnings[0]
    with pytest.raises(DeviceError, match="CUDAExecutionProvider did not load"):
        Session(package, "cuda")
    with pytest.raises(DeviceError, match="GPU is required"):
        Session(package, "auto", require_gpu=True)


def test_a_card_too_old_is_not_tried(package, monkeypatch):
    monkeypatch.setattr(module, "gpu_cards", lambda: (GpuCard("Old", (6, 1), (13, 0)),))
    monkeypatch.setattr(module, "_built_for", lambda: "13.0")
    session = Session(package, "auto")
    assert session.provider == "CPUExecutionProvider"
    assert "too old for CUDA 13" in session.warnings[0]


def test_a_card_that_computes_wrongly_is_not_used(package, monkeypatch):
    def wrong(session):
        if session.provider != "CPUExecutionProvider":
            raise ModelIntegrityError("the test outputs differ by 1")
        return 0.0

    class Gpu(_Fake):
        def get_providers(self):
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(module, "gpu_cards", lambda: (GpuCard("Odd", (8, 6), (13, 0)),))
    monkeypatch.setattr(module, "_built_for", lambda: "13.0")
    monkeypatch.setattr(module, "_load", lambda data, package, wanted, threads: Gpu() if wanted == "cuda" else _Fake())
    monkeypatch.setattr(module, "self_test", wrong)
    session = Session(package, "auto")
    assert session.provider == "CPUExecutionProvider"
    assert "differ by 1" in session.warnings[0]


class _Fake:
    def get_providers(self):
        return ["CPUExecutionProvider"]


def test_an_unknown_device_is_refused(package):
    with pytest.raises(DeviceError, match="'gpu' is unknown"):
        Session(package, "gpu")


@pytest.mark.parametrize(
    "inputs",
    [
        {"nonsense": np.zeros((1, 1, 16, 16), np.float32)},
        {"image": np.zeros((1, 3, 16, 16), np.float32)},  # channels
        {"image": np.zeros((1, 1, 17, 16), np.float32)},  # no multiple of 16
        {"image": np.zeros((1, 1, 16, 16), np.float64)},
    ],
)
def test_a_wrong_input_is_an_error_of_ours(package, inputs):
    with pytest.raises(ModelError, match="onnxruntime failed"):
        Session(package, "cpu").run(inputs)


def test_a_graph_that_onnxruntime_refuses_is_an_error_of_ours(package, tmp_path):
    """An IR version of the future; the hash fits."""
    weights = package.weights.read_bytes()
    changed = weights + b"\x08\x63"  # field 1, 99: the last one counts
    file = tmp_path / "weights.onnx"
    file.write_bytes(changed)
    future = dataclasses.replace(package, weights=file, sha256=hashlib.sha256(changed).hexdigest())
    with pytest.raises(ModelError, match="cannot load it"):
        Session(future, "cpu")


def test_sessions_are_loaded_once(package):
    assert shared_session(package, "cpu") is shared_session(load_package(SHIPPED), "cpu")


@pytest.mark.parametrize(
    ("capability", "driver", "built_for", "reason"),
    [
        ((7, 5), (13, 0), "13.0", None),
        ((6, 1), (13, 0), "13.0", "too old for CUDA 13"),
        ((7, 0), (12, 4), "13.0", "too old for CUDA 13"),
        ((6, 1), (12, 4), "12.4", None),
        ((8, 6), (12, 4), "13.0", "update the NVIDIA driver"),
        ((8, 6), (12, 4), "none", "without CUDA"),
        ((8, 6), (12, 4), "", "without CUDA"),
    ],
)
def test_old_cards_and_old_drivers_are_named(capability, driver, built_for, reason):
    problem = card_problem(GpuCard("Test card", capability, driver), built_for)
    assert (problem is None) if reason is None else (reason in problem)


def test_onnxruntime_reports_to_nobody(tmp_path):
    """Its telemetry would leave a file among the temporary ones as soon as it is imported."""
    names = ("TMPDIR", "TEMP", "TMP")
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= dict.fromkeys(names, str(tmp_path))
    subprocess.run([sys.executable, "-c", "import spm_runtime.session"], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
