"""Study: what the second decoder is good for. Every patch says where its nearest atom is; the votes of all patches are the atoms.

Beside maxima of the image and of the denoised image after a Gaussian. Every way has its σ and its least height tuned for every
level of noise, on images of the validation split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_training.cost import cost_of
from spm_training.data import Split
from spm_training.metrics import Counts
from spm_training.networks.cae import CaeTwin, PatchDenoiser
from spm_training.peers.denoise_scores import draw_lattices
from spm_training.run import RunFolder
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, VACANCY, LatticeScene
from spm_training.studies.lattice_transfer import network_denoiser
from spm_training.studies.page import Cell, Page, check_new
from spm_training.studies.plots import grey_scale
from spm_training.studies.variants import shortened_recipe, train_variant
from spm_training.studies.votes import (
    BORDER_PX,
    Image,
    Positions,
    Setting,
    best_setting,
    counts_of,
    peaks_of,
    smoothed,
    vote_map,
    votes_of,
)
from spm_training.trained import trained_network

__all__ = ["LatticeOffsetsOptions", "study_lattice_offsets"]

NAME = "lattice-offsets"
#: Seed of the images that decide, and of those on which all ways are tuned.
SEED = 77_307
#: Largest distance of a found atom from a true one, in distances of nearest neighbours.
TOLERANCE = 0.25
#: σ in pixels and least heights that are tried.
_VOTE_SIGMAS, _IMAGE_SIGMAS = (0.7, 1.0, 1.5, 2.0), (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
#: Side of the part of an image that is shown.
_SHOWN_PX = 96
#: A vote is right when it is this near, in pixels.
_NEAR_PX = 1.0
_VOTES, _IMAGE, _DENOISED = "votes of the patches", "maxima of the image", "maxima of the denoised image"


@dataclass(frozen=True)
class LatticeOffsetsOptions:
    """What is trained, and how much is looked at.

    Parameters
    ----------
    run
        A finished run of the recipe ``cae-twin``; None trains one.
    budget
        Share of the epochs of that recipe.
    images
        Images of each lattice at each level of noise that decide; as many more are tuned on.
    side_px
        Side of an image.
    overrides
        ``KEY=VALUE`` for the recipe.
    smoke
        The whole path in seconds.
    """

    run: RunFolder | None = None
    budget: float = 0.1
    images: int = 3
    side_px: int = 256
    overrides: tuple[str, ...] = ()
    smoke: bool = False


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image through the network: its atoms, the votes, and what maxima are looked for in."""

    scene: LatticeScene
    truth: Positions
    votes: Positions
    image: Image
    denoised: Image

    @classmethod
    def of(cls, scene: LatticeScene, network: PatchDenoiser) -> _Seen:
        view = denoise_view(scene.image)
        denoised = network_denoiser(network)(scene.image, 0.0)
        there = scene.yx_px[scene.state != VACANCY]
        return cls(scene, there, votes_of(network, view.image), scene.image, denoised)

    @property
    def tolerance_px(self) -> float:
        return TOLERANCE * LATTICES[self.scene.name].neighbour * self.scene.spread_px

    def smooth(self, way: str, sigma_px: float) -> Image:
        """The map whose maxima are the atoms."""
        if way == _VOTES:
            return vote_map(self.votes, sigma_px, self.shape)
        return smoothed(self.image if way == _IMAGE else self.denoised, sigma_px)

    def found(self, way: str, setting: Setting) -> Positions:
        return peaks_of(self.smooth(way, setting.sigma_px), setting.share)

    def counts(self, way: str, setting: Setting) -> Counts:
        return counts_of(self.found(way, setting), self.truth, self.tolerance_px, self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    @property
    def away_px(self) -> Positions:
        """``(N,)`` distances of the votes from their nearest atoms."""
        return np.asarray(cKDTree(self.truth).query(self.votes)[0])


@dataclass(frozen=True, eq=False)
class _Level:
    """One level of noise: settings and counts by way and lattice, and how good a single vote is."""

    settings: Mapping[str, Setting]
    counts: Mapping[str, Mapping[str, Counts]]
    vote_median_px: float
    vote_near: float
    shown: _Seen

    def all_of(self, way: str) -> Counts:
        return sum(self.counts[way].values(), Counts())


def study_lattice_offsets(
    out: Path, options: LatticeOffsetsOptions, *, resume: bool, device: str, report: Callable[[str], None]
) -> Path | None:
    """Train the network with two decoders unless it is given, find atoms and write the report.

    Parameters
    ----------
    out
        Folder of the report, and of the run ``cae-twin``.
    options
        What is trained.
    resume
        Go on with what is there.
    device
        ``auto``, ``cpu`` or ``cuda``: where the network is trained.
    report
        Takes one line for a person.

    Returns
    -------
    The HTML file; None when stopped by Ctrl-C.

    Raises
    ------
    ParameterError
        If an override is refused, a folder is taken or the run is of another network.
    """
    if not resume:
        check_new(out, NAME)
    run = options.run
    if run is None:
        recipe = shortened_recipe("cae-twin", options.budget, smoke=options.smoke, overrides=options.overrides)
        report(f"1 training, {cost_of(recipe).flop_total:.3g} FLOP")
        run = RunFolder(out / "cae-twin")
        if not train_variant(recipe, run, resume=resume, device=device, report=report):
            return None
    network = trained_network(run)[0]
    if not isinstance(network, PatchDenoiser) or not isinstance(network.network, CaeTwin):
        raise ParameterError(
            f"{run.path}: a run of another network; expected one of the recipe cae-twin. Name another."
        )
    levels = {}
    for level in NOISE_LEVELS:
        levels[level] = _level(network, level, options)
        report(
            f"{level} noise: F1 {', '.join(f'{levels[level].all_of(way).f1:.3f} by {way}' for way in levels[level].counts)}"
        )
    return _write(out, options, levels, len(run.metrics()) * run.recipe().data.steps_per_epoch)


def _level(network: PatchDenoiser, level: str, options: LatticeOffsetsOptions) -> _Level:
    noise, side = NOISE_LEVELS[level], options.side_px
    tuned, tested = (
        [_Seen.of(one, network) for one in draw_lattices(SEED, split, noise, count=options.images, side_px=side)]
        for split in (Split.VALIDATION, Split.EVALUATION)
    )
    settings, counts = {}, {}
    for way, sigmas in ((_VOTES, _VOTE_SIGMAS), (_IMAGE, _IMAGE_SIGMAS), (_DENOISED, _IMAGE_SIGMAS)):
        settings[way] = best_setting(partial(_counted, tuned, way), sigmas, _SHARES)[0]
        counts[way] = {
            name: _counted([one for one in tested if one.scene.name == name], way, settings[way]) for name in LATTICES
        }
    away = np.concatenate([one.away_px for one in tested])
    near = float((away <= _NEAR_PX).mean())
    return _Level(settings, counts, float(np.median(away)), near, tested[list(LATTICES).index("fcc") * options.images])


def _counted(images: Sequence[_Seen], way: str, setting: Setting) -> Counts:
    return sum((one.counts(way, setting) for one in images), Counts())


def _write(out: Path, options: LatticeOffsetsOptions, levels: Mapping[str, _Level], steps: int) -> Path:
    page = Page(
        "Atoms by votes",
        f"A network with two decoders ({steps:,} steps) says of every patch where its nearest atom is; patches at every second "
        "pixel vote. It was taught the nearest atom of single patches, never the atoms of an image. "
        f"{options.images} images of each lattice at each level of noise, which no training draws. An atom is found when "
        f"something is within {TOLERANCE:g} distances of nearest neighbours; within {BORDER_PX:g} pixels of the border it need "
        "not be. σ and least height of every way are tuned at every level of noise on as many other images.",
    )
    page.recommend(_advice(levels))
    page.section("Atoms found")
    header = ("", "noise", "σ in px", "least height", "precision", "recall", "F1", "error in px (rms)")
    rows: list[Sequence[Cell]] = []
    for level, one in levels.items():
        for way, (sigma, share) in one.settings.items():
            rows.append((way, level, sigma, share, *_cells(one.all_of(way))))
    page.table(header, rows)
    page.section("By lattice")
    rows = [
        (f"{name}, {level}", *(cell for way in one.counts for cell in _cells(one.counts[way][name])[2:]))
        for name in LATTICES
        for level, one in levels.items()
    ]
    page.table(("", *(f"{what}, {way}" for way in (_VOTES, _IMAGE, _DENOISED) for what in ("F1", "error in px"))), rows)
    page.section("Single votes")
    rows = [(level, one.vote_median_px, f"{one.vote_near:.1%}") for level, one in levels.items()]
    page.table(("noise", "median distance from an atom in px", "within a pixel"), rows)
    page.figure(
        _pictures(levels),
        "A corner of an fcc image, its votes, and what is found (crosses) beside the truth (circles).",
    )
    numbers = {
        "steps": steps,
        "images": options.images,
        "levels": {
            level: {
                "vote_median_px": one.vote_median_px,
                "vote_near": one.vote_near,
                "ways": {
                    way: {
                        "sigma_px": one.settings[way].sigma_px,
                        "share": one.settings[way].share,
                        **dict(zip(("precision", "recall", "f1"), _shares(one.all_of(way)), strict=True)),
                        "rms_px": one.all_of(way).rms_px,
                    }
                    for way in one.counts
                },
            }
            for level, one in levels.items()
        },
    }
    return page.write(out, NAME, numbers)


def _advice(levels: Mapping[str, _Level]) -> str:
    told, ahead = [], []
    for level, one in levels.items():
        every = {way: one.all_of(way) for way in one.counts}
        told.append(
            f"{level} noise " + ", ".join(f"{counts.f1:.3f} ({counts.rms_px:.2f} px)" for counts in every.values())
        )
        if every[_VOTES].f1 > max(every[_IMAGE].f1, every[_DENOISED].f1):
            ahead.append(level)
    return (
        f"Votes find more than maxima of the image and of the denoised image at {', '.join(ahead) or 'no'} noise. "
        f"F1 and error of votes, of maxima of the image and of the denoised image: {'; '.join(told)}."
    )


def _shares(counts: Counts) -> tuple[float, float, float]:
    return counts.precision, counts.recall, counts.f1


def _cells(counts: Counts) -> tuple[Cell, ...]:
    return (*(f"{one:.3f}" for one in _shares(counts)), f"{counts.rms_px:.2f}")


def _pictures(levels: Mapping[str, _Level]) -> Figure:
    figure = Figure(figsize=(12, 4 * len(levels)), layout="constrained")
    for line, (level, one) in zip(figure.subplots(len(levels), 3, squeeze=False), levels.items(), strict=True):
        seen, setting = one.shown, one.settings[_VOTES]
        votes = seen.smooth(_VOTES, setting.sigma_px)
        for axis, (title, image) in zip(
            line, ((f"{level} noise", seen.image), ("votes", votes), ("atoms", seen.scene.clean)), strict=True
        ):
            low, high = grey_scale(image)
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axis.set_title(title)
            axis.set(xlim=(-0.5, _SHOWN_PX - 0.5), ylim=(_SHOWN_PX - 0.5, -0.5))
            axis.set_axis_off()
        y, x = seen.truth.T
        line[2].plot(x, y, "o", markersize=7, markerfacecolor="none", markeredgecolor="C1")
        y, x = seen.found(_VOTES, setting).T
        line[2].plot(x, y, "x", markersize=5, color="C0")
        line[2].set(xlim=(-0.5, _SHOWN_PX - 0.5), ylim=(_SHOWN_PX - 0.5, -0.5))
    return figure
