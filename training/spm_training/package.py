"""The description (``rdf.yaml``) and the card (``README.md``) of a model package that finds atoms.

The description follows bioimage.io's model format 0.5, so that other tools can open it; what that format cannot say stands
under ``config.spm``, which `spm_runtime.models` reads.
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
from spm_runtime.levelling import BACKGROUND_RADIUS_PX, SOFT_LIMIT
from spm_training.graphs import FinderGraph, TensorSpec
from spm_training.onnx_export import OPSET
from spm_training.recipe import Recipe

__all__ = ["FILES", "TOLERANCE", "Description", "file_entry", "output_file", "validate_description"]

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


@dataclass(frozen=True)
class Description:
    """Everything that ``rdf.yaml`` and the card say.

    Parameters
    ----------
    recipe
        The resolved recipe of the run.
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
    """

    recipe: Recipe
    graph: FinderGraph
    version: str
    training: Mapping[str, object]
    metrics: Mapping[str, float]
    tables: str
    difference: float
    attachments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write card and description; the other files of the package must be there, their hashes go in."""
        (folder / FILES["card"]).write_text(self.card(), encoding="utf-8", newline="\n")
        text = yaml.safe_dump(self.rdf(folder), sort_keys=False, allow_unicode=True, width=120)
        (folder / FILES["description"]).write_text(text, encoding="utf-8", newline="\n")

    def rdf(self, folder: Path) -> dict[str, Any]:
        """The content of ``rdf.yaml``."""
        attachments = [{"source": entry["source"], "sha256": entry["sha256"]} for entry in self.attachments.values()]
        return {
            "format_version": _FORMAT_VERSION,
            "type": "model",
            "name": self.recipe.name,
            "description": self.recipe.title,
            "version": self.version,
            "timestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "license": "BSD-3-Clause",
            "authors": [{"name": "The Adatom developers"}],
            "cite": [
                {
                    "text": "O. Ronneberger, P. Fischer, T. Brox: U-Net: convolutional networks for biomedical image "
                    "segmentation, MICCAI 2015",
                    "doi": "10.1007/978-3-319-24574-4_28",
                },
                {
                    "text": "Yan Zhangyuan: Scanning transmission electron microscopy image atomic position detection by using "
                    "deep learning (AtomID-net), MPhil thesis, The Hong Kong Polytechnic University, 2024",
                    "url": "https://theses.lib.polyu.edu.hk/",
                },
            ],
            "tags": ["atoms", "unet", "semantic-segmentation", "2d", "onnx", *self.recipe.card.modalities],
            "documentation": FILES["card"],
            **({"attachments": attachments} if attachments else {}),
            "inputs": [self._input(folder)],
            "outputs": [_output(folder, spec) for spec in self.graph.OUTPUTS],
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
        def free(axis: str) -> dict[str, Any]:
            return {"type": "space", "id": axis, "size": {"min": self.graph.stride, "step": self.graph.stride}}

        return {
            "id": self.graph.INPUT,
            "description": "The scan after levelling (config.spm.levelling): background removed, contrast normalised.",
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["levelled"]},
                free("y"),
                free("x"),
            ],
            "test_tensor": file_entry(folder, FILES["image"]),
            "data": {"type": "float32", "range": [-SOFT_LIMIT, SOFT_LIMIT]},
        }

    def _reproducibility(self) -> dict[str, Any]:
        tolerance = {"absolute_tolerance": TOLERANCE, "relative_tolerance": TOLERANCE, "weights_formats": ["onnx"]}
        return {"reproducibility_tolerance": [tolerance]}

    def _spm(self) -> dict[str, Any]:
        recipe, knots = self.recipe, self.graph.calibration
        low, high = recipe.simulator.spacing_min_px, recipe.simulator.spacing_max_px
        return {
            "task": recipe.task,
            "modalities": list(recipe.card.modalities),
            "levelling": {
                "function": "spm_runtime.levelling.level_for_network",
                "background_radius_px": BACKGROUND_RADIUS_PX,
                "soft_limit": SOFT_LIMIT,
            },
            "size_multiple": self.graph.stride,
            "halo_px": self.graph.halo_px,
            "spacing_px": {"minimum": low, "maximum": high},
            "pixel_size_nm": {"minimum": recipe.card.pixel_size_min_nm, "maximum": recipe.card.pixel_size_max_nm},
            "tolerance": TOLERANCE,
            "parameters": {
                "filter_lower_bound": {
                    "default": recipe.parameters.filter_lower_bound, "minimum": 0.0, "maximum": 1.0,
                    "description": "Lowest confidence of an atom; higher finds fewer and surer atoms.",
                },
                "filter_window_size": {
                    "default": recipe.parameters.filter_window_size, "minimum": 0.1, "maximum": 1.5,
                    "description": "Window of the max-pool filter in units of the spacing; one atom at most is found in it.",
                },
                "spacing_px": {
                    "default": 0.0, "minimum": 0.0, "maximum": 1000.0,
                    "description": "Nearest-neighbour spacing in pixels of the scan; 0 lets the network find it.",
                },
            },
            **({} if knots is None else {"calibration": {"raw": list(knots.raw), "probability": list(knots.probability)}}),
            **({"attachments": {name: dict(entry) for name, entry in self.attachments.items()}} if self.attachments else {}),
            "training": dict(self.training),
            "metrics": dict(self.metrics),
            "known_failures": list(recipe.card.known_failures),
        }  # fmt: skip

    def _confidence_meaning(self) -> str:
        if self.graph.calibration is None:
            return "The confidence is what the network learned, clamped: no probability."
        return "The confidence is calibrated: the share of true columns among marks of that score (config.spm.calibration)."

    def card(self) -> str:
        """The model card."""
        recipe, graph = self.recipe, self.graph
        parameters = sum(parameter.numel() for parameter in graph.parameters())
        outputs = "\n".join(
            f"* `{one.id}` `(B, {len(one.channels)}{', H, W' if one.is_map else ''})`: {one.description}"
            for one in graph.OUTPUTS
        )
        facts = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in self.training.items())
        failures = "\n".join(f"* {sentence}" for sentence in recipe.card.known_failures)
        modalities = " and ".join(modality.upper() for modality in recipe.card.modalities)
        pixels = f"{recipe.card.pixel_size_min_nm:g} to {recipe.card.pixel_size_max_nm:g} nm"
        spacings = f"{recipe.simulator.spacing_min_px:g} to {recipe.simulator.spacing_max_px:g} px"
        return f"""# {recipe.name} {self.version}

{recipe.title}.

For {modalities} images with pixels of {pixels}; trained on nearest-neighbour spacings of {spacings} (the runtime
resamples a scan to a comfortable spacing first).

## Network

U-Net of base width {graph.base_width} and depth {graph.depth}: {parameters:,} parameters, batch norms folded in here.
Input `image` `(B, 1, H, W)`: the levelled scan, H and W multiples of {graph.stride}. Outputs:

{outputs}

A pixel of a map looks at most {graph.halo_px} px far. {self._confidence_meaning()}
The exported graph and torch differ by at most {self.difference:.1e} (checked with onnxruntime on the CPU by `spm-train export`).

## Scores

{self.tables}
## Training

| | |
|---|---|
{facts}

## Known failures

{failures or "None known."}
"""


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


def file_entry(folder: Path, name: str) -> dict[str, str]:
    """Source and hash of a file of the package."""
    return {"source": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}


def _output(folder: Path, spec: TensorSpec) -> dict[str, Any]:
    def same(axis: str) -> dict[str, Any]:
        return {"type": "space", "id": axis, "size": {"tensor_id": "image", "axis_id": axis}}

    space = [same("y"), same("x")] if spec.is_map else []
    return {
        "id": spec.id,
        "description": spec.description,
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(spec.channels)}, *space],
        "test_tensor": file_entry(folder, output_file(spec.id)),
        "data": {"type": "float32", "range": list(spec.limits)},
    }
