"""Native scan files, opened by their content.

`open_scan` gives the scan that a person means by "open this file"; `read_scans` gives every channel, direction and
frame, one by one. Every failure is a `ScanError` that names the file, what was seen, what was expected and the remedy.
"""

from __future__ import annotations

import importlib
import itertools
import lzma
import pkgutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from spm_runtime.errors import CannotOpenError, ChannelError, CorruptScanError, ScanError, UnknownFormatError
from spm_runtime.readers._api import HEAD_BYTES, Probe, Reader
from spm_runtime.scan import Direction, Scan

__all__ = ["HEAD_BYTES", "Reader", "find_reader", "open_scan", "read_scans", "readers"]

#: What a parser may raise on damaged bytes. Programming errors of our own (NameError, AssertionError of a library
#: apart) are in it on purpose where third-party parsers raise them on bad files.
PARSER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, RecursionError,
    RuntimeError, SyntaxError, TypeError, ValueError, lzma.LZMAError, struct.error, zlib.error,
)  # fmt: skip


@cache
def readers() -> tuple[Reader, ...]:
    """All readers of this installation, in the order in which they are asked."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            found.append(importlib.import_module(f"{__name__}.{module.name}").READER)
    return tuple(sorted(found, key=lambda reader: (reader.rank, reader.name)))


def find_reader(path: Path | str) -> Reader:
    """The reader that recognises the content of a file.

    Raises
    ------
    UnknownFormatError
        If none does, or the file is empty.
    CannotOpenError
        If the path is missing, or cannot be opened.
    ScanError
        If it is a folder.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ScanError(path, "a folder", "a scan file", "Use `spm-infer run` for folders.")
        probe = Probe(path, path.stat().st_size)
        if probe.size == 0:
            raise UnknownFormatError(
                path, "an empty file", "a scan", "The scan was not saved, or is still being written: save it again."
            )
        for reader in readers():
            if reader.sniff(probe):
                return reader
    except OSError as error:
        raise _cannot_open(path, error) from error
    names = ", ".join(reader.name for reader in readers())
    raise UnknownFormatError(
        path,
        f"content of no known format (it begins with {probe.head[:16]!r})",
        f"one of: {names}",
        "Check that it is a scan file; if so, export it as .sxm, .gwy or TIFF and report the format.",
    )


def read_scans(path: Path | str) -> Iterator[Scan]:
    """Every channel, direction and frame of a file, the most useful first, read one by one.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    Scan
        With `Scan.path` set.

    Raises
    ------
    ScanError
        If the file cannot be read whole, naming the reason. Nothing else is raised for any content of a file.
    """
    path = Path(path)
    reader = find_reader(path)
    count = 0
    try:
        scans = reader.read(path)
        while (scan := _next_quietly(scans)) is not None:
            count += 1
            yield scan
    except (FileNotFoundError, PermissionError) as error:  # gone or locked since it was recognised
        raise _cannot_open(path, error) from error
    except MemoryError as error:
        raise ScanError(
            path,
            "an image that does not fit in the memory that is free",
            "an image that does",
            "Close other programs, or save a smaller region.",
        ) from error
    except PARSER_ERRORS as error:
        raise CorruptScanError(
            path,
            f"it begins like {reader.name} and reading it failed ({type(error).__name__}: {_first_line(error)})",
            f"a complete {reader.name} file",
            "The file is damaged or truncated: save or copy it again.",
        ) from error
    if count == 0:
        raise CorruptScanError(
            path,
            f"a {reader.name} file without any image",
            "at least one image",
            "Save the scan with an image channel.",
        )


def open_scan(
    path: Path | str,
    *,
    channel: str | None = None,
    direction: Direction | None = None,
    frame: int | None = None,
) -> Scan:
    """Open the scan that a person means by "open this file".

    Parameters
    ----------
    path
        The file; its format is recognised by content.
    channel
        Name of a channel, case ignored; the reader's first choice (topography) when None.
    direction
        ``forward`` or ``backward``; the first one stored when None.
    frame
        Index in a stack; the first frame when None.

    Returns
    -------
    Scan

    Raises
    ------
    ChannelError
        If the file has no such channel, direction or frame; the message lists what it has.
    ScanError
        If the file cannot be read.
    """
    labels = []
    for scan in read_scans(path):
        labels.append(scan.label)
        if (
            (channel is None or scan.channel.casefold() == channel.casefold())
            and (direction is None or scan.direction == direction)
            and (frame is None or (scan.frame or 0) == frame)
        ):
            return scan
    wanted = " ".join(str(word) for word in (channel, direction, None if frame is None else f"frame {frame}") if word)
    raise ChannelError(
        path,
        f"no {wanted!r}",
        "one of: " + ", ".join(itertools.islice(labels, 40)),
        "Choose one of these with --channel.",
    )


def _next_quietly(scans: Iterator[Scan]) -> Scan | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers warn about metadata in ways that no user can act on
        return next(scans, None)


def _cannot_open(path: Path, error: OSError) -> CannotOpenError:
    reason = error.strerror or str(error)
    return CannotOpenError(
        path, f"cannot be opened ({reason})", "a readable file", "Check the path, the share and your permissions."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no message"])[0][:200]
