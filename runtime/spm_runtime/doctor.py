"""What `spm-infer doctor` checks: versions, providers that truly load, the kernels' cache, every model package and method."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import spm_kernels
from spm_runtime._version import __version__
from spm_runtime.errors import AdatomError, DeviceError
from spm_runtime.methods import BuiltInMethod
from spm_runtime.models import ModelPackage, list_models, load_package, model_roots
from spm_runtime.pipelines import BUILT_IN
from spm_runtime.readers import readers
from spm_runtime.session import Device, Session, card_problem, gpu_cards, runtime_versions, self_test

__all__ = ["Finding", "examine"]

#: Optional dependency groups of readers and a module that tells whether they are there.
_EXTRAS = {"stem": "rosettasciio", "omicron": "access2thematrix", "nanosurf": "NSFopen"}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: Literal["ok", "note", "problem"]
    topic: str
    text: str


def examine(*, warm: bool = False) -> Iterator[Finding]:
    """Examine the installation.

    Parameters
    ----------
    warm
        Compile every kernel, so that the first scan does not wait for it.

    Yields
    ------
    Finding
        In the order of the report; a ``problem`` means that scans will fail.
    """
    yield Finding("ok", "adatom", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ("numpy", "numba", "scikit-image", "h5py", "tifffile"):
        yield Finding("ok", name, version(name))
    yield from _formats()
    for topic, text in runtime_versions().items():
        yield Finding("ok", topic, text)
    yield from _kernel_cache(warm=warm)
    packages: list[ModelPackage] = []
    yield from _packages(packages)
    for method in BUILT_IN.values():
        yield _built_in(method)
    yield from _devices(packages)


def _formats() -> Iterator[Finding]:
    yield Finding("ok", "formats", ", ".join(reader.name for reader in readers() if reader.extra is None))
    for extra, distribution in _EXTRAS.items():
        names = ", ".join(reader.name for reader in readers() if reader.extra == extra)
        try:
            yield Finding("ok", f"extra {extra}", f"{names} ({distribution} {version(distribution)})")
        except PackageNotFoundError:
            yield Finding("note", f"extra {extra}", f'not installed; {names} need: pip install "adatom[{extra}]"')


def _kernel_cache(*, warm: bool) -> Iterator[Finding]:
    folder = spm_kernels.cache_folder()
    if folder is not None:
        yield Finding("ok", "kernel cache", str(folder))
    else:
        yield Finding(
            "note",
            "kernel cache",
            "no folder for it can be written: every start compiles the kernels anew; set NUMBA_CACHE_DIR to one that can",
        )
    if warm:
        seconds = spm_kernels.warm()
        yield Finding("ok", "kernels", f"{len(seconds)} compiled or loaded in {sum(seconds.values()):.1f} s")


def _packages(found: list[ModelPackage]) -> Iterator[Finding]:
    """Test every network of every package; the packages whose networks all pass are appended to `found`."""
    for folder in list_models():
        try:
            package = load_package(folder)
        except AdatomError as problem:
            yield Finding("problem", f"model {folder.name}", str(problem))
            continue
        findings = [_network(one) for one in _networks(package)]
        yield from findings
        if all(finding.state == "ok" for finding in findings):
            found.append(package)
    if not found:
        roots = ", ".join(map(str, model_roots())) or "no folder"
        yield Finding(
            "problem", "models", f"no usable model package in {roots}: install adatom again, or set SPM_MODELS"
        )


def _networks(package: ModelPackage) -> tuple[ModelPackage, ...]:
    """The networks of a package: its first one and those attached to it, each as a package of its own."""
    return (package, *package.attached.values())


def _network(network: ModelPackage) -> Finding:
    """Whether a network loads on the CPU and reproduces its test outputs."""
    topic = f"model {network.name}"
    try:
        error = self_test(Session(network, "cpu"))
    except AdatomError as problem:
        return Finding("problem", topic, _naming_its_file(network, problem))
    return Finding(
        "ok",
        topic,
        f"{network.version}, {network.weights.name}: hashes right, test outputs reproduced on the CPU within {error:.1e}",
    )


def _built_in(method: BuiltInMethod) -> Finding:
    """Whether a method that needs no package computes what is known."""
    topic = f"model {method.name}"
    try:
        error = method.self_test()
    except AdatomError as problem:
        return Finding("problem", topic, str(problem))
    return Finding("ok", topic, f"{method.version}, built in: a known answer reproduced within {error:.1e}")


def _naming_its_file(network: ModelPackage, problem: AdatomError) -> str:
    """What went wrong, with the network's file where the message does not name a file of the package."""
    text = str(problem)
    return text if str(network.folder) in text else f"{network.weights}: {text}"


def _devices(packages: list[ModelPackage]) -> Iterator[Finding]:
    cards = gpu_cards()
    if not cards:
        yield Finding("note", "GPU", "the NVIDIA driver reports none: networks run on the CPU")
        return
    built_for = runtime_versions()["built for CUDA"]
    for card in cards:
        problem = card_problem(card, built_for)
        capability = ".".join(map(str, card.capability))
        if problem is None:
            yield Finding("ok", "GPU", f"{card.name}, compute capability {capability}")
        else:
            yield Finding("note", "GPU", problem)
    device: Device
    for device in ("cuda", "tensorrt"):
        for network in (one for package in packages for one in _networks(package)):
            try:
                error = self_test(Session(network, device))
            except DeviceError as problem:
                yield Finding("note", device, str(problem))
                break
            except AdatomError as problem:
                yield Finding("problem", device, _naming_its_file(network, problem))
            else:
                yield Finding("ok", device, f"model {network.name} reproduced within {error:.1e}")
