"""The scores of one denoiser as tables: for the card of a package, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spm_training.atoms.report import file_stem
from spm_training.defects.score import Interval
from spm_training.denoise.evaluate import LatticeScore, at_every_level, evaluate_all
from spm_training.denoise.scenes import DENOISE_SEED, SURFACES, DenoiseOptions, conditions
from spm_training.peers.denoise import Denoiser
from spm_training.peers.denoise_scores import DenoiseScores
from spm_training.restore.figures import mean_interval
from spm_training.restore.report import Subject, plain
from spm_training.simulate.stm_lattices import NOISE_LEVELS
from spm_training.tables import markdown_table, write_tables

__all__ = ["DenoiseReport", "chosen", "finite_mean", "interval_of", "score_denoiser"]

#: A denoiser that was not named.
_ANY = Subject("denoiser")


@dataclass(frozen=True)
class DenoiseReport:
    """All scores of one package or method.

    Parameters
    ----------
    options
        Which images were scored.
    scores
        One per image.
    subject
        Whose.
    """

    options: DenoiseOptions
    scores: Sequence[LatticeScore]
    subject: Subject = _ANY

    @property
    def command(self) -> str:
        """What repeats it."""
        default = DenoiseOptions()
        words = ["spm-train evaluate", self.subject.name if self.subject.sha256 else "denoise --peers"]
        words.append(f"--images {self.options.images}")
        if self.options.side_px != default.side_px:
            words.append(f"--side-px {self.options.side_px}")
        if self.options.names != default.names:
            words += [f"--family {name}" for name in self.options.names]
        return " ".join(words)

    def headline(self) -> dict[str, float]:
        """The few numbers that a package carries in its description: means over lattices, and the gain on other surfaces."""
        values: dict[str, float] = {}
        for level in NOISE_LEVELS:
            few = chosen(self.scores, level, self.options.lattices)
            surfaces = chosen(self.scores, level, [SURFACES])
            values |= {
                f"psnr_{level}": finite_mean([one.after.psnr_db for one in few]),
                f"psnr_gain_{level}": finite_mean([one.gain_db for one in few]),
                f"ssim_{level}": finite_mean([one.after.ssim for one in few]),
                f"vacancy_contrast_{level}": finite_mean([one.vacancy for one in few]),
                f"adatom_contrast_{level}": finite_mean([one.adatom for one in few]),
                f"surfaces_psnr_gain_{level}": finite_mean([one.gain_db for one in surfaces]),
            }
        return {name: round(value, 4) for name, value in values.items() if np.isfinite(value)}

    def markdown(self) -> str:
        """The command, and the table with its conditions below."""
        rows = []
        for level in NOISE_LEVELS:
            for name in self.options.names:
                few = chosen(self.scores, level, [name])
                rows.append(
                    [
                        f"{name}, {level}",
                        _quality([one.before for one in few]),
                        _quality([one.after for one in few]),
                        f"{finite_mean([one.gain_db for one in few]):+.2f}",
                        f"{finite_mean([one.vacancy for one in few]):.2f}",
                        f"{finite_mean([one.adatom for one in few]):.2f}",
                    ]
                )
        headings = (
            "MSE / PSNR / SSIM",
            "as recorded",
            "denoised",
            "gain in dB",
            "vacancies left",
            "adatoms left",
        )
        return f"`{self.command}`\n\n{markdown_table(headings, rows)}\n{conditions(self.options)}"

    def document(self) -> dict[str, object]:
        """The figures and what they are about, for JSON."""
        rows = []
        for level in NOISE_LEVELS:
            for name in self.options.names:
                few = chosen(self.scores, level, [name])
                after = {
                    key: finite_mean([getattr(one.after, key) for one in few]) for key in ("mse", "psnr_db", "ssim")
                }
                before = {f"{key}_before": finite_mean([getattr(one.before, key) for one in few]) for key in after}
                rows.append({"lattice": name, "noise": level, "images": len(few), **after, **before, **_kept(few)})
        return {
            **asdict(self.subject),
            "command": self.command,
            "seed": DENOISE_SEED,
            "headline": self.headline(),
            "rows": plain(rows),
        }

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``evaluation-NAME.json`` and ``.md`` and give their paths."""
        stem = f"evaluation-{file_stem(self.subject.name)}"
        return write_tables(folder / stem, self.document(), self.markdown())


def _kept(scores: Sequence[LatticeScore]) -> dict[str, object]:
    """What is left of the defects, with the intervals of the means, and the time."""
    found: dict[str, object] = {"seconds": finite_mean([one.seconds for one in scores])}
    for kind in ("vacancy", "adatom"):
        found[f"{kind}_contrast"] = list(asdict(interval_of([getattr(one, kind) for one in scores])).values())
    return found


def chosen(scores: Sequence[LatticeScore], level: str, names: Collection[str]) -> list[LatticeScore]:
    """The scores at a level of noise of what has one of these names."""
    return [one for one in scores if one.noise == level and one.lattice in names]


def interval_of(values: Sequence[float]) -> Interval:
    """Mean and its bootstrap interval, over the values that are there; without an interval where one is infinite."""
    there = [value for value in values if not np.isnan(value)]
    if not np.isfinite(there).all():
        return Interval(float(np.mean(there)), float("nan"), float("nan"))
    return mean_interval(there)


def score_denoiser(
    denoiser: Denoiser,
    options: DenoiseOptions,
    *,
    on_image: Callable[[LatticeScore], object] | None = None,
    subject: Subject = _ANY,
) -> DenoiseReport:
    """Score what takes noise away.

    Parameters
    ----------
    denoiser
        A package (`package_denoiser`) or a peer.
    options
        Which images.
    on_image
        Called with the score of every image.
    subject
        Whose scores they are.
    """
    found = evaluate_all({"denoiser": at_every_level(denoiser)}, options, on_image=on_image)
    return DenoiseReport(options, found["denoiser"], subject)


def _quality(scores: Sequence[DenoiseScores]) -> str:
    means = (finite_mean([getattr(one, name) for one in scores]) for name in ("mse", "psnr_db", "ssim"))
    return "{:.5f} / {:.2f} / {:.3f}".format(*means)


def finite_mean(values: Sequence[float]) -> float:
    """Mean of the finite ones; NaN where there is none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
