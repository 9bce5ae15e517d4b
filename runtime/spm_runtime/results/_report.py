"""``summary.csv`` and ``index.html``: all scans of a folder of results at a glance."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import sqlite3
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from spm_runtime.results._document import DOCUMENT
from spm_runtime.results._files import encoded, patiently, printable, replacing, write_atomically
from spm_runtime.results._index import PAGE_LENGTH, Front, index_html, page_name
from spm_runtime.results._outcome import Outcome

__all__ = ["SUMMARY", "SUMMARY_COLUMNS", "Report", "found_in"]

SUMMARY = "summary.csv"

#: The columns of ``summary.csv``, in order.
SUMMARY_COLUMNS = (
    "scan", "frame", "status", "reason", "defects", "defect_classes", "atoms", "spacing_nm", "spacing_px", "certain_share",
    "rms_change_nm", "tip_radius_nm", "noise_before", "taken_away_rms", "model", "provider", "seconds", "warnings", "tasks",
    "channel", "modality", "height_px", "width_px", "pixel_size_y_nm", "pixel_size_x_nm", "sha256", "folder",
)  # fmt: skip

#: Those that the tables of earlier versions do not have.
ADDED_COLUMNS = frozenset(
    {"defects", "defect_classes", "certain_share", "rms_change_nm", "tip_radius_nm", "noise_before", "taken_away_rms"}
)

#: Those that count what was found.
FOUND_COLUMNS = ("defects", "atoms")

#: The columns that hold whole numbers, and numbers; `index_html` computes with them.
WHOLE_COLUMNS = ("frame", "defects", "atoms", "height_px", "width_px")
#: Of these some are a quantity of a result, under its name.
QUANTITY_COLUMNS = (
    "spacing_nm", "spacing_px", "certain_share", "rms_change_nm", "tip_radius_nm", "noise_before", "taken_away_rms",
)  # fmt: skip
NUMBER_COLUMNS = (*QUANTITY_COLUMNS, "seconds", "pixel_size_y_nm", "pixel_size_x_nm")


#: Rows of the summary, in the order of the table: by name, upper and lower case not told apart, then by frame.
ORDER = "ORDER BY folded, scan, number, frame"

SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    scan TEXT NOT NULL, frame TEXT NOT NULL, folded TEXT NOT NULL, number INTEGER NOT NULL, status TEXT NOT NULL,
    cells TEXT NOT NULL, trace TEXT NOT NULL, PRIMARY KEY (scan, frame)
) STRICT;
CREATE INDEX IF NOT EXISTS in_order ON images (folded, scan, number, frame);
CREATE INDEX IF NOT EXISTS in_order_by_status ON images (status, folded, scan, number, frame);
"""

#: The report is written again after this many times as long as the writing took, so that it stays a small part of the work
#: however many scans there are.
PATIENCE = 30.0


