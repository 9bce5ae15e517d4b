"""The one module that owns onnxruntime: providers, sessions, self-tests.

onnxruntime lists every provider that it was *built* with and silently falls back to the CPU when one does not load.
So the provider is chosen here explicitly and read back from the session; what ran is what a result says.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

# onnxruntime's builds report to their maker, and keep a file for it in the folder of temporary files, unless this is set
# before the first import. An acquisition computer reports to nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from spm_runtime.errors import DeviceError, ModelError, ModelIntegrityError
from spm_runtime.models import ModelPackage

__all__ = [
    "Device",
    "GpuCard",
    "Session",
    "card_problem",
    "gpu_cards",
    "limit_threads",
    "runtime_versions",
    "self_test",
    "shared_session",
    "usable_cards",
]

Device = Literal["auto", "cpu", "cuda", "tensorrt"]

_PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

#: What onnxruntime raises. Its own errors derive from Exception alone.
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    TypeError,
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)

#: Oldest compute capability that a CUDA major version still supports. Source: CUDA toolkit release notes, "deprecated
#: architectures": CUDA 12 dropped Kepler, CUDA 13 dropped Maxwell, Pascal and Volta.
OLDEST_CAPABILITY = {11: (3, 5), 12: (5, 0), 13: (7, 5)}


@dataclass(frozen=True)
class GpuCard:
    """An NVIDIA card as the driver describes it."""

    name: str
    capability: tuple[int, int]
    driver_cuda: tuple[int, int]


class Session:
    """A loaded network on one execution provider.

    Parameters
    ----------
    package
        The model package; its weights are verified before they are loaded.
    device
        ``cpu``, ``cuda`` or ``tensorrt`` must really load; ``auto`` takes CUDA where that reproduces the package's test
        outputs, else the CPU.
    require_gpu
        Fail where ``auto`` would take the CPU.
    threads
        Threads of one operator; 0 takes what `limit_threads` set, or leaves it to onnxruntime.

    Raises
    ------
    DeviceError
        If the provider that was asked for does not run, with the reason and the remedy.
    ModelIntegrityError
        If the weights are not what the package promises.
    """

    def __init__(
        self, package: ModelPackage, device: Device = "auto", *, require_gpu: bool = False, threads: int = 0
    ) -> None:
        if device not in get_args(Device):
            raise DeviceError(f"device {device!r} is unknown; expected one of {', '.join(get_args(Device))}")
        if require_gpu and device == "cpu":
            raise DeviceError("a GPU is required and the device is 'cpu'; use --device auto, cuda or tensorrt")
        self.package = package
        self.warnings: tuple[str, ...] = ()
        self._data = package.verified_weights()
        self._threads = threads or _default_threads
        if device == "auto":
            self._open_best(require_gpu=require_gpu)
        else:
            self._open(device)

    def _open(self, device: str) -> None:
        """Load the network on one provider and read back that it is that one."""
        self._session = _load(self._data, self.package, device, self._threads)
        self.provider: str = self._session.get_providers()[0]
        if self.provider != _PROVIDERS[device]:
            raise DeviceError(
                f"{_PROVIDERS[device]} did not load, onnxruntime offers {self.provider}. {_why_not(device)}"
            )

    def _open_best(self, *, require_gpu: bool) -> None:
        """Take a GPU that reproduces the package's test outputs, else the CPU, saying why if there is a card."""
        reason = _why_not("cuda")
        if usable_cards():
            try:
                self._open("cuda")
                self_test(self)
            except (DeviceError, ModelError) as error:
                reason = str(error)
            else:
                return
        if require_gpu:
            raise DeviceError(f"a GPU is required and none is usable. {reason}")
        self._open("cpu")
        if gpu_cards():
            self.warnings = (f"a GPU is there and was not used: {reason}",)

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Run the network once.

        Parameters
        ----------
        inputs
            Arrays by the names of the graph's inputs, ``(B, C, H, W)`` float32.

        Returns
        -------
        Arrays by the names of the graph's outputs.

        Raises
        ------
        ModelError
            If onnxruntime refuses the input or runs out of memory, or the network answers with what is no number.
        """
        names = [output.name for output in self._session.get_outputs()]
        try:
            values = self._session.run(names, dict(inputs))
        except ORT_ERRORS as error:
            shapes = {name: np.shape(value) for name, value in inputs.items()}
            raise ModelError(
                f"model {self.package.name}: onnxruntime failed on {self.provider} with inputs {shapes}: "
                f"{str(error).splitlines()[0][:300]}. Try --device cpu, and report it if that fails too."
            ) from error
        found = dict(zip(names, values, strict=True))
        for name, value in found.items():
            if not np.isfinite(value).all():
                raise ModelError(
                    f"model {self.package.name} ({self.package.folder}): output {name!r} holds NaN or infinity on "
                    f"{self.provider}, expected finite numbers. Try --device cpu; if that does not help, look for values far "
                    "from all others in the scan, or install the model package again."
                )
        return found


def shared_session(package: ModelPackage, device: Device = "auto", *, require_gpu: bool = False) -> Session:
    """Load a session once per process for each package, weights and device; see `Session`."""
    key = (package.weights, package.sha256, device, require_gpu)
    if key not in _shared:
        _shared[key] = Session(package, device, require_gpu=require_gpu)
    return _shared[key]


def limit_threads(threads: int) -> None:
    """Set how many threads an operator of a session opened from now on may use, in this process; 0 for no limit."""
    global _default_threads
    _default_threads = threads


_default_threads = 0
_shared: dict[tuple[Path, str, str, bool], Session] = {}


def self_test(session: Session) -> float:
    """Reproduce the package's stored test outputs.

    Returns
    -------
    float
        Largest absolute difference over all outputs, relative to the outputs' largest magnitude when that exceeds 1.

    Raises
    ------
    ModelIntegrityError
        If it exceeds the package's tolerance.
    """
    inputs, expected = session.package.test_tensors()
    found = session.run(inputs)
    worst = 0.0
    for name, stored in expected.items():
        shape = found[name].shape if name in found else None
        if shape != stored.shape:
            raise ModelIntegrityError(
                f"model {session.package.name}: output {name!r} has shape {shape}, expected "
                f"{stored.shape}. Install the model package again."
            )
        scale = max(1.0, float(np.abs(stored).max(initial=0.0)))
        worst = max(worst, float(np.abs(found[name] - stored).max(initial=0.0)) / scale)
    if not worst <= session.package.tolerance:
        raise ModelIntegrityError(
            f"model {session.package.name}: the test outputs differ by {worst:.2g} on {session.provider}, expected at most "
            f"{session.package.tolerance:.2g}. Try --device cpu; if that differs too, install the model package again."
        )
    return worst


def runtime_versions() -> dict[str, str]:
    """Version of onnxruntime, the CUDA version that it was built for, and the providers that it was built with."""
    return {
        "onnxruntime": ort.__version__,
        "built for CUDA": _built_for() or "none",
        "providers built in": ", ".join(
            name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()
        ),
    }


def card_problem(card: GpuCard, built_for: str) -> str | None:
    """Why a card cannot run an onnxruntime built for a CUDA version, or None.

    Parameters
    ----------
    card
        The card.
    built_for
        CUDA version of the onnxruntime build as ``13.0``; empty for a build without CUDA.
    """
    if not built_for or not built_for[0].isdigit():
        return "this onnxruntime was built without CUDA: install onnxruntime-gpu"
    major = int(built_for.split(".")[0])
    oldest = OLDEST_CAPABILITY.get(major)
    if oldest is not None and card.capability < oldest:
        return (
            f"{card.name} has compute capability {card.capability[0]}.{card.capability[1]}, too old for CUDA {major}, which "
            f"needs {oldest[0]}.{oldest[1]}: use --device cpu, a newer card, or an onnxruntime-gpu built for an older CUDA"
        )
    if card.driver_cuda[0] < major:
        return (
            f"the driver of {card.name} supports CUDA {card.driver_cuda[0]}.{card.driver_cuda[1]}, onnxruntime needs {major}: "
            "update the NVIDIA driver"
        )
    return None


@cache
def gpu_cards() -> tuple[GpuCard, ...]:
    """NVIDIA cards that the driver reports; asks the driver's library directly, nothing of CUDA needs to be installed.

    Source: CUDA driver API (``cuDeviceGetAttribute`` 75 and 76 are the compute capability).
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        return ()
    count, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or cuda.cuDriverGetVersion(ctypes.byref(version)):
        return ()
    cards = []
    for index in range(count.value):
        text, major, minor = ctypes.create_string_buffer(128), ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGetName(text, 128, index)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, index)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, index)
        driver = (version.value // 1000, version.value % 1000 // 10)
        cards.append(GpuCard(text.value.decode(errors="replace"), (major.value, minor.value), driver))
    return tuple(cards)


def usable_cards() -> tuple[GpuCard, ...]:
    """Cards that this onnxruntime can run on."""
    return tuple(card for card in gpu_cards() if card_problem(card, _built_for()) is None)


def _built_for() -> str:
    return str(getattr(ort, "cuda_version", ""))


def _load(data: bytes, package: ModelPackage, wanted: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads slow the Numba kernels that run next, and the instrument's software beside us.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # a provider that does not load is reported by us, with the remedy
    providers = [_PROVIDERS[wanted]]
    if wanted == "tensorrt":
        providers.append(_PROVIDERS["cuda"])
    if wanted != "cpu":
        providers.append(_PROVIDERS["cpu"])
        if hasattr(ort, "preload_dlls") and os.environ.get("SPM_NO_PRELOAD") is None:
            ort.preload_dlls()
    try:
        return ort.InferenceSession(data, options, providers=providers)
    except ORT_ERRORS as error:
        raise ModelError(
            f"{package.weights}: onnxruntime {ort.__version__} cannot load it for {providers[0]} "
            f"({str(error).splitlines()[0][:300]}). Update onnxruntime, or export the model again."
        ) from error


def _why_not(wanted: str) -> str:
    if _PROVIDERS[wanted] not in ort.get_available_providers():
        return "This onnxruntime was built without it: install onnxruntime-gpu instead of onnxruntime, or use --device cpu."
    cards = gpu_cards()
    if not cards:
        return "The NVIDIA driver reports no card: check the card and its driver, or use --device cpu."
    if not usable_cards():
        problem = str(card_problem(cards[0], _built_for()))
        return problem[0].upper() + problem[1:] + "."
    return 'The CUDA libraries did not load: install them with pip install "adatom[cuda]", or use --device cpu.'
