"""Tables of an evaluation of defects, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from spm_runtime.models import ModelPackage
from spm_training.atoms.report import file_stem
from spm_training.calibration import Reliability, reliability
from spm_training.defects.annotated_score import RealScores
from spm_training.defects.scenes import DEFECTS_SEED, DefectOptions
from spm_training.defects.score import (
    BORDER_PX,
    LEAST_TOLERANCE_NM,
    NEAR_STEP_NM,
    ImageScore,
    Interval,
    f1_interval,
    total_counts,
    v_measure_interval,
)
from spm_training.simulate.surfaces import DEFECT_CLASSES, FAMILIES, NOISE_LEVELS, REQUIRED_DETECTABILITY
from spm_training.tables import interval_cell, markdown_table, write_tables

__all__ = ["FAINT", "DefectComparison", "DefectReport", "DefectRow", "Subject", "conditions"]

#: Range of d′ of a faint halo.
FAINT = (5.0, 12.0)

_VACANCIES = tuple(DEFECT_CLASSES.index(name) for name in ("vacancy", "dimer-vacancy"))
_HALOS = tuple(DEFECT_CLASSES.index(name) for name in ("dopant-bright", "dopant-dark"))
Scores = Sequence[ImageScore]


@dataclass(frozen=True)
class Subject:
    """What was scored.

    Parameters
    ----------
    name
        Name of the package, or of the peer.
    version, sha256
        Of the package; empty for a peer.
    families
        Families of surfaces that it was trained or tuned on.
    description
        What a peer is, in one line.
    places, classes
        Whether its places and its classes are its own; figures of what is not are left out.
    empty
        Whether surfaces without defects say anything of it.
    """

    name: str
    version: str = ""
    sha256: str = ""
    families: tuple[str, ...] = tuple(FAMILIES)
    description: str = ""
    places: bool = True
    classes: bool = True
    empty: bool = True

    @classmethod
    def of(cls, package: ModelPackage) -> Subject:
        """A model package."""
        trained = str(package.training.get("families", "all"))
        families = tuple(FAMILIES) if trained == "all" else tuple(trained.split(", "))
        return cls(package.name, package.version, package.sha256, families)

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True)
class DefectRow:
    """Figures of a group of images; NaN where nothing can be said.

    Parameters
    ----------
    group
        What the images have in common.
    images, defects
        Images with defects, and required defects in them.
    f1
        With its bootstrap interval over images; over the images with defects, as the next two.
    precision, recall
        Counted over all marks and defects.
    empty_images, false_per_empty
        Images without defects, and marks per such image.
    false_per_100_nm_step, step_nm
        False marks within 1.5 nm of a step per 100 nm of step, and the length of all steps, over all images.
    border_recall, border_defects
        Share of the required defects near the border that were found, and their number.
    seconds
        Mean time of the finder on the machine that evaluated.
    """

    group: str
    images: int
    defects: int
    f1: Interval
    precision: float
    recall: float
    empty_images: int
    false_per_empty: float
    false_per_100_nm_step: float
    step_nm: float
    border_recall: float
    border_defects: int
    seconds: float


_COLUMNS: tuple[tuple[str, Callable[[DefectRow], str]], ...] = (
    ("images", lambda row: str(row.images)),
    ("defects", lambda row: str(row.defects)),
    ("F1 [95 %]", lambda row: interval_cell(row.f1.value, row.f1.low, row.f1.high)),
    ("P / R", lambda row: f"{row.precision:.3f} / {row.recall:.3f}"),
    ("false per empty image", lambda row: f"{row.false_per_empty:.2f}"),
    ("false per 100 nm of step (nm)", lambda row: f"{row.false_per_100_nm_step:.2f} ({row.step_nm:.0f})"),
    ("recall at the border (defects)", lambda row: f"{row.border_recall:.2f} ({row.border_defects})"),
    ("s", lambda row: f"{row.seconds:.2f}"),
)


@dataclass(frozen=True)
class DefectReport:
    """All scores of one subject.

    Parameters
    ----------
    subject
        The package or peer.
    options
        Which images were scored.
    scores
        One per image.
    real
        Scores on real scans; those of others in them are left out.
    """

    subject: Subject
    options: DefectOptions
    scores: Scores
    real: Sequence[RealScores] = ()

    @property
    def command(self) -> str:
        """What repeats this evaluation."""
        return _command(self.subject.name if self.subject.sha256 else "defects --peers", self.options)

    @cached_property
    def rows(self) -> Mapping[str, DefectRow]:
        """Figures by group: everything, each noise level, each family, the families never trained on."""
        groups: dict[str, Callable[[ImageScore], bool]] = {"all": lambda _: True}
        groups |= {f"noise: {noise}": _noise(noise) for noise in NOISE_LEVELS}
        groups |= {f"family: {name}": _family(name) for name in FAMILIES}
        if set(FAMILIES) - set(self.subject.families):
            groups["families never trained on"] = lambda score: score.family not in self.subject.families
        chosen = {name: [score for score in self.scores if keep(score)] for name, keep in groups.items()}
        return {name: _row(name, scores) for name, scores in chosen.items() if scores}

    @cached_property
    def recalls(self) -> Mapping[str, tuple[float, int]]:
        """Recall by class and by groups of classes, with the number of required defects; NaN where there are none."""
        kind = np.concatenate([score.kind for score in self.scores])
        strength = np.concatenate([score.detectability for score in self.scores])
        hit = np.concatenate([score.hit for score in self.scores])
        halo, faint = np.isin(kind, _HALOS), (strength >= FAINT[0]) & (strength < FAINT[1])
        groups = {name: kind == index for index, name in enumerate(DEFECT_CLASSES)}
        groups["vacancies, both kinds"] = np.isin(kind, _VACANCIES)
        groups["dopant halos, both kinds"] = halo
        groups["faint dopant halos"] = halo & faint
        groups["all faint defects"] = faint
        return {
            name: (float(hit[chosen].mean()) if chosen.any() else math.nan, int(chosen.sum()))
            for name, chosen in groups.items()
        }

    @cached_property
    def v_measure(self) -> Interval:
        """V-measure of the classes over the matched defects; NaN where the finder gives none."""
        return v_measure_interval(self.scores) if self.subject.classes else Interval(math.nan, math.nan, math.nan)

    @cached_property
    def reliability(self) -> Reliability | None:
        """Of the scores of all marks; None for a peer, whose scores are an order, and where nothing was marked."""
        if not self.subject.sha256 or not any(len(score.score) for score in self.scores):
            return None
        return reliability(
            *(np.concatenate([getattr(one, name) for one in self.scores]) for name in ("score", "is_true"))
        )

    def markdown(self) -> str:
        """The tables with their command above them and their conditions below, then the real scans."""
        figures = [[row.group, *(cell(row) for _, cell in _COLUMNS)] for row in self.rows.values()]
        classes = [[name, f"{recall:.2f}", str(count)] for name, (recall, count) in self.recalls.items()]
        parts = [
            f"`{self.command}`\n",
            markdown_table(["", *(heading for heading, _ in _COLUMNS)], figures),
            markdown_table(["class", "recall", "required"], classes),
        ]
        v, recall = self.v_measure, total_counts(self.scores).recall
        if math.isfinite(v.value):
            told = f"{interval_cell(v.value, v.low, v.high)}, at recall {recall:.2f}"
            parts.append(f"V-measure of the classes over the matched defects: {told}.\n")
        if self.reliability is not None:
            parts.append(self.reliability.markdown("of right marks", "marks"))
        parts.append(conditions(self.options) + "\n")
        parts += [one.markdown(3) for one in self._own_real]
        return "\n".join(parts)

    def document(self) -> dict[str, object]:
        """The figures and what they are about, for JSON."""
        return {
            "name": self.subject.name,
            "version": self.subject.version,
            "sha256": self.subject.sha256,
            "command": self.command,
            "seed": DEFECTS_SEED,
            "rows": [_plain(vars(row)) for row in self.rows.values()],
            "recall_by_class": [
                _plain({"class": name, "recall": recall, "required": count})
                for name, (recall, count) in self.recalls.items()
            ],
            "v_measure": _plain(vars(self.v_measure)),
            "calibration": None if self.reliability is None else self.reliability.document(),
            "real": [one.document() for one in self._own_real],
        }

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``evaluation-NAME.json`` and ``.md`` and give their paths."""
        stem = f"evaluation-{file_stem(self.subject.name)}"
        return write_tables(folder / stem, self.document(), self.markdown())

    @property
    def _own_real(self) -> list[RealScores]:
        own = (one.of(self.subject.label) for one in self.real)
        return [one for one in own if one.by_finder]

    def headline(self) -> dict[str, float]:
        """The few numbers that a package carries in its description."""
        rows = self.rows
        everything = rows["all"]
        values = {
            **{f"f1_{noise}": rows[f"noise: {noise}"].f1.value for noise in NOISE_LEVELS},
            "false_per_empty_image": everything.false_per_empty,
            "false_per_100_nm_step": everything.false_per_100_nm_step,
            "recall": everything.recall,
            "recall_border": everything.border_recall,
            "recall_faint_halos": self.recalls["faint dopant halos"][0],
            "recall_vacancies": self.recalls["vacancies, both kinds"][0],
            "v_measure": self.v_measure.value,
            "calibration_error": math.nan if self.reliability is None else self.reliability.expected_error,
        }
        return {name: round(value, 4) for name, value in values.items() if math.isfinite(value)}


