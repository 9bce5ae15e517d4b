"""Tables of an evaluation of restoration, for people (Markdown) and for programs (JSON, CSV)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spm_runtime.models import ModelPackage
from spm_training.atoms.report import file_stem
from spm_training.restore.evaluate import AS_RECORDED, TRUE_TIP, Scores
from spm_training.restore.figures import (
    Goal,
    Row,
    certainty_figures,
    chosen,
    goal,
    row,
    tip_figures,
    wins,
)
from spm_training.restore.metrics import RIM_PX, Quality
from spm_training.restore.scenes import GOOD, RESTORE_SEED, RestoreOptions
from spm_training.restore.score import ImageScore
from spm_training.simulate.tips import SURFACES
from spm_training.tables import interval_cell, markdown_table, write_tables

__all__ = ["RestoreReport", "Subject", "conditions", "plain", "quality_cell"]

#: Families whose images a tip made with its apex in the middle: those that have a goal relative to the true tip.
_OF_KNOWN_APEX = ("blunt", "double")


@dataclass(frozen=True)
class Subject:
    """What was scored.

    Parameters
    ----------
    name
        Name of the package, or of the method.
    version, sha256
        Of the package; empty for a method without one.
    description
        What a method is, in one line.
    oracle
        Whether it is told part of the truth: a bound.
    """

    name: str
    version: str = ""
    sha256: str = ""
    description: str = ""
    oracle: bool = False

    @classmethod
    def of(cls, package: ModelPackage) -> Subject:
        """A model package."""
        return cls(package.name, package.version, package.sha256)

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True)
class RestoreReport:
    """All scores of one subject, beside those of the image as recorded and of erosion by the true tip.

    Parameters
    ----------
    subject
        The package or method.
    options
        Which images were scored.
    scores
        One per image.
    references
        Scores of the same images by `spm_training.restore.evaluate.REFERENCES`.
    """

    subject: Subject
    options: RestoreOptions
    scores: Scores
    references: Mapping[str, Scores]

    @property
    def command(self) -> str:
        """What repeats this evaluation."""
        return _command(self.subject.name if self.subject.sha256 else "restore --peers", self.options)

    @cached_property
    def groups(self) -> Mapping[tuple[str, str], Callable[[ImageScore], bool]]:
        """Every modality with every family, and with good tips, as what keeps its scores."""
        kinds = (*self.options.families, GOOD)
        return {(modality, kind): _in(modality, kind) for modality in self.options.modalities for kind in kinds}

    @cached_property
    def rows(self) -> Mapping[tuple[str, str], Row]:
        """Means by modality and family."""
        return {key: row(chosen(self.scores, keep)) for key, keep in self.groups.items()}

    def reference(self, name: str, key: tuple[str, str]) -> list[ImageScore]:
        """The scores of a reference in a group."""
        return chosen(self.references[name], self.groups[key])

    @cached_property
    def goals(self) -> Mapping[tuple[str, str], Goal]:
        """What was gained, by modality and family; without the good tips."""
        return {
            key: goal(chosen(self.scores, keep), self.reference(AS_RECORDED, key), self.reference(TRUE_TIP, key))
            for key, keep in self.groups.items()
            if key[1] != GOOD
        }

    def headline(self) -> dict[str, float]:
        """The few numbers that a package carries in its description."""
        values: dict[str, float] = {}
        for (modality, family), reached in self.goals.items():
            name = f"{modality}_{family}"
            values |= {f"psnr_{name}": self.rows[modality, family].fair.psnr, f"psnr_gain_{name}": reached.gain_db}
            if family in _OF_KNOWN_APEX:
                values[f"share_of_true_tip_{name}"] = reached.share
        for modality in self.options.modalities:
            good = self.rows[modality, GOOD]
            values[f"change_good_tip_{modality}"] = good.change
            values[f"unharmed_good_tip_{modality}"] = good.unharmed / good.images if good.images else math.nan
        everything = chosen(self.scores, lambda score: score.group != GOOD)
        certainty, tips = certainty_figures(everything), tip_figures(everything)
        if certainty is not None:
            values |= {"certainty_auc": certainty.auc, "certainty_precision": certainty.precision}
            values |= {
                "certainty_recall": certainty.recall,
                "certainty_calibration_error": certainty.reliability.expected_error,
            }
        if tips is not None:
            values["tip_error"] = tips.error
        return {name: round(value, 4) for name, value in values.items() if math.isfinite(value)}

    def markdown(self) -> str:
        """The tables with their command above them and their conditions below."""
        parts = [
            f"`{self.command}`\n",
            self._qualities(),
            self._surfaces(),
            self._certainties_and_tips(),
            self._good_tips(),
            self._instead(),
        ]
        return "\n".join([part for part in parts if part] + [conditions(self.options)]) + "\n"

    def document(self) -> dict[str, object]:
        """The figures and what they are about, for JSON."""
        rows = []
        for key, figures in self.rows.items():
            scores = chosen(self.scores, self.groups[key])
            certainty, tips = certainty_figures(scores), tip_figures(scores)
            rows.append(
                {
                    "modality": key[0],
                    "group": key[1],
                    **_row_document(figures),
                    "goal": self.goals[key]._asdict() if key in self.goals else None,
                    "wins_against_recorded": wins(
                        self.scores, self.references[AS_RECORDED], self.groups[key]
                    )._asdict(),
                    "certainty": None
                    if certainty is None
                    else {
                        "precision": certainty.precision,
                        "recall": certainty.recall,
                        "auc": certainty.auc,
                        **certainty.reliability.document(),
                    },
                    "tip": None if tips is None else tips._asdict(),
                }
            )
        return {
            "name": self.subject.name,
            "version": self.subject.version,
            "sha256": self.subject.sha256,
            "description": self.subject.description,
            "oracle": self.subject.oracle,
            "command": self.command,
            "seed": RESTORE_SEED,
            "rows": plain(rows),
        }

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``evaluation-NAME.json`` and ``.md`` and give their paths."""
        stem = f"evaluation-{file_stem(self.subject.name)}"
        return write_tables(folder / stem, self.document(), self.markdown())

    def _qualities(self) -> str:
        cells = []
        for key, figures in self.rows.items():
            if not figures.images:
                continue
            recorded, bound = (row(self.reference(name, key)) for name in (AS_RECORDED, TRUE_TIP))
            reached = self.goals.get(key)
            cells.append(
                [
                    f"{key[0].upper()}, {key[1]}",
                    str(figures.images),
                    quality_cell(recorded.fair),
                    quality_cell(figures.fair),
                    quality_cell(bound.fair),
                    interval_cell(figures.interval.value, figures.interval.low, figures.interval.high),
                    "" if reached is None else f"{reached.gain_db:+.2f}",
                    "" if reached is None or key[1] not in _OF_KNOWN_APEX else f"{100 * reached.share:.0f} %",
                    str(wins(self.scores, self.references[AS_RECORDED], self.groups[key])),
                    quality_cell(figures.registered),
                ]
            )
        headings = (
            "PSNR / SSIM / VIF",
            "images",
            "as recorded",
            "restored",
            "erosion, true tip",
            "restored: PSNR [95 %]",
            "gain in dB",
            "of the true tip's gain",
            "better than recorded",
            "restored, registered",
        )
        return markdown_table(headings, cells)

    def _surfaces(self) -> str:
        """Gain in PSNR by kind of surface, the families apart."""
        cells = []
        for modality in self.options.modalities:
            for surface in SURFACES[modality]:
                gains = []
                for family in self.options.families:
                    keep = _on(modality, family, surface)
                    ours, recorded = chosen(self.scores, keep), chosen(self.references[AS_RECORDED], keep)
                    gains.append(f"{row(ours).fair.psnr - row(recorded).fair.psnr:+.2f}" if ours else "")
                cells.append([f"{modality.upper()}, {surface}", *gains])
        return markdown_table(("gain in dB", *self.options.families), cells)

    def _certainties_and_tips(self) -> str:
        cells = []
        for key, keep in self.groups.items():
            scores = chosen(self.scores, keep)
            certainty, tips = certainty_figures(scores), tip_figures(scores)
            if certainty is None and tips is None:
                continue
            said = ["", "", ""]
            if certainty is not None:
                error = certainty.reliability.expected_error
                said = [f"{certainty.precision:.2f} / {certainty.recall:.2f}", f"{certainty.auc:.2f}", f"{error:.3f}"]
            told = ["", ""]
            if tips is not None:
                second = f"{tips.near} of {tips.two} ({tips.second_px:.1f} px)" if tips.two else ""
                told = [f"{tips.error:.3f}", second]
            cells.append([f"{key[0].upper()}, {key[1]}", *said, *told])
        headings = ("certainty and tip", "P / R", "AUC", "calibration error", "error of the tip", "second apex found")
        return markdown_table(headings, cells) if cells else ""

    def _good_tips(self) -> str:
        lines = []
        for modality in self.options.modalities:
            figures = self.rows[modality, GOOD]
            if figures.images:
                lines.append(
                    f"{modality.upper()} images with a good tip are changed by {figures.change:.2f} times their noise on "
                    f"average, and their error becomes {figures.harm:.2f} times what it was; {figures.unharmed} of "
                    f"{figures.images} are unharmed: changed by less than their noise, or nearer to the truth than before."
                )
        return "\n".join(lines) + "\n"

    def _instead(self) -> str:
        """How many images the network was not made for."""
        count = sum(score.instead for score in self.scores if score is not None)
        if not count:
            return ""
        return (
            f"{count} of {len(self.scores)} images have pixels outside the range of the package: the runtime restored them "
            "without the network, and they count as that.\n"
        )


