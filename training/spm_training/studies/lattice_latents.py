"""Study: do ten numbers of a patch tell the lattices apart? Autoencoders beside a supervised network and principal components.

Source of the question: USC report, section 4.4 and figure 12: latents in three principal components, without clusters that show
a lattice. Here on images that no training draws, at stated levels of noise, and in numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from spm_kernels import PatchGrid, extract_patches
from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_training.cost import cost_of
from spm_training.data import Split
from spm_training.networks.cae import LATENT, CaeA, CaeVae, PatchDenoiser, divergence
from spm_training.peers.denoise_scores import draw_lattices
from spm_training.recipe import Recipe
from spm_training.run import RunFolder
from spm_training.simulate.stm_lattices import NOISE_LEVELS
from spm_training.studies.latent_scores import Encoded, pooled, probe_all, silhouette
from spm_training.studies.lattice_latents_page import (
    POOLED,
    PRINCIPAL,
    SUPERVISED,
    Found,
    Method,
    Variational,
    write_page,
)
from spm_training.studies.page import check_new
from spm_training.studies.supervised import LatticeClassifier, train_classifier
from spm_training.studies.variants import set_by_hand, shortened_recipe, train_variant
from spm_training.tasks.lattice_images import LatticePatches, turned
from spm_training.trained import trained_network

__all__ = ["NETWORKS", "LatticeLatentsOptions", "draw_tested", "encode", "study_lattice_latents"]

NAME = "lattice-latents"
#: The autoencoders that are compared.
NETWORKS = ("cae-a", "cae-b", "cae-twin", "cae-vae")
#: Seed of the images that decide.
SEED = 77_107
#: Distance of the patches of an image, and the number of them that single probes see.
_STRIDE_PX, _PROBED = 12, 64
#: Symmetries of a square: every patch is seen turned and mirrored too, because no lattice is.
_TURNS = 8
#: Patches that principal components are fitted to.
_FITTED = 20_000
#: Steps along a latent number in its standard deviations, for pictures.
_WALK = (-2.5, -1.5, -0.75, 0.0, 0.75, 1.5, 2.5)
#: Patches that go through a network at once.
_BATCH = 4096


@dataclass(frozen=True)
class LatticeLatentsOptions:
    """What is trained, and how much is looked at.

    Parameters
    ----------
    networks
        Names out of `NETWORKS`.
    runs
        Finished runs by the kind of their network; the others are trained.
    budget
        Share of the epochs of the recipes for those.
    images
        Images of each lattice at each level of noise.
    side_px
        Side of an image.
    overrides
        ``KEY=VALUE`` for the recipes of those that are trained.
    smoke
        The whole path in seconds.
    """

    networks: tuple[str, ...] = NETWORKS
    runs: Mapping[str, RunFolder] = field(default_factory=dict)
    budget: float = 0.1
    images: int = 20
    side_px: int = 256
    overrides: tuple[str, ...] = ()
    smoke: bool = False


def study_lattice_latents(
    out: Path, options: LatticeLatentsOptions, *, resume: bool, device: str, report: Callable[[str], None]
) -> Path | None:
    """Train what is missing, encode the images and write the report.

    Parameters
    ----------
    out
        Folder of the report, and of a run for each network that is trained (``cae-a`` …).
    options
        What is trained.
    resume
        Go on with what is there.
    device
        ``auto``, ``cpu`` or ``cuda``: where the autoencoders are trained.
    report
        Takes one line for a person.

    Returns
    -------
    The HTML file; None when stopped by Ctrl-C.

    Raises
    ------
    ParameterError
        If an override is refused, a folder is taken or a run is of another network.
    """
    unknown = sorted({*options.networks, *options.runs} - set(NETWORKS))
    if unknown:
        raise ParameterError(f"networks {unknown}: expected some of {', '.join(NETWORKS)}. Name others.")
    if unused := sorted(set(options.runs) - set(options.networks)):
        raise ParameterError(
            f"--run: runs of {', '.join(unused)}, which are not among --network {', '.join(options.networks)}. Leave them out."
        )
    if not resume:
        check_new(out, NAME)
    absent = {name: _recipe(name, options) for name in options.networks if name not in options.runs}
    taught = _recipe("cae-a", options)
    flop = sum(cost_of(recipe).flop_total for recipe in (*absent.values(), taught))
    report(f"{len(absent) + 1} trainings, {flop:.3g} FLOP in all")
    runs = {name: options.runs.get(name, RunFolder(out / name)) for name in options.networks}
    for name, recipe in absent.items():
        if not train_variant(recipe, runs[name], resume=resume, device=device, report=report):
            return None
    out.mkdir(parents=True, exist_ok=True)
    classifier = train_classifier(taught, out / "supervised.pt", report)
    tested = draw_tested(options.images, options.side_px)
    methods: dict[str, Method] = {}
    variational = None
    for name, run in runs.items():
        network = trained_network(run)[0]
        if not isinstance(network, PatchDenoiser):
            raise ParameterError(
                f"{run.path}: a run of another network than {name}; expected a patch autoencoder. Name another."
            )
        methods[name] = _method(tested, _encoder_of(network), f"{_steps(run):,} steps")
        report(f"{name}: {methods[name].probed[POOLED].accuracy:.1%} of the images are told right")
        if isinstance(network.network, CaeVae):
            variational = _variational(network.network, tested)
    steps = f"{taught.training.epochs * taught.data.steps_per_epoch:,} steps"
    methods[SUPERVISED] = _method(tested, classifier.encode, steps)
    methods[PRINCIPAL] = _method(tested, _components(taught), f"{_fitted(taught):,} patches")
    found = Found(methods, tested.level, variational, _supervised_patches(tested, classifier), options.images)
    told = set_by_hand(options.overrides)
    return write_page(out, NAME, found, flop=flop, budget=options.budget, given=sorted(options.runs), told=told)


def _recipe(name: str, options: LatticeLatentsOptions) -> Recipe:
    return shortened_recipe(name, options.budget, smoke=options.smoke, overrides=options.overrides)


def _steps(run: RunFolder) -> int:
    return len(run.metrics()) * run.recipe().data.steps_per_epoch


@dataclass(frozen=True, eq=False)
class Tested:
    """Patches of images that decide.

    Parameters
    ----------
    patches
        ``(I, N, 17, 17)`` float32 in units of the view.
    label, surface, level
        ``(I,)`` lattice, surface and level of noise of every image: numbers in `LATTICES`, from 0, in `NOISE_LEVELS`.
    """

    patches: NDArray[np.float32]
    label: NDArray[np.int64]
    surface: NDArray[np.int64]
    level: NDArray[np.int64]


def draw_tested(images: int, side_px: int) -> Tested:
    """Patches of images of the evaluation split, so many of every lattice at each of `NOISE_LEVELS`, all of other surfaces."""
    patches: list[NDArray[np.float32]] = []
    rows: list[tuple[int, int, int]] = []
    for level, noise in enumerate(NOISE_LEVELS.values()):
        for scene in draw_lattices(SEED + level, Split.EVALUATION, noise, count=images, side_px=side_px):
            image = denoise_view(scene.image).image
            grid = PatchGrid(image.shape, (CaeA.SIDE_PX, CaeA.SIDE_PX), _STRIDE_PX, regular=True)
            patches.append(extract_patches(image, grid))
            rows.append((scene.class_index, len(rows), level))
    label, surface, levels = np.array(rows, np.int64).T
    return Tested(np.stack(patches), label, surface, levels)


def encode(tested: Tested, encoder: Callable[[Tensor], Tensor]) -> Encoded:
    """Latents by a function from patches ``(B, 1, 17, 17)`` to ``(B, D)``: of all patches in each of the eight orientations."""
    flat = tested.patches.reshape(-1, 1, *tested.patches.shape[2:])
    rows: list[NDArray[np.float64]] = []
    with torch.no_grad():
        for turn in range(_TURNS):
            parts = []
            for first in range(0, len(flat), _BATCH):
                part = flat[first : first + _BATCH]
                patches, _ = turned(part, np.zeros((len(part), 2), np.float32), np.full(len(part), turn))
                parts.append(encoder(torch.from_numpy(patches)).double().numpy())
            rows.append(np.concatenate(parts).reshape(*tested.patches.shape[:2], -1))
    return Encoded(np.concatenate(rows, axis=1), tested.label, tested.surface)


def _method(tested: Tested, encoder: Callable[[Tensor], Tensor], learned: str) -> Method:
    encoded = encode(tested, encoder)
    some = encoded.some(_PROBED)
    return Method(
        learned,
        encoded,
        probe_all(encoded, _PROBED),
        silhouette(some.patches, some.of_patches(some.label)),
        silhouette(pooled(encoded.latents, POOLED), encoded.label),
    )


def _encoder_of(network: PatchDenoiser) -> Callable[[Tensor], Tensor]:
    """Of a smaller patch the upper left part is what it sees."""
    side = network.side_px
    return lambda patch: network(patch[..., :side, :side]).latent


def _fitted(recipe: Recipe) -> int:
    return min(_FITTED, recipe.data.pool * recipe.lattices.patches)


def _components(recipe: Recipe) -> Callable[[Tensor], Tensor]:
    """Principal components of the noisy patches that the networks learn from."""
    learned = LatticePatches(recipe, Split.TRAIN, CaeA.SIDE_PX)
    images = learned.__getitems__(learned.keys(_fitted(recipe))).image
    pca = PCA(LATENT, svd_solver="full").fit(images.flatten(1).double().numpy())
    return lambda patch: torch.from_numpy(pca.transform(patch.flatten(1).double().numpy()))


def _variational(network: CaeVae, tested: Tested) -> Variational:
    """What each number of the variational network is worth, and what it does to the mean patch."""
    patches = torch.from_numpy(tested.patches[:, ::4].reshape(-1, 1, *tested.patches.shape[2:]))
    with torch.no_grad():
        mean, log_variance = network.distribution(patches)
        nats = divergence(mean, log_variance).mean(dim=0)
        rows = {}
        for number in torch.argsort(nats, descending=True):
            moved = mean.mean(dim=0).repeat(len(_WALK), 1)
            moved[:, number] += torch.tensor(_WALK) * mean[:, number].std()
            rows[f"number {int(number)}"] = network.decode(moved)[:, 0].numpy()
    return Variational(nats.double().numpy(), rows)


def _supervised_patches(tested: Tested, classifier: LatticeClassifier) -> float:
    """How often the supervised network's own answer to a patch is right."""
    logits = encode(tested, classifier)
    return float((logits.patches.argmax(axis=1) == logits.of_patches(tested.label)).mean())
