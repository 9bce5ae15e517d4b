"""What of a fine-tuned package is kept: pure functions of the figures.

A part that went on learning replaces the shipped one only where it wins on scans that it has not learned from, and forgets no
more of the simulated surfaces than is stated here. A draw keeps the shipped part, which more images have judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spm_training.defects.score import Interval
from spm_training.finetune.judge import HeldOutView, Simulated, f1_of, paired_difference

__all__ = ["AFTER", "BEFORE", "FinderFigures", "PatchFigures", "Verdict", "finder_figures", "judge_finder", "judge_patches",
           "patch_figures"]  # fmt: skip

Value = TypeVar("Value")

#: Names of the two packages that are compared.
BEFORE, AFTER = "before", "after"
#: So much F1 on simulated scenes may be lost.
MOST_LOST_F1 = 0.02
#: And so many more marks per simulated image without defects may be made.
MOST_MORE_FALSE = 0.25
#: So large a share of what the shipped finder is sure of has to be found still.
LEAST_KEPT = 0.85
#: The reconstruction of simulated scenes may become worse by this factor.
MOST_WORSE_ERROR = 1.1


@dataclass(frozen=True)
class FinderFigures:
    """Figures of the finder; pairs are before and after.

    Parameters
    ----------
    planted_f1, planted_recall
        Of planted defects in held-out scans.
    change
        Of that F1, with a bootstrap over tiles of the scans.
    kept
        Share of the sure defects of held-out scans that the tuned finder marks; NaN where there are none.
    others
        Marks per held-out scan that the shipped finder is not sure of.
    simulated_f1, false_per_empty
        On simulated scenes.
    """

    planted_f1: tuple[float, float]
    planted_recall: tuple[float, float]
    change: Interval
    kept: float
    others: tuple[float, float]
    simulated_f1: tuple[float, float]
    false_per_empty: tuple[float, float]


@dataclass(frozen=True)
class PatchFigures:
    """Figures of the patch autoencoder; pairs are before and after.

    Parameters
    ----------
    error
        Mean squared error of the reconstruction of held-out scans.
    ratio
        After over before, with a bootstrap over tiles of the held-out images.
    novelty
        Mean distance of held-out scans from what is known; a warning is given above 1.
    new
        Share of the held-out scans with that warning.
    simulated_error
        Mean squared error on simulated scenes.
    """

    error: tuple[float, float]
    ratio: Interval
    novelty: tuple[float, float]
    new: tuple[float, float]
    simulated_error: tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """Whether a tuned part replaces the shipped one.

    Parameters
    ----------
    tuned
        The decision.
    reason
        Why, in a sentence.
    """

    tuned: bool
    reason: str


def finder_figures(held_out: Sequence[Sequence[HeldOutView]], simulated: Simulated) -> FinderFigures:
    """Figures of the finder.

    Parameters
    ----------
    held_out
        The views of every held-out image.
    simulated
        Simulated scenes.
    """
    # Directions and plantings of one image share its tiles.
    tables = {
        name: np.concatenate([sum(view.looks[name].planted.sum(axis=0) for view in views) for views in held_out])
        for name in (BEFORE, AFTER)
    }
    sums = {name: table.sum(axis=0) for name, table in tables.items()}
    views = [view for image in held_out for view in image]
    kept = np.array([view.looks[AFTER].kept for view in views])
    weight = np.array([int(view.ground.sure.sum()) for view in views])
    share = float(kept[weight > 0] @ weight[weight > 0] / weight.sum()) if weight.any() else float("nan")
    return FinderFigures(
        planted_f1=_pair(lambda name: float(f1_of(sums[name]))),
        planted_recall=_pair(lambda name: float(sums[name][0] / max(sums[name][0] + sums[name][2], 1))),
        change=paired_difference(tables[BEFORE], tables[AFTER]),
        kept=share,
        others=_pair(lambda name: float(np.mean([view.looks[name].others for view in views]))),
        simulated_f1=_pair(simulated.f1),
        false_per_empty=_pair(lambda name: simulated.false_per_empty[name]),
    )


def patch_figures(held_out: Sequence[Sequence[HeldOutView]], simulated: Simulated) -> PatchFigures:
    """Figures of the patch autoencoder; parameters as of `finder_figures`."""
    tiles = {name: _error_of_tiles(held_out, name) for name in (BEFORE, AFTER)}
    there = np.isfinite(tiles[BEFORE]) & np.isfinite(tiles[AFTER])
    error = {name: tiles[name][there] for name in tiles}
    novelty = {name: _novelty(held_out, name) for name in tiles}
    drawn = np.random.default_rng(0).integers(there.sum(), size=(2000, there.sum()))
    ratio = error[AFTER][drawn].sum(axis=1) / error[BEFORE][drawn].sum(axis=1)
    low, high = (float(end) for end in np.percentile(ratio, (2.5, 97.5)))
    return PatchFigures(
        error=_pair(lambda name: float(error[name].mean())),
        ratio=Interval(float(error[AFTER].sum() / error[BEFORE].sum()), low, high),
        novelty=_pair(lambda name: float(novelty[name].mean())),
        new=_pair(lambda name: float((novelty[name] > 1).mean())),
        simulated_error=_pair(lambda name: float(simulated.error[name].mean())),
    )


def judge_finder(figures: FinderFigures) -> Verdict:
    """Whether the tuned finder is taken."""
    lost = figures.simulated_f1[0] - figures.simulated_f1[1]
    change = figures.change
    said = f"F1 of planted defects changes by {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
    if not change.low > 0:
        return Verdict(False, f"{said}, which is no gain that these scans could tell from chance")
    if figures.kept < LEAST_KEPT:
        return Verdict(False, f"{said}, but only {figures.kept:.0%} of the sure defects are still found")
    if lost > MOST_LOST_F1:
        return Verdict(False, f"{said}, but {lost:.3f} of F1 is lost on simulated surfaces")
    more = figures.false_per_empty[1] - figures.false_per_empty[0]
    if more > MOST_MORE_FALSE:
        return Verdict(False, f"{said}, but {more:.2f} more marks are made per simulated image without defects")
    return Verdict(True, f"{said}, and on simulated surfaces by {-lost:+.3f}")


def judge_patches(figures: PatchFigures) -> Verdict:
    """Whether the tuned patch autoencoder is taken."""
    worse = figures.simulated_error[1] / figures.simulated_error[0]
    said = f"the error on held-out scans changes by a factor of {figures.ratio.value:.2f}"
    said += f" [{figures.ratio.low:.2f}, {figures.ratio.high:.2f}]"
    if not figures.ratio.high < 1:
        return Verdict(False, f"{said}, which is no gain that these scans could tell from chance")
    if worse > MOST_WORSE_ERROR:
        return Verdict(False, f"{said}, but on simulated surfaces it grows by a factor of {worse:.2f}")
    if figures.new[1] > figures.new[0]:
        return Verdict(False, f"{said}, but more of them are called new")
    return Verdict(True, f"{said}, and on simulated surfaces by a factor of {worse:.2f}")


def _pair(figure: Callable[[str], float]) -> tuple[float, float]:
    return figure(BEFORE), figure(AFTER)


def _error_of_tiles(held_out: Sequence[Sequence[HeldOutView]], name: str) -> NDArray[np.float64]:
    """``(images · TILES²,)`` error of the reconstruction, the mean over the views of each image."""
    return np.concatenate([np.mean([_there(view.looks[name].error) for view in views], axis=0) for views in held_out])


def _novelty(held_out: Sequence[Sequence[HeldOutView]], name: str) -> NDArray[np.float64]:
    """``(images,)`` novelty, the mean over the views of each image."""
    return np.array([np.mean([_there(view.looks[name].novelty) for view in views]) for views in held_out])


def _there(value: Value | None) -> Value:
    if value is None:
        raise ValueError("a package without patch autoencoders")
    return value
