"""Study: what a network that learned one lattice is worth on another one.

Two questions: does it pay to begin with what another lattice taught, for much data and for little; and how well does a network
denoise a lattice that it never saw. Source of the questions: USC report, section 4.7. All answers are whole images, patches
blended as the runtime does it, against the clean ones, an atom in the plane of height 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spm_kernels import PatchGrid, map_patches
from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_runtime.pipelines.fourier_wiener import with_filtered, without_residue
from spm_training.cost import cost_of
from spm_training.data import Split
from spm_training.networks.cae import PatchDenoiser
from spm_training.networks.denoiser import DenoiserNet
from spm_training.peers.denoise import Denoiser
from spm_training.peers.denoise_scores import DenoiseScores, compare, draw_lattices
from spm_training.recipe import CaeNetworkOptions, DenoiserNetworkOptions, Recipe
from spm_training.run import RunFolder
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, LatticeScene
from spm_training.studies.lattice_transfer_page import ALL, Pair, Transfer, Unseen, write_page
from spm_training.studies.page import check_new
from spm_training.studies.variants import set_by_hand, shortened_recipe, train_variant
from spm_training.tasks.lattice_images import PATCH_STRIDE_PX
from spm_training.trained import trained_network

__all__ = ["ALL_PAIRS", "PAIRS", "SHARES", "LatticeTransferOptions", "network_denoiser", "study_lattice_transfer"]

NAME = "lattice-transfer"
#: From which lattice to which, unless told otherwise.
PAIRS = (("cubic", "fcc"), ("bcc", "hexagonal-1"), ("hexagonal-1", "cubic"))
#: All of them.
ALL_PAIRS = tuple(itertools.permutations(LATTICES, 2))
#: Shares of the images of the second lattice.
SHARES = (0.01, 0.1, 1.0)
#: Seed of the images that decide.
SEED = 77_207
#: Side of the pictures in the report.
_SHOWN_PX = 96


@dataclass(frozen=True)
class LatticeTransferOptions:
    """What is trained, and how much is looked at.

    Parameters
    ----------
    recipe
        What is trained on four lattices and on five: ``cae-a``, ``denoise`` or any other recipe that denoises.
    pairs
        Lattices to begin with and to go on with, with ``cae-a``; none leaves this question out.
    unseen
        Lattices that are left out of a training in turn; none leaves this question out.
    budget
        Share of the epochs of the recipes.
    pool
        Images of the second lattice that are all of its data.
    images
        Images of each lattice at each level of noise that decide.
    side_px
        Side of an image.
    overrides
        ``KEY=VALUE`` for all recipes.
    smoke
        The whole path in seconds.
    """

    recipe: str = "cae-a"
    pairs: tuple[tuple[str, str], ...] = PAIRS
    unseen: tuple[str, ...] = tuple(LATTICES)
    budget: float = 0.05
    pool: int = 100
    images: int = 4
    side_px: int = 256
    overrides: tuple[str, ...] = ()
    smoke: bool = False


def study_lattice_transfer(
    out: Path, options: LatticeTransferOptions, *, resume: bool, device: str, report: Callable[[str], None]
) -> Path | None:
    """Train every variant and write the report.

    Parameters
    ----------
    out
        Folder of the report, and of a run for each training (``scratch-cubic-100``, ``cubic-to-fcc-10``, ``scratch-fcc-10``,
        ``without-fcc`` …).
    options
        What is trained.
    resume
        Go on with what is there.
    device
        ``auto``, ``cpu`` or ``cuda``: where networks are trained.
    report
        Takes one line for a person.

    Returns
    -------
    The HTML file; None when stopped by Ctrl-C.

    Raises
    ------
    ParameterError
        If an override is refused, a folder is taken, or the recipe does not denoise.
    """
    unknown = sorted({*itertools.chain.from_iterable(options.pairs), *options.unseen} - set(LATTICES))
    if unknown or not (options.pairs or options.unseen):
        raise ParameterError(f"lattices {unknown}: expected some of {', '.join(LATTICES)}. Name others.")
    if pools := [one for one in options.overrides if one.startswith("data.pool=")]:
        raise ParameterError(f"--set {pools[0]}: how much data there is is what is studied. Leave it out.")
    if not resume:
        check_new(out, NAME)
    recipes = _recipes(options)
    flop = sum(cost_of(recipe).flop_total for recipe, _ in recipes.values())
    report(f"{len(recipes)} trainings, {flop:.3g} FLOP in all")
    for name, (recipe, start) in recipes.items():
        begun = None if start is None else RunFolder(out / start)
        if not train_variant(recipe, RunFolder(out / name), resume=resume, device=device, report=report, start=begun):
            return None
    scenes = {
        level: draw_lattices(SEED, Split.EVALUATION, noise, count=options.images, side_px=options.side_px)
        for level, noise in NOISE_LEVELS.items()
    }
    denoisers = {name: network_denoiser(trained_network(RunFolder(out / name))[0]) for name in recipes}
    pairs = [_pair(options, one, scenes, denoisers) for one in options.pairs]
    unseen = [_unseen(one, scenes, denoisers) for one in options.unseen]
    first = next(iter(recipes.values()))[0]
    steps = first.training.epochs * first.data.steps_per_epoch
    found = Transfer(
        options.recipe, tuple(pairs), tuple(unseen), options.budget, options.pool, options.images, flop, steps
    )
    return write_page(out, NAME, found, told=set_by_hand(options.overrides))


def _recipes(options: LatticeTransferOptions) -> dict[str, tuple[Recipe, str | None]]:
    """What is trained, by folder: recipes, and the folders that they begin with, which stand before."""
    found: dict[str, tuple[Recipe, str | None]] = {}
    for source, _ in options.pairs:
        found[_first(source)] = _recipe("cae-a", options, (source,), options.pool), None
    for (source, target), share in itertools.product(options.pairs, SHARES):
        recipe = _recipe("cae-a", options, (target,), max(round(options.pool * share), 1))
        found[_scratch(target, share)] = recipe, None
        found[_moved(source, target, share)] = recipe, _first(source)
    if options.unseen:
        found[ALL] = _recipe(options.recipe, options, tuple(LATTICES)), None
    for name in options.unseen:
        found[f"without-{name}"] = _recipe(options.recipe, options, tuple(set(LATTICES) - {name})), None
    return found


def _first(source: str) -> str:
    """What learned the first lattice is what began with random weights and has all of its data."""
    return _scratch(source, 1.0)


def _scratch(target: str, share: float) -> str:
    return f"scratch-{target}-{100 * share:g}"


def _moved(source: str, target: str, share: float) -> str:
    return f"{source}-to-{target}-{100 * share:g}"


def _recipe(name: str, options: LatticeTransferOptions, lattices: Iterable[str], pool: int | None = None) -> Recipe:
    """A recipe of so many steps on these lattices, from so many images where that is what is asked."""
    chosen = [one for one in LATTICES if one in set(lattices)]
    words = [f"lattices.names=[{', '.join(repr(one) for one in chosen)}]", *options.overrides]
    if pool is not None:
        words.append(f"data.pool={pool}")
    recipe = shortened_recipe(name, options.budget, smoke=options.smoke, overrides=words)
    if not isinstance(recipe.network, CaeNetworkOptions | DenoiserNetworkOptions):
        raise ParameterError(
            f"recipe {name}: trains the network {recipe.network.kind!r}; expected one that takes noise away, as cae-a or "
            "denoise. Name another."
        )
    return recipe


def network_denoiser(network: nn.Module) -> Denoiser:
    """A network as what the peers are: an image in, the image without noise out; patches are blended without seams."""

    def through(image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found = network(torch.from_numpy(image))
        return np.ascontiguousarray(
            (found.denoised if isinstance(network, PatchDenoiser) else found)[:, 0].float().numpy()
        )

    def denoise(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
        view = denoise_view(image)
        if isinstance(network, PatchDenoiser):
            grid = PatchGrid(view.image.shape, (network.side_px, network.side_px), PATCH_STRIDE_PX)
            return view.restored(map_patches(view.image, lambda patches: through(patches[:, None]), grid))
        sides = network.windows_px if isinstance(network, DenoiserNet) else ()
        answer = through(with_filtered(view.image, sides)[None])[0]
        return view.restored(without_residue(answer, view.image))

    return denoise


Scenes = Mapping[str, list[LatticeScene]]


def _scores(scenes: Scenes, name: str, denoisers: Mapping[str, Denoiser]) -> dict[str, dict[str, DenoiseScores]]:
    """Scores on one lattice by method and level; ``none`` is the image as recorded."""
    found: dict[str, dict[str, DenoiseScores]] = {}
    for level, every in scenes.items():
        for method, by_lattice in compare(denoisers, [scene for scene in every if scene.name == name]).items():
            found.setdefault(method, {})[level] = by_lattice[name]
    return found


def _pair(
    options: LatticeTransferOptions, pair: tuple[str, str], scenes: Scenes, denoisers: Mapping[str, Denoiser]
) -> Pair:
    source, target = pair
    ways = {share: (_scratch(target, share), _moved(source, target, share)) for share in SHARES}
    wanted = {_first(source), *itertools.chain.from_iterable(ways.values())}
    scores = _scores(scenes, target, {name: denoisers[name] for name in wanted})
    return Pair(
        source,
        target,
        scores["none"],
        scores[_first(source)],
        {share: scores[name] for share, (name, _) in ways.items()},
        {share: scores[name] for share, (_, name) in ways.items()},
        {share: max(round(options.pool * share), 1) for share in SHARES},
    )


def _unseen(name: str, scenes: Scenes, denoisers: Mapping[str, Denoiser]) -> Unseen:
    without, every = denoisers[f"without-{name}"], denoisers[ALL]
    scores = _scores(scenes, name, {"without": without, "every": every})
    shown = next(scene for scene in scenes["medium"] if scene.name == name)
    answers = {title: one(shown.image, 0.0) for title, one in (("all five", every), (f"without {name}", without))}
    pictures = {"clean": shown.clean, "as recorded": shown.image, **answers}
    cut = {title: one[:_SHOWN_PX, :_SHOWN_PX] for title, one in pictures.items()}
    return Unseen(name, scores["none"], scores["every"], scores["without"], cut)
