"""Files that appear whole or not at all, and text that any file name survives."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["encoded", "partial_folder", "printable", "sync_file", "sync_folder", "write_atomically"]

#: Unfinished files live in folders of this prefix, inside the folder that they are meant for: the same disk, the same
#: permissions, and `os.replace` is atomic.
PARTIAL_PREFIX = ".partial-"

#: An unfinished folder this old was left by a process that died; a living one needs seconds.
ABANDONED_AFTER_S = 3600.0


def encoded(text: str) -> bytes:
    """UTF-8, with the bytes of an undecodable file name spelled out instead of an error."""
    return text.encode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """The text on one line, with nothing in it that a terminal or a UTF-8 file refuses."""
    plain = encoded(text).decode("utf-8")
    return "".join(character if character.isprintable() else " " for character in plain)


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
    for left in folder.glob(f"{PARTIAL_PREFIX}*"):
        with suppress(FileNotFoundError):  # a living process has just finished with it
            if time.time() - left.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder) as partial:
        yield Path(partial)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file at once: readers see the old content or the new one, never a part.

    Parameters
    ----------
    path
        The file; its folder exists.
    content
        All of it.

    Raises
    ------
    OSError
        If the disk is full or the file may not be replaced; the old one is still there.
    """
    with partial_folder(path.parent) as partial:
        (partial / path.name).write_bytes(content)
        sync_file(partial / path.name)
        (partial / path.name).replace(path)
    sync_folder(path.parent)
