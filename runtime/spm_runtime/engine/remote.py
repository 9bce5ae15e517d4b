"""What a worker on another computer must see before it is given scans, and what it says, seen from here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spm_runtime._version import __version__
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.settings import fingerprint
from spm_runtime.engine.state import LOCK
from spm_runtime.engine.worker import Duty
from spm_runtime.errors import AdatomError
from spm_runtime.results import Outcome
from spm_runtime.session import limit_threads

__all__ = [
    "Introduction",
    "NoAnswerError",
    "absolute",
    "answer_of",
    "greet",
    "introduce",
    "places_of",
    "seen_from_here",
]

#: Seconds in which a value comes from its worker.
FETCH_S = 20.0


@dataclass(frozen=True)
class Introduction:
    """What a worker must agree with before it is given scans.

    Parameters
    ----------
    duty
        What it will do.
    version, digest
        Version of this program, and `fingerprint` of the settings.
    places
        Folders of scans that it must see.
    mark
        Content of the lock file in the folder of results, None when that cannot be read here.
    threads
        Threads that it may use.
    """

    duty: Duty
    version: str
    digest: str
    places: tuple[Path, ...]
    mark: bytes | None
    threads: int


def introduce(duty: Duty, places: Sequence[Path]) -> Introduction:
    """What this computer sees, for workers of one thread; see `Introduction`.

    Raises
    ------
    AdatomError
        If there is no such model or parameter.
    """
    try:
        mark = (duty.out / LOCK).read_bytes()
    except OSError:  # a file system without locks
        mark = None
    return Introduction(duty, __version__, fingerprint(duty.settings), tuple(places), mark, threads=1)


def greet(introduction: Introduction) -> str:
    """On a worker: whether it may be given scans.

    Parameters
    ----------
    introduction
        What to agree with.

    Returns
    -------
    str
        Why not; nothing when all is well.
    """
    duty = introduction.duty
    if introduction.version != __version__:
        return (
            f"it has adatom {__version__}, here it is {introduction.version}; install the same version on all computers"
        )
    for place in introduction.places:
        if not os.access(place, os.R_OK | os.X_OK):
            return f"{place} is not there or not readable; scans must lie where all computers see them at the same path"
    if not _is_same_folder(duty.out, introduction.mark):
        return f"{duty.out} is not the same folder there; results must go where all computers see them at the same path"
    try:
        if fingerprint(duty.settings) != introduction.digest:
            return "its model packages are others than here; install the same ones on all computers, or set SPM_MODELS there"
    except AdatomError as error:
        return str(error)
    limit_threads(introduction.threads)
    return ""


def _is_same_folder(out: Path, mark: bytes | None) -> bool:
    """Whether the folder of results is the one that the supervisor has locked."""
    try:
        return out.is_dir() and (mark is None or (out / LOCK).read_bytes() == mark)
    except OSError:
        return False


class NoAnswerError(Exception):
    """Dask has no value of something that came to its end.

    Parameters
    ----------
    text
        What it says.
    is_lost
        Whether the worker or its value was lost, rather than that something went wrong on it.
    """

    def __init__(self, text: str, *, is_lost: bool) -> None:
        self.is_lost = is_lost
        super().__init__(text)


def answer_of(future: Any) -> Any:
    """The value of a Dask future that has come to its end.

    Raises
    ------
    NoAnswerError
        If there is none.
    """
    try:
        error = future.exception(timeout=FETCH_S)
        if error is None and future.status == "finished":
            return future.result(timeout=FETCH_S)
    except OSError as lost:  # time-outs too
        raise NoAnswerError(f"{type(lost).__name__}: {lost}", is_lost=True) from lost
    if error is None:
        raise NoAnswerError(f"its task is {future.status}", is_lost=True)
    is_lost = type(error).__name__ == "KilledWorker"
    raise NoAnswerError(f"{type(error).__name__}: {error}", is_lost=is_lost) from error


def seen_from_here(outcome: Outcome, job: Job, address: str) -> Outcome:
    """The outcome with the path as the user gave it; a file that only the worker does not see is said to be that."""
    reason = outcome.reason.replace(str(absolute(job.path)), str(job.path))
    if outcome.error == "FileNotFoundError" and not outcome.may_pass and os.path.exists(job.path):  # noqa: PTH110
        reason = (
            f"{job.path}: is here, and not on the computer of the Dask worker {address}; scans must lie where all computers see "
            "them at the same path"
        )
        # That may pass: shares show a new file to other computers only after a while.
        return dataclasses.replace(outcome, reason=reason, error="CannotOpenError")
    return dataclasses.replace(outcome, reason=reason)


def places_of(paths: Iterable[Path]) -> list[Path]:
    """The folders that the given paths lead to, each once."""
    folders = (path if path.is_dir() else path.parent for path in map(absolute, paths))
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def absolute(path: Path) -> Path:
    """The path from the root, links kept: other computers may have others."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute() keeps the dots
