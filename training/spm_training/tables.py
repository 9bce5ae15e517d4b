"""Tables in Markdown, and the files of a report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from spm_training.files import write_atomically

__all__ = ["interval_cell", "markdown_table", "write_tables"]

_NAN = re.compile(r"\bnan\b")


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers.

    Parameters
    ----------
    headings
        Of all columns.
    rows
        Their cells; a dash stands for every ``nan`` in them, the first one excepted.

    Returns
    -------
    Lines, each with its end.
    """
    lines = [_line(headings), "|---|" + "---:|" * (len(headings) - 1)]
    lines += [_line([row[0], *(_NAN.sub("–", cell) for cell in row[1:])]) for row in rows]
    return "\n".join(lines) + "\n"


def interval_cell(value: float, low: float, high: float) -> str:
    """A figure with the interval of its bootstrap."""
    return f"{value:.3f} [{low:.2f}, {high:.2f}]"


def write_tables(stem: Path, document: Mapping[str, object], markdown: str) -> tuple[Path, Path]:
    """Write ``STEM.json`` and ``STEM.md`` into a folder that need not be there yet, and give their paths."""
    files = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.md")
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(files[0], (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    write_atomically(files[1], markdown.encode())
    return files


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
