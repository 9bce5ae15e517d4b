"""What stands in the ledger: its tables, and one row as a value."""

from __future__ import annotations

import itertools
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spm_runtime.engine.jobs import Job, Stamp

__all__ = ["COLUMNS", "SCHEMA", "SCHEMA_VERSION", "Entry", "Found", "State", "open_database", "to_entry"]

#: ``waiting`` for its turn or for its next attempt; ``working``; then ``done``; ``failed`` with the reason;
#: ``quarantined`` after too many attempts; ``skipped``, nothing to do for such a scan; ``gone`` before it was analysed;
#: ``ignored``, no scan at all.
State = Literal["waiting", "working", "done", "failed", "quarantined", "skipped", "gone", "ignored"]

SCHEMA_VERSION = 2

#: What makes a ledger of version 1 one of version 2.
UPGRADE = "ALTER TABLE scans ADD COLUMN beside TEXT NOT NULL DEFAULT ''"

#: Memory that SQLite may keep for a ledger, in kB: a watch that runs for months must not grow with it.
CACHE_KB = 512
SCHEMA = """
CREATE TABLE scans (
    name TEXT PRIMARY KEY, root BLOB NOT NULL, path BLOB NOT NULL, named INTEGER NOT NULL DEFAULT 0,
    size INTEGER, mtime_ns INTEGER, beside TEXT NOT NULL DEFAULT '', settings TEXT NOT NULL,
    sha256 TEXT NOT NULL DEFAULT '', key TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL, kind TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', traceback TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, interruptions INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0,
    analyses INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 1, place INTEGER NOT NULL DEFAULT 0,
    changed_s REAL, seen_s REAL, settled_s REAL, started_s REAL, finished_s REAL, next_try_s REAL NOT NULL DEFAULT 0,
    latency_s REAL, provider TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX by_state ON scans (state, next_try_s);
CREATE INDEX by_finish ON scans (finished_s);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE workers (pid INTEGER PRIMARY KEY, created_s REAL NOT NULL) STRICT;
"""

#: Columns of `Entry`, in order.
COLUMNS = (
    "name, path, named, size, mtime_ns, beside, settings, sha256, key, state, kind, reason, traceback, attempts, interruptions, "
    "tries, analyses, version, changed_s, seen_s, settled_s, started_s, finished_s, next_try_s, latency_s, provider"
)


@dataclass(frozen=True)
class Found:
    """A file that is complete as far as one can tell from outside.

    Parameters
    ----------
    job
        The file, with its stamp.
    changed_s
        When its last byte was written, None when that is not known; seconds since 1970, like all times of the ledger.
    seen_s
        When this state of it was seen first.
    """

    job: Job
    changed_s: float | None
    seen_s: float


@dataclass(frozen=True)
class Entry:
    """What the ledger says of one scan; the columns of the table ``scans``."""

    name: str
    path: Path
    named: bool
    stamp: Stamp | None
    settings: str
    sha256: str
    key: str
    state: State
    kind: str
    reason: str
    traceback: str
    attempts: int
    interruptions: int
    tries: int
    analyses: int
    version: int
    changed_s: float | None
    seen_s: float | None
    settled_s: float | None
    started_s: float | None
    finished_s: float | None
    next_try_s: float
    latency_s: float | None
    provider: str

    @property
    def job(self) -> Job:
        """The file as a job."""
        return Job(self.path, self.name, stamp=self.stamp, named=self.named)


def connect(file: Path) -> sqlite3.Connection:
    """Open a database that several processes write to; autocommit, a lock is waited for."""
    connection = sqlite3.connect(file, timeout=30.0, isolation_level=None, check_same_thread=False)
    try:
        # A loss of power may cost the last transactions, never the file; the results themselves are flushed.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError:  # no database at all: whoever asks for its version hears it again
        pass
    return connection


def open_database(file: Path, *, create: bool, check: bool = True) -> tuple[sqlite3.Connection, bool, str]:
    """Open a ledger's database; one that is damaged is set aside and replaced by an empty one.

    Parameters
    ----------
    file
        The file.
    create
        Whether it may be made.
    check
        Whether all of it is looked through for damage, rather than its version alone.

    Returns
    -------
    The connection, whether the tables were made now, and what a person should know, mostly nothing.

    Raises
    ------
    OSError, sqlite3.Error
        If it cannot be opened or made, or is damaged and no other one may be made.
    """
    connection = connect(file)
    try:
        _upgrade(connection)
        damage = _damage(connection, check=check)
        if damage is None:
            return connection, False, ""
        note = ""
        if damage:
            connection.close()
            if not create:
                raise sqlite3.DatabaseError(damage)
            note = _set_aside(file, damage)
            connection = connect(file)
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()  # what was begun is rolled back
        raise
    return connection, True, note


def _upgrade(connection: sqlite3.Connection) -> None:
    """Bring the tables of an earlier version up to date."""
    try:
        if connection.execute("PRAGMA user_version").fetchone() != (1,):
            return
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone() == (1,):  # not by another process meanwhile
            connection.execute(UPGRADE)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged, which is found out next
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _damage(connection: sqlite3.Connection, *, check: bool) -> str | None:
    """What is wrong with a database: None when nothing is, an empty word when it is new."""
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone() if check else ("ok",)
    except sqlite3.OperationalError:  # locked, or the disk is full: nothing is wrong with the file
        raise
    except sqlite3.DatabaseError as error:
        return str(error)
    if version == SCHEMA_VERSION and verdict == "ok":
        return None
    if version == 0 and not connection.execute("SELECT name FROM sqlite_master").fetchall():
        return ""
    return f"version {version}, expected {SCHEMA_VERSION}; {verdict}"


def _set_aside(file: Path, why: str) -> str:
    """Rename a damaged database; gives what to say of it."""
    names = (file.with_name(f"{file.name}.bak-{number}") for number in itertools.count(1))
    backup = next(name for name in names if not name.exists())
    file.replace(backup)
    for end in ("-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)
    return f"{file}: the ledger is damaged ({why}); kept as {backup.name}, and a new one is made from the results"


def to_entry(row: tuple[Any, ...]) -> Entry:
    """A row of the columns `COLUMNS` as a value."""
    name, path, named, size, mtime_ns, beside, *rest = row
    stamp = None if size is None else Stamp(size, mtime_ns, beside)
    return Entry(name, Path(os.fsdecode(path)), bool(named), stamp, *rest)
