"""``summary.csv`` and ``index.html``: all scans of a folder of results at a glance."""

from __future__ import annotations

import csv
import io
import itertools
import math
import time
from collections.abc import Mapping
from pathlib import Path

from spm_runtime.results._document import DOCUMENT
from spm_runtime.results._files import encoded, patiently, printable, write_atomically
from spm_runtime.results._index import index_html
from spm_runtime.results._outcome import Outcome

__all__ = ["INDEX", "SUMMARY", "SUMMARY_COLUMNS", "Report"]

SUMMARY, INDEX = "summary.csv", "index.html"

#: The columns of ``summary.csv``, in order.
SUMMARY_COLUMNS = (
    "scan", "frame", "status", "reason", "atoms", "spacing_nm", "spacing_px", "model", "provider", "seconds", "warnings",
    "tasks", "channel", "modality", "height_px", "width_px", "pixel_size_y_nm", "pixel_size_x_nm", "sha256", "folder",
)  # fmt: skip

#: The columns that hold whole numbers, and numbers; `index_html` computes with them.
WHOLE_COLUMNS = ("frame", "atoms", "height_px", "width_px")
NUMBER_COLUMNS = ("spacing_nm", "spacing_px", "seconds", "pixel_size_y_nm", "pixel_size_x_nm")


class Report:
    """The rows of a folder of results, earlier runs included.

    Parameters
    ----------
    folder
        The folder of results. Rows of its ``summary.csv`` stay until the same scan comes again, so that scans analysed in
        several runs stand in one index; those whose results were deleted are dropped. A table that another program has
        changed so that not every row can be read is kept under another name when it is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._dirty = True
        self._note = ""
        self._written_s = time.monotonic()
        self._rows: dict[str, dict[str, dict[str, str]]] = {}  # by name and frame
        self._tracebacks: dict[tuple[str, str], str] = {}
        rows, self._is_foreign = _earlier_rows(folder / SUMMARY)
        for row in rows:
            if row["status"] != "done" or (folder / row["folder"] / DOCUMENT).is_file():
                self._rows.setdefault(row["scan"], {})[row["frame"]] = row

    def add(self, outcomes: list[Outcome]) -> None:
        """Add all outcomes of one file in place of its earlier rows; a result that was there already keeps its row."""
        earlier = {name: self._rows.pop(name, {}) for name in {printable(outcome.name) for outcome in outcomes}}
        for outcome in outcomes:
            row = _row(outcome)
            before = earlier[row["scan"]].get(row["frame"], {})
            kept = outcome.reused and before.get("status") == "done"
            self._rows.setdefault(row["scan"], {})[row["frame"]] = before if kept else row
            self._tracebacks[row["scan"], row["frame"]] = outcome.traceback
            self._dirty |= not kept

    def write(self, *, at_most_every_s: float = 0.0) -> str:
        """Replace ``summary.csv`` and ``index.html``, each at once, if there is anything new.

        Parameters
        ----------
        at_most_every_s
            Do nothing when they were written less than this long ago: with thousands of scans it takes a moment.

        Returns
        -------
        str
            What a person should know: that a table was there which could not be continued. Mostly nothing.

        Raises
        ------
        OSError
            If the disk is full, or a file may not be replaced: on Windows, one that is open in another program.
        """
        if not self._dirty or time.monotonic() - self._written_s < at_most_every_s:
            return ""
        self._written_s = time.monotonic()  # before: a failed attempt is not repeated at once
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [row for frames in self._rows.values() for row in frames.values()]
        rows.sort(key=lambda row: (row["scan"].casefold(), row["scan"], row["frame"].zfill(9)))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, SUMMARY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if self._is_foreign:
            self._set_foreign_table_aside()
        write_atomically(self.folder / SUMMARY, encoded(table.getvalue()))
        page = index_html(rows, [self._tracebacks.get((row["scan"], row["frame"]), "") for row in rows])
        write_atomically(self.folder / INDEX, encoded(page))
        self._dirty = False
        note, self._note = self._note, ""
        return note

    def _set_foreign_table_aside(self) -> None:
        """Give the table that was there another name, and note it."""
        table = self.folder / SUMMARY
        names = (table.with_name(f"{SUMMARY}.bak-{number}") for number in itertools.count(1))
        backup = next(name for name in names if not name.exists())
        patiently(lambda: table.replace(backup), table)
        self._is_foreign = False
        self._note = (
            f"{table}: another program has changed its columns or numbers, and not every row could be continued; it is "
            f"kept as {backup.name}"
        )


def _row(outcome: Outcome) -> dict[str, str]:
    row = dict.fromkeys(SUMMARY_COLUMNS, "")
    row |= {
        "scan": printable(outcome.name),
        "frame": "" if outcome.frame is None else str(outcome.frame),
        "status": outcome.status,
        "reason": printable(outcome.reason),
        "seconds": f"{outcome.seconds:.3f}",
        # With the bytes of an undecodable name kept: the folder has to be found again.
        "folder": outcome.output,
    }
    if not outcome.document:
        return row
    scan, quantities = outcome.document["scan"], outcome.quantities
    row |= {
        "atoms": str(outcome.counts.get("atoms", "")),
        "spacing_nm": _number(quantities.get("spacing_nm")),
        "spacing_px": _number(quantities.get("spacing_px")),
        "model": " ".join(outcome.models),
        "provider": " ".join(outcome.providers),
        "warnings": " | ".join(printable(warning) for warning in outcome.warnings),
        "tasks": " ".join(outcome.document["tasks"]),
        "channel": printable(scan["channel"]),
        "modality": scan["modality"],
        "height_px": str(scan["shape"][0]),
        "width_px": str(scan["shape"][1]),
        "sha256": scan["sha256"] or "",
    }
    if scan["pixel_size_nm"] is not None:
        row["pixel_size_y_nm"], row["pixel_size_x_nm"] = map(_number, scan["pixel_size_nm"])
    return row


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _earlier_rows(path: Path) -> tuple[list[dict[str, str]], bool]:
    """Rows of an earlier ``summary.csv`` that are as this program writes them, and whether there is anything else in it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # editors put a mark before UTF-8
            table = csv.DictReader(file)
            if tuple(table.fieldnames or ()) != SUMMARY_COLUMNS:
                return [], path.stat().st_size > 0
            rows = list(table)
    except FileNotFoundError:
        return [], False
    except (OSError, UnicodeDecodeError, csv.Error):
        return [], True
    good = [row for row in rows if _is_ours(row)]
    return good, len(good) < len(rows)


def _is_ours(row: Mapping[str | None, str | None]) -> bool:
    """Whether a row has every cell, a known status, and numbers where numbers belong."""
    if None in row or None in row.values() or row["status"] not in {"done", "failed", "skipped"}:
        return False
    needed = {"height_px", "width_px", "seconds"} if row["status"] == "done" else set()
    # The missing half of a pixel size would be one of the cells that are computed with.
    if bool(row["pixel_size_y_nm"]) != bool(row["pixel_size_x_nm"]):
        return False
    try:
        for name in (*WHOLE_COLUMNS, *NUMBER_COLUMNS):
            cell = row[name] or ""
            if cell or name in needed:
                number = int(cell) if name in WHOLE_COLUMNS else float(cell)
                if not math.isfinite(number) or number < 0:
                    return False
    except ValueError:
        return False
    return True
