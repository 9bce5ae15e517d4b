"""Study: what a network that restores surfaces should learn. One small network under several weightings of the same three terms.

The hackathon's text names MAE, SSIM and a gradient loss for its third model and suggests "more SSIM and gradient loss", without a
weight or a comparison. Here every weighting begins with the same random weights, sees the same crops in the same order and takes
as many steps; PSNR, SSIM and VIF on whole scans of the validation split decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spm_runtime.pipelines.relief import relief_view
from spm_training.cost import cost_of
from spm_training.networks.restorer import RestorerOutput
from spm_training.recipe import Recipe, load_recipe
from spm_training.restore.metrics import Quality
from spm_training.restore.scenes import RestoreOptions, scan_of, validation_scenes
from spm_training.restore.score import ImageScore, Restored, score_restored
from spm_training.run import RunFolder
from spm_training.simulate.tips import TipScene
from spm_training.studies.page import Cell, Page, check_new
from spm_training.studies.plots import Panel, panels, sheet
from spm_training.studies.variants import train_variant
from spm_training.trained import trained_network

__all__ = ["WEIGHTINGS", "RestoreLossesOptions", "Weighting", "best_of", "study_restore_losses"]

NAME = "restore-losses"
#: Epochs unless told otherwise: 3e13 FLOP for each weighting, on a CPU some ten minutes.
EPOCHS = 16
#: Scans that are shown, and the side of what is shown of them in pixels.
_SHOWN, _SHOWN_PX = 6, 96


class Weighting(NamedTuple):
    """Weights of the three terms of `spm_training.restore_losses.restore_loss`."""

    mae: float
    ssim: float
    gradient: float

    @property
    def folder(self) -> str:
        """Name of the folder of its run."""
        return "mae-{:g}-ssim-{:g}-gradient-{:g}".format(*self)


#: By name: MAE alone, each further term and both, at two strengths. SSIM of weight 0.1 is about as large as the MAE after a
#: training; SSIM and gradient of weight 1 are model 3 of the hackathon as it reads.
WEIGHTINGS: Mapping[str, Weighting] = {
    "MAE": Weighting(1.0, 0.0, 0.0),
    "MAE + 0.1 SSIM": Weighting(1.0, 0.1, 0.0),
    "MAE + SSIM": Weighting(1.0, 1.0, 0.0),
    "MAE + gradient": Weighting(1.0, 0.0, 1.0),
    "MAE + 5 gradient": Weighting(1.0, 0.0, 5.0),
    "MAE + 0.1 SSIM + gradient": Weighting(1.0, 0.1, 1.0),
    "MAE + SSIM + gradient": Weighting(1.0, 1.0, 1.0),
}


@dataclass(frozen=True)
class RestoreLossesOptions:
    """What is trained, and how much is looked at.

    Parameters
    ----------
    weightings
        By name; the first is what the others are compared with.
    overrides
        ``KEY=VALUE`` for the recipe, for all weightings.
    scans
        Scans of the validation split that decide.
    smoke
        The whole path in seconds.
    """

    weightings: Mapping[str, Weighting] = field(default_factory=lambda: WEIGHTINGS)
    overrides: tuple[str, ...] = ()
    scans: RestoreOptions = field(default_factory=RestoreOptions)
    smoke: bool = False


class _Example(NamedTuple):
    """One scan: its scene and what each weighting made of it, ``(H, W)`` in nanometres."""

    scene: TipScene
    restored: Mapping[str, NDArray[np.float64]]


def study_restore_losses(
    out: Path, options: RestoreLossesOptions, *, resume: bool, device: str, report: Callable[[str], None]
) -> Path | None:
    """Train every weighting and write the report.

    Parameters
    ----------
    out
        Folder of the report, and of a run per weighting (``mae-1-ssim-0-gradient-0`` …).
    options
        What is trained.
    resume
        Go on with what is there.
    device
        ``auto``, ``cpu`` or ``cuda``.
    report
        Takes one line for a person.

    Returns
    -------
    The HTML file; None when stopped by Ctrl-C.

    Raises
    ------
    ParameterError
        If an override is refused or a folder is taken.
    """
    if not resume:
        check_new(out, NAME)
    recipes = {name: _recipe(options, weights) for name, weights in options.weightings.items()}
    costs = [cost_of(recipe) for recipe in recipes.values()]
    flop = sum(cost.flop_total for cost in costs)
    report(f"{len(recipes)} weightings, {_steps(recipes):,} steps each, {flop:.3g} FLOP in all")
    networks: dict[str, nn.Module] = {}
    runs = {name: RunFolder(out / weights.folder) for name, weights in options.weightings.items()}
    for name, recipe in recipes.items():
        if not train_variant(recipe, runs[name], resume=resume, device=device, report=report):
            return None
        networks[name] = trained_network(runs[name])[0].eval()
    scores, examples = _judge(networks, options.scans)
    for name, ones in scores.items():
        report(f"{name}: PSNR {_mean(ones).psnr:.2f} dB, SSIM {_mean(ones).ssim:.3f}, VIF {_mean(ones).vif:.3f}")
    return _write(out, options, recipes, runs, scores, examples, flop)


def _recipe(options: RestoreLossesOptions, weights: Weighting) -> Recipe:
    """The recipe restore, smaller, without a tip network, of fixed length."""
    small = () if options.smoke else ("network.base_width=16", f"training.epochs={EPOCHS}", "data.batch=8")
    fixed = (
        *small,
        "network.with_tip=false",
        'tips.tip_run=""',
        'tips.judge_run=""',
        "schedule.kind=cosine",
        "schedule.warmup_epochs=0.2",
        "loss.touched_weight=0.0",
        "loss.relative_floor=0.0",
        *(f"loss.{name}_weight={value}" for name, value in weights._asdict().items()),
    )
    recipe = load_recipe("restore", smoke=options.smoke, overrides=(*fixed, *options.overrides))
    stopping = recipe.early_stopping.model_copy(update={"patience_epochs": recipe.training.epochs})
    return recipe.model_copy(update={"early_stopping": stopping})


def _steps(recipes: Mapping[str, Recipe]) -> int:
    recipe = next(iter(recipes.values()))
    return recipe.training.epochs * recipe.data.steps_per_epoch


def _judge(
    networks: Mapping[str, nn.Module], options: RestoreOptions
) -> tuple[dict[str, list[ImageScore]], list[_Example]]:
    """Scores of every weighting on the same scans, and some scans to be looked at, as far apart in the set as can be."""
    scores: dict[str, list[ImageScore]] = {name: [] for name in networks}
    examples: list[_Example] = []
    count = options.images * len(options.families) * len(options.modalities)
    for number, shown in enumerate(validation_scenes(options)):
        scan = scan_of(shown.scene)
        made = {}
        for name, network in networks.items():
            heights = _restored(network, scan.image)
            scores[name].append(score_restored(Restored(heights), shown, seconds=0.0))
            made[name] = heights.astype(np.float64) * 1e9
        if number % -(-count // _SHOWN) == 0:
            examples.append(_Example(shown.scene, made))
    return scores, examples


@torch.no_grad()
def _restored(network: nn.Module, heights: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a network that sees the image alone makes of a scan, in the unit of the scan."""
    view = relief_view(heights)
    output = network(torch.from_numpy(view.image)[None, None])
    image = output.restored if isinstance(output, RestorerOutput) else output
    return view.heights(image[0, 0].numpy())


