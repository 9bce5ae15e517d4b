"""The network of AtomAI (Ziatdinov et al., Nat. Mach. Intell. 4, 1101, 2022), retrained on this project's simulator.

The network's class is AtomAI's own, at its defaults (a U-Net of 0.6 M parameters). So is the recipe: binary discs at the columns
as the target, cross-entropy, Adam at 1e-3, batches of random crops. AtomAI scales an image to [0, 1] by its extremes; here the
levelled image is scaled by fixed numbers, which noise cannot move.

AtomAI's package imports a dozen libraries that the network does not need. It is installed without them, and only the file of the
network is imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spm_runtime.errors import ModelError, ParameterError
from spm_runtime.levelling import level_for_network
from spm_training.atoms.evaluate import EVALUATION_SEED
from spm_training.data import Split, rng_for
from spm_training.files import write_atomically
from spm_training.peers.optional import is_installed
from spm_training.simulate.columns import FAMILIES, Scene, simulate_columns

__all__ = ["MULTIPLE", "REMEDY", "AtomaiTraining", "build_network", "confidence", "disc_mask", "load_or_train", "train"]

REMEDY = "pip install --no-deps atomai"

#: Sides of an image are multiples of this: three times pooled by two.
MULTIPLE = 8
#: Radius of a disc in spacings, and the least one in pixels: discs of neighbours stay apart.
_DISC_SPACINGS, _DISC_LEAST_PX = 0.25, 1.0
#: Share of the time after which the learning rate falls to a tenth.
_SLOW_AFTER = 0.8


@dataclass(frozen=True)
class AtomaiTraining:
    """What the network is trained on, and for how long.

    Parameters
    ----------
    minutes
        Time of the optimisation alone; drawing the crops does not count, since AtomAI draws them beforehand.
    spacing_px, detectability
        Ranges of the simulator; the default covers the evaluation.
    crop_px, batch
        Side and number of the crops of a step.
    seed
        Of the weights and crops.
    """

    minutes: float = 18.0
    spacing_px: tuple[float, float] = (4.0, 30.0)
    detectability: tuple[float, float] = (3.0, 36.0)
    crop_px: int = 128
    batch: int = 16
    seed: int = EVALUATION_SEED

    @property
    def nominal_px(self) -> float:
        """Middle of the spacings, which the simulator draws most often."""
        return float(np.sqrt(self.spacing_px[0] * self.spacing_px[1]))

    def facts(self) -> dict[str, object]:
        """What a file of weights must agree on."""
        return {**{name: repr(value) for name, value in asdict(self).items()}, "families": ", ".join(FAMILIES)}


def build_network() -> torch.nn.Module:
    """AtomAI's U-Net at its defaults: 16 filters, blocks of 1, 2, 2, 3 layers, batch norm, one class, logits.

    Raises
    ------
    ParameterError
        If AtomAI is not installed.
    """
    found = importlib.util.find_spec("atomai")
    if found is None or not found.submodule_search_locations:
        raise ParameterError(f"the peer needs atomai, which is not installed. Install it: {REMEDY}")
    # Under a name of its own, so that neither `atomai/__init__.py` nor `atomai/nets/__init__.py` runs.
    package = "_spm_training_atomai_nets"
    if package not in sys.modules:
        shell = ModuleType(package)
        shell.__path__ = [str(Path(found.submodule_search_locations[0]) / "nets")]
        sys.modules[package] = shell
    with _torchvision():
        network: torch.nn.Module = importlib.import_module(f"{package}.fcnn").Unet()
    return network


@contextmanager
def _torchvision() -> Iterator[None]:
    """Stand in for torchvision where it is not installed: the U-Net's file names three of its networks and uses none."""
    if is_installed("torchvision"):
        yield
        return
    shell, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    vars(models).update(mobilenet_v2=None, resnet50=None, vgg16=None)
    sys.modules.update({"torchvision": shell, "torchvision.models": models})
    try:
        yield
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.models"]