_HEADINGS = (
    "F1: clear / medium / low",
    "95 % over images",
    "false per empty image: clear / medium / low",
    "false per 100 nm of step",
    "recall at the border",
    "faint halos",
    "vacancies",
    "V-measure (at recall)",
    "s",
)


@dataclass(frozen=True)
class DefectComparison:
    """Several subjects in one table.

    Parameters
    ----------
    reports
        All of the same images.
    missing
        Why peers that exist were not run, by name.
    real
        Scores on real scans.
    """

    reports: Sequence[DefectReport]
    missing: Mapping[str, str] = field(default_factory=dict)
    real: Sequence[RealScores] = ()

    def markdown(self) -> str:
        """The compact table, its conditions, what the peers are and which were not run."""
        table = markdown_table(["", *_HEADINGS], ([one.subject.label, *_compared(one)] for one in self.reports))
        lines = [table.rstrip()]
        if self.reports:
            lines += ["", conditions(self.reports[0].options)]
        described = [(one.subject.label, one.subject.description) for one in self.reports if one.subject.description]
        if described:
            lines += [
                "",
                "The settings of the peers have the best mean F1 of the three levels on other scenes of the same kind.",
                "",
            ]
            lines += [f"* {name}: {description}" for name, description in described]
        lines += ["", *(f"* {name} was not run: {why}" for name, why in self.missing.items())] if self.missing else []
        lines += [part for one in self.real for part in ("", one.markdown().rstrip())]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, object]:
        """All reports for JSON."""
        return {
            "reports": [report.document() for report in self.reports],
            "not_run": dict(self.missing),
            "real": [one.document() for one in self.real],
        }

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``comparison-defects.json`` and ``.md`` and give their paths."""
        return write_tables(folder / "comparison-defects", self.document(), self.markdown())


def _compared(report: DefectReport) -> list[str]:
    """The cells of a row of the comparison."""
    everything, subject = report.rows["all"], report.subject
    levels = [report.rows.get(f"noise: {noise}") for noise in NOISE_LEVELS]
    v, recall = report.v_measure.value, total_counts(report.scores).recall
    classes = f"{v:.2f}" + (f" ({recall:.2f})" if math.isfinite(v) else "")
    if not subject.places:
        return ["–"] * 7 + [classes, f"{everything.seconds:.2f}"]
    empty = " / ".join("–" if row is None else f"{row.false_per_empty:.2f}" for row in levels) if subject.empty else "–"
    cells = [
        " / ".join("–" if row is None else f"{row.f1.value:.2f}" for row in levels),
        ", ".join("–" if row is None else f"{row.f1.low:.2f}–{row.f1.high:.2f}" for row in levels),
        empty,
        f"{everything.false_per_100_nm_step:.1f}",
        f"{everything.border_recall:.2f}",
        f"{report.recalls['faint dopant halos'][0]:.2f}",
        f"{report.recalls['vacancies, both kinds'][0]:.2f}",
    ]
    return [*cells, classes, f"{everything.seconds:.2f}"]


def conditions(options: DefectOptions) -> str:
    """What was scored and how, below a table."""
    levels = ", ".join(f"{name} {d[0]:g} to {d[1]:g}" for name, d in NOISE_LEVELS.items())
    side = options.side_px
    return (
        f"Simulated surfaces of {side}×{side} px that no training draws: at every noise level {options.images} with defects and "
        f"{options.images} without, in turn of {', '.join(options.families)}. Matching is one to one within the larger of the "
        f"defect's radius and {LEAST_TOLERANCE_NM:g} nm; a defect must be found when its centre lies in the image and its d′ is "
        f"{REQUIRED_DETECTABILITY:g} or more; ghosts of double tips and fainter defects are neither required nor punished. F1, "
        "precision and recall are counted over the images with defects, with a bootstrap over images. False marks at steps: "
        f"within {NEAR_STEP_NM:g} nm of one, in all images, over the length of the thinned steps. Border: centres within "
        f"{BORDER_PX:g} px. Faint: d′ of {FAINT[0]:g} to {FAINT[1]:g}. Vacancies: single ones and dimers. Noise levels are "
        f"ranges of the detectability d′ of a dip of 40 pm: {levels}."
    )


def _row(group: str, scores: Scores) -> DefectRow:
    shown = [score for score in scores if not score.empty]
    empty = [score for score in scores if score.empty]
    counts = total_counts(shown)
    border = np.concatenate([np.zeros(0, bool), *(score.hit[score.border_px < BORDER_PX] for score in shown)])
    length = sum(score.step_nm for score in scores)
    at_steps = sum(score.false_at_steps for score in scores)
    return DefectRow(
        group=group,
        images=len(shown),
        defects=counts.true_positive + counts.false_negative,
        f1=f1_interval([score.counts for score in shown]) if shown else Interval(math.nan, math.nan, math.nan),
        precision=counts.precision if shown else math.nan,
        recall=counts.recall if shown else math.nan,
        empty_images=len(empty),
        false_per_empty=sum(score.false_positives for score in empty) / len(empty) if empty else math.nan,
        false_per_100_nm_step=100 * at_steps / length if length else math.nan,
        step_nm=length,
        border_recall=float(border.mean()) if len(border) else math.nan,
        border_defects=len(border),
        seconds=float(np.mean([score.seconds for score in scores])),
    )


def _command(what: str, options: DefectOptions) -> str:
    default = DefectOptions()
    words = ["spm-train evaluate", what]
    if options.images != default.images:
        words.append(f"--images {options.images}")
    if options.side_px != default.side_px:
        words.append(f"--side-px {options.side_px}")
    if options.families != default.families:
        words += [f"--family {name}" for name in options.families]
    return " ".join(words)


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    """For JSON: intervals as dictionaries, None for NaN."""
    plain: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Interval):
            plain[name] = _plain(vars(value))
        else:
            plain[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return plain


def _noise(level: str) -> Callable[[ImageScore], bool]:
    return lambda score: score.noise == level


def _family(name: str) -> Callable[[ImageScore], bool]:
    return lambda score: score.family == name
