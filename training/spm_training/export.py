"""From a run to a model package that the runtime has opened, run and scored."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spm_runtime.errors import ModelIntegrityError, ParameterError
from spm_runtime.models import ModelPackage, load_package
from spm_runtime.session import Session, self_test
from spm_training.graphs.base import Calibration, ExportGraph, FinderGraph
from spm_training.graphs.finder import FinderOfDefectsGraph
from spm_training.graphs.onnx_export import deployable, to_onnx
from spm_training.packages.atoms import AtomsPackage
from spm_training.packages.card import FILES, Description, file_entry, output_file, validate_description, vector_file
from spm_training.packages.defects import DefectsPackage
from spm_training.packages.denoise import DenoisePackage
from spm_training.packages.restore import RestorePackage
from spm_training.packages.task import (
    Attachment,
    CardReport,
    Evaluation,
    MapsGraph,
    PackagedTask,
    trained_for_export,
)
from spm_training.recipe import Recipe, load_recipe, recipe_names
from spm_training.run import RunFolder
from spm_training.tasks import task_of

__all__ = [
    "ExportOptions",
    "Exported",
    "attach",
    "check_against_torch",
    "evaluation_of",
    "export_run",
    "write_test_tensors",
]

#: Largest difference between torch and the runtime, relative to the output's largest value where that exceeds 1.
TORCH_TOLERANCE = 1e-4
#: Networks that make a package, by kind; all others are attached to one of them.
_PACKAGES: Mapping[str, type[PackagedTask]] = {
    "atoms": AtomsPackage,
    "atomid": AtomsPackage,
    "finder": DefectsPackage,
    "restorer": RestorePackage,
    "tip1": RestorePackage,
    "tip2": RestorePackage,
    "tip3": RestorePackage,
    "denoiser": DenoisePackage,
    "cae-a": DenoisePackage,
    "cae-b": DenoisePackage,
    "cae-twin": DenoisePackage,
    "cae-vae": DenoisePackage,
}


@dataclass(frozen=True)
class ExportOptions:
    """What an export makes of a run.

    Parameters
    ----------
    version
        Version of the package, as ``1.0.0``.
    half
        Store the weights as float16: half the size.
    calibration
        Makes the score a probability; None leaves it as the network learned it.
    attachments
        Runs of further networks of the package by the kind of the network: ``scale``, ``ae1``, ``ae2`` or ``tip``.
    """

    version: str
    half: bool = False
    calibration: Calibration | None = None
    attachments: Mapping[str, RunFolder] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Parameters
    ----------
    folder
        The package.
    difference
        Largest difference between torch and the runtime.
    report
        The scores, or None when it was not evaluated.
    """

    folder: Path
    difference: float
    report: CardReport | None


