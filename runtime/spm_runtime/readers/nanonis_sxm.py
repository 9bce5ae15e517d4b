"""Nanonis ``.sxm``: a text header of tags and big-endian float32 images.

A tag stands alone on its line (``:SCAN_PIXELS:``), its value on the lines after it; the header ends with
``:SCANIT_END:``, the data begin behind the bytes 1A 04. ``DATA_INFO`` lists the channels: of each the forward image
and then the backward image is stored, in calibrated units, line by line in the order of the scan. A backward line is
stored as it was measured, from right to left, and is mirrored here; of a scan ``up`` the first line is the lowest one.
An aborted scan is filled with NaN. Sources: "Nanonis File Format Version 1" (posted by the vendor's users to GXSM's
tracker, plugin request 3), and the public readers Gwyddion (``nanonis.c``), SpmImages.jl and nanonispy.

``SCAN_OFFSET`` is the centre of the frame. ``SCAN_ANGLE`` turns **clockwise**: so the clients of SPECS' TCP protocol
document the angle of the scan frame (``Scan.FrameSet``, in nanonisTCP and others), and so users compute it who place
spectra in rotated frames. `Scan.angle_deg` counts counter-clockwise, hence the change of sign here.

The most useful scan first: the topography (Z), forward then backward, then the others in the order of the file. With the
Z controller off (constant height) Z is constant or follows the tilt; then the channel that carries the image comes
first, the frequency shift where a cantilever or tuning fork oscillates and the current otherwise, with a warning.

Why not nanonispy2: it opens only names that end in lower-case ``.sxm``, takes for granted that every channel has both
directions, and keeps one of two channels with the same name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import CorruptScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._channels import carries_no_image
from spm_runtime.readers._raw import distinct_names, read_at
from spm_runtime.scan import Direction, Modality, Scan, mark_missing_rows, to_nm

__all__ = ["READER"]

MAGIC = b":NANONIS_VERSION:"
HEADER_END = b":SCANIT_END:"
DATA_BEGIN = b"\x1a\x04"

#: Real headers take 1 to 30 kB.
MAX_HEADER = 2**22

BYTE_ORDERS = {"MSBFIRST": ">f4", "LSBFIRST": "<f4"}

#: What ``DATA_INFO`` says about the directions of a channel, in the order of storage.
DIRECTIONS: Mapping[str, tuple[Direction, ...]] = {
    "both": ("forward", "backward"),
    "forward": ("forward",),
    "backward": ("backward",),
}


@dataclass(frozen=True)
class _Plane:
    """One stored image: its channel, unit and direction, and how many images precede it."""

    name: str
    unit: str
    direction: Direction
    index: int

    @property
    def is_topography(self) -> bool:
        # Multi-pass scans call it [P1]_Z.
        return self.unit == "m" and re.fullmatch(r"(.*[\]_ ])?Z( \(\d+\))?", self.name) is not None


@dataclass(frozen=True)
class _Layout:
    """Where the images are and how they are stored."""

    rows: int
    columns: int
    dtype: str
    data_offset: int
    flipped: bool


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith(MAGIC)


def _read(path: Path) -> Iterator[Scan]:
    with path.open("rb") as file:
        header, data_offset = _header(file, path)
        planes = _planes(header, path)
        layout = _layout(header, path, data_offset)
        check_claim(
            path,
            pixels=layout.rows * layout.columns,
            bytes_claimed=4 * layout.rows * layout.columns * len(planes),
            bytes_there=file.seek(0, 2) - data_offset,
        )
        planes.sort(key=lambda plane: (not plane.is_topography, plane.index))
        images: dict[int, NDArray[np.float32]] = {}
        first, note = planes[0], ""
        if first.is_topography:
            images[first.index] = _image(file, path, first, layout)
            held = _controller(header)[0] is False
            image_channel = _image_channel(planes, header)
            if image_channel is not None and carries_no_image(images[first.index], held=held):
                planes.sort(key=lambda plane: (plane.name != image_channel, plane.index))
                note = (
                    f"constant-height scan: the topography {first.name!r} carries no image, so {image_channel!r} is "
                    "taken first"
                )
        chosen = planes[0].name
        for plane in planes:
            image = images.pop(plane.index, None)
            if image is None:
                image = _image(file, path, plane, layout)
            notes = (note,) if note and plane.name == chosen else ()
            yield _scan(path, plane, image, header, planes, notes)


def _header(file: BinaryIO, path: Path) -> tuple[dict[str, str], int]:
    """The tags with their values, and the first byte of the data."""
    raw = file.read(MAX_HEADER)
    end = raw.find(HEADER_END)
    begin = raw.find(DATA_BEGIN, max(end, 0))
    if end < 0 or begin < 0:
        mark = "data mark 1A 04" if end >= 0 else HEADER_END.decode()
        raise CorruptScanError(
            path,
            f"no {mark} in the first {len(raw)} bytes",
            "a complete header",
            "The file is truncated or still being written: wait until it is saved, or copy it again.",
        )
    tags: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in raw[:end].decode("utf-8", errors="replace").splitlines():
        tag = re.fullmatch(r":(.+):\s*", line)
        if tag is None:
            lines.append(line)
        else:
            # A later tag of the same name would be a line of a comment that looks like one.
            lines = tags.setdefault(tag[1], []) if tag[1] not in tags else []
    return {tag: "\n".join(value).strip("\n") for tag, value in tags.items()}, begin + len(DATA_BEGIN)


def _require(header: Mapping[str, str], tag: str, path: Path) -> str:
    if tag not in header:
        raise _damaged(path, f"no tag {tag}", "a header with it")
    return header[tag]


def _numbers(header: Mapping[str, str], tag: str, count: int, path: Path) -> tuple[float, ...] | None:
    """The numbers of a tag; None where the tag is absent or empty."""
    words = header.get(tag, "").split()
    if not words:
        return None
    try:
        values = tuple(float(word) for word in words)
    except ValueError:
        values = ()
    if len(values) < count or not all(math.isfinite(value) for value in values):
        raise _damaged(path, f"{tag} is {header[tag].strip()!r}", f"{count} numbers")
    return values[:count]


def _planes(header: Mapping[str, str], path: Path) -> list[_Plane]:
    """The stored images in the order of storage."""
    lines = [line for line in _require(header, "DATA_INFO", path).splitlines() if line.strip()]
    rows = [[cell.strip() for cell in line.strip().split("\t")] for line in lines]
    titles = rows[0] if rows else []
    if not {"Name", "Unit", "Direction"} <= set(titles) or len(rows) < 2:
        raise _damaged(path, f"DATA_INFO is {header['DATA_INFO'][:80]!r}", "a table of channels")
    channels = []
    for row in rows[1:]:
        channel = dict(zip(titles, row, strict=False))
        directions = DIRECTIONS.get(channel.get("Direction", "").casefold())
        if directions is None or not channel["Name"]:
            raise _damaged(path, f"DATA_INFO lists {row}", f"a channel with a direction of {sorted(DIRECTIONS)}")
        channels += [(channel["Name"], channel["Unit"], direction) for direction in directions]
    names = distinct_names([(name, direction) for name, _, direction in channels])
    return [
        _Plane(name, unit, direction, index)
        for index, (name, (_, unit, direction)) in enumerate(zip(names, channels, strict=True))
    ]


def _layout(header: Mapping[str, str], path: Path, data_offset: int) -> _Layout:
    pixels = _numbers(header, "SCAN_PIXELS", 2, path)
    if pixels is None or not all(1 <= side <= 2**31 and side == int(side) for side in pixels):
        raise _damaged(path, f"SCAN_PIXELS is {header.get('SCAN_PIXELS')!r}", "pixels per line and lines")
    kind, _, order = _require(header, "SCANIT_TYPE", path).strip().partition(" ")
    if kind != "FLOAT" or order.strip() not in BYTE_ORDERS:
        raise _damaged(path, f"SCANIT_TYPE is {header['SCANIT_TYPE'].strip()!r}", "FLOAT MSBFIRST or FLOAT LSBFIRST")
    direction = _require(header, "SCAN_DIR", path).strip().casefold()
    if direction not in {"up", "down"}:
        raise _damaged(path, f"SCAN_DIR is {direction!r}", "up or down")
    return _Layout(int(pixels[1]), int(pixels[0]), BYTE_ORDERS[order.strip()], data_offset, direction == "up")


def _image(file: BinaryIO, path: Path, plane: _Plane, layout: _Layout) -> NDArray[np.float32]:
    """One image as seen on the surface: row 0 at the top, columns from left to right."""
    size = 4 * layout.rows * layout.columns
    data = read_at(file, path, layout.data_offset + plane.index * size, size, f"the image {plane.name!r}")
    image = np.frombuffer(data, dtype=layout.dtype).reshape(layout.rows, layout.columns)
    if plane.direction == "backward":
        image = image[:, ::-1]
    return (image[::-1] if layout.flipped else image).astype(np.float32)


def _scan(
    path: Path,
    plane: _Plane,
    image: NDArray[np.float32],
    header: Mapping[str, str],
    planes: list[_Plane],
    notes: tuple[str, ...],
) -> Scan:
    image, warnings = mark_missing_rows(image)
    size = _numbers(header, "SCAN_RANGE", 2, path)
    centre = _numbers(header, "SCAN_OFFSET", 2, path)
    angle = _numbers(header, "SCAN_ANGLE", 1, path)
    width, height = (to_nm(side, "m") for side in size) if size is not None else (None, None)
    return Scan(
        image=image,
        unit=plane.unit,
        pixel_size_nm=(height / image.shape[0], width / image.shape[1]) if height and width else None,
        offset_nm=(centre[1] * 1e9, centre[0] * 1e9) if centre is not None else None,
        angle_deg=0.0 - angle[0] if angle is not None else None,
        modality=_modality(header, plane, planes),
        channel=plane.name,
        direction=plane.direction,
        path=path,
        metadata={tag: value.strip() for tag, value in header.items()},
        warnings=(*notes, *warnings),
    )


def _controller(header: Mapping[str, str]) -> tuple[bool | None, str]:
    """Whether the Z controller was on, and the unit of its setpoint; None and "" where the file does not say."""
    rows = [line.strip("\t").split("\t") for line in header.get("Z-CONTROLLER", "").splitlines() if line.strip()]
    listed = [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    active = next((row for row in listed if row.get("on") == "1"), listed[0] if listed else {})
    setpoint = active.get("Setpoint", "").split()
    unit = header.get("Z-Controller>Setpoint unit", "").strip() or (setpoint[1] if len(setpoint) == 2 else "")
    status = header.get("Z-Controller>Controller status", "").strip() or active.get("on", "")
    return {"ON": True, "1": True, "OFF": False, "0": False}.get(status), unit


def _oscillates(header: Mapping[str, str]) -> bool:
    """Whether a cantilever or tuning fork was driven: its phase or amplitude controller was on."""
    return any(
        tag.startswith("Oscillation Control")
        and tag.endswith((">Phase controller on", ">Amplitude controller on"))
        and value.strip() == "TRUE"
        for tag, value in header.items()
    )


def _image_channel(planes: list[_Plane], header: Mapping[str, str]) -> str | None:
    """The channel that carries the image of a constant-height scan, or None when there is none."""
    for unit in ("Hz", "A") if _oscillates(header) else ("A", "Hz"):
        named = [plane.name for plane in sorted(planes, key=lambda plane: plane.index) if plane.unit == unit]
        if named:
            # Lock-in outputs are in A too; the current itself shows the surface.
            return next((name for name in named if "current" in name.casefold()), named[0])
    return None


def _modality(header: Mapping[str, str], plane: _Plane, planes: list[_Plane]) -> Modality:
    """What kind of microscope made the image.

    What the tip was held by decides: a current is STM also with a tuning fork. At constant height it is the channel: a map
    of the current is STM, any other map AFM where the sensor oscillates.
    """
    on, unit = _controller(header)
    if on and unit:
        return "stm" if unit == "A" else "afm"
    if plane.unit == "A":
        return "stm"
    if _oscillates(header):
        return "afm"
    return "stm" if unit == "A" or any(other.unit == "A" for other in planes) else "unknown"


def _damaged(path: Path, seen: str, expected: str) -> CorruptScanError:
    return CorruptScanError(path, f"the header is damaged: {seen}", expected, "Save or copy the scan again.")


READER = Reader(name="Nanonis SXM", suffixes=(".sxm",), sniff=_sniff, read=_read)
