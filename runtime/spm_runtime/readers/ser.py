"""FEI TIA series (.ser), by RosettaSciIO (extra ``stem``); an .emi file leads to the series beside it.

Source: C. Boothroyd, TIA (Emispec) file format, https://personal.ntu.edu.sg/cbb/info/TIAformat/.
"""

from __future__ import annotations

import math
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from spm_runtime.errors import CannotOpenError, CorruptScanError, ScanError
from spm_runtime.readers._api import Companions, Probe, Reader, check_claim
from spm_runtime.readers._images import FREE_BYTES, MAX_FRAMES
from spm_runtime.readers._rosettasciio import EXTRA, images, load
from spm_runtime.scan import Scan

__all__ = ["READER"]

NAME = "TIA series"

MAGIC = b"II\x97\x01"
#: What .emi files begin with. The format is not published; they hold the layout of the screen.
EMI_MAGIC = b"JK\x00\x02"

IMAGES, SPECTRA = 0x4122, 0x4120
#: From this version on offsets have eight bytes.
WIDE_OFFSETS = 0x0220

#: Bytes per value, by TIA's number of the type.
VALUE_BYTES = {1: 1, 2: 2, 3: 4, 4: 1, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 16}

HEADER = struct.Struct("<2sHHIIII")
DIMENSION = struct.Struct("<IddI")
ELEMENT = struct.Struct("<ddIddIHII")

#: A series is scanned over a line or an area.
MAX_DIMENSIONS = 4
MAX_TEXT = 4096


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith((MAGIC, EMI_MAGIC))


def _read(path: Path) -> Iterator[Scan]:
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != EMI_MAGIC:
        yield from _read_series(path)
        return
    pattern = re.compile(re.escape(path.stem) + r"_\d+\.ser", re.IGNORECASE)
    series = sorted(sibling for sibling in path.parent.iterdir() if pattern.fullmatch(sibling.name))
    if not series:
        raise CannotOpenError(
            path,
            f"a TIA .emi file, which holds no pixels, and no {path.stem}_1.ser beside it",
            "the .ser file of the same name in the same folder",
            "Copy the .ser file too, or open it instead.",
        )
    for number, sibling in enumerate(series, start=1):
        for scan in _read_series(sibling):
            yield scan if len(series) == 1 else replace(scan, channel=f"series {number}")


def _read_series(path: Path) -> Iterator[Scan]:
    count = _check(path)
    yield from images(path, NAME, load("tia", path, NAME, lambda module: _signals(module, path)), frames=count)


def _signals(module: ModuleType, path: Path) -> Sequence[Any]:
    """The library goes by the suffix; a series that has another one is copied under the right one."""
    if path.suffix.lower() == ".ser":
        signals: Sequence[Any] = module.file_reader(str(path))
        return signals
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "series.ser"
        shutil.copyfile(path, copy)
        copied: Sequence[Any] = module.file_reader(str(copy))
        return copied


def _check(path: Path) -> int:
    """Check all sizes of a series against the file, before the library allocates them; gives the number of images."""
    size = path.stat().st_size
    with path.open("rb") as file:
        _, _, version, data_type, _, total, valid = _unpack(path, file, HEADER)
        offset_format = "<Q" if version >= WIDE_OFFSETS else "<I"
        (start,) = _unpack(path, file, struct.Struct(offset_format))
        (dimensions,) = _unpack(path, file, struct.Struct("<I"))
        if data_type == SPECTRA:
            raise ScanError(path, "a series of spectra", "images", "Open the image that was taken with it.")
        if data_type != IMAGES or dimensions > MAX_DIMENSIONS:
            raise _damaged(path, f"data of type {data_type:#x} over {dimensions} dimensions")
        if not 0 < valid <= min(total, MAX_FRAMES):
            raise _damaged(path, f"{valid} images of {total}")
        grid = [_dimension(path, file) for _ in range(dimensions)]
        check_claim(path, pixels=1, bytes_claimed=start + 2 * valid * struct.calcsize(offset_format), bytes_there=size)
        file.seek(start)
        offsets = np.frombuffer(file.read(valid * struct.calcsize(offset_format)), dtype=offset_format)
        layouts = {_element(path, file, int(offset), size) for offset in offsets}
    if len(layouts) != 1:
        raise ScanError(path, "images of different sizes in one series", "one size", "Save the images one by one.")
    bytes_each = next(iter(layouts))[1]
    # The library fills a scan that was stopped up to the whole grid.
    claimed = max(math.prod(grid), valid) * bytes_each
    check_claim(path, pixels=1, bytes_claimed=claimed, bytes_there=FREE_BYTES + 2 * size)
    return int(valid)


def _dimension(path: Path, file: BinaryIO) -> int:
    length, *_ = _unpack(path, file, DIMENSION)
    for _ in range(2):  # its description and its unit
        (letters,) = _unpack(path, file, struct.Struct("<I"))
        if letters > MAX_TEXT:
            raise _damaged(path, f"a text of {letters} letters")
        file.seek(letters, 1)
    return int(length)


def _element(path: Path, file: BinaryIO, offset: int, size: int) -> tuple[int, int, int, int]:
    """Type, bytes, width and height of one image."""
    if offset > size:
        raise _damaged(path, f"an image at byte {offset} of {size}")
    file.seek(offset)
    *_, kind, width, height = _unpack(path, file, ELEMENT)
    if kind not in VALUE_BYTES:
        raise _damaged(path, f"values of type {kind}")
    claimed = width * height * VALUE_BYTES[kind]
    check_claim(path, pixels=width * height, bytes_claimed=claimed, bytes_there=size - offset - ELEMENT.size)
    return kind, claimed, width, height


def _unpack(path: Path, file: BinaryIO, pattern: struct.Struct) -> tuple[Any, ...]:
    content = file.read(pattern.size)
    if len(content) < pattern.size:
        raise _damaged(path, "the end of the file in its header")
    return pattern.unpack(content)


def _damaged(path: Path, seen: str) -> CorruptScanError:
    return CorruptScanError(
        path, seen, f"a complete {NAME}", "The file is truncated or damaged: save or copy it again."
    )


READER = Reader(
    name=NAME,
    suffixes=(".ser",),
    sniff=_sniff,
    read=_read,
    extra=EXTRA,
    companions=Companions(r"(?P<key>.+)\.emi", r"(?P<key>.+)_\d+\.ser"),
)
