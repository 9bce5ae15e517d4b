"""Tables of an evaluation, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from spm_runtime.models import ModelPackage
from spm_training.atoms.calibration_report import CalibrationReport
from spm_training.atoms.evaluate import EVALUATION_SEED, TOLERANCES, EvaluationOptions, ImageScore
from spm_training.metrics import Counts
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS, PAPER_FAMILIES, UNSEEN_FAMILIES
from spm_training.tables import markdown_table, write_tables

__all__ = ["DIAGRAM", "Report", "Row", "Subject", "conditions", "file_stem"]

#: File of the reliability diagram in the folder of a model card.
DIAGRAM = "reliability.png"


@dataclass(frozen=True)
class Row:
    """Scores of a group of images; NaN where nothing can be said.

    Parameters
    ----------
    group
        What the images have in common.
    images, atoms
        How many images, and required atoms in them.
    f1_quarter, precision, recall, jaccard
        At a tolerance of 0.25 of the spacing, counted over all atoms.
    f1_images, precision_images, recall_images
        Means of the images' own: images with few atoms weigh as much as those with many.
    f1_half, precision_half, recall_half, f1_half_images, precision_half_images, recall_half_images
        The same at 0.5.
    rms_px, rms_spacings
        Root mean square distance of the pairs at 0.25, in pixels and relative to the spacing.
    rms_over_bound, rms_over_bound_images
        The same over the root mean square Cramér–Rao bound of the same columns, and the median of the images' own.
    chamfer_px
        Mean over the images in which something was found.
    scale_within_tenth
        Share of the images whose spacing is predicted within 10 %.
    seconds_per_image
        Mean time of the pipeline on the machine that evaluated.
    time_over_blob_log
        That over the mean time of scikit-image's `blob_log` at its defaults on the same images.
    """

    group: str
    images: int
    atoms: int
    f1_quarter: float
    precision: float
    recall: float
    jaccard: float
    f1_images: float
    precision_images: float
    recall_images: float
    f1_half: float
    precision_half: float
    recall_half: float
    f1_half_images: float
    precision_half_images: float
    recall_half_images: float
    rms_px: float
    rms_spacings: float
    rms_over_bound: float
    rms_over_bound_images: float
    chamfer_px: float
    scale_within_tenth: float
    seconds_per_image: float
    time_over_blob_log: float


#: Heading of the columns of the Markdown table, and their cells as a format of the row's fields.
_COLUMNS = (
    ("images", "{images:d}"),
    ("F1 (P / R) at 0.25", "{f1_quarter:.3f} ({precision:.3f} / {recall:.3f})"),
    ("mean over images", "{f1_images:.3f} ({precision_images:.3f} / {recall_images:.3f})"),
    ("F1 (P / R) at 0.5", "{f1_half:.3f} ({precision_half:.3f} / {recall_half:.3f})"),
    ("mean over images", "{f1_half_images:.3f} ({precision_half_images:.3f} / {recall_half_images:.3f})"),
    ("Jaccard", "{jaccard:.3f}"),
    ("Chamfer px", "{chamfer_px:.2f}"),
    ("rms px", "{rms_px:.3f}"),
    ("rms / spacing", "{rms_spacings:.4f}"),
    ("rms / CRB (median image)", "{rms_over_bound:.2f} ({rms_over_bound_images:.2f})"),
    ("scale ±10 %", "{scale_within_tenth:.2f}"),
    ("s", "{seconds_per_image:.3f}"),
)


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
        Families of arrangements that it was trained or tuned on.
    tuned
        False for a peer at the defaults of its library.
    description
        What a peer is, in one line.
    """

    name: str
    version: str = ""
    sha256: str = ""
    families: tuple[str, ...] = FAMILIES
    tuned: bool = True
    description: str = ""

    @classmethod
    def of(cls, package: ModelPackage) -> Subject:
        """A model package."""
        trained = str(package.training.get("families", "all"))
        families = FAMILIES if trained == "all" else tuple(trained.split(", "))
        return cls(package.name, package.version, package.sha256, families)

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True)
class Report:
    """All scores of one subject.

    Parameters
    ----------
    subject
        The package or peer.
    options
        Which images were scored.
    scores
        One per image.
    """

    subject: Subject
    options: EvaluationOptions
    scores: Sequence[ImageScore]

    @property
    def command(self) -> str:
        """What repeats this evaluation."""
        return _command(self.subject.name if self.subject.sha256 else "NAME --peers", self.options)

    @cached_property
    def calibration(self) -> CalibrationReport | None:
        """What is to be said of its scores; None where it gives none."""
        return CalibrationReport.of(self.scores)

    def rows(self) -> list[Row]:
        """One row for every group that has images.

        Groups: everything; each noise level; each family; the paper's materials, the held-out families and those that the
        subject was never trained on, each as a whole and by noise level.
        """
        groups: list[tuple[str, Callable[[ImageScore], bool]]] = [("all", lambda _: True)]
        groups += [(f"noise: {level}", _noise(level)) for level in NOISE_LEVELS]
        sets: dict[str, Callable[[ImageScore], bool]] = {
            "MoS₂ and ReS₂": lambda score: score.family in PAPER_FAMILIES,
            "held-out families": lambda score: score.family in UNSEEN_FAMILIES,
            "families never trained on": lambda score: score.family not in self.subject.families,
        }
        for name, keep in sets.items():
            groups.append((name, keep))
            groups += [(f"{name}, {level}", _both(keep, _noise(level))) for level in NOISE_LEVELS]
        groups += [(f"family: {name}", _family(name)) for name in FAMILIES]
        chosen = ((name, [score for score in self.scores if keep(score)]) for name, keep in groups)
        return [_row(name, scores) for name, scores in chosen if scores]

    def row(self, group: str) -> Row | None:
        """The row of a group, None if it has no images."""
        return next((row for row in self.rows() if row.group == group), None)

    def markdown(self, *, diagram: str | None = None) -> str:
        """The table with its command above it and its conditions below, then the calibration.

        Parameters
        ----------
        diagram
            File of the reliability diagram beside the text, shown if given.
        """
        rows = [[row.group, *(cell.format(**vars(row)) for _, cell in _COLUMNS)] for row in self.rows()]
        table = markdown_table(["", *(heading for heading, _ in _COLUMNS)], rows)
        lines = [f"`{self.command}`", "", table, conditions(self.options)]
        if self.calibration is not None:
            shown = f"\n![Reliability of the scores]({diagram})\n" if diagram else ""
            lines += [shown, self.calibration.markdown().rstrip()]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, object]:
        """The rows and what they are about, for JSON."""
        return {
            "name": self.subject.name,
            "version": self.subject.version,
            "sha256": self.subject.sha256,
            "tuned": self.subject.tuned,
            "command": self.command,
            "seed": EVALUATION_SEED,
            "rows": [_jsonable(row) for row in self.rows()],
            "calibration": None if self.calibration is None else self.calibration.document(),
        }

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write ``evaluation-NAME.json`` and ``.md``, with scores also ``evaluation-NAME-reliability.png``; give their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"evaluation-{file_stem(self.subject.name)}"
        if self.calibration is None:
            return write_tables(stem, self.document(), self.markdown())
        diagram = stem.with_name(f"{stem.name}-{DIAGRAM}")
        self.calibration.reliability.picture().save(diagram)
        return *write_tables(stem, self.document(), self.markdown(diagram=diagram.name)), diagram

    def card(self, folder: Path) -> str:
        """The Markdown for a model card in a folder, into which the reliability diagram goes."""
        if self.calibration is None:
            return self.markdown()
        self.calibration.reliability.picture().save(folder / DIAGRAM)
        return self.markdown(diagram=DIAGRAM)

    def headline(self) -> dict[str, float]:
        """The few numbers that a package carries in its description."""
        rows = {row.group: row for row in self.rows()}
        everything = rows["all"]
        values = {
            "f1_images": everything.f1_images,
            "f1": everything.f1_quarter,
            **{f"f1_{level}": rows[f"noise: {level}"].f1_quarter for level in NOISE_LEVELS},
            "f1_half": everything.f1_half,
            "rms_spacings": everything.rms_spacings,
            **{f"rms_over_bound_{level}": rows[f"noise: {level}"].rms_over_bound for level in NOISE_LEVELS},
            "scale_within_tenth": everything.scale_within_tenth,
        }
        if self.calibration is not None:
            values["calibration_error"] = self.calibration.reliability.expected_error
        return {name: round(value, 4) for name, value in values.items() if np.isfinite(value)}