def conditions(options: RestoreOptions) -> str:
    """What was scored and how, below a table."""
    kinds = {modality: len(SURFACES[modality]) for modality in options.modalities}
    surfaces = ", ".join(f"{count} kinds of {modality.upper()} surfaces" for modality, count in kinds.items())
    return (
        f"Simulated scans of {options.side_px}×{options.side_px} px that no training draws: {options.images} of every family "
        f"({', '.join(options.families)}) and modality, and as many with a good tip, sharper than a pixel and with less effect "
        f"than half of the noise; {surfaces} take turns, "
        "surfaces and tips drawn anew for every image; noise (0.1 to 3 % of the relief), line offsets, drift and scars after "
        f"the tip. All figures are means over images, in the frame that leaves out {RIM_PX} px on every side. The data range of "
        "PSNR, SSIM and VIF is that of the clean surface in the frame. SSIM: Gaussian window, σ 1.5 px. VIF: four scales, pixel "
        "domain, the clean surface brought to 0…255. Registered: the lateral shift (sub-pixel, up to "
        f"{RIM_PX} px) and the offset with the highest PSNR taken out first; so are all figures of the family hackathon, whose "
        "apex off the middle no image tells, but those marked raw. Intervals: bootstrap over images. Certainty: where the tip "
        "touched, from 0.5 on; AUC is the mean over images. Error of the tip: rms as a share of the local relief, over what is "
        "less than that below the apex; second apex: found within 2 px (median distance)."
    )