def _mean(scores: Sequence[ImageScore]) -> Quality:
    return Quality(*(float(value) for value in np.mean([one.fair for one in scores], axis=0)))


def best_of(qualities: Mapping[str, Quality]) -> str:
    """The name with the lowest mean rank in PSNR, SSIM and VIF; of equals the one with the highest PSNR."""
    names = list(qualities)
    table = np.array([qualities[name] for name in names])
    ranks = (table[None, :, :] > table[:, None, :]).sum(axis=1).mean(axis=1)  # how many are better, by metric
    order = sorted(range(len(names)), key=lambda number: (ranks[number], -table[number, 0]))
    return names[order[0]]


def _write(
    out: Path,
    options: RestoreLossesOptions,
    recipes: Mapping[str, Recipe],
    runs: Mapping[str, RunFolder],
    scores: Mapping[str, Sequence[ImageScore]],
    examples: Sequence[_Example],
    flop: float,
) -> Path:
    qualities = {name: _mean(ones) for name, ones in scores.items()}
    first, best = next(iter(qualities)), best_of(qualities)
    count = len(scores[first])
    cost = cost_of(recipes[first])
    page = Page(
        "What a restorer should learn",
        f"One network of {cost.parameters:,} parameters that sees the image alone, {len(recipes)} times from the same random "
        f"weights on the same crops, {_steps(recipes):,} steps each ({flop:.3g} FLOP in all); judged on {count} simulated scans "
        "of the validation split. This is a small budget: it tells the weightings apart, not how good a restorer can be.",
    )
    won = _wins(scores[best], scores[first])
    page.recommend(
        f"{best}: the lowest mean rank in PSNR ({qualities[best].psnr:.2f} dB), SSIM ({qualities[best].ssim:.3f}) and VIF "
        f"({qualities[best].vif:.3f})"
        + ("." if best == first else f"; better than {first} in {won[0]}, {won[1]} and {won[2]} of {count} scans.")
    )
    _table(page, options, scores, qualities, best)
    _families(page, scores, best)
    _curves(page, runs)
    _pictures(page, examples)
    numbers = {
        "recommended": best,
        "flop": flop,
        "steps": _steps(recipes),
        "scans": count,
        "weightings": {
            name: {
                **options.weightings[name]._asdict(),
                **quality._asdict(),
                "wins": _wins(scores[name], scores[first]),
            }
            for name, quality in qualities.items()
        },
    }
    return page.write(out, NAME, numbers)


