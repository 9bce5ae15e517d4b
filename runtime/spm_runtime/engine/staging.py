"""Copies of scans on the local disk: the instrument's own file is open for the moment of copying, and shared with everybody.

Whatever happens to the analysis happens to the copy. Raw data is only ever read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from spm_runtime.engine.companions import companions, content_digest
from spm_runtime.engine.jobs import Stamp
from spm_runtime.errors import CannotOpenError
from spm_runtime.readers import HEAD_BYTES
from spm_runtime.readers._api import Probe

__all__ = ["Copy", "Head", "fetch", "look_at", "open_shared"]

#: Bytes that are copied at once.
CHUNK = 2**20


@dataclass(frozen=True)
class Head(Probe):
    """What the readers need to recognise a file, without the file being opened again."""

    first: bytes = b""

    @property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` bytes."""
        return self.first


@dataclass(frozen=True)
class Copy:
    """A scan on the local disk: its path, and the SHA-256 of its content, see `content_digest`."""

    path: Path
    sha256: str


def look_at(path: Path) -> Head:
    """Read the first bytes of a file.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    CannotOpenError
        If it cannot be opened now.
    """
    with _open_patiently(path) as source:
        try:
            return Head(path, os.fstat(source.fileno()).st_size, source.read(HEAD_BYTES))
        except OSError as error:
            raise _busy(path, f"it cannot be read ({error.strerror or error})") from error


def fetch(path: Path, folder: Path, *, stamp: Stamp | None = None) -> Copy:
    """Copy a scan, and the files that it needs beside it, to the local disk.

    Parameters
    ----------
    path
        The scan. It is open only while it is copied, and others may write, rename and delete it meanwhile.
    folder
        An empty folder on a local disk; the names of the files stay.
    stamp
        The state that the scan is expected to be in.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    CannotOpenError
        If it cannot be read now, or changes while it is copied.
    OSError
        If the copy cannot be written; names the copy.
    """
    copy = folder / path.name
    digest = hashlib.sha256()
    with _open_patiently(path) as source:
        before = _stamp(path, source)
        if stamp is not None and before != dataclasses.replace(stamp, beside=""):
            raise _busy(path, "it has changed since it was found")
        _copy(path, source, copy, digest)
        if _stamp(path, source) != before or copy.stat().st_size != before.size:
            raise _busy(path, "it changed while it was read")
    try:
        there = companions(path)
    except OSError as error:
        raise _busy(path, f"its folder cannot be listed ({error.strerror or error})") from error
    for companion in there:
        with _open_patiently(companion) as source:
            _copy(companion, source, folder / companion.name, hashlib.sha256())
    return Copy(copy, content_digest(path, digest.hexdigest(), (folder / companion.name for companion in there)))


def _copy(path: Path, source: BinaryIO, copy: Path, digest: hashlib._Hash) -> None:
    try:
        with copy.open("wb") as target:
            for chunk in _chunks(path, source):
                digest.update(chunk)
                target.write(chunk)
    except OSError as error:  # a full disk does not say which
        raise OSError(error.errno, error.strerror, str(copy)) from error


def _chunks(path: Path, source: BinaryIO) -> Iterator[bytes]:
    while True:
        try:
            chunk = source.read(CHUNK)
        except OSError as error:
            raise _busy(path, f"it cannot be read ({error.strerror or error})") from error
        if not chunk:
            return
        yield chunk


def _stamp(path: Path, source: BinaryIO) -> Stamp:
    """The stamp of an open file that still has its name: one that was replaced meanwhile has not."""
    try:
        there, held = path.stat(), os.fstat(source.fileno())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _busy(path, f"it cannot be looked at ({error.strerror or error})") from error
    stamp = Stamp.of(there)
    if (there.st_ino, there.st_dev) != (held.st_ino, held.st_dev) and os.name != "nt":
        raise _busy(path, "it was replaced while it was read")
    return stamp


def _open_patiently(path: Path) -> BinaryIO:
    try:
        return open_shared(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _busy(path, f"it cannot be opened ({error.strerror or error})") from error


def _busy(path: Path, seen: str) -> CannotOpenError:
    return CannotOpenError(
        path,
        seen,
        "a complete file that may be read",
        "It is tried again; if that lasts, close it where it is open, and check the share and your permissions.",
    )


if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.CreateFileW.restype = wintypes.HANDLE
    _kernel32.CreateFileW.argtypes = [
        wintypes.LPCWSTR, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID, wintypes.DWORD, wintypes.DWORD, wintypes.HANDLE,
    ]  # fmt: skip
    # Values of winnt.h and fileapi.h.
    _GENERIC_READ, _SHARE_READ_WRITE_DELETE, _OPEN_EXISTING, _SEQUENTIAL = 0x80000000, 0x7, 3, 0x08000000
    _INVALID = wintypes.HANDLE(-1).value

    def open_shared(path: Path) -> BinaryIO:
        """Open a file for reading and let others write, rename and delete it meanwhile.

        Python's own `open` does not allow others to rename or delete the file on Windows.
        """
        handle = _kernel32.CreateFileW(
            str(path), _GENERIC_READ, _SHARE_READ_WRITE_DELETE, None, _OPEN_EXISTING, _SEQUENTIAL, None
        )
        if handle == _INVALID:
            code = ctypes.get_last_error()
            # The fourth argument makes it the right subclass, such as PermissionError for a sharing violation.
            raise OSError(0, ctypes.FormatError(code), str(path), code)
        return os.fdopen(msvcrt.open_osfhandle(handle, os.O_RDONLY | os.O_BINARY), "rb")

else:

    def open_shared(path: Path) -> BinaryIO:
        """Open a file for reading; POSIX lets others write, rename and delete it meanwhile."""
        return path.open("rb")
