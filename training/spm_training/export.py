"""From a run to a model package that the runtime has opened, run and scored."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spm_runtime.errors import ModelIntegrityError, ParameterError
from spm_runtime.levelling import level_for_network
from spm_runtime.models import load_package
from spm_runtime.session import Session, self_test
from spm_training.data import Split, rng_for
from spm_training.evaluate import EVALUATION_SEED, EvaluationOptions, ImageScore, evaluate, package_finder
from spm_training.networks.atoms import AtomsNet
from spm_training.onnx_export import AtomsGraph, deployable, to_onnx
from spm_training.package import FILES, Description, validate_description
from spm_training.recipe import Recipe, load_recipe, recipe_names
from spm_training.report import Report, Subject
from spm_training.run import RunFolder
from spm_training.simulate.columns import simulate_columns
from spm_training.trained import trained_network

__all__ = ["Exported", "check_against_torch", "export_run"]

#: Largest difference between torch and the runtime, relative to the output's largest value where that exceeds 1.
TORCH_TOLERANCE = 1e-4
#: Not square, and not a power of two: an exchange of the axes shows.
_TEST_SHAPE = (96, 144)


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
    *,
    version: str,
    half: bool = False,
    options: EvaluationOptions | None = None,
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
    version
        Its version, as ``1.0.0``.
    half
        Store the weights as float16: half the size.
    options
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
        If the destination is taken, or the run folder is none.
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
        difference, report = _make(run, made, version=version, half=half, options=options, on_image=on_image)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return Exported(folder, difference, report)


def _make(
    run: RunFolder,
    folder: Path,
    *,
    version: str,
    half: bool,
    options: EvaluationOptions | None,
    on_image: Callable[[ImageScore], object] | None,
) -> tuple[float, Report | None]:
    """Write a package into an empty folder, check and score it; the difference from torch and the scores."""
    network, training = trained_network(run)
    ready = deployable(network, half=half)
    recipe = _as_described_now(run.recipe())
    (folder / FILES["weights"]).write_bytes(to_onnx(ready, identity=f"{recipe.name}@{version}", half=half))
    _write_test_tensors(ready, folder)
    training = {**training, "weights": "float16" if half else "float32"}
    unscored = "Not scored. `spm-train evaluate` scores it.\n"
    Description(recipe, network, version, training, {}, unscored, 0.0).write(folder)
    difference = check_against_torch(ready, folder)
    metrics: Mapping[str, float] = {}
    scores, report = unscored, None
    if options is not None:
        package = load_package(folder)
        report = Report(Subject.of(package), options, evaluate(package_finder(package), options, on_image=on_image))
        metrics, scores = report.headline(), report.markdown()
    Description(recipe, network, version, training, metrics, scores, difference).write(folder)
    validate_description(folder)
    self_test(Session(load_package(folder), "cpu"))
    return difference, report


def _as_described_now(recipe: Recipe) -> Recipe:
    """The run's recipe with the card and the parameters of the shipped one: both are decided after a training."""
    if recipe.name not in recipe_names():
        return recipe
    shipped = load_recipe(recipe.name)
    return recipe.model_copy(update={"card": shipped.card, "parameters": shipped.parameters})


def check_against_torch(network: AtomsNet, folder: Path) -> float:
    """Run the package through the runtime on lattices of several sizes and compare with torch.

    Parameters
    ----------
    network
        What was exported, as `spm_training.onnx_export.deployable` returned it.
    folder
        The package.

    Returns
    -------
    Largest difference, relative to the output's largest value where that exceeds 1.

    Raises
    ------
    ModelIntegrityError
        If it exceeds `TORCH_TOLERANCE`.
    """
    session = Session(load_package(folder), "cpu")
    graph = AtomsGraph(network).eval()
    rng = rng_for(EVALUATION_SEED, Split.EVALUATION, 0, 0)
    worst = 0.0
    stride = network.stride
    for batch, rows, columns in ((1, 1, 1), (1, 7, 3), (3, 4, 4), (1, 16, 20)):
        shape = rows * stride, columns * stride
        # Lattices, not noise: on noise a good network says 0 everywhere, and the clamp would hide a difference.
        scenes = [simulate_columns(rng, shape=shape, families=["square"], spacing_px=(5.0, 9.0)) for _ in range(batch)]
        image = np.stack([level_for_network(scene.image) for scene in scenes])[:, None]
        found = session.run({"image": image})
        with torch.no_grad():
            expected = graph(torch.from_numpy(image))
        for name, tensor in zip(("confidence", "spacing_px"), expected, strict=True):
            scale = max(1.0, float(tensor.abs().max()))
            worst = max(worst, float(np.abs(found[name] - tensor.numpy()).max()) / scale)
    if not worst <= TORCH_TOLERANCE:
        raise ModelIntegrityError(
            f"{folder}: the runtime and torch differ by {worst:.2g}; expected at most {TORCH_TOLERANCE:g}. Report this."
        )
    return worst


def _write_test_tensors(network: AtomsNet, folder: Path) -> None:
    """A levelled image and what the network says of it."""
    scene = simulate_columns(
        rng_for(EVALUATION_SEED, Split.EVALUATION, 0, 1), shape=_TEST_SHAPE, spacing_px=(9.0, 10.0)
    )
    image = level_for_network(scene.image)[None, None]
    with torch.no_grad():
        confidence, spacing_px = AtomsGraph(network).eval()(torch.from_numpy(image))
    for key, array in (("image", image), ("confidence", confidence.numpy()), ("spacing_px", spacing_px.numpy())):
        np.save(folder / FILES[key], array.astype(np.float32), allow_pickle=False)
