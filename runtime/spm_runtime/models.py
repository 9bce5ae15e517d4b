"""Model packages: a folder with ``rdf.yaml``, ONNX weights, test tensors and a card.

The format is the bioimage.io resource description 0.5, of which the runtime reads the subset that it needs; what that
format cannot say stands under ``config.spm``. Nothing of a package is executed or loaded before its hashes are checked.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from spm_runtime.errors import ModelError, ModelIntegrityError
from spm_runtime.methods import Method, Parameter
from spm_runtime.onnx_graph import inspect_graph
from spm_runtime.results import ModelReference

__all__ = [
    "ModelPackage", "Parameter", "TensorFile", "default_model", "find_model", "list_models", "load_package", "model_roots",
]  # fmt: skip

#: Domains of the operators of the ONNX standard. Anything else is a custom operator; com.microsoft too: some of its operators
#: read files.
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


@dataclass(frozen=True)
class TensorFile:
    """An input or output of the network with its stored test tensor."""

    id: str
    file: Path
    sha256: str

    def load(self) -> NDArray[np.float32]:
        """The test tensor, hash checked."""
        data = _verified(self.file, self.sha256)
        try:
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), dtype=np.float32)
        except (ValueError, EOFError) as error:
            raise ModelIntegrityError(
                f"{self.file}: no .npy array ({error}). Install the model package again."
            ) from error


@dataclass(frozen=True)
class ModelPackage(Method):
    """What the runtime knows of a model package, besides what `Method` has.

    Parameters
    ----------
    folder
        The package.
    modalities
        What the model was trained for: ``stm``, ``afm``, ``stem``.
    weights, sha256
        The ONNX file and its promised hash; `reference` has the hash of the whole package.
    inputs, outputs
        Tensors in the order of the graph.
    size_multiple
        Height and width of the input are multiples of this.
    halo_px
        How far an output pixel looks: tiles that overlap by it equal the whole image.
    spacing_px
        Range of the nearest-neighbour spacing, in pixels of the network's input, that training saw; None where the task knows no
        spacing.
    pixel_size_nm
        Range of pixel sizes that the model is valid for.
    tolerance
        Largest absolute difference between a reproduced and a stored test output.
    training
        Data, commit, recipe and budget of the training, as the card states them.
    metrics
        Scores, as the card states them.
    settings
        What the pipeline of the task needs to know besides: numbers, names and lists of them.
    attached
        Further networks of the package by name, each as a package of its own with the same facts: `Session` runs it, and its
        hash and test tensors are checked like the first one's.
    """

    folder: Path
    modalities: tuple[str, ...]
    weights: Path
    sha256: str
    inputs: tuple[TensorFile, ...]
    outputs: tuple[TensorFile, ...]
    size_multiple: int
    halo_px: int
    spacing_px: tuple[float, float] | None
    pixel_size_nm: tuple[float, float]
    tolerance: float
    training: Mapping[str, object]
    metrics: Mapping[str, object]
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    attached: Mapping[str, ModelPackage] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def attachments(self) -> Mapping[str, Path]:
        """The ONNX files of `attached`, by name."""
        return {name: package.weights for name, package in self.attached.items()}

    @property
    def reference(self) -> ModelReference:
        """Name, version and hash, as results carry them.

        Without attachments the hash is that of the weights; with them it is that of all hashes, so that a result is computed
        anew when any network of the package has changed.
        """
        if not self.attached:
            return ModelReference(self.name, self.version, self.sha256)
        lines = [f"weights {self.sha256}", *(f"{name} {one.sha256}" for name, one in sorted(self.attached.items()))]
        return ModelReference(self.name, self.version, hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest())

    def verified_weights(self) -> bytes:
        """The ONNX file's bytes, once hash and graph are checked; what is loaded is what was checked.

        Raises
        ------
        ModelIntegrityError
            If the file is missing or has another hash, or the graph has external data or custom operators.
        """
        data = _verified(self.weights, self.sha256)
        facts = inspect_graph(data, self.weights)
        if facts.external_data:
            raise ModelIntegrityError(
                f"{self.weights}: tensors with external data ({', '.join(facts.external_data[:3])}), expected all weights "
                "inside the ONNX file. Export the model again without external data."
            )
        foreign = sorted(facts.domains - ALLOWED_DOMAINS)
        if foreign:
            raise ModelIntegrityError(
                f"{self.weights}: operators of the domains {foreign}, expected standard ONNX operators only. "
                "Custom operators are not loaded: export the model with standard operators."
            )
        return data

    def test_tensors(self) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """Stored test inputs and outputs by name, once their hashes are checked.

        Raises
        ------
        ModelIntegrityError
            If a file is missing, has another hash or is no array.
        """
        return {t.id: t.load() for t in self.inputs}, {t.id: t.load() for t in self.outputs}


def model_roots() -> tuple[Path, ...]:
    """Folders that hold model packages, first found wins.

    Folders of the environment variable ``SPM_MODELS``, then the packages that the wheel carries, then ``exported_models``
    of a source tree.
    """
    here = Path(__file__).resolve().parent
    given = [Path(entry) for entry in os.environ.get("SPM_MODELS", "").split(os.pathsep) if entry]
    roots = [*given, here / "exported_models", here.parent.parent / "exported_models"]
    return tuple(root for root in roots if root.is_dir())


def list_models() -> Iterator[Path]:
    """Folders of all packages found, by name; a name is listed once."""
    seen: set[str] = set()
    for root in model_roots():
        for folder in sorted(root.iterdir()):
            if (folder / "rdf.yaml").is_file() and folder.name not in seen:
                seen.add(folder.name)
                yield folder


def find_model(model: str | Path) -> ModelPackage:
    """Load a package by the name of an installed one, or by its folder.

    A plain word is a name first, so that a folder of that name in the current directory never replaces an installed model;
    write ``./word`` for the folder.

    Raises
    ------
    ModelError
        If there is no such name or folder; an unknown name never becomes another model.
    """
    known = {found.name: found for found in list_models()}
    if isinstance(model, str) and model in known:
        return load_package(known[model])
    folder = Path(model)
    if (folder / "rdf.yaml").is_file():
        return load_package(folder)
    if folder.is_dir():
        raise ModelError(
            f"{folder}: no rdf.yaml in it; expected a model package. Name a folder that `spm-train export` wrote."
        )
    raise ModelError(
        f"model {str(model)!r}: no package of this name; found {', '.join(known) or 'none'} in "
        f"{', '.join(map(str, model_roots())) or 'no folder'}. Use --model with one of them or with a folder."
    )


def default_model(task: str) -> ModelPackage:
    """The package that a task uses unless told otherwise: the installed one that is named after the task.

    Raises
    ------
    ModelError
        If it is not there.
    """
    for folder in list_models():
        if folder.name == task:
            return load_package(folder)
    raise ModelError(
        f"model {task!r}: not installed; searched {', '.join(map(str, model_roots())) or 'no folder'}. "
        "Install adatom again, or set SPM_MODELS to a folder of packages."
    )


def load_package(folder: Path | str) -> ModelPackage:
    """Read ``rdf.yaml``; no other file is opened yet (see `ModelPackage.verified_weights`).

    Raises
    ------
    ModelError
        If the description is missing, unreadable or incomplete, naming the entry.
    ModelIntegrityError
        If a path leads out of the package.
    """
    folder = Path(folder).resolve()
    file = folder / "rdf.yaml"
    try:
        rdf = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(
            f"{file}: cannot be read ({error}); expected a model description. Install the package again."
        ) from error
    try:
        return _parse(folder, rdf)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{file}: entry missing or of the wrong type ({type(error).__name__}: {error}); expected a bioimage.io 0.5 "
            "description with config.spm. Export the model again with `spm-train export`."
        ) from error


def _parse(folder: Path, rdf: dict[str, Any]) -> ModelPackage:
    spm = rdf["config"]["spm"]
    onnx = rdf["weights"]["onnx"]
    parameters = {str(name): _parameter(str(name), entry) for name, entry in spm["parameters"].items()}
    package = ModelPackage(
        folder=folder,
        name=str(rdf["name"]),
        version=str(rdf["version"]),
        description=str(rdf["description"]),
        task=str(spm["task"]),
        modalities=tuple(str(m) for m in spm["modalities"]),
        weights=_inside(folder, onnx["source"]),
        sha256=str(onnx["sha256"]),
        inputs=tuple(_tensor(folder, t) for t in rdf["inputs"]),
        outputs=tuple(_tensor(folder, t) for t in rdf["outputs"]),
        size_multiple=_whole(spm["size_multiple"], at_least=1),
        halo_px=_whole(spm["halo_px"], at_least=0),
        spacing_px=_range(spm["spacing_px"]) if "spacing_px" in spm else None,
        pixel_size_nm=_range(spm["pixel_size_nm"]),
        tolerance=float(spm["tolerance"]),
        parameters=MappingProxyType(parameters),
        training=MappingProxyType(dict(spm["training"])),
        metrics=MappingProxyType(dict(spm["metrics"])),
        known_failures=tuple(str(s) for s in spm["known_failures"]),
        settings=MappingProxyType(dict(spm.get("settings", {}))),
    )
    attached = {str(name): _attached(package, str(name), entry) for name, entry in spm.get("attachments", {}).items()}
    return replace(package, attached=MappingProxyType(attached))


def _attached(package: ModelPackage, name: str, entry: dict[str, Any]) -> ModelPackage:
    """A further network of a package."""
    return replace(
        package,
        name=f"{package.name}/{name}",
        weights=_inside(package.folder, entry["source"]),
        sha256=str(entry["sha256"]),
        inputs=tuple(_tensor(package.folder, t) for t in entry["inputs"]),
        outputs=tuple(_tensor(package.folder, t) for t in entry["outputs"]),
        training=MappingProxyType(dict(entry["training"])),
    )


def _tensor(folder: Path, entry: dict[str, Any]) -> TensorFile:
    test = entry["test_tensor"]
    return TensorFile(str(entry["id"]), _inside(folder, test["source"]), str(test["sha256"]))


def _parameter(name: str, entry: dict[str, Any]) -> Parameter:
    low, default, high = (float(entry[key]) for key in ("minimum", "default", "maximum"))
    if not low <= default <= high:
        raise ValueError(f"parameter {name}: default {default} outside {low} to {high}")
    step = float(entry["step"]) if "step" in entry else None
    if step is not None and not step > 0:
        raise ValueError(f"parameter {name}: a step above 0, got {step}")
    return Parameter(name, default, low, high, str(entry["description"]), step)


def _whole(value: object, *, at_least: int) -> int:
    if not isinstance(value, int) or value < at_least:
        raise ValueError(f"a whole number from {at_least} on, got {value!r}")
    return value


def _range(entry: dict[str, Any]) -> tuple[float, float]:
    low, high = float(entry["minimum"]), float(entry["maximum"])
    if not 0 < low < high:
        raise ValueError(f"a range from {low} to {high}")
    return low, high


def _inside(folder: Path, source: object) -> Path:
    """A file of the package; refuses absolute paths, ``..`` and links that lead out."""
    if not isinstance(source, str):
        raise TypeError(f"a file name, got {source!r}")
    file = (folder / source).resolve()
    if not file.is_relative_to(folder) or ":" in source or Path(source).is_absolute():
        raise ModelIntegrityError(
            f"{folder / 'rdf.yaml'}: the path {source!r} leads out of the package; expected a file inside it. "
            "Do not use this package; get it from its author again."
        )
    return file


def _verified(file: Path, promised: str) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelIntegrityError(
            f"{file}: cannot be read ({error.strerror}); expected a file of the model package. Install the package again."
        ) from error
    seen = hashlib.sha256(data).hexdigest()
    if seen != promised:
        raise ModelIntegrityError(
            f"{file}: sha256 is {seen}, expected {promised} (rdf.yaml). The file was changed or damaged: "
            "install the model package again."
        )
    return data
