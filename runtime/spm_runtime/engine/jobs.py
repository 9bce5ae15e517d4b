"""The values that the parts of the engine hand to one another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spm_runtime.results import Outcome

__all__ = ["Event", "Finished", "Job", "Lost", "Read", "Stamp"]

#: File systems hold times that 64 bits of nanoseconds, and so the ledger, do not: a broken clock writes the year 2400.
LATEST_NS = 2**63 - 1


@dataclass(frozen=True)
class Stamp:
    """What tells one state of a file from another without reading it.

    Parameters
    ----------
    size, mtime_ns
        Its own size in bytes and time of change in nanoseconds since 1970.
    beside
        State of its companions, see `spm_runtime.engine.companions.Beside`.
    """

    size: int
    mtime_ns: int
    beside: str = ""

    @classmethod
    def of(cls, facts: os.stat_result) -> Stamp:
        """The stamp that a call of ``stat`` found."""
        return cls(facts.st_size, max(-LATEST_NS, min(facts.st_mtime_ns, LATEST_NS)))


@dataclass(frozen=True)
class Job:
    """One file to analyse. Plain values only: it crosses process borders.

    Parameters
    ----------
    path
        The file.
    name
        Its path within what was given, with forward slashes: its name for people and the folder of its results within
        the folder of all results.
    problem
        Why it cannot even be opened, where that is known already.
    stamp
        The state of the file in which it was taken; any state when None.
    named
        Whether the user named this very file: then it counts, whatever it holds. One that was found in a folder counts
        only when it is a scan.
    """

    path: Path
    name: str
    problem: str = ""
    stamp: Stamp | None = None
    named: bool = True


@dataclass(frozen=True)
class Read:
    """The content of a scan is on the local disk; its analysis begins."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Finished:
    """An attempt came to its end; no outcomes mean that the file is no scan."""

    name: str
    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class Lost:
    """The process that analysed a scan is no more.

    Parameters
    ----------
    name
        Of the scan.
    reason
        Why, for a person.
    traceback
        Where it was, as far as it could still say.
    may_pass
        Whether that has nothing to do with the scan: its share did not answer.
    """

    name: str
    reason: str
    traceback: str = ""
    may_pass: bool = False


#: What becomes of a job: `Read` at most once, then one of the others.
Event = Read | Finished | Lost
