"""The description (``rdf.yaml``) and the card (``README.md``) of a model package.

The description follows bioimage.io's model format 0.5, so that other tools can open it; what that format cannot say stands
under ``config.spm``, which `spm_runtime.models` reads. What differs from task to task comes from `spm_training.packages.task`.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from bioimageio.spec import ValidationContext, validate_format

from spm_runtime.errors import ModelError
from spm_training.graphs.base import TensorSpec
from spm_training.graphs.denoise import PatchGraph
from spm_training.graphs.onnx_export import OPSET
from spm_training.packages.task import MapsGraph, PackagedTask

__all__ = ["FILES", "TOLERANCE", "Description", "file_entry", "output_file", "validate_description", "vector_file"]

#: Names of the files of a package.
FILES = {
    "weights": "weights.onnx",
    "image": "test_input.npy",
    "card": "README.md",
    "description": "rdf.yaml",
}

#: Largest difference of a reproduced test output, relative to its largest value where that exceeds 1. Other execution
#: providers sum in another order, and GPUs multiply in TF32.
TOLERANCE = 5e-3

_FORMAT_VERSION = "0.5.3"
#: Cited for every network that is one.
_UNET = {
    "text": "O. Ronneberger, P. Fischer, T. Brox: U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015",
    "doi": "10.1007/978-3-319-24574-4_28",
}


@dataclass(frozen=True)
class Description:
    """Everything that ``rdf.yaml`` and the card say.

    Parameters
    ----------
    task
        What the package says that depends on its task, and the recipe.
    graph
        The network as it was exported.
    version
        Version of the package.
    training
        Data, recipe, commit, budget and such, flat.
    metrics
        Scores, flat; empty when it was not evaluated.
    tables
        The evaluation's Markdown, or why there is none.
    difference
        Largest difference between torch and the runtime.
    attachments
        Further networks of the package by name: their entries as `spm_runtime.models` reads them.
    settings
        What the pipeline needs to know besides.
    """

    task: PackagedTask
    graph: MapsGraph
    version: str
    training: Mapping[str, object]
    metrics: Mapping[str, float]
    tables: str
    difference: float
    attachments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write card and description; the other files of the package must be there, their hashes go in."""
        (folder / FILES["card"]).write_text(self.card(), encoding="utf-8", newline="\n")
        text = yaml.safe_dump(self.rdf(folder), sort_keys=False, allow_unicode=True, width=120)
        (folder / FILES["description"]).write_text(text, encoding="utf-8", newline="\n")

    def rdf(self, folder: Path) -> dict[str, Any]:
        """The content of ``rdf.yaml``."""
        attachments = [{"source": entry["source"], "sha256": entry["sha256"]} for entry in self.attachments.values()]
        recipe = self.task.recipe
        return {
            "format_version": _FORMAT_VERSION,
            "type": "model",
            "name": recipe.name,
            "description": recipe.title,
            "version": self.version,
            "timestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "license": "BSD-3-Clause",
            "authors": [{"name": "The Adatom developers"}],
            "cite": [
                *([_UNET] if "U-Net" in self.graph.architecture else []),
                *({**entry} for entry in self.task.CITATIONS),
            ],
            "tags": [*self.task.TAGS, "2d", "onnx", *recipe.card.modalities],
            "documentation": FILES["card"],
            **({"attachments": attachments} if attachments else {}),
            "inputs": [self._input(folder), *(_vector(folder, spec) for spec in self.graph.VECTORS)],
            "outputs": [self._output(folder, spec) for spec in self.graph.OUTPUTS],
            "weights": {
                "onnx": {
                    **file_entry(folder, FILES["weights"]),
                    "opset_version": OPSET,
                    "comment": "levelling is not in the graph",
                }
            },
            "config": {"bioimageio": self._reproducibility(), "spm": self._spm()},
        }

    def _input(self, folder: Path) -> dict[str, Any]:
        def length(axis: str) -> dict[str, Any]:
            stride = self.graph.stride
            size = stride if isinstance(self.graph, PatchGraph) else {"min": stride, "step": stride}
            return {"type": "space", "id": axis, "size": size}

        spec = self.task.input
        return {
            "id": self.graph.INPUT,
            "description": spec.description,
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": list(spec.channels)},
                length("y"),
                length("x"),
            ],
            "test_tensor": file_entry(folder, FILES["image"]),
            "data": {"type": "float32", "range": list(spec.limits)},
        }

    def _output(self, folder: Path, spec: TensorSpec) -> dict[str, Any]:
        def same(axis: str) -> dict[str, Any]:
            return {"type": "space", "id": axis, "size": {"tensor_id": self.graph.INPUT, "axis_id": axis}}

        space = [same("y"), same("x")] if spec.is_map else []
        return {
            "id": spec.id,
            "description": spec.description,
            "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(spec.channels)}, *space],
            "test_tensor": file_entry(folder, output_file(spec.id)),
            "data": {"type": "float32", "range": list(spec.limits)},
        }

    def _reproducibility(self) -> dict[str, Any]:
        tolerance = {"absolute_tolerance": TOLERANCE, "relative_tolerance": TOLERANCE, "weights_formats": ["onnx"]}
        return {"reproducibility_tolerance": [tolerance]}

    def _spm(self) -> dict[str, Any]:
        recipe, knots = self.task.recipe, self.graph.calibration
        spm: dict[str, Any] = {
            "task": recipe.task,
            "modalities": list(recipe.card.modalities),
            "levelling": dict(self.task.input.levelling),
            "size_multiple": self.graph.stride,
            "halo_px": self.graph.halo_px,
            **self.task.extra,
            "pixel_size_nm": {"minimum": recipe.card.pixel_size_min_nm, "maximum": recipe.card.pixel_size_max_nm},
            "tolerance": TOLERANCE,
            "parameters": {name: dict(vars(one)) for name, one in self.task.parameters.items()},
        }
        if self.settings:
            spm["settings"] = dict(self.settings)
        if knots is not None:
            spm["calibration"] = {"raw": list(knots.raw), "probability": list(knots.probability)}
        if self.attachments:
            spm["attachments"] = {name: dict(entry) for name, entry in self.attachments.items()}
        return spm | {
            "training": dict(self.training),
            "metrics": dict(self.metrics),
            "known_failures": list(recipe.card.known_failures),
        }

    def card(self) -> str:
        """The model card."""
        recipe, graph = self.task.recipe, self.graph
        parameters = sum(parameter.numel() for parameter in graph.parameters())
        outputs = "\n".join(
            f"* `{one.id}` `(B, {len(one.channels)}{', H, W' if one.is_map else ''})`: {one.description}"
            for one in graph.OUTPUTS
        )
        facts = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in self.training.items())
        failures = "\n".join(f"* {sentence}" for sentence in recipe.card.known_failures)
        channels = len(self.task.input.channels)
        vectors = "".join(f" Input `{one.id}` `(B, {len(one.channels)})`: {one.description}" for one in graph.VECTORS)
        return f"""# {recipe.name} {self.version}

{recipe.title}.

{self.task.purpose}

## Network

{graph.architecture}: {parameters:,} parameters as exported.
Input `{graph.INPUT}` `(B, {channels}, H, W)`: {self._sizes()}.{vectors} Outputs:

{outputs}

{self._reach()} {self.task.score_meaning(calibrated=graph.calibration is not None)}
The exported graph and torch differ by at most {self.difference:.1e} (checked with onnxruntime on the CPU by `spm-train export`).
{self._attached()}
## Scores

{self.tables}
## Training

| | |
|---|---|
{facts}

## Known failures

{failures or "None known."}
"""

    def _sizes(self) -> str:
        """What the input is, and how large."""
        stride = self.graph.stride
        if isinstance(self.graph, PatchGraph):
            return f"a patch of the levelled scan, H and W {stride}"
        return f"the levelled scan, H and W multiples of {stride}"

    def _reach(self) -> str:
        """How far a network looks."""
        if isinstance(self.graph, PatchGraph):
            return "An answer looks at its whole patch and at nothing else."
        return f"A pixel of a map looks at most {self.graph.halo_px} px far."

    def _attached(self) -> str:
        """A line for each further network; the card of a package without any says nothing of them."""
        if not self.attachments:
            return ""
        lines = []
        for name, entry in self.attachments.items():
            facts = entry["training"]
            outputs = ", ".join(f"`{one['id']}`" for one in entry["outputs"])
            lines.append(
                f"* `{entry['source']}` ({name}), from `{entry['inputs'][0]['id']}` to {outputs}: recipe {facts['recipe']}, "
                f"{facts['images_seen']} images, {facts['flop']} FLOP, {facts['budget']}, commit {facts['commit']}."
            )
        return "\nFurther networks of the package:\n\n" + "\n".join(lines) + "\n"