def file_stem(name: str) -> str:
    """A name as part of a file name: anything but letters, digits, dots and dashes becomes a dash."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def _command(what: str, options: EvaluationOptions) -> str:
    default = EvaluationOptions()
    words = ["spm-train evaluate", what]
    if options.images != default.images:
        words.append(f"--images {options.images}")
    if options.side_px != default.side_px:
        words.append(f"--side-px {options.side_px}")
    if options.spacing_px != default.spacing_px:
        words.append("--spacing-px {:g} {:g}".format(*options.spacing_px))
    if options.families != default.families:
        words += [f"--family {name}" for name in options.families]
    return " ".join(words)


def conditions(options: EvaluationOptions) -> str:
    """What was scored and how, below a table."""
    low, high = options.spacing_px
    levels = ", ".join(f"{name} {d[0]:g} to {d[1]:g}" for name, d in NOISE_LEVELS.items())
    side = options.side_px
    return (
        f"Simulated images of {side}×{side} px that no training draws, {options.images} of every family and noise level, spacing "
        f"{low:g} to {high:g} px. Matching is one to one within 0.25 (or 0.5) of the true spacing; Jaccard and rms at 0.25; "
        "counted over all atoms unless the mean over images is named; light and buried columns are neither required nor "
        "punished. rms / CRB: over the root mean square Cramér–Rao bound of the same columns, each taken as isolated and of "
        f"known shape. Noise levels are ranges of the detectability d′ of one column: {levels}."
    )


def _row(group: str, scores: Sequence[ImageScore]) -> Row:
    quarter, half = (sum((score.counts[tolerance] for score in scores), Counts()) for tolerance in TOLERANCES)
    relative = sum(score.counts[TOLERANCES[0]].square_distance_px2 / score.spacing_px**2 for score in scores)
    hits = quarter.true_positive
    ratios = [r for r in (score.counts[TOLERANCES[0]].rms_over_bound for score in scores) if np.isfinite(r)]
    seconds = _mean([score.seconds for score in scores])

    def over_images(tolerance: float, what: str) -> float:
        return _mean([getattr(score.counts[tolerance], what) for score in scores])

    return Row(
        group=group,
        images=len(scores),
        atoms=hits + quarter.false_negative,
        f1_quarter=quarter.f1,
        precision=quarter.precision,
        recall=quarter.recall,
        jaccard=quarter.jaccard,
        f1_images=over_images(TOLERANCES[0], "f1"),
        precision_images=over_images(TOLERANCES[0], "precision"),
        recall_images=over_images(TOLERANCES[0], "recall"),
        f1_half=half.f1,
        precision_half=half.precision,
        recall_half=half.recall,
        f1_half_images=over_images(TOLERANCES[1], "f1"),
        precision_half_images=over_images(TOLERANCES[1], "precision"),
        recall_half_images=over_images(TOLERANCES[1], "recall"),
        rms_px=quarter.rms_px,
        rms_spacings=float(np.sqrt(relative / hits)) if hits else float("nan"),
        rms_over_bound=quarter.rms_over_bound,
        rms_over_bound_images=float(np.median(ratios)) if ratios else float("nan"),
        chamfer_px=_mean([score.chamfer_px for score in scores if np.isfinite(score.chamfer_px)]),
        scale_within_tenth=_mean([abs(score.found_spacing_px / score.spacing_px - 1) <= 0.1 for score in scores]),
        seconds_per_image=seconds,
        time_over_blob_log=seconds / _mean([score.blob_log_seconds for score in scores]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _jsonable(row: Row) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in vars(row).items()
    }


def _noise(level: str) -> Callable[[ImageScore], bool]:
    return lambda score: score.noise == level


def _family(name: str) -> Callable[[ImageScore], bool]:
    return lambda score: score.family == name


def _both(first: Callable[[ImageScore], bool], second: Callable[[ImageScore], bool]) -> Callable[[ImageScore], bool]:
    return lambda score: first(score) and second(score)
