"""What a reader is: one module of this package with a ``READER``.

A new format takes one file, ``readers/<format>.py``, that defines ``READER = Reader(...)``; it is found by itself.
Its ``sniff`` looks at content, never at the suffix; its ``read`` yields scans lazily, one by one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from spm_runtime.errors import CorruptScanError, MissingExtraError
from spm_runtime.scan import Scan

__all__ = ["HEAD_BYTES", "MAX_PIXELS", "Companions", "Probe", "Reader", "check_claim", "import_extra"]

#: How much of a file the sniffers see.
HEAD_BYTES = 4096

#: No microscope writes a larger single image; a header that claims one lies.
MAX_PIXELS = 2**28


@dataclass(frozen=True)
class Probe:
    """A file that is about to be recognised: its path, size in bytes and first bytes."""

    path: Path
    size: int

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` bytes."""
        with self.path.open("rb") as file:
            return file.read(HEAD_BYTES)


@dataclass(frozen=True)
class Companions:
    """Files beside a scan without which it cannot be read, or not in full; known by their names.

    Parameters
    ----------
    scan
        Regular expression for the whole name of such a scan, case ignored, with a group ``key``.
    beside
        The same for the name of a companion; it belongs to the scans of the same key.
    mention
        For logs that grow with every scan of a session: the bytes, given a scan's name, that end what they say of this scan.
        What comes behind, in this file or in later ones by name, does not concern it. None when all of every file counts.
    """

    scan: str
    beside: str
    mention: Callable[[str], bytes] | None = None


@dataclass(frozen=True)
class Reader:
    """How one format is recognised and read.

    Parameters
    ----------
    name
        Name of the format for people, as ``Nanonis SXM``.
    suffixes
        Usual suffixes, lower case, for the documentation and for folder scans; never used to choose the reader. An entry
        may be a glob such as ``.[0-9][0-9][0-9]``.
    sniff
        Whether the content is of this format; cheap, never raises on any bytes.
    read
        Yields one `Scan` per channel, direction and frame, the most useful first (topography, forward). Raises a
        `ScanError`; any other exception of a parser is turned into a `CorruptScanError` by `spm_runtime.readers`.
    extra
        Name of the optional dependency group that the reader needs, or None.
    rank
        Readers are asked in the order of their rank; a format that is a special case of another one has a lower rank.
    companions
        The files beside a scan that belong to it, or None.
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[Probe], bool]
    read: Callable[[Path], Iterator[Scan]]
    extra: str | None = None
    rank: int = 50
    companions: Companions | None = None


def import_extra(module: str, *, extra: str, path: Path, format_name: str) -> ModuleType:
    """Import an optional dependency of a reader when its first file arrives.

    Raises
    ------
    MissingExtraError
        With the install line, when it is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            path,
            f"a {format_name} file, and the package {module.partition('.')[0]!r} that reads it is not installed ({error})",
            f"the optional dependencies of {format_name}",
            f'Install them: pip install "adatom[{extra}]"',
        ) from error


def check_claim(path: Path, *, pixels: int, bytes_claimed: int, bytes_there: int) -> None:
    """Refuse a header that claims more than the file holds, before anything is allocated.

    Parameters
    ----------
    path
        The file, for the message.
    pixels
        Pixels of one image that the header claims.
    bytes_claimed
        Bytes that the header claims for the data.
    bytes_there
        Bytes that the file has for them.

    Raises
    ------
    CorruptScanError
        If the claim is empty, larger than `MAX_PIXELS` or larger than the file.
    """
    if pixels <= 0 or pixels > MAX_PIXELS:
        raise CorruptScanError(
            path,
            f"the header claims an image of {pixels} pixels",
            f"between 1 and {MAX_PIXELS} pixels",
            "The header is damaged: save or copy the scan again.",
        )
    if bytes_claimed > bytes_there:
        raise CorruptScanError(
            path,
            f"the header claims {bytes_claimed} bytes of data and the file has {max(bytes_there, 0)}",
            "a complete file",
            "The file is truncated or still being written: wait until it is saved, or copy it again.",
        )