def validate_description(folder: Path) -> None:
    """Check ``rdf.yaml`` against bioimage.io's format, without network.

    Raises
    ------
    ModelError
        With the format's own words, if it does not conform.
    """
    file = folder / FILES["description"]
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    context = ValidationContext(root=folder, file_name=file.name, perform_io_checks=False, log_warnings=False)
    summary = validate_format(content, context=context)
    if summary.status == "failed":
        reasons = "; ".join(f"{'.'.join(map(str, entry.loc))}: {entry.msg}" for entry in summary.errors)
        raise ModelError(f"{file}: not a valid bioimage.io description ({reasons}). Report this.")


def output_file(output: str) -> str:
    """Name of the file with the test tensor of an output."""
    return f"test_output_{output.removesuffix('_px')}.npy"


def vector_file(vector: str) -> str:
    """Name of the file with the test tensor of an input beside the first."""
    return f"test_input_{vector}.npy"


def file_entry(folder: Path, name: str) -> dict[str, str]:
    """Source and hash of a file of the package."""
    return {"source": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}


def _vector(folder: Path, spec: TensorSpec) -> dict[str, Any]:
    """An input ``(B, K)`` beside the first."""
    return {
        "id": spec.id,
        "description": spec.description,
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(spec.channels)}],
        "test_tensor": file_entry(folder, vector_file(spec.id)),
        "data": {"type": "float32", "range": list(spec.limits)},
    }
