"""The ledger: what is known of every scan that ever appeared, in one SQLite file on a local disk."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from spm_runtime.engine._tables import COLUMNS, Entry, Found, State, open_database, to_entry
from spm_runtime.errors import OutputError

__all__ = ["LEDGER", "PASSING", "Entry", "Found", "Ledger", "Order", "State"]

#: Name of the file.
LEDGER = "ledger.sqlite3"

Order = Literal["newest", "oldest", "given"]

#: Files that are entered in one transaction.
CHUNK = 200

#: What waiting helps against: a full disk, one that does not answer, another process that holds the ledger.
WAITING_HELPS = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
RETRY_S = 1.0

#: Trouble that has nothing to do with the scan: a locked file, a full disk, a GPU that is not there now.
PASSING = ("busy", "output", "device")

T = TypeVar("T")
P = ParamSpec("P")

_ORDERS: dict[Order, str] = {"newest": "mtime_ns DESC", "oldest": "mtime_ns ASC", "given": "place ASC"}

#: What a scan forgets when it is to be analysed anew.
_ANEW = (
    "state = 'waiting', kind = '', reason = '', traceback = '', attempts = 0, interruptions = 0, tries = 0, next_try_s = 0, "
    "sha256 = '', key = ''"
)


def _patient(method: Callable[Concatenate[Ledger, P], T]) -> Callable[Concatenate[Ledger, P], T]:
    """Try again until all of it is written."""

    @wraps(method)
    def again(self: Ledger, /, *args: P.args, **options: P.kwargs) -> T:
        return self.patiently(lambda: method(self, *args, **options))

    return again


class Ledger:
    """The ledger of one folder of results.

    Several processes may have it open: one that analyses, and others that ask or put failed scans back in line.

    Parameters
    ----------
    file
        The SQLite file, on a local disk: its locks do not work on shares. Made when it is not there.
    create
        Whether it may be made.
    check
        Whether all of it is looked through for damage, which takes a while where there are many scans.
    tell
        Called with a sentence while it cannot be written, as when the disk is full: then it is waited for. When None it is not.
    is_stopping
        Whether waiting has to end: then what cannot be written raises an `OutputError`.

    Raises
    ------
    OutputError
        If it cannot be opened or made.

    Attributes
    ----------
    is_new
        Whether it was made now.
    note
        What a person should know: that a damaged ledger was set aside. Mostly nothing.
    """

    def __init__(
        self,
        file: Path,
        *,
        create: bool = True,
        check: bool = True,
        tell: Callable[[str], object] | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.file = file
        self.trouble = ""
        self._tell, self._is_stopping = tell, is_stopping
        if not create and not file.is_file():
            raise OutputError(f"{file}: no ledger; nothing was analysed here yet, or it was with another --state")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.patiently(lambda: self._open(create=create, check=check))
        except (OSError, sqlite3.Error) as error:
            raise OutputError(
                f"{file}: the ledger cannot be opened ({error}); name a folder on a local disk with --state, where you may write"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _open(self, *, create: bool, check: bool) -> None:
        self.connection, self.is_new, self.note = open_database(self.file, create=create, check=check)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside happens, or nothing."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite gives up some by itself, as when the disk is full
                self.connection.execute("ROLLBACK")
            raise

    def patiently(self, action: Callable[[], T]) -> T:
        """Do something that writes to the ledger; while its disk is full or does not answer, wait and try again."""
        while True:
            try:
                result = action()
            except sqlite3.OperationalError as error:
                if self._tell is None or error.sqlite_errorcode & 0xFF not in WAITING_HELPS:
                    raise
                if self._is_stopping():
                    raise OutputError(
                        f"{self.file}: the ledger cannot be written ({error}), so that the end of the scans in hand is not "
                        "noted; make room on its disk, then start again"
                    ) from error
                if not self.trouble:
                    self._tell(f"{self.file}: the ledger cannot be written ({error}); waiting")
                self.trouble = str(error)
                time.sleep(RETRY_S)
            else:
                self.trouble = ""
                return result

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        def rows() -> list[tuple[Any, ...]]:
            return self.connection.execute(query, values).fetchall()

        # Within a transaction all of it is tried again.
        return rows() if self.connection.in_transaction else self.patiently(rows)

    def _do(self, query: str, *values: object) -> None:
        self._all(query, *values)

    # What is to be done

    def offer(
        self,
        found: Iterable[Found],
        *,
        root: bytes,
        settings: str,
        now_s: float,
        again: bool = False,
        is_there: Callable[[str], bool] = lambda name: True,
        put_off: Callable[[Found], object] = lambda found: None,
    ) -> int:
        """Put files in line that are new, have changed, or are to be analysed otherwise than they were.

        Parameters
        ----------
        found
            The files.
        root
            What they belong to: only `take` with the same root gives them out.
        settings
            What the results depend on besides the file.
        now_s
            The time.
        again
            Whether files that are not done are put in line too, whatever was the matter with them.
        is_there
            Asked for a scan that is done and has not changed: whether its result still exists.
        put_off
            Called with a file that has changed while an earlier state of it is in hand: it is to be offered again afterwards.
            Until then the ledger says nothing of it, so that a later start finds the change whatever happens meanwhile.

        Returns
        -------
        int
            How many were put in line.
        """
        items = iter(found)
        count = place = 0
        while chunk := list(itertools.islice(items, CHUNK)):
            offer = partial(self._offer, chunk, place, root, settings, now_s, again, is_there, put_off)
            count += self.patiently(offer)
            place += len(chunk)
        return count

    def _offer(
        self,
        found: list[Found],
        first: int,
        root: bytes,
        settings: str,
        now_s: float,
        again: bool,
        is_there: Callable[[str], bool],
        put_off: Callable[[Found], object],
    ) -> int:
        count = 0
        with self.transaction():
            for place, item in enumerate(found, start=first):
                job = item.job
                stamp = (None, None, "") if job.stamp is None else dataclasses.astuple(job.stamp)
                facts = (root, os.fsencode(job.path), job.named, *stamp, settings, place)
                times = (item.changed_s, item.seen_s, now_s)
                known = self.get(job.name)
                if known is None:
                    self._do(
                        "INSERT INTO scans (root, path, named, size, mtime_ns, beside, settings, place, changed_s, seen_s, "
                        "settled_s, name, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
                        *facts, *times, job.name,
                    )  # fmt: skip
                    count += 1
                    continue
                is_new = known.stamp != job.stamp or known.path != job.path
                if known.state == "working":
                    if is_new:
                        put_off(item)
                elif is_new or known.settings != settings or _is_open(known, again, is_there):
                    self._do(
                        f"UPDATE scans SET root = ?, path = ?, named = ?, size = ?, mtime_ns = ?, beside = ?, settings = ?, "
                        f"place = ?, changed_s = ?, seen_s = ?, settled_s = ?, version = version + ?, {_ANEW} WHERE name = ?",
                        *facts, *times, is_new, job.name,
                    )  # fmt: skip
                    count += 1
                else:
                    self._do(
                        "UPDATE scans SET root = ?, place = ? WHERE name = ? AND state = 'waiting'",
                        root, place, job.name,
                    )  # fmt: skip
        return count

    def take(self, *, root: bytes, order: Order, now_s: float) -> Entry | None:
        """The scan whose turn it is, from now on ``working``; one that was never tried comes before one that was.

        A scan that takes the whole computer down must not be the first one to be tried again.
        """
        rows = self._all(
            "SELECT name FROM scans WHERE state = 'waiting' AND root = ? AND next_try_s <= ? "
            f"ORDER BY attempts + interruptions + tries > 0, {_ORDERS[order]}, name LIMIT 1",
            root, now_s,
        )  # fmt: skip
        if not rows:
            return None
        (name,) = rows[0]
        self._do("UPDATE scans SET state = 'working', started_s = ? WHERE name = ?", now_s, name)
        return self.get(name)

    def note_content(self, name: str, *, sha256: str, key: str) -> None:
        """Keep what the scan in hand holds, so that its result is recognised should this process die."""
        self._do("UPDATE scans SET sha256 = ?, key = ? WHERE name = ?", sha256, key, name)

    def finish(
        self,
        name: str,
        state: State,
        *,
        now_s: float,
        kind: str = "",
        reason: str = "",
        traceback: str = "",
        provider: str = "",
        latency_s: float | None = None,
        analysed: bool = False,
        attempts: int | None = None,
    ) -> None:
        """Write down how it ended.

        Parameters
        ----------
        name, state
            The scan and what became of it.
        now_s
            The time.
        kind
            What sort of trouble it was.
        reason, traceback
            Why it failed.
        provider
            Execution provider that ran.
        latency_s
            From its last byte to its result.
        analysed
            Whether it was analysed now rather than found to be done already.
        attempts
            How many were made; unchanged when None.
        """
        self._do(
            "UPDATE scans SET state = ?, kind = ?, reason = ?, traceback = ?, provider = ?, latency_s = ?, finished_s = ?, "
            "analyses = analyses + ?, attempts = coalesce(?, attempts), tries = 0, next_try_s = 0 WHERE name = ?",
            state, kind, reason, traceback, provider, latency_s, now_s, analysed, attempts, name,
        )  # fmt: skip

    def postpone(
        self,
        name: str,
        *,
        next_try_s: float,
        kind: str = "",
        reason: str = "",
        traceback: str = "",
        attempts: int,
        tries: int,
    ) -> None:
        """Put a scan back in line, not to be tried before a moment."""
        self._do(
            "UPDATE scans SET state = 'waiting', kind = ?, reason = ?, traceback = ?, attempts = ?, tries = ?, next_try_s = ? "
            "WHERE name = ?",
            kind, reason, traceback, attempts, tries, next_try_s, name,
        )  # fmt: skip

    @_patient
    def interrupted(self, *, limit: int) -> list[Entry]:
        """The scans in hand when the last process died; one more interruption each, and quarantine at the limit."""
        entries = self.entries("state = 'working'")
        with self.transaction():
            for entry in entries:
                count = entry.interruptions + 1
                reason = f"the program was ended {count} times while it analysed this scan; use `spm-infer retry` to try again"
                full = count >= limit
                self._do(
                    "UPDATE scans SET state = ?, interruptions = ?, reason = ?, next_try_s = 0 WHERE name = ?",
                    "quarantined" if full else "waiting", count, reason if full else entry.reason, entry.name,
                )  # fmt: skip
        return entries

    @_patient
    def release(self, names: Iterable[str]) -> None:
        """Put scans in hand back in line as if nothing had happened."""
        with self.transaction():
            for name in names:
                self._do("UPDATE scans SET state = 'waiting' WHERE name = ? AND state = 'working'", name)

    @_patient
    def reopen(self, *, root: bytes, now_s: float) -> None:
        """Put failed scans back in line whose trouble had nothing to do with them, and let nobody wait longer."""
        with self.transaction():
            for kind in PASSING:
                self._do(f"UPDATE scans SET {_ANEW} WHERE state = 'failed' AND kind = ? AND root = ?", kind, root)
            self.wait_no_longer(now_s=now_s)

    def wait_no_longer(self, *, now_s: float) -> None:
        """Let the next attempts be made now, but give files that cannot be read whole their time.

        After the clock was set back, what waits would wait for as long as it was set back by.
        """
        self._do(
            "UPDATE scans SET next_try_s = 0, settled_s = min(settled_s, ?) "
            "WHERE state = 'waiting' AND (kind != 'incomplete' OR settled_s > ?)",
            now_s, now_s,
        )  # fmt: skip

    @_patient
    def retry(self, names: Iterable[str] | None = None) -> list[str]:
        """Put failed, quarantined and vanished scans back in line.

        Parameters
        ----------
        names
            Which; all when None.

        Returns
        -------
        list of str
            Those that were put back.
        """
        chosen = "state IN ('failed', 'quarantined', 'gone')"
        back: list[str] = []
        with self.transaction():
            for (name,) in self._all(f"SELECT name FROM scans WHERE {chosen} ORDER BY name"):
                if names is None or name in names:
                    self._do(f"UPDATE scans SET {_ANEW} WHERE name = ?", name)
                    back.append(name)
        return back

    def adopt(self, name: str, *, sha256: str, provider: str, finished_s: float) -> None:
        """Enter a result that is there already, of a scan of which nothing else is known."""
        self._do(
            "INSERT OR IGNORE INTO scans (name, root, path, settings, sha256, state, finished_s, provider) "
            "VALUES (?, x'', x'', '', ?, 'done', ?, ?)",
            name, sha256, finished_s, provider,
        )  # fmt: skip

    # What is known

    def get(self, name: str) -> Entry | None:
        """What is known of one scan."""
        found = self.entries("name = ?", name)
        return found[0] if found else None

    def entries(self, condition: str, *values: object, limit: int = -1) -> list[Entry]:
        """What is known of the scans that meet a condition in SQL, by name."""
        rows = self._all(
            f"SELECT {COLUMNS} FROM scans WHERE {condition} ORDER BY name LIMIT {limit:d}",
            *values,
        )
        return [to_entry(row) for row in rows]

    def counts(self, root: bytes | None = None) -> dict[State, int]:
        """How many scans there are in every state."""
        where, values = ("", ()) if root is None else (" WHERE root = ?", (root,))
        return dict(self._all(f"SELECT state, count(*) FROM scans{where} GROUP BY state", *values))

    def next_try_s(self, root: bytes) -> float | None:
        """When the next scan may be tried; None when none waits."""
        ((moment,),) = self._all("SELECT min(next_try_s) FROM scans WHERE state = 'waiting' AND root = ?", root)
        return moment  # type: ignore[no-any-return]

    def latencies_s(self, last: int = 1000) -> list[float]:
        """Seconds from the last byte to the result of the scans that were done last, in ascending order."""
        rows = self._all(
            "SELECT latency_s FROM scans WHERE latency_s IS NOT NULL ORDER BY finished_s DESC LIMIT ?", last
        )
        return sorted(value for (value,) in rows)

    def analyses(self) -> int:
        """How many analyses were made."""
        ((count,),) = self._all("SELECT coalesce(sum(analyses), 0) FROM scans")
        return int(count)

    # Facts about the process that writes

    def note_fact(self, name: str, value: str) -> None:
        """Keep a fact about the process that writes, such as why it pauses; an empty one is forgotten."""
        if value:
            self._do("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)
        else:
            self._do("DELETE FROM facts WHERE name = ?", name)

    def fact(self, name: str) -> str:
        """A fact, or nothing."""
        rows = self._all("SELECT value FROM facts WHERE name = ?", name)
        return str(rows[0][0]) if rows else ""

    def note_worker(self, pid: int, created_s: float) -> None:
        """Keep that a process works for this one, so that the next one can end it should it be left alone."""
        self._do("INSERT OR REPLACE INTO workers VALUES (?, ?)", pid, created_s)

    def forget_worker(self, pid: int) -> None:
        """A process has ended."""
        self._do("DELETE FROM workers WHERE pid = ?", pid)

    def workers(self) -> list[tuple[int, float]]:
        """Processes that were begun and not seen to end: identifier and time of creation."""
        return [(int(pid), float(created_s)) for pid, created_s in self._all("SELECT pid, created_s FROM workers")]


def _is_open(known: Entry, again: bool, is_there: Callable[[str], bool]) -> bool:
    """Whether a file that has not changed is put in line although it had an end."""
    if known.state == "done":
        return not is_there(known.name)
    if known.state == "gone" or (known.state == "failed" and known.kind in PASSING):
        return True
    return again and known.state in {"failed", "quarantined", "skipped", "ignored"}