def quality_cell(value: Quality) -> str:
    """``PSNR / SSIM / VIF``; a dash where there is none."""
    return f"{value.psnr:.2f} / {value.ssim:.3f} / {value.vif:.3f}" if math.isfinite(value.psnr) else "–"


def plain(value: object) -> object:
    """What JSON holds: NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row_document(figures: Row) -> dict[str, object]:
    return {
        "images": figures.images,
        **{name: getattr(figures, name)._asdict() for name in ("raw", "registered", "fair")},
        "fair_psnr_interval": [figures.interval.low, figures.interval.high],
        "change_over_noise": figures.change,
        "unharmed": figures.unharmed,
        "error_over_error_before": figures.harm,
        "seconds": figures.seconds,
    }


def _command(names: str, options: RestoreOptions) -> str:
    """What repeats an evaluation."""
    default = RestoreOptions()
    words = ["spm-train evaluate", names, f"--images {options.images}"]
    if options.side_px != default.side_px:
        words.append(f"--side-px {options.side_px}")
    if options.families != default.families:
        words += [f"--family {family}" for family in options.families]
    return " ".join(words)


def _in(modality: str, group: str) -> Callable[[ImageScore], bool]:
    return lambda score: score.modality == modality and score.group == group


def _on(modality: str, group: str, surface: str) -> Callable[[ImageScore], bool]:
    return lambda score: (score.modality, score.group, score.surface) == (modality, group, surface)
