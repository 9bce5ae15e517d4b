"""The package of networks that went on learning at home, beside what is kept of the shipped one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage, load_package
from spm_runtime.pipelines.patch_maps import STRIDE_PX
from spm_runtime.session import Session, self_test
from spm_training.export import attach, check_against_torch, write_test_tensors
from spm_training.finetune.rebuild import calibration_of, description_of
from spm_training.graphs.finder import FinderOfDefectsGraph
from spm_training.graphs.onnx_export import deployable, to_onnx
from spm_training.graphs.patches import DecoderGraph, ImageEncoderGraph
from spm_training.networks.ae1 import Ae1
from spm_training.networks.finder import FinderNet
from spm_training.options import CardOptions, ParameterOptions
from spm_training.packages.card import FILES, Description, output_file, validate_description
from spm_training.packages.defects import DefectsPackage
from spm_training.packages.stages import StageOne
from spm_training.packages.task import Attachment
from spm_training.recipe import Recipe, load_recipe

__all__ = ["Parts", "Story", "check_name", "write_package"]

#: What bioimage.io allows in the name of a model, as far as a folder may be called so everywhere.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{4,127}")
#: What a card says beside the known failures of the parent.
_WARNING = (
    "Went on learning from scans of one kind of surface, which nobody has labelled: on others its parent may be better."
)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a new package is made of.

    Parameters
    ----------
    finder
        The finder of the package, and whether it went on learning.
    patches
        The patch autoencoder that went on learning, with what its latents taught; None keeps what the parent has.
    """

    finder: FinderNet
    finder_is_tuned: bool
    patches: tuple[Ae1, StageOne] | None


@dataclass(frozen=True)
class Story:
    """What a new package says of itself.

    Parameters
    ----------
    name, version
        Of the package.
    training
        Facts for the card, flat.
    metrics
        Scores, flat.
    tables
        Markdown of the scores.
    """

    name: str
    version: str
    training: Mapping[str, object]
    metrics: Mapping[str, float]
    tables: str


def check_name(folder: Path) -> str:
    """The name of a new package is that of its folder.

    Raises
    ------
    ParameterError
        If the folder is there already, or no model may be called so.
    """
    if folder.exists():
        raise ParameterError(f"--out {folder}: exists already; expected a new folder. Choose another.")
    if _NAME.fullmatch(folder.name) is None:
        raise ParameterError(
            f"--out {folder}: {folder.name!r} is no name for a model; expected five or more letters, digits, _ and -. "
            "Choose another."
        )
    return folder.name


def write_package(folder: Path, parent: ModelPackage, parts: Parts, story: Story) -> ModelPackage:
    """Write a package into an empty folder and verify it through the runtime.

    Parameters
    ----------
    folder
        Where it goes.
    parent
        The package that it comes from; what did not go on learning is copied from it file by file.
    parts, story
        What it is made of, and what it says.

    Raises
    ------
    ModelIntegrityError
        If the runtime does not reproduce torch.
    """
    identity, half = f"{story.name}@{story.version}", parent.training.get("weights") == "float16"
    kinds, channels = (tuple(parent.settings[name]) for name in ("classes", "channels"))
    graph = FinderOfDefectsGraph(deployable(parts.finder, half=half and parts.finder_is_tuned), kinds, channels)
    calibration = calibration_of(parent)
    if calibration is not None:
        graph.calibrate(calibration)
    graph.eval()
    if parts.finder_is_tuned:
        image = torch.from_numpy(parent.test_tensors()[0][graph.INPUT])
        (folder / FILES["weights"]).write_bytes(to_onnx(graph, identity=identity, half=half))
        write_test_tensors(graph, image, folder)
    else:
        _copy_finder(parent, folder)
    entries, checks, settings = _attached(folder, parent, parts, story, identity)
    task = DefectsPackage(_described(parent, story, tuned=parts.finder_is_tuned or parts.patches is not None))
    description = Description(
        task, graph, story.version, story.training, story.metrics, story.tables, 0.0, entries, settings
    )
    description.write(folder)
    package = load_package(folder)
    inputs, _ = package.test_tensors()
    difference = check_against_torch(graph, package, [inputs[graph.INPUT]])
    for name, one in checks.items():
        tensor = one.tensor.numpy()
        difference = max(difference, check_against_torch(one.graph, package.attached[name], [tensor]))
    replace(description, difference=difference).write(folder)
    validate_description(folder)
    package = load_package(folder)
    for network in (package, *package.attached.values()):
        self_test(Session(network, "cpu"))
    return package