def disc_mask(scene: Scene) -> NDArray[np.float32]:
    """The target ``(H, W)``: 1 on discs at the required columns, 0 elsewhere."""
    shape = scene.image.shape
    columns = scene.yx_px[scene.required]
    if not len(columns):
        return np.zeros(shape, np.float32)
    radius = max(_DISC_SPACINGS * scene.spacing_px, _DISC_LEAST_PX)
    pixels = np.argwhere(np.ones(shape, bool))
    distance, _ = cKDTree(columns).query(pixels, distance_upper_bound=np.nextafter(radius, np.inf))
    return np.asarray(np.isfinite(distance).reshape(shape), dtype=np.float32)


def confidence(network: torch.nn.Module, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network's confidence ``(H, W)`` in [0, 1] for an image as a microscope saves it."""
    height, width = image.shape
    padded = np.pad(_input(image), ((0, -height % MULTIPLE), (0, -width % MULTIPLE)), mode="edge")
    with torch.inference_mode():
        score = torch.sigmoid(network(torch.from_numpy(padded)[None, None]))
    return np.asarray(score[0, 0, :height, :width].numpy())


def train(options: AtomaiTraining, *, report: Callable[[str], object] = lambda _: None) -> tuple[torch.nn.Module, int]:
    """Train the network until its time is over; at least one step.

    Parameters
    ----------
    options
        Data and budget.
    report
        Takes a line now and then.

    Returns
    -------
    The network, ready to predict, and the number of steps.

    Raises
    ------
    ParameterError
        If AtomAI is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = build_network().train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_of = torch.nn.BCEWithLogitsLoss()
    spent, steps, budget = 0.0, 0, 60.0 * options.minutes
    while steps == 0 or spent < budget:
        images, masks = _crops(options, steps)
        started = time.perf_counter()
        if spent > _SLOW_AFTER * budget:
            optimiser.param_groups[0]["lr"] = 1e-4
        optimiser.zero_grad()
        loss = loss_of(network(images), masks)
        loss.backward()
        optimiser.step()
        spent += time.perf_counter() - started
        if steps % 100 == 0:
            report(
                f"AtomAI's network: step {steps}, loss {float(loss.detach()):.4f}, {spent / 60:.1f} of {options.minutes:g} min"
            )
        steps += 1
    return network.eval(), steps


def load_or_train(
    weights: Path, options: AtomaiTraining, *, report: Callable[[str], object] = lambda _: None
) -> torch.nn.Module:
    """The network with the weights of a file; where there is none it is trained and the file written.

    Raises
    ------
    ParameterError
        If the file was trained with other settings or other families, or AtomAI is not installed.
    ModelError
        If the file cannot be read.
    """
    if not weights.is_file():
        network, steps = train(options, report=report)
        buffer = io.BytesIO()
        facts = {**options.facts(), "steps": steps, "atomai": importlib.metadata.version("atomai")}
        torch.save({"weights": network.state_dict(), "facts": facts}, buffer)
        weights.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(weights, buffer.getvalue())
        return network
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{weights}: no file of weights ({error}). Delete it; it will be trained again.") from error
    differ = [name for name, value in options.facts().items() if state["facts"].get(name) != value]
    if differ:
        seen = {name: state["facts"].get(name) for name in differ}
        raise ParameterError(
            f"{weights}: trained with {seen}, expected {[options.facts()[name] for name in differ]}. "
            "Delete the file to train again, or ask for those settings."
        )
    network = build_network()
    network.load_state_dict(state["weights"])
    return network.eval()


def _crops(options: AtomaiTraining, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks ``(B, 1, H, W)`` of one step, from the training split."""
    scenes = [
        simulate_columns(
            rng_for(options.seed, Split.TRAIN, step, index),
            shape=(options.crop_px, options.crop_px),
            spacing_px=options.spacing_px,
            detectability=options.detectability,
        )
        for index in range(options.batch)
    ]
    images = np.stack([_input(scene.image) for scene in scenes])[:, None]
    return torch.from_numpy(images), torch.from_numpy(np.stack([disc_mask(scene) for scene in scenes])[:, None])


def _input(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The levelled image (within ±4) in [0, 1]."""
    return np.asarray((level_for_network(image) + 4) / 8, dtype=np.float32)
