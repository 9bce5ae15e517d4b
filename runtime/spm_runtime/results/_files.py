"""Files that appear whole or not at all, and text that any file name survives."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

__all__ = [
    "encoded",
    "partial_folder",
    "patiently",
    "printable",
    "remove_partial_folders",
    "replacing",
    "sync_file",
    "sync_folder",
    "write_atomically",
]

T = TypeVar("T")

#: Unfinished files live in folders of this prefix, inside or beside the folder that they are meant for: the same disk, the
#: same permissions, and renaming is atomic.
PARTIAL_PREFIX = ".partial-"

#: An unfinished folder this old was left by a process that died; a living one needs seconds.
ABANDONED_AFTER_S = 3600.0

#: On Windows a file cannot be replaced while an indexer or a virus scanner looks at it, which takes a moment: the pauses
#: between the attempts, two seconds in all.
PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.63)


def encoded(text: str) -> bytes:
    """UTF-8, with the bytes of an undecodable file name spelled out instead of an error."""
    return text.encode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """The text on one line, with nothing in it that a terminal or a UTF-8 file refuses."""
    plain = encoded(text).decode("utf-8")
    return "".join(character if character.isprintable() else " " for character in plain)


def patiently(action: Callable[[], T], place: Path, *, sleep: Callable[[float], object] = time.sleep) -> T:
    """Do something with a file that another program may hold for a moment.

    Parameters
    ----------
    action
        What to do; done again after a `PermissionError`, for about two seconds.
    place
        The file that may be held, for the message.
    sleep
        In place of the system's, for tests.

    Raises
    ------
    PermissionError
        If it does not become free; names `place`.
    OSError
        What `action` raises besides, at once.
    """
    for pause_s in PAUSES_S:
        try:
            return action()
        except PermissionError:
            sleep(pause_s)
    try:
        return action()
    except PermissionError as error:
        reason = f"it may not be written or replaced, perhaps because another program has it open: {error.strerror}"
        raise PermissionError(error.errno, reason, str(place)) from error


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    if os.name == "nt":  # Windows has no handle of a folder that could be flushed
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A folder for unfinished files inside `folder`, removed at the end; those of dead processes are removed first."""
    folder.mkdir(parents=True, exist_ok=True)
    # What a virus scanner holds at the end is left to a later call: the files themselves are in their place by then.
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder, ignore_cleanup_errors=True) as made:
        partial = Path(made)
        now_s = (
            partial.stat().st_mtime
        )  # by the clock of the disk: that of a share may differ by hours from this computer's
        for left in folder.glob(f"{PARTIAL_PREFIX}*"):
            with suppress(
                FileNotFoundError, PermissionError
            ):  # just finished with, or held: then the next one removes it
                if now_s - left.stat().st_mtime > ABANDONED_AFTER_S:
                    shutil.rmtree(left)
        # A private folder that is renamed into its place would stay private: it gets the rights of any new folder.
        partial.chmod(folder.stat().st_mode & 0o777)
        yield partial


def remove_partial_folders(folder: Path) -> None:
    """Remove the unfinished folders that processes have left which are known to be dead."""
    for left in folder.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def replacing(path: Path, *, sleep: Callable[[float], object] = time.sleep) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of another only when it is complete and on the disk.

    Whoever reads sees the old content or the new one, never a part, also after a loss of power. Several processes may do
    this with one file at once: the last one wins.

    Parameters
    ----------
    path
        The file; its folder is made when it is not there.
    sleep
        In place of the system's, for tests.

    Raises
    ------
    OSError
        If the disk is full or the file may not be replaced; the old one is still there, as after any other exception.
    """
    with partial_folder(path.parent) as partial:
        new = partial / path.name
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        patiently(lambda: new.replace(path), path, sleep=sleep)
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes, *, sleep: Callable[[float], object] = time.sleep) -> None:
    """Replace the content of a file at once; see `replacing`."""
    with replacing(path, sleep=sleep) as file:
        file.write(content)