def _wins(ones: Sequence[ImageScore], others: Sequence[ImageScore]) -> list[int]:
    """In how many scans the first are better, by PSNR, SSIM and VIF."""
    pairs = [(one.fair, other.fair) for one, other in zip(ones, others, strict=True)]
    return [sum(one[metric] > other[metric] for one, other in pairs) for metric in range(3)]


def _table(
    page: Page,
    options: RestoreLossesOptions,
    scores: Mapping[str, Sequence[ImageScore]],
    qualities: Mapping[str, Quality],
    best: str,
) -> None:
    page.section("Means over all scans")
    page.say(
        "Data range: that of the clean surface. In the family hackathon, whose tip has its apex off the middle, registered; else "
        "raw. The last three columns count the scans in which a weighting is better than the first one."
    )
    first = next(iter(scores))
    header = ("weighting", "MAE", "1 − SSIM", "gradient", "PSNR (dB)", "SSIM", "VIF", "wins: PSNR", "SSIM", "VIF")
    rows: list[Sequence[Cell]] = [
        (name, *options.weightings[name], *_cells(qualities[name]), *_wins(scores[name], scores[first]))
        for name in scores
    ]
    page.table(header, rows, chosen=[list(scores).index(best)])


def _families(page: Page, scores: Mapping[str, Sequence[ImageScore]], best: str) -> None:
    page.section("By family and microscope")
    groups = list(dict.fromkeys((one.modality, one.group) for one in next(iter(scores.values()))))
    header = ("weighting", *(f"{modality} {group}" for modality, group in groups))
    for metric, what in enumerate(("PSNR in dB", "SSIM", "VIF")):
        rows: list[Sequence[Cell]] = []
        for name, ones in scores.items():
            parts = [[one for one in ones if (one.modality, one.group) == group] for group in groups]
            rows.append((name, *(_cells(_mean(part))[metric] for part in parts)))
        page.table(header, rows, caption=what, chosen=[list(scores).index(best)])


def _cells(quality: Quality) -> tuple[str, str, str]:
    return f"{quality.psnr:.2f}", f"{quality.ssim:.3f}", f"{quality.vif:.3f}"


def _curves(page: Page, runs: Mapping[str, RunFolder]) -> None:
    page.section("During training")
    content = []
    for key, title in (("val_psnr", "PSNR of crops, dB"), ("val_mae", "MAE"), ("val_dissimilarity", "1 − SSIM")):
        curves = {}
        for name, run in runs.items():
            rows = run.metrics()
            curves[name] = [row["epoch"] for row in rows], [row[key] for row in rows]
        content.append(Panel(title, "epoch", curves))
    page.figure(panels(content), "On crops of the validation split, by epoch.")


def _pictures(page: Page, examples: Sequence[_Example]) -> None:
    page.section("Pictures")
    middle = [tuple(slice((n - _side(n)) // 2, (n + _side(n)) // 2) for n in one.scene.clean.shape) for one in examples]
    rows: dict[str, list[NDArray[np.floating]]] = {"clean": [], "image": []}
    for one, cut in zip(examples, middle, strict=True):
        clean = one.scene.clean[cut]
        low, high = float(clean.min()), float(np.ptp(clean)) or 1.0
        rows["clean"].append((clean - low) / high)
        rows["image"].append((one.scene.image[cut] - low) / high)
        for name, heights in one.restored.items():
            rows.setdefault(name, []).append((heights[cut] - low) / high)
    said = ", ".join(f"{one.scene.surface} ({one.scene.family})" for one in examples)
    page.figure(
        sheet(rows, zoom=1.3), f"The middle of some scans, grey from the lowest to the highest clean point: {said}."
    )


def _side(length: int) -> int:
    return min(length, _SHOWN_PX)
