"""RHK ``.sm4``: images of an RHK R9 or XPMPro controller.

A file is a tree of objects. Each object is listed as ``(type, offset, size)``, three little-endian 32-bit integers::

    file header ─ page index header (type 1) ─ page index array (type 2) ─ one entry per page
                                                   page header (type 3) ─ strings (type 10)
                                                   page data (type 4)

The layout is that of RHK's "SM4 Data File Format", known from the public readers Gwyddion (``rhk-sm4.c``) and spym.
RHK states neither the meaning of the offset nor the sense of the angle. A file with a grid of spectra does, because it
stores the position of the tip at every spectrum: the offset is the centre of the image, the angle counts
counter-clockwise, and row and column step by the signed scales. A test repeats that measurement on a real file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._raw import distinct_names, read_at, to_values
from spm_runtime.scan import Direction, Modality, Scan, to_nm

__all__ = ["READER"]

MAGIC = "STiMage 005.".encode("utf-16-le")
MAGIC_AT = 2

#: Types of objects.
INDEX_HEADER, INDEX_ARRAY, PAGE_HEADER, PAGE_DATA, STRINGS = 1, 2, 3, 4, 10

#: Types of page data and of pages.
DATA_IMAGE = 0
TOPOGRAPHIC, CURRENT, FORCE, AFM_100 = 1, 2, 4, 27

#: No session of RHK's programs fills a file with more pages, no list has more objects: a header that says so lies.
MAX_PAGES = 4096
MAX_OBJECTS = 1024

OBJECT = struct.Struct("<III")
INDEX_ENTRY = struct.Struct("<16sIIII")
#: The names follow `PAGE_FIELDS`.
PAGE = struct.Struct("<HHIIIiiIIIIIIiifffffffffffIIII64x")
PAGE_FIELDS = (
    "field_size", "string_count", "page_type", "data_sub_source", "line_type", "x_corner", "y_corner", "x_size", "y_size",
    "image_type", "scan_type", "group_id", "data_size", "min_z", "max_z", "x_scale", "y_scale", "z_scale", "xy_scale",
    "x_offset", "y_offset", "z_offset", "period_s", "bias_V", "current_A", "angle_deg", "color_info_count",
    "grid_x_size", "grid_y_size", "object_count",
)  # fmt: skip

#: The first strings of a page; those of interest here.
STRING_FIELDS = (
    "label", "system_text", "session_text", "user_text", "file_name", "date", "time", "x_unit", "y_unit", "z_unit",
    "x_label", "y_label", "status", "completed_lines",
)  # fmt: skip

DIRECTIONS: dict[int, Direction] = {0: "forward", 1: "backward"}  # RHK's "right" and "left"


@dataclass(frozen=True)
class _Page:
    """One image of the file: its header, its texts and where its samples are."""

    header: dict[str, int | float]
    strings: dict[str, str]
    data_offset: int
    data_size: int

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.header["y_size"]), int(self.header["x_size"])

    @property
    def direction(self) -> Direction | None:
        return DIRECTIONS.get(int(self.header["scan_type"]))


def _sniff(probe: Probe) -> bool:
    return probe.head[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def _read(path: Path) -> Iterator[Scan]:
    with path.open("rb") as file:
        pages, skipped = _pages(file, path)
        if not pages:
            raise ScanError(
                path,
                f"{skipped} pages of spectroscopy and no image",
                "at least one image page",
                "Spectra cannot be analysed: open the topography that was saved with them.",
            )
        notes = (f"pages of spectroscopy that are not read: {skipped}",) if skipped else ()
        pages.sort(key=lambda page: (page.header["page_type"] != TOPOGRAPHIC, page.header["scan_type"]))
        names = distinct_names([(page.strings.get("label", ""), page.direction) for page in pages])
        modality = _modality(pages)
        for page, name in zip(pages, names, strict=True):
            yield _scan(file, path, page, name, modality, notes)


def _objects(file: BinaryIO, path: Path, offset: int, count: int, what: str) -> dict[int, tuple[int, int]]:
    """The objects of a list as ``{type: (offset, size)}``; empty slots have offset 0."""
    if count > MAX_OBJECTS:
        raise _lie(path, f"{count} objects in the list of the {what}", f"at most {MAX_OBJECTS}")
    raw = read_at(file, path, offset, count * OBJECT.size, f"the object list of the {what}")
    return {kind: (at, size) for kind, at, size in OBJECT.iter_unpack(raw) if at}


def _find(objects: dict[int, tuple[int, int]], kind: int, path: Path, what: str) -> tuple[int, int]:
    if kind not in objects:
        raise _lie(path, f"no {what}", f"an object of type {kind}")
    return objects[kind]


def _pages(file: BinaryIO, path: Path) -> tuple[list[_Page], int]:
    """The image pages in the order of the file, and how many other pages there are."""
    header_size, _, objects_count = struct.unpack("<H36x2I", read_at(file, path, 0, 46, "the file header"))
    objects = _objects(file, path, header_size + 2, objects_count, "file header")
    at, _ = _find(objects, INDEX_HEADER, path, "page index header")
    page_count, objects_count = struct.unpack("<2I8x", read_at(file, path, at, 16, "the page index header"))
    if page_count > MAX_PAGES:
        raise _lie(path, f"{page_count} pages", f"at most {MAX_PAGES}")
    objects = _objects(file, path, at + 16, objects_count, "page index header")
    at, _ = _find(objects, INDEX_ARRAY, path, "page index")
    pages, skipped = [], 0
    for number in range(page_count):
        entry = read_at(file, path, at, INDEX_ENTRY.size, f"the index of page {number}")
        _, data_type, _, objects_count, _ = INDEX_ENTRY.unpack(entry)
        objects = _objects(file, path, at + INDEX_ENTRY.size, objects_count, f"index of page {number}")
        at += INDEX_ENTRY.size + objects_count * OBJECT.size
        if data_type == DATA_IMAGE:
            pages.append(_page(file, path, objects, number))
        else:
            skipped += 1
    return pages, skipped


def _page(file: BinaryIO, path: Path, objects: dict[int, tuple[int, int]], number: int) -> _Page:
    what = f"the header of page {number}"
    at, _ = _find(objects, PAGE_HEADER, path, what)
    header = dict(zip(PAGE_FIELDS, PAGE.unpack(read_at(file, path, at, PAGE.size, what)), strict=True))
    data_offset, data_size = _find(objects, PAGE_DATA, path, f"data of page {number}")
    # The fixed part may grow in later versions of the format: its first field says how long it is.
    inner = _objects(
        file, path, at + max(header["field_size"], PAGE.size), header["object_count"], f"header of page {number}"
    )
    strings = {}
    if STRINGS in inner:
        where = inner[STRINGS][0]
        for field in STRING_FIELDS[: header["string_count"]]:
            length = 2 * int.from_bytes(read_at(file, path, where, 2, f"a text of page {number}"), "little")
            text = read_at(file, path, where + 2, length, f"a text of page {number}")
            strings[field] = text.decode("utf-16-le", errors="replace").strip("\0 ")
            where += 2 + length
    return _Page(header, strings, data_offset, data_size)


def _scan(file: BinaryIO, path: Path, page: _Page, name: str, modality: Modality, notes: tuple[str, ...]) -> Scan:
    rows, columns = page.shape
    available = min(page.data_size, file.seek(0, 2) - page.data_offset)
    check_claim(path, pixels=rows * columns, bytes_claimed=4 * rows * columns, bytes_there=available)
    data = read_at(file, path, page.data_offset, 4 * rows * columns, f"the data of {name!r}")
    raw = np.frombuffer(data, dtype="<i4").reshape(rows, columns)
    header = page.header
    # The scales are the signed steps from row to row and from column to column: undone, the first row is at the top.
    # Both directions of a line are stored in the order of the surface; their scales have the same sign.
    raw = raw[:: -1 if header["y_scale"] > 0 else 1, :: -1 if header["x_scale"] < 0 else 1]
    image, warnings = to_values(raw, header["z_scale"], header["z_offset"])
    x_unit, y_unit = page.strings.get("x_unit", ""), page.strings.get("y_unit", "")
    x, y = to_nm(abs(header["x_scale"]), x_unit), to_nm(abs(header["y_scale"]), y_unit)
    x_nm, y_nm = to_nm(1.0, x_unit), to_nm(1.0, y_unit)
    calibrated = x is not None and y is not None and x_nm is not None and y_nm is not None
    return Scan(
        image=image,
        unit=page.strings.get("z_unit", ""),
        pixel_size_nm=(y, x) if y is not None and x is not None else None,
        offset_nm=(header["y_offset"] * y_nm, header["x_offset"] * x_nm)
        if x_nm is not None and y_nm is not None
        else None,
        angle_deg=header["angle_deg"] if calibrated else None,
        modality=modality,
        channel=name,
        direction=page.direction,
        path=path,
        metadata={**header, **{key: text for key, text in page.strings.items() if text}},
        warnings=warnings + notes,
    )


def _modality(pages: list[_Page]) -> Modality:
    kinds = {page.header["page_type"] for page in pages}
    if CURRENT in kinds:
        return "stm"
    if kinds & {FORCE, AFM_100}:
        return "afm"
    return "stm" if any(page.header["current_A"] for page in pages) else "unknown"


def _lie(path: Path, seen: str, expected: str) -> CorruptScanError:
    return CorruptScanError(path, seen, expected, "The file is damaged or truncated: save or copy it again.")


READER = Reader(name="RHK SM4", suffixes=(".sm4",), sniff=_sniff, read=_read)
