"""MRC and CCP4 maps (.mrc, .mrcs, .map), by RosettaSciIO (extra ``stem``).

The first row of the file is the first row of the image, as RosettaSciIO and mrcfile give it; programs that put the
origin at the lower left show it upside down.

Source: A. Cheng et al., "MRC2014: Extensions to the MRC format header for electron cryo-microscopy and tomography",
J. Struct. Biol. 192, 146 (2015).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._images import check_frames, layout
from spm_runtime.readers._rosettasciio import EXTRA, images, load
from spm_runtime.scan import Scan

__all__ = ["READER"]

NAME = "MRC"
HEADER_BYTES = 1024
MAGIC, MAGIC_AT, STAMP_AT = b"MAP", 208, 212
#: Bytes per value of the modes that are real numbers: int8, int16, float32, uint16, float16.
MODE_BYTES = {0: 1, 1: 2, 2: 4, 6: 2, 12: 2}
#: Machine stamps of files whose numbers begin with the highest byte.
BIG_ENDIAN_STAMPS = (b"\x11\x11",)
#: Many programs write this cell (one ångström per pixel) when they do not know the size.
DEFAULT_NM = 0.1


@dataclass(frozen=True)
class _Header:
    """The numbers of the header that are needed before the file is read."""

    big_endian: bool
    width: int
    height: int
    sections: int
    mode: int
    extended: int
    calibrated: bool
    signed: bool


def _sniff(probe: Probe) -> bool:
    return len(probe.head) >= HEADER_BYTES and probe.head[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def _read(path: Path) -> Iterator[Scan]:
    header = _check(path)
    options: dict[str, object] = {"lazy": True}
    if header.big_endian:
        options["endianness"] = ">"
    if "movie" in str(path):  # else the library looks for other files beside it
        options["metadata_file"] = None
    signals = load("mrc", path, NAME, lambda module: module.file_reader(str(path), **options))
    if header.mode == 0 and header.signed:  # the library takes bytes as unsigned
        signals = [{**signal, "data": signal["data"].view("int8")} for signal in signals]
    for scan in images(path, NAME, signals, big_endian=header.big_endian):
        pixel = scan.pixel_size_nm
        if not header.calibrated:
            yield replace(scan, pixel_size_nm=None)
        elif pixel is not None and all(abs(side - DEFAULT_NM) < 1e-6 for side in pixel):
            doubt = "a pixel of exactly 1 Å: what programs write when they do not know the size"
            yield replace(scan, warnings=(*scan.warnings, doubt))
        else:
            yield scan


def _check(path: Path) -> _Header:
    """Check the sizes in the header against the file."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    order = ">" if head[STAMP_AT : STAMP_AT + 2] in BIG_ENDIAN_STAMPS else "<"
    width, height, sections, mode = struct.unpack_from(f"{order}4i", head, 0)
    grid = struct.unpack_from(f"{order}3i", head, 28)
    cell = struct.unpack_from(f"{order}3f", head, 40)
    (least,) = struct.unpack_from(f"{order}f", head, 76)
    (extended,) = struct.unpack_from(f"{order}i", head, 92)
    if mode not in MODE_BYTES:
        raise ScanError(path, f"values of mode {mode}", "integers or floats (mode 0, 1, 2, 6 or 12)", "Convert it.")
    if min(width, height, sections) <= 0 or extended < 0:
        raise CorruptScanError(
            path,
            f"a header that claims {width} × {height} × {sections} pixels after {extended} bytes",
            "positive lengths",
            "The file is damaged: save or copy it again.",
        )
    claimed = width * height * sections * MODE_BYTES[mode]
    there = path.stat().st_size - HEADER_BYTES - extended
    check_claim(path, pixels=width * height, bytes_claimed=claimed, bytes_there=there)
    check_frames(path, sections)
    layout(path, (height, width))
    return _Header(
        big_endian=order == ">",
        width=width,
        height=height,
        sections=sections,
        mode=mode,
        extended=extended,
        calibrated=min(*grid[:2], *cell[:2]) > 0 or extended == 1024 * 128,
        signed=least < 0,
    )


READER = Reader(name=NAME, suffixes=(".mrc", ".mrcs", ".map"), sniff=_sniff, read=_read, extra=EXTRA)
