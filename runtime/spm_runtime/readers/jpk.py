"""JPK ``.jpk`` and ``.jpk-qi-image``: a TIFF file with private tags, one channel per page.

The first page is the thumbnail and carries the grid of the scan; every other page has raw integers and "slots", each of
which converts the raw integers to one quantity; one slot is the default. The tags are those of JPK's "JPKImageSpec 2.0",
known from the public readers Gwyddion (``jpkscan.c``) and AFMReader. The grid is the one that JPK's force maps spell out
as ``xcenter``, ``ycenter``, ``ulength``, ``vlength``, ``theta`` (in radians) and ``reflect``. The first row of the
raster is the bottom one, as the thumbnails show; a reflected grid has it at the top. Both line directions are stored in
the order of the surface.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tifffile

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._images import plain
from spm_runtime.readers._raw import base_unit, distinct_names, to_values
from spm_runtime.scan import Direction, Scan, to_nm

__all__ = ["READER"]

#: Private tags of the grid (first page), in metres and radians.
X0, Y0, U_LENGTH, V_LENGTH, THETA, REFLECT = 0x8040, 0x8041, 0x8042, 0x8043, 0x8044, 0x8045
#: Private tags of a channel.
CHANNEL, RETRACE, FANCY_NAME, SLOTS, DEFAULT_SLOT = 0x8050, 0x8051, 0x8052, 0x8080, 0x8081
#: Slots begin here, at this distance from each other; the rest is relative to the begin of a slot.
SLOT_NAME, SLOT_STEP = 0x8090, 0x30
UNIT, SCALING, MULTIPLIER, OFFSET = 0x12, 0x13, 0x14, 0x15

#: What is kept of the rest: tags of the first page and of a channel.
GRID_NAMES = {
    0x8000: "program_version", 0x8003: "start_date", 0x8004: "name", 0x8005: "comment", 0x8006: "end_date", 0x8007: "probe",
    0x8030: "feedback_mode", 0x8033: "setpoint", 0x8049: "line_rate_Hz",
}  # fmt: skip
CHANNEL_NAMES = {CHANNEL: "channel", DEFAULT_SLOT: "slot", 0x8053: "algorithm"}

#: A scan has a dozen channels; a chain of more pages is a damaged file.
MAX_PAGES = 1024
MAX_SLOTS = 64

#: Topography, the best measured one first.
HEIGHTS = ("measuredheight", "capacitivesensorheight", "height")


def _sniff(probe: Probe) -> bool:
    """A TIFF file whose first page has the lengths of a JPK grid."""
    order = {b"MM\0*": ">", b"II*\0": "<"}.get(probe.head[:4])
    if order is None or probe.size < 8:
        return False
    (start,) = struct.unpack_from(f"{order}I", probe.head, 4)
    with probe.path.open("rb") as file:
        file.seek(start)
        entries = file.read(2)
        if len(entries) < 2:
            return False
        raw = file.read(12 * struct.unpack(f"{order}H", entries)[0])
    codes = {struct.unpack_from(f"{order}H", raw, at)[0] for at in range(0, len(raw) - 11, 12)}
    return {U_LENGTH, V_LENGTH} <= codes


def _read(path: Path) -> Iterator[Scan]:
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in _pages(path, tiff) if CHANNEL in page.tags or FANCY_NAME in page.tags]
        # The first page may carry other tags with the code of a channel; a thumbnail is a palette of bytes.
        pages = [page for page in pages if page.photometric in (0, 1) and page.ndim == 2 and page.dtype.itemsize > 1]
        if not pages:
            raise ScanError(
                path, "a JPK file without a channel", "at least one image channel", "Save the image, not the settings."
            )
        grid = tiff.pages[0]
        names = distinct_names(
            [(str(_tag(page, FANCY_NAME) or _tag(page, CHANNEL)), _direction(page)) for page in pages]
        )
        for index in sorted(range(len(pages)), key=lambda k: _usefulness(pages[k])):
            yield _scan(path, tiff.filehandle.size, grid, pages[index], names[index])


def _pages(path: Path, tiff: Any) -> list[Any]:
    pages = []
    for page in tiff.pages:
        pages.append(page)
        if len(pages) > MAX_PAGES:
            raise CorruptScanError(
                path,
                f"a chain of more than {MAX_PAGES} pages",
                "a dozen channels",
                "The file is damaged: copy it again.",
            )
    return pages


def _tag(page: Any, code: int) -> Any:
    return page.tags[code].value if code in page.tags else None


def _direction(page: Any) -> Direction:
    return "backward" if _tag(page, RETRACE) else "forward"


def _usefulness(page: Any) -> tuple[int, bool]:
    name = str(_tag(page, CHANNEL) or _tag(page, FANCY_NAME)).casefold()
    return (HEIGHTS.index(name) if name in HEIGHTS else len(HEIGHTS), _direction(page) == "backward")


def _scan(path: Path, file_size: int, grid: Any, page: Any, name: str) -> Scan:
    rows, columns = page.shape
    pixels, stored = rows * columns, sum(page.databytecounts)
    end = max((at + count for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
    if page.compression != 1:
        raise ScanError(
            path, f"a compressed page ({page.compression})", "plain samples, as JPK writes them", "Save the scan again."
        )
    check_claim(path, pixels=pixels, bytes_claimed=pixels * page.dtype.itemsize, bytes_there=stored)
    check_claim(path, pixels=pixels, bytes_claimed=end, bytes_there=file_size)
    reflect = _tag(page, REFLECT) if REFLECT in page.tags else _tag(grid, REFLECT)
    raw = page.asarray()
    factor, offset, unit, notes = _default_slot(page)
    image, warnings = to_values(raw if reflect else raw[::-1], factor, offset)
    width, height = to_nm(float(_tag(grid, U_LENGTH)), "m"), to_nm(float(_tag(grid, V_LENGTH)), "m")
    centre = (_tag(grid, Y0), _tag(grid, X0))
    theta = _tag(grid, THETA)
    return Scan(
        image=image,
        unit=unit,
        pixel_size_nm=(height / rows, width / columns) if height is not None and width is not None else None,
        offset_nm=(centre[0] * 1e9, centre[1] * 1e9) if None not in centre else None,
        angle_deg=math.degrees(theta) + 0.0 if theta is not None else None,
        modality="afm",
        channel=name,
        direction=_direction(page),
        path=path,
        metadata=plain(
            {label: _tag(grid, code) for code, label in GRID_NAMES.items()}
            | {label: _tag(page, code) for code, label in CHANNEL_NAMES.items()}
        ),
        warnings=warnings + notes,
    )


def _default_slot(page: Any) -> tuple[float, float, str, tuple[str, ...]]:
    """Multiplier, offset and unit of the slot that the instrument shows, and a note where there is none."""
    default = _tag(page, DEFAULT_SLOT)
    for slot in range(min(int(_tag(page, SLOTS) or 0), MAX_SLOTS)):
        base = SLOT_NAME + slot * SLOT_STEP
        if _tag(page, base) != default:
            continue
        if _tag(page, base + SCALING) != "LinearScaling":
            break
        prefix, unit = base_unit(str(_tag(page, base + UNIT) or ""))
        return prefix * float(_tag(page, base + MULTIPLIER)), prefix * float(_tag(page, base + OFFSET)), unit, ()
    return 1.0, 0.0, "", (f"the slot {default!r} has no linear scaling: the values are raw numbers",)


READER = Reader(name="JPK", suffixes=(".jpk", ".jpk-qi-image"), sniff=_sniff, read=_read, rank=40)