def _copy_finder(parent: ModelPackage, folder: Path) -> None:
    """The files of the parent's finder under the names that a description knows."""
    (folder / FILES["weights"]).write_bytes(parent.verified_weights())
    shutil.copyfile(parent.inputs[0].file, folder / FILES["image"])
    for tensor in parent.outputs:
        shutil.copyfile(tensor.file, folder / output_file(tensor.id))


def _attached(
    folder: Path, parent: ModelPackage, parts: Parts, story: Story, identity: str
) -> tuple[dict[str, Any], dict[str, Attachment], dict[str, Any]]:
    """Entries of the further networks, those of them to be compared with torch, and the settings of the pipeline."""
    entries: dict[str, Any] = dict(description_of(parent)["config"]["spm"].get("attachments", {}))
    settings = dict(parent.settings)
    if parts.patches is None:
        tuned: dict[str, Attachment] = {}
    else:
        network, learned = parts.patches
        tuned = _patch_graphs(parent, network, learned, story)
        settings |= {
            "clusters": len(learned.clusters.centres),
            "target_clusters": list(learned.target_clusters),
            "novelty_distance": learned.novelty_distance,
        }
    for name, entry in entries.items():
        if name in tuned:
            entries[name] = attach(tuned[name], name, folder, identity)
            continue
        for source in (
            entry["source"],
            *(one["test_tensor"]["source"] for one in (*entry["inputs"], *entry["outputs"])),
        ):
            shutil.copyfile(parent.folder / source, folder / source)
    return entries, tuned, settings


def _patch_graphs(parent: ModelPackage, network: Ae1, learned: StageOne, story: Story) -> dict[str, Attachment]:
    old = parent.attached["encoder"]
    half = old.training.get("weights") == "float16"
    encoder = deployable(ImageEncoderGraph(network, stride_px=STRIDE_PX, clusters=learned.clusters).eval(), half=half)
    decoder = deployable(DecoderGraph(network).eval(), half=half)
    image = torch.from_numpy(old.test_tensors()[0]["image"])
    with torch.no_grad():
        latent = encoder.named(image)["latent"][0].flatten(1).T.contiguous()
    facts = {**old.training, **story.training, "recipe": old.training["recipe"]}
    return {
        "encoder": Attachment(encoder, image, facts, half),
        "decoder": Attachment(decoder, latent[:16], facts, half),
    }


def _described(parent: ModelPackage, story: Story, *, tuned: bool) -> Recipe:
    """The shipped recipe with what the parent says of its use."""
    low, high = parent.pixel_size_nm
    failures = (*parent.known_failures, *((_WARNING,) if tuned else ()))
    card = CardOptions.model_validate(
        {
            "modalities": parent.modalities,
            "pixel_size_min_nm": low,
            "pixel_size_max_nm": high,
            "known_failures": failures,
        }
    )
    known = {name: one.default for name, one in parent.parameters.items() if name in ParameterOptions.model_fields}
    recipe = load_recipe("defects")
    network = recipe.network.model_copy(update={"channels": tuple(parent.settings["channels"])})
    # Not validated anew: the name of a recipe is stricter than that of a model.
    return recipe.model_copy(
        update={
            "name": story.name,
            "title": f"{parent.description.rstrip('.')}, fine-tuned at home",
            "network": network,
            "card": card,
            "parameters": ParameterOptions.model_validate(known),
        }
    )
