"""Where the engine keeps its ledger, log and copies, and the lock that makes it the only one for a folder of results."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

import platformdirs

from spm_runtime.errors import OutputError
from spm_runtime.results import printable, remove_partial_folders

__all__ = ["LOCK", "State", "find_state", "holder", "state_folder"]

#: The lock, in the state folder and, where the file system can do that, in the folder of results. It stays: a lock file that
#: is removed can be locked twice.
LOCK = ".adatom.lock"

#: Byte of the lock file that is locked on Windows, where locked bytes cannot be read: far behind the text.
LOCKED_BYTE = 2**30

#: What a file system answers that has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}


def state_folder(out: Path, base: Path | None = None) -> Path:
    """The folder of what the engine knows about a folder of results.

    Parameters
    ----------
    out
        The folder of results.
    base
        Folder on a local disk; when None that of the environment variable ``SPM_STATE``, else the user's own for such things.

    Returns
    -------
    Path
        One below `base` for each folder of results.
    """
    if base is None:
        given = os.environ.get("SPM_STATE")
        base = Path(given) if given else platformdirs.user_state_path("adatom", appauthor=False)
    place = out.resolve()
    digest = hashlib.sha256(os.fsencode(os.path.normcase(place))).hexdigest()[:12]
    return base / f"{printable(place.name) or 'results'}-{digest}"


def find_state(out: Path, base: Path | None = None) -> Path:
    """The state folder of results that are there: the one named, else the one that the last engine on this computer used."""
    folder = state_folder(out, base)
    if base is None and not folder.is_dir():
        facts = _read(out / LOCK)
        if facts.get("host") == socket.gethostname() and Path(str(facts.get("state", ""))).is_dir():
            return Path(str(facts["state"]))
    return folder


def holder(state: Path) -> dict[str, Any] | None:
    """Who analyses now: ``pid``, ``host`` and ``since``; None when nobody does."""
    try:
        with _Lock(state / LOCK, {}, keep_text=True):
            return None
    except _HeldError as error:
        return error.facts
    except OSError:  # never used, or not ours to lock
        return None


class State:
    """The state folder of one engine, which holds it until it is closed.

    Parameters
    ----------
    out
        The folder of results, which is there.
    base
        As for `state_folder`.

    Raises
    ------
    OutputError
        If another engine works on these results; the message says which. Or if the folder cannot be written.

    Attributes
    ----------
    folder
        The state folder.
    staging
        Folder for copies of scans, empty.
    """

    def __init__(self, out: Path, base: Path | None = None) -> None:
        self.folder = state_folder(out, base)
        self.staging = self.folder / "staging"
        self._out = out
        self._locks = ExitStack()
        facts = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "state": str(self.folder.resolve()),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._locks.enter_context(_Lock(self.folder / LOCK, facts))
            try:
                self._locks.enter_context(_Lock(out / LOCK, facts))
                self._out_is_marked = True
            except OSError:  # a share without locks: the local lock is what there is
                self._out_is_marked = False
        except _HeldError as error:
            self._locks.close()
            who = error.facts
            raise OutputError(
                f"--out {out}: process {who.get('pid', 'unknown')} on {who.get('host', 'an unknown computer')} works on these "
                f"results since {who.get('since', 'an unknown time')}; stop it first, or choose another folder"
            ) from None
        except OSError as error:
            self._locks.close()
            raise OutputError(
                f"{self.folder}: the state folder cannot be used ({error.strerror or error}); name one on a local disk with "
                "--state, where you may write"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()
        self._locks.close()

    def clear(self) -> None:
        """Remove unfinished results, and copies of scans, that nobody works on any more."""
        shutil.rmtree(self.staging, ignore_errors=True)
        remove_partial_folders(self._out)

    @property
    def out_is_there(self) -> bool:
        """Whether the folder of results is what it was: a share that went away leaves an empty folder in its place."""
        # `Path.is_file` raises where a share does not answer, as with "stale handle" or "host is down".
        return os.path.isfile(self._out / LOCK) if self._out_is_marked else os.path.isdir(self._out)  # noqa: PTH112, PTH113


class _HeldError(Exception):
    """Another process holds the lock."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        super().__init__(str(facts))


class _Lock:
    """A lock of the operating system on a file; it ends with the process that holds it, however that ends."""

    def __init__(self, path: Path, facts: dict[str, Any], *, keep_text: bool = False) -> None:
        self._path = path
        self._facts = facts
        self._keep_text = keep_text

    def __enter__(self) -> Self:
        self._file = self._path.open("rb" if self._keep_text else "a+b")
        try:
            self._take()
            if not self._keep_text:
                self._write()
        except BlockingIOError:
            self._file.close()
            raise _HeldError(_read(self._path)) from None
        except OSError as error:
            self._file.close()
            if error.errno in _NO_LOCKS:
                raise OSError(error.errno, "the file system has no locks", str(self._path)) from error
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _write(self) -> None:
        """Say who holds it; a full disk must not keep anybody from starting."""
        self._file.seek(0)
        self._file.truncate()
        with suppress(OSError):
            self._path.write_bytes(json.dumps(self._facts).encode("utf-8"))

    def _take(self) -> None:
        """Lock the file; whoever only asks for the holder has it for an instant."""
        for _ in range(1 if self._keep_text else 20):
            try:
                _lock(self._file)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                return
        _lock(self._file)


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from error

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
