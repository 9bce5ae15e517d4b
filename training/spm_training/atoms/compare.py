"""Several finders side by side in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spm_training.atoms.report import Report, Row, conditions
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS, UNSEEN_FAMILIES
from spm_training.tables import markdown_table, write_tables

__all__ = ["Comparison"]

_HEADINGS = (
    "F1, all families: clear / medium / low",
    "F1, MoS₂ and ReS₂: clear / medium / low",
    "rms / CRB: clear / medium / low",
    "the same, median image",
    "F1, held-out families",
    "scale ±10 %",
    "time / `blob_log`",
)


@dataclass(frozen=True)
class Comparison:
    """Several subjects in one table.

    Parameters
    ----------
    reports
        All of the same images.
    missing
        Why peers that exist were not run, by name.
    sections
        Further tables in Markdown, by heading.
    """

    reports: Sequence[Report]
    missing: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """The compact table, its conditions and the further tables."""
        table = []
        for report in self.reports:
            rows = {row.group: row for row in report.rows()}
            cells = [
                _by_noise(rows, "noise: {}", "f1_quarter", "{:.3f}"),
                _by_noise(rows, "MoS₂ and ReS₂, {}", "f1_quarter", "{:.3f}"),
                _by_noise(rows, "noise: {}", "rms_over_bound", "{:.2f}"),
                _by_noise(rows, "noise: {}", "rms_over_bound_images", "{:.2f}"),
                _cell(rows.get("held-out families"), "f1_quarter", "{:.3f}")
                + ("" if set(UNSEEN_FAMILIES) & set(report.subject.families) else " (never seen)"),
                _cell(rows.get("all"), "scale_within_tenth", "{:.2f}"),
                _cell(rows.get("all"), "time_over_blob_log", "{:.2f}"),
            ]
            mark = "" if report.subject.tuned else " *"
            table.append([f"{report.subject.label}{mark}", *cells])
        held_out = ", ".join(name for name in UNSEEN_FAMILIES if name in FAMILIES)
        lines = [
            markdown_table(["", *_HEADINGS], table),
            "F1 within 0.25 of the spacing, counted over all columns; nobody is told the scale. Held-out families: "
            f"{held_out}; whoever has never seen them is marked. Time: everything from the image as saved to the positions, over "
            "that of scikit-image's `blob_log` at its defaults on the same images in the same run.",
        ]
        if any(not report.subject.tuned for report in self.reports):
            lines.append("\n\\* Library defaults: no fair comparison, shown for what a first try gives.")
        if self.reports:
            lines += ["", conditions(self.reports[0].options)]
        described = [(one.subject.label, one.subject.description) for one in self.reports if one.subject.description]
        lines += ["", *(f"* {name}: {description}" for name, description in described)] if described else []
        lines += ["", *(f"* {name} was not run: {why}" for name, why in self.missing.items())] if self.missing else []
        for heading, text in self.sections.items():
            lines += ["", f"## {heading}", "", text.rstrip()]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, object]:
        """All reports for JSON."""
        return {"reports": [report.document() for report in self.reports], "not_run": dict(self.missing)}

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``comparison.json`` and ``comparison.md`` and give their paths."""
        return write_tables(folder / "comparison", self.document(), self.markdown())


def _by_noise(rows: Mapping[str, Row], group: str, field_name: str, form: str) -> str:
    return " / ".join(_cell(rows.get(group.format(level)), field_name, form) for level in NOISE_LEVELS)


def _cell(row: Row | None, field_name: str, form: str) -> str:
    value = float("nan") if row is None else float(getattr(row, field_name))
    return form.format(value) if np.isfinite(value) else "–"
