"""Tables of an evaluation, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spm_runtime.models import ModelPackage
from spm_training.evaluate import EVALUATION_SEED, TOLERANCES, EvaluationOptions, ImageScore
from spm_training.files import write_atomically
from spm_training.metrics import Counts
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS

__all__ = ["Report", "Row", "Subject"]


@dataclass(frozen=True)
class Row:
    """Scores of a group of images.

    Parameters
    ----------
    group
        What the images have in common.
    images, atoms
        How many images, and required atoms in them.
    f1_quarter, f1_half
        F1 at a tolerance of 0.25 and 0.5 of the spacing, counted over all atoms.
    f1_images
        Mean of the images' own F1 at 0.25: images with few atoms weigh as much as those with many.
    precision, recall, jaccard
        The same at 0.25.
    rms_px, rms_spacings
        Root mean square distance of the pairs at 0.25, in pixels and relative to the spacing; NaN without pairs.
    chamfer_px
        Mean over the images in which something was found; NaN if there are none.
    scale_within_tenth
        Share of the images whose spacing is predicted within 10 %.
    seconds_per_image
        Mean time of the pipeline on the machine that evaluated.
    """

    group: str
    images: int
    atoms: int
    f1_quarter: float
    f1_half: float
    f1_images: float
    precision: float
    recall: float
    jaccard: float
    rms_px: float
    rms_spacings: float
    chamfer_px: float
    scale_within_tenth: float
    seconds_per_image: float


#: Heading, field and format of the columns of the Markdown table.
_COLUMNS = (
    ("images", "images", "{:d}"),
    ("F1 (0.25)", "f1_quarter", "{:.3f}"),
    ("F1 (0.5)", "f1_half", "{:.3f}"),
    ("mean F1 (0.25)", "f1_images", "{:.3f}"),
    ("precision", "precision", "{:.3f}"),
    ("recall", "recall", "{:.3f}"),
    ("Jaccard", "jaccard", "{:.3f}"),
    ("Chamfer px", "chamfer_px", "{:.2f}"),
    ("rms px", "rms_px", "{:.3f}"),
    ("rms / spacing", "rms_spacings", "{:.4f}"),
    ("scale ±10 %", "scale_within_tenth", "{:.2f}"),
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
    """

    name: str
    version: str = ""
    sha256: str = ""
    families: tuple[str, ...] = FAMILIES

    @classmethod
    def of(cls, package: ModelPackage) -> Subject:
        """A model package."""
        trained = str(package.training.get("families", "all"))
        families = FAMILIES if trained == "all" else tuple(trained.split(", "))
        return cls(package.name, package.version, package.sha256, families)


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
        default = EvaluationOptions()
        words = ["spm-train evaluate", self.subject.name if self.subject.sha256 else "NAME --peers"]
        if self.options.images != default.images:
            words.append(f"--images {self.options.images}")
        if self.options.side_px != default.side_px:
            words.append(f"--side-px {self.options.side_px}")
        if self.options.spacing_px != default.spacing_px:
            words.append("--spacing-px {:g} {:g}".format(*self.options.spacing_px))
        return " ".join(words)

    def rows(self) -> list[Row]:
        """One row for everything, each noise level, each family, and the families never trained on if there are any."""
        groups: list[tuple[str, Callable[[ImageScore], bool]]] = [("all", lambda _: True)]
        groups += [(f"noise: {level}", _is("noise", level)) for level in NOISE_LEVELS]
        groups += [(f"family: {name}", _is("family", name)) for name in FAMILIES]
        groups.append(("families never trained on", lambda score: score.family not in self.subject.families))
        chosen = ((name, [score for score in self.scores if keep(score)]) for name, keep in groups)
        return [_row(name, scores) for name, scores in chosen if scores]

    def markdown(self) -> str:
        """The table with its command above it and its conditions below."""
        lines = [f"`{self.command}`", "", "| | " + " | ".join(heading for heading, _, _ in _COLUMNS) + " |"]
        lines.append("|---|" + "---:|" * len(_COLUMNS))
        for row in self.rows():
            cells = [form.format(getattr(row, name)) for _, name, form in _COLUMNS]
            lines.append(f"| {row.group} | " + " | ".join(cells) + " |")
        low, high = self.options.spacing_px
        levels = ", ".join(f"{name} {d[0]:g} to {d[1]:g}" for name, d in NOISE_LEVELS.items())
        side = self.options.side_px
        lines += [
            "",
            f"Simulated images of {side}×{side} px that no training draws, {self.options.images} of every family and noise "
            f"level, spacing {low:g} to {high:g} px. Matching is one to one within 0.25 (or 0.5) of the true spacing; "
            "precision, recall, Jaccard and rms at 0.25; all but the mean F1 are counted over all atoms; light and buried "
            "columns are neither required "
            f"nor punished. Noise levels are ranges of the detectability d′ of one column: {levels}.",
        ]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, object]:
        """The rows and what they are about, for JSON."""
        return {
            "name": self.subject.name,
            "version": self.subject.version,
            "sha256": self.subject.sha256,
            "command": self.command,
            "seed": EVALUATION_SEED,
            "rows": [_jsonable(row) for row in self.rows()],
        }

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``evaluation-NAME.json`` and ``evaluation-NAME.md`` and give their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"evaluation-{self.subject.name}"
        files = (folder / f"{stem}.json", folder / f"{stem}.md")
        write_atomically(files[0], (json.dumps(self.document(), indent=2, allow_nan=False) + "\n").encode())
        write_atomically(files[1], self.markdown().encode())
        return files

    def headline(self) -> dict[str, float]:
        """The few numbers that a package carries in its description."""
        rows = {row.group: row for row in self.rows()}
        levels = {f"f1_{level}": rows[f"noise: {level}"].f1_quarter for level in NOISE_LEVELS}
        everything = rows["all"]
        values = {
            "f1_images": everything.f1_images,
            "f1": everything.f1_quarter,
            **levels,
            "f1_half": everything.f1_half,
            "rms_spacings": everything.rms_spacings,
        }
        values["scale_within_tenth"] = everything.scale_within_tenth
        return {name: round(value, 4) for name, value in values.items() if np.isfinite(value)}


def _row(group: str, scores: Sequence[ImageScore]) -> Row:
    quarter, half = (sum((score.counts[tolerance] for score in scores), Counts()) for tolerance in TOLERANCES)
    chamfer = [score.chamfer_px for score in scores if np.isfinite(score.chamfer_px)]
    relative = sum(score.counts[TOLERANCES[0]].square_distance_px2 / score.spacing_px**2 for score in scores)
    hits = quarter.true_positive
    scale = [abs(score.found_spacing_px / score.spacing_px - 1) <= 0.1 for score in scores]
    return Row(
        group=group,
        images=len(scores),
        atoms=hits + quarter.false_negative,
        f1_quarter=quarter.f1,
        f1_half=half.f1,
        f1_images=float(np.mean([score.counts[TOLERANCES[0]].f1 for score in scores])),
        precision=quarter.precision,
        recall=quarter.recall,
        jaccard=quarter.jaccard,
        rms_px=quarter.rms_px,
        rms_spacings=float(np.sqrt(relative / hits)) if hits else float("nan"),
        chamfer_px=float(np.mean(chamfer)) if chamfer else float("nan"),
        scale_within_tenth=float(np.mean(scale)),
        seconds_per_image=float(np.mean([score.seconds for score in scores])),
    )


def _jsonable(row: Row) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in vars(row).items()
    }


def _is(attribute: str, value: str) -> Callable[[ImageScore], bool]:
    return lambda score: getattr(score, attribute) == value
