"""From a run to a model package that the runtime has opened, run and scored."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spm_runtime.errors import ModelIntegrityError, ParameterError
from spm_runtime.levelling import level_for_network
from spm_runtime.models import ModelPackage, load_package
from spm_runtime.session import Session, self_test
from spm_training.data import Split, rng_for
from spm_training.evaluate import EVALUATION_SEED, EvaluationOptions, ImageScore, evaluate, package_finder
from spm_training.graphs import Calibration, ExportGraph, FinderGraph
from spm_training.onnx_export import deployable, to_onnx
from spm_training.package import FILES, Description, file_entry, output_file, validate_description
from spm_training.recipe import Recipe, load_recipe, recipe_names
from spm_training.report import Report, Subject
from spm_training.run import RunFolder
from spm_training.simulate.columns import simulate_columns
from spm_training.tasks import task_of
from spm_training.trained import trained_network

__all__ = ["ExportOptions", "Exported", "check_against_torch", "export_run"]

#: Largest difference between torch and the runtime, relative to the output's largest value where that exceeds 1.
TORCH_TOLERANCE = 1e-4
#: Not square, and not a power of two: an exchange of the axes shows.
_TEST_SHAPE = (96, 144)


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
        Makes the confidence a probability; None leaves it as the network learned it.
    attachments
        Runs of further networks of the package by name, as ``scale``.
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
    report: Report | None


def export_run(
    run: RunFolder,
    folder: Path,
    options: ExportOptions,
    *,
    evaluation: EvaluationOptions | None = None,
    overwrite: bool = False,
    on_image: Callable[[ImageScore], object] | None = None,
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
        The images on which the package is scored for its card; None leaves the scores out.
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
        If the destination is taken, the run folder is none, or its network finds no atoms.
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


def _make(
    run: RunFolder,
    folder: Path,
    options: ExportOptions,
    evaluation: EvaluationOptions | None,
    on_image: Callable[[ImageScore], object] | None,
) -> tuple[float, Report | None]:
    """Write a package into an empty folder, check and score it; the difference from torch and the scores."""
    graph, training = _trained_graph(run, half=options.half)
    if not isinstance(graph, FinderGraph):
        raise ParameterError(
            f"{run.path}: a run of the task {run.recipe().task!r}, which is no package of its own; expected one that finds "
            "atoms. Give it with --scale-run beside such a run."
        )
    if options.calibration is not None:
        graph.calibrate(options.calibration)
    recipe = _as_described_now(run.recipe())
    identity = f"{recipe.name}@{options.version}"
    (folder / FILES["weights"]).write_bytes(to_onnx(graph, identity=identity, half=options.half))
    _write_test_tensors(graph, torch.from_numpy(_test_image()), folder)
    attached = {
        name: _attach(other, name, folder, identity=identity, half=options.half)
        for name, other in options.attachments.items()
    }
    unscored = "Not scored. `spm-train evaluate` scores it.\n"
    description = Description(recipe, graph, options.version, training, {}, unscored, 0.0, attached)
    description.write(folder)
    difference = check_against_torch(graph, load_package(folder), _lattices(graph.stride))
    report = None
    if evaluation is not None:
        package = load_package(folder)
        report = Report(
            Subject.of(package), evaluation, evaluate(package_finder(package), evaluation, on_image=on_image)
        )
        description = replace(description, metrics=report.headline(), tables=report.card(folder))
    replace(description, difference=difference).write(folder)
    validate_description(folder)
    package = load_package(folder)
    for one in (package, *package.attached.values()):
        self_test(Session(one, "cpu"))
    return difference, report


def _trained_graph(run: RunFolder, *, half: bool) -> tuple[ExportGraph, dict[str, object]]:
    """The best weights of a run, ready for export, and the facts of its training."""
    network, training = trained_network(run)
    graph = task_of(run.recipe()).graph(deployable(network, half=half))
    graph.eval()
    return graph, {**training, "weights": "float16" if half else "float32"}


def _attach(run: RunFolder, name: str, folder: Path, *, identity: str, half: bool) -> dict[str, object]:
    """Write a further network with its test tensors into a package; its entry for the description."""
    graph, training = _trained_graph(run, half=half)
    weights = f"{name}.onnx"
    (folder / weights).write_bytes(to_onnx(graph, identity=f"{identity}/{name}", half=half))
    task = task_of(run.recipe())
    dataset = task.dataset(Split.EVALUATION)
    tensor = task.inputs(task.collate([dataset[0, 0]]))
    files = _write_test_tensors(graph, tensor, folder, prefix=f"{name}_")
    entries = [{"id": one, "test_tensor": file_entry(folder, file)} for one, file in files.items()]
    return {**file_entry(folder, weights), "inputs": entries[:1], "outputs": entries[1:], "training": training}


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
        Input tensors.

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
        found = session.run({graph.INPUT: tensor})
        with torch.no_grad():
            expected = graph.named(torch.from_numpy(tensor))
        for name, value in expected.items():
            scale = max(1.0, float(value.abs().max()))
            worst = max(worst, float(np.abs(found[name] - value.numpy()).max()) / scale)
    if not worst <= TORCH_TOLERANCE:
        raise ModelIntegrityError(
            f"{package.folder}: the runtime and torch differ by {worst:.2g}; expected at most {TORCH_TOLERANCE:g}. Report this."
        )
    return worst


def _lattices(stride: int) -> Iterator[NDArray[np.float32]]:
    """Batches of levelled images of several sizes.

    Lattices, not noise: on noise a good network says 0 everywhere, and the clamp would hide a difference.
    """
    rng = rng_for(EVALUATION_SEED, Split.EVALUATION, 0, 0)
    for batch, rows, columns in ((1, 1, 1), (1, 7, 3), (3, 4, 4), (1, 16, 20)):
        shape = rows * stride, columns * stride
        scenes = [simulate_columns(rng, shape=shape, families=["square"], spacing_px=(5.0, 9.0)) for _ in range(batch)]
        yield np.stack([level_for_network(scene.image) for scene in scenes])[:, None]


def _test_image() -> NDArray[np.float32]:
    """``(1, 1, H, W)`` levelled image."""
    scene = simulate_columns(
        rng_for(EVALUATION_SEED, Split.EVALUATION, 0, 1), shape=_TEST_SHAPE, spacing_px=(9.0, 10.0)
    )
    return level_for_network(scene.image)[None, None]


def _write_test_tensors(graph: ExportGraph, tensor: Tensor, folder: Path, *, prefix: str = "") -> dict[str, str]:
    """Write an input and what the network says of it; the files by the names of the tensors, the input first."""
    with torch.no_grad():
        outputs = graph.named(tensor)
    files = {graph.INPUT: prefix + FILES["image"]} | {name: prefix + output_file(name) for name in outputs}
    for name, value in ({graph.INPUT: tensor} | outputs).items():
        np.save(folder / files[name], value.numpy().astype(np.float32), allow_pickle=False)
    return files
