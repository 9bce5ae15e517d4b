"""The report of the study of networks on lattices that they did not learn, or learned late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spm_training.peers.denoise_scores import DenoiseScores
from spm_training.simulate.stm_lattices import NOISE_LEVELS
from spm_training.studies.page import Cell, Page
from spm_training.studies.plots import Panel, Picture, grey_scale, panels, pictures

__all__ = ["ALL", "ByLevel", "Pair", "Transfer", "Unseen", "write_page"]

#: Folder of the network that learned all lattices.
ALL = "all-five"

#: Scores by level of noise.
ByLevel = Mapping[str, DenoiseScores]


@dataclass(frozen=True, eq=False)
class Pair:
    """From one lattice to another one; all scores are on the second.

    Parameters
    ----------
    source, target
        The lattices.
    nothing
        Of the images as recorded.
    before
        Of the network that learned the first lattice alone.
    scratch, moved
        By share of the data: of networks that began with random weights, and with those of `before`.
    images
        By share of the data: the number of images.
    """

    source: str
    target: str
    nothing: ByLevel
    before: ByLevel
    scratch: Mapping[float, ByLevel]
    moved: Mapping[float, ByLevel]
    images: Mapping[float, int]

    def gain_db(self, share: float) -> float:
        """What beginning with the first lattice brings, mean over the levels of noise."""
        return _psnr(self.moved[share]) - _psnr(self.scratch[share])


@dataclass(frozen=True, eq=False)
class Unseen:
    """A lattice left out of a training, on which all scores are.

    Parameters
    ----------
    name
        The lattice.
    nothing, every, without
        Of the images as recorded, of the network that learned all lattices, and of the one that learned the others.
    pictures
        Parts of one image by title.
    """

    name: str
    nothing: ByLevel
    every: ByLevel
    without: ByLevel
    pictures: Mapping[str, NDArray[np.float32]]

    @property
    def loss_db(self) -> float:
        """What not having seen it costs, mean over the levels of noise."""
        return _psnr(self.every) - _psnr(self.without)


@dataclass(frozen=True, eq=False)
class Transfer:
    """Everything that the report shows; `recipe` is that of the networks with a lattice left out, `steps` those of a training."""

    recipe: str
    pairs: tuple[Pair, ...]
    unseen: tuple[Unseen, ...]
    budget: float
    pool: int
    images: int
    flop: float
    steps: int


def _psnr(scores: ByLevel) -> float:
    return float(np.mean([one.psnr_db for one in scores.values()]))


def write_page(out: Path, name: str, found: Transfer, *, told: str = "") -> Path:
    """Write the report and give its path; ``told`` is what else the reader should know of the trainings."""
    page = Page(
        "From one lattice to another",
        f"All trainings have as many steps, {found.budget:.0%} of the epochs of their recipes ({found.steps:,} steps the first "
        f"one, {found.flop:.3g} FLOP in all). Whole images against the clean ones, {found.images} of each lattice at each level "
        "of noise, the same for all networks; none is drawn by a training. An atom in the plane has height 1: PSNR and SSIM "
        "refer to it. Levels: "
        + "; ".join(
            f"{level} thermal {one.thermal:g}, shot {one.shot:g}, striations {one.striation:g}"
            for level, one in NOISE_LEVELS.items()
        )
        + f".{told}",
    )
    page.recommend(" ".join(_advice(found)))
    if found.pairs:
        _pairs(page, found)
    if found.unseen:
        _unseen(page, found)
    numbers = {
        "recipe": found.recipe,
        "budget": found.budget,
        "flop": found.flop,
        "pairs": [_pair_numbers(one) for one in found.pairs],
        "unseen": [_unseen_numbers(one) for one in found.unseen],
    }
    return page.write(out, name, numbers)


def _advice(found: Transfer) -> list[str]:
    words = []
    if found.pairs:
        gains = {share: float(np.mean([pair.gain_db(share) for pair in found.pairs])) for share in found.pairs[0].moved}
        told = ", ".join(f"{gain:+.2f} dB with {share:.0%} of the data" for share, gain in gains.items())
        begin = "with another lattice where data are few" if gains[min(gains)] > 0 else "with random weights"
        words.append(f"Begin {begin}: another lattice brings {told}, means over the pairs shown.")
    if found.unseen:
        losses = [one.loss_db for one in found.unseen]
        worst = max(found.unseen, key=lambda one: one.loss_db)
        words.append(
            f"A lattice that {found.recipe} never saw costs {np.mean(losses):.2f} dB on average and {worst.loss_db:.2f} dB at "
            f"worst ({worst.name})."
        )
    return words


_HEADER = tuple(f"{what}, {level}" for level in NOISE_LEVELS for what in ("MSE", "PSNR", "SSIM"))


def _cells(scores: ByLevel) -> tuple[Cell, ...]:
    return tuple(
        cell for one in scores.values() for cell in (f"{one.mse:.4f}", f"{one.psnr_db:.2f}", f"{one.ssim:.3f}")
    )


def _pairs(page: Page, found: Transfer) -> None:
    page.section("Beginning with another lattice")
    page.say(
        f"CAE-A learns one lattice from {found.pool} images, then another one from a share of as many, beside the same network "
        "that begins with random weights and has the same images and as many steps. With the steps on the first lattice the one "
        "that goes on has twice as many: a short training from scratch may lack steps more than data, which the last rows show."
    )
    content = []
    for pair in found.pairs:
        rows: list[Sequence[Cell]] = [
            ("as recorded", None, None, *_cells(pair.nothing)),
            (f"{pair.source} alone", 0, None, *_cells(pair.before)),
        ]
        for share, images in pair.images.items():
            gain = f"{pair.gain_db(share):+.2f}"
            rows.append((f"from scratch, {share:.0%}", images, None, *_cells(pair.scratch[share])))
            rows.append((f"after {pair.source}, {share:.0%}", images, gain, *_cells(pair.moved[share])))
        page.table(
            ("", "images", "gain in dB", *_HEADER),
            rows,
            caption=f"{pair.source} → {pair.target}, scores on {pair.target}",
        )
        counts = [float(one) for one in pair.images.values()]
        curves = {
            name: (counts, [float(np.mean([one.mse for one in scores.values()])) for scores in by_share.values()])
            for name, by_share in (("from scratch", pair.scratch), (f"after {pair.source}", pair.moved))
        }
        content.append(Panel(f"{pair.source} → {pair.target}: MSE", "images", curves, log_x=True, log_y=True))
    page.figure(
        panels(content, columns=min(len(content), 3)), "Mean squared error over the levels of noise, by the data."
    )


def _unseen(page: Page, found: Transfer) -> None:
    page.section(f"Lattices never seen: {found.recipe}")
    rows: list[Sequence[Cell]] = []
    for one in found.unseen:
        rows.append((f"{one.name}, as recorded", None, *_cells(one.nothing)))
        rows.append((f"{one.name}, all five learned", None, *_cells(one.every)))
        rows.append((f"{one.name}, never seen", f"{one.loss_db:.2f}", *_cells(one.without)))
    page.table(("", "loss in dB", *_HEADER), rows)
    for one in found.unseen:
        ends = grey_scale(one.pictures["clean"])
        shown = [Picture(title, image, ends) for title, image in one.pictures.items()]
        page.figure(pictures(shown), f"{one.name} at medium noise.")


def _levels(scores: ByLevel) -> dict[str, dict[str, float]]:
    return {level: dict(vars(one)) for level, one in scores.items()}


def _pair_numbers(pair: Pair) -> dict[str, object]:
    return {
        "source": pair.source,
        "target": pair.target,
        "as_recorded": _levels(pair.nothing),
        "source_alone": _levels(pair.before),
        "shares": {
            f"{share:g}": {
                "images": pair.images[share],
                "gain_db": pair.gain_db(share),
                "scratch": _levels(pair.scratch[share]),
                "moved": _levels(pair.moved[share]),
            }
            for share in pair.moved
        },
    }


def _unseen_numbers(one: Unseen) -> dict[str, object]:
    return {
        "lattice": one.name,
        "loss_db": one.loss_db,
        "as_recorded": _levels(one.nothing),
        "all_five": _levels(one.every),
        "never_seen": _levels(one.without),
    }