class Report:
    """The rows of a folder of results, earlier runs included; they are kept in a database, not in memory.

    Parameters
    ----------
    folder
        The folder of results. Rows of its ``summary.csv`` stay until the same scan comes again, so that scans analysed in
        several runs stand in one index; those whose results were deleted are dropped. A table that another program has
        changed so that not every row can be read is kept under another name when it is replaced.
    database
        Where the rows are kept, in autocommit; a temporary database when None.
    """

    def __init__(self, folder: Path, database: sqlite3.Connection | None = None) -> None:
        self.folder = folder
        self._database = database or sqlite3.connect("", isolation_level=None)
        self._close = weakref.finalize(self, self._database.close if database is None else lambda: None)
        self._dirty = True
        self._note = ""
        self._written_s = time.monotonic()
        self._took_s = 0.0
        self._pages: list[bytes] = []
        for statement in SCHEMA.split(";"):
            self._database.execute(statement)
        # Rows that an earlier version left have other cells; its table, which is read next, has them too.
        self._database.execute("DELETE FROM images WHERE json_array_length(cells) != ?", (len(SUMMARY_COLUMNS),))
        self._is_foreign = False
        self._take_over(folder / SUMMARY)
        self._drop_deleted()

    def close(self) -> None:
        """Close the temporary database; one that was given stays open."""
        self._close()

    @property
    def is_pending(self) -> bool:
        """Whether there is anything that is not written yet."""
        return self._dirty

    def _take_over(self, table: Path) -> None:
        """Rows of the table that is there, unless they are known already: then what is known is newer."""
        rows, self._is_foreign = _earlier_rows(table)
        with _together(self._database):
            for row in rows:
                self._put(row, "", "INSERT OR IGNORE")

    def _drop_deleted(self) -> None:
        deleted = [
            (scan, frame)
            for scan, frame, cells in self._database.execute(
                "SELECT scan, frame, cells FROM images WHERE status = 'done'"
            )
            if not (self.folder / _to_row(cells)["folder"] / DOCUMENT).is_file()
        ]
        with _together(self._database):
            self._database.executemany("DELETE FROM images WHERE scan = ? AND frame = ?", deleted)

    def _put(self, row: Mapping[str, str], trace: str, how: str = "INSERT OR REPLACE") -> None:
        cells = json.dumps([row[column] for column in SUMMARY_COLUMNS])
        values = (
            row["scan"], row["frame"], row["scan"].casefold(), int(row["frame"] or -1), row["status"], cells, trace,
        )  # fmt: skip
        self._database.execute(f"{how} INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Add all outcomes of one file in place of its earlier rows; a result that was there already keeps its row."""
        with _together(self._database):
            earlier: dict[tuple[str, str], str] = {}
            for name in {printable(outcome.name) for outcome in outcomes}:
                found = self._database.execute("SELECT frame, status FROM images WHERE scan = ?", (name,))
                earlier |= {(name, frame): status for frame, status in found}
            keys = set()
            for outcome in outcomes:
                row = _row(outcome)
                key = (row["scan"], row["frame"])
                keys.add(key)
                if not (outcome.reused and earlier.get(key) == "done"):
                    self._put(row, encoded(outcome.traceback).decode("utf-8"))
                    self._dirty = True
            for key in earlier.keys() - keys:
                self._database.execute("DELETE FROM images WHERE scan = ? AND frame = ?", key)
                self._dirty = True

    def write(self, *, at_most_every_s: float = 0.0) -> str:
        """Replace ``summary.csv`` and the pages, each at once, if there is anything new.

        Parameters
        ----------
        at_most_every_s
            Do nothing when they were written less than this long ago, or less than `PATIENCE` times as long as that took:
            with thousands of scans it takes a moment. Not so with 0.

        Returns
        -------
        str
            What a person should know: that a table was there which could not be continued. Mostly nothing.

        Raises
        ------
        OSError
            If the disk is full, or a file may not be replaced: on Windows, one that is open in another program.
        """
        pause_s = max(at_most_every_s, PATIENCE * self._took_s) if at_most_every_s else 0.0
        began_s = time.monotonic()
        if not self._dirty or began_s - self._written_s < pause_s:
            return ""
        self._written_s = began_s  # before: a failed attempt is not repeated at once
        try:
            self._write_all()
        finally:
            self._took_s = time.monotonic() - began_s
        self._dirty = False
        note, self._note = self._note, ""
        return note

    def _write_all(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._is_foreign:
            self._set_foreign_table_aside()
        with replacing(self.folder / SUMMARY) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(SUMMARY_COLUMNS)
            writer.writerows(
                json.loads(cells) for (cells,) in self._database.execute(f"SELECT cells FROM images {ORDER}")
            )
            text.flush()
            text.detach()
        self._write_pages()

    def _write_pages(self) -> None:
        """Write the pages that have changed, and remove those that are no longer needed."""
        count = self._count("done")
        pages = max(1, math.ceil(count / PAGE_LENGTH))
        digests = []
        for number in range(1, pages + 1):
            done = self._rows("done", PAGE_LENGTH, (number - 1) * PAGE_LENGTH)
            front = self._front(count) if number == 1 else None
            digests.append(hashlib.sha256(repr((done, front, pages)).encode("utf-8")).digest())
            if self._pages[number - 1 : number] != digests[-1:]:  # most pages of thousands are as they were
                page = index_html([_to_row(cells) for cells, _ in done], front, number=number, pages=pages)
                write_atomically(self.folder / page_name(number), encoded(page))
        number = pages + 1
        while (left := self.folder / page_name(number)).is_file():
            left.unlink(missing_ok=True)
            number += 1
        self._pages = digests

    def _front(self, done: int) -> Front:
        failed = [(_to_row(cells), trace) for cells, trace in self._rows("failed", PAGE_LENGTH)]
        skipped = [_to_row(cells) for cells, _ in self._rows("skipped", PAGE_LENGTH)]
        return Front(done, self._count("failed"), self._count("skipped"), failed, skipped)

    def _count(self, status: str) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM images WHERE status = ?", (status,)).fetchone()
        return int(count)

    def _rows(self, status: str, length: int, start: int = 0) -> list[tuple[str, str]]:
        """Cells and tracebacks of some rows of one status, in order."""
        return self._database.execute(
            f"SELECT cells, trace FROM images WHERE status = ? {ORDER} LIMIT ? OFFSET ?", (status, length, start)
        ).fetchall()

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


def found_in(database: sqlite3.Connection) -> dict[str, int]:
    """How many things were found on all scans of a report together, by kind.

    Parameters
    ----------
    database
        Where a `Report` keeps its rows; there may be none yet.
    """
    if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'images'").fetchone():
        return dict.fromkeys(FOUND_COLUMNS, 0)
    # An empty cell counts as 0.
    sums = ", ".join(
        f"coalesce(sum(CAST(json_extract(cells, '$[{SUMMARY_COLUMNS.index(name)}]') AS INTEGER)), 0)"
        for name in FOUND_COLUMNS
    )
    row = database.execute(f"SELECT {sums} FROM images WHERE status = 'done'").fetchone()
    return dict(zip(FOUND_COLUMNS, map(int, row), strict=True))


@contextmanager
def _together(database: sqlite3.Connection) -> Iterator[None]:
    """One transaction: thousands of single ones would each wait for the disk."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite gives up some by itself, as when the disk is full
            database.execute("ROLLBACK")
        raise


def _to_row(cells: str) -> dict[str, str]:
    return dict(zip(SUMMARY_COLUMNS, json.loads(cells), strict=True))


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
        "defects": str(outcome.counts.get("defects", "")),
        "defect_classes": "; ".join(f"{count} {printable(name)}" for name, count in outcome.classes.items()),
        "atoms": str(outcome.counts.get("atoms", "")),
        **{name: _number(quantities.get(name)) for name in QUANTITY_COLUMNS},
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
            columns = tuple(table.fieldnames or ())
            known = tuple(column for column in SUMMARY_COLUMNS if column in columns or column not in ADDED_COLUMNS)
            if columns != known:
                return [], path.stat().st_size > 0
            rows = [dict.fromkeys(SUMMARY_COLUMNS, "") | row for row in table]
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