def export_run(
    run: RunFolder,
    folder: Path,
    options: ExportOptions,
    *,
    evaluation: Evaluation | None = None,
    overwrite: bool = False,
    on_image: Callable[[Any], object] | None = None,
) -> Exported:
    """Export the best weights of a run as a model package.

    Card and parameter defaults come from the shipped recipe of the run's name, where there is one, as it is now.
    The package is made beside its destination and moved there when the runtime has verified it, so a package is never half
    there.

    Parameters
    ----------
    run
        The run.
    folder
        Where the package goes.
    options
        What is made of the run.
    evaluation
        The images on which the package is scored for its card, as `evaluation_of` gives them; None leaves the scores out.
    overwrite
        Replace a package that is already there.
    on_image
        Called after every scored image.

    Returns
    -------
    Exported

    Raises
    ------
    ParameterError
        If the destination is taken, a run folder is none, or a network is no package, or none of this one.
    ModelIntegrityError
        If the runtime does not reproduce torch.
    ModelError
        If the checkpoint or the package is unusable.
    """
    if folder.exists() and (not overwrite or not (folder / FILES["description"]).is_file()):
        raise ParameterError(
            f"--to {folder}: exists already; expected a new folder. Choose another, or add --overwrite for a model package."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        difference, report = _make(run, made, options, evaluation, on_image)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return Exported(folder, difference, report)


def evaluation_of(run: RunFolder, images: int) -> Evaluation:
    """The images on which the package of a run is scored.

    Parameters
    ----------
    run
        The run.
    images
        Images of every kind.

    Raises
    ------
    ParameterError
        If the folder is no run, or its network is no package.
    """
    return _packaged(run).evaluation(images)


def _make(
    run: RunFolder,
    folder: Path,
    options: ExportOptions,
    evaluation: Evaluation | None,
    on_image: Callable[[Any], object] | None,
) -> tuple[float, CardReport | None]:
    """Write a package into an empty folder, check and score it; the difference from torch and the scores."""
    task = _packaged(run)
    _check_attachments(task, options.attachments)
    further = task.attach(options.attachments, half=options.half)
    graph, training = _trained_graph(run, half=options.half)
    settings = dict(further.settings)
    if options.calibration is not None:
        if not isinstance(graph, FinderGraph | FinderOfDefectsGraph):
            does = "restores surfaces" if task.recipe.task == "restore" else "takes noise away"
            raise ParameterError(
                f"--calibration: {task.recipe.name} {does}, and heights have no scores; expected a finder of atoms or of "
                "defects. Leave it out."
            )
        graph.calibrate(options.calibration)
        if options.calibration.alarm_levels:
            settings["alarm_levels"] = list(options.calibration.alarm_levels)
    identity = f"{task.recipe.name}@{options.version}"
    (folder / FILES["weights"]).write_bytes(to_onnx(graph, identity=identity, half=options.half))
    write_test_tensors(graph, torch.from_numpy(task.test_image()), folder)
    entries = {name: attach(one, name, folder, identity) for name, one in further.networks.items()}
    unscored = "Not scored. `spm-train evaluate` scores it.\n"
    description = Description(task, graph, options.version, training, {}, unscored, 0.0, entries, settings)
    description.write(folder)
    package = load_package(folder)
    differences = [check_against_torch(graph, package, task.check_images(graph.stride))]
    for name, one in further.networks.items():
        differences.append(check_against_torch(one.graph, package.attached[name], [one.tensor.numpy()]))
    difference = max(differences)
    report = None
    if evaluation is not None:
        report = task.scores(package, evaluation, on_image)
        description = replace(description, metrics=report.headline(), tables=task.tables(report, folder))
    replace(description, difference=difference).write(folder)
    validate_description(folder)
    package = load_package(folder)
    for network in (package, *package.attached.values()):
        self_test(Session(network, "cpu"))
    return difference, report


def _packaged(run: RunFolder) -> PackagedTask:
    """The task of a run whose network is a package of its own."""
    recipe = run.recipe()
    kind = recipe.network.kind
    if kind not in _PACKAGES:
        owner = next(name for name, task in _PACKAGES.items() if kind in task.ATTACHABLE)
        raise ParameterError(
            f"{run.path}: a run of the network {kind!r}, which is no package of its own; expected one of "
            f"{', '.join(_PACKAGES)}. Give it with --{kind}-run beside a run of {owner!r}."
        )
    return _PACKAGES[kind](_as_described_now(recipe))


def _check_attachments(task: PackagedTask, runs: Mapping[str, RunFolder]) -> None:
    """Refuse a run whose network is another one than its option names, or none of this task."""
    for kind, run in runs.items():
        if (seen := run.recipe().network.kind) != kind:
            raise ParameterError(
                f"--{kind}-run {run.path}: a run of the network {seen!r}; expected one of {kind!r}. Name another run."
            )
        if kind not in task.ATTACHABLE:
            raise ParameterError(
                f"--{kind}-run {run.path}: nothing that a package of the task {task.recipe.task!r} has; expected "
                f"{' or '.join(f'--{name}-run' for name in task.ATTACHABLE)}. Leave it out."
            )


def _trained_graph(run: RunFolder, *, half: bool) -> tuple[MapsGraph, dict[str, object]]:
    """The best weights of a run, ready for export, and the facts of its training."""
    network, training = trained_for_export(run, half=half)
    graph = task_of(run.recipe()).graph(deployable(network, half=half))
    if not isinstance(graph, MapsGraph):
        raise TypeError(f"a graph of type {type(graph).__name__} from a run of the kinds {', '.join(_PACKAGES)}")
    graph.eval()
    return graph, training


def attach(one: Attachment, name: str, folder: Path, identity: str) -> dict[str, Any]:
    """Write a further network with its test tensors into a package; its entry for the description."""
    weights = f"{name}.onnx"
    (folder / weights).write_bytes(to_onnx(one.graph, identity=f"{identity}/{name}", half=one.half))
    files = write_test_tensors(one.graph, one.tensor, folder, prefix=f"{name}_")
    entries = [{"id": tensor, "test_tensor": file_entry(folder, file)} for tensor, file in files.items()]
    return {
        **file_entry(folder, weights), "inputs": entries[:1], "outputs": entries[1:], "training": dict(one.training)
    }  # fmt: skip


def _as_described_now(recipe: Recipe) -> Recipe:
    """The run's recipe with the card and the parameters of the shipped one: both are decided after a training."""
    if recipe.name not in recipe_names():
        return recipe
    shipped = load_recipe(recipe.name)
    return recipe.model_copy(update={"card": shipped.card, "parameters": shipped.parameters})


def check_against_torch(graph: ExportGraph, package: ModelPackage, inputs: Iterable[NDArray[np.float32]]) -> float:
    """Run a package through the runtime and compare with torch.

    Parameters
    ----------
    graph
        What was exported.
    package
        The package.
    inputs
        First inputs; the graph has values for its vectors.

    Returns
    -------
    Largest difference, relative to the output's largest value where that exceeds 1.

    Raises
    ------
    ModelIntegrityError
        If it exceeds `TORCH_TOLERANCE`.
    """
    session = Session(package, "cpu")
    worst = 0.0
    for tensor in inputs:
        given = graph.inputs(torch.from_numpy(tensor))
        found = session.run({name: value.numpy() for name, value in given.items()})
        with torch.no_grad():
            expected = graph.named(*given.values())
        for name, value in expected.items():
            scale = max(1.0, float(value.abs().max()))
            worst = max(worst, float(np.abs(found[name] - value.numpy()).max()) / scale)
    if not worst <= TORCH_TOLERANCE:
        raise ModelIntegrityError(
            f"{package.folder}: the runtime and torch differ by {worst:.2g}; expected at most {TORCH_TOLERANCE:g}. Report this."
        )
    return worst


def write_test_tensors(graph: ExportGraph, tensor: Tensor, folder: Path, *, prefix: str = "") -> dict[str, str]:
    """Write inputs and what the network says of them; the files by the names of the tensors, the inputs first."""
    inputs = graph.inputs(tensor)
    with torch.no_grad():
        outputs = graph.named(*inputs.values())
    files = {graph.INPUT: prefix + FILES["image"]} | {one.id: prefix + vector_file(one.id) for one in graph.VECTORS}
    files |= {name: prefix + output_file(name) for name in outputs}
    for name, value in (inputs | outputs).items():
        np.save(folder / files[name], value.numpy().astype(np.float32), allow_pickle=False)
    return files
