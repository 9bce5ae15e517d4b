"""Gwyddion ``.gwy``: a container of named components, data fields among them.

A file is ``GWYP`` and one serialised object; an object is its type name, its size and its components, a component a
name, a type character and a value::

    GwyContainer  /0/data         o  GwyDataField (xres, yres, xreal, yreal, xoff, yoff, si_unit_xy, si_unit_z, data)
                  /0/data/title   s  "Z (Forward)"
                  /0/meta         o  GwyContainer of texts

The layout is that of the Gwyddion user guide, "Gwyddion Native Format (.gwy)". Row 0 of a data field is the top of the
picture; a resolution or size need not be square. Masks, presentations, graphs and volumes are not read.

``xoff`` and ``yoff`` shift the first corner. Gwyddion's import modules write them such that ``yoff + yreal / 2`` is the
instrument's y of the centre (``nanonis.c`` and others), so that is what `Scan.offset_nm` gives; a field that was cropped in
Gwyddion afterwards, where y counts downwards, is off by the crop. Both zero means that the file does not say.

Why not gwyfile: on a file that was cut off inside a text it never returns (measured: three bytes missing), and it copies
the rest of the container for every component.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._channels import direction_of
from spm_runtime.readers._raw import distinct_names
from spm_runtime.scan import Direction, Modality, Scan, mark_missing_rows, to_nm

__all__ = ["READER"]

MAGIC = b"GWYP"
OLD_MAGIC = b"GWYO"

#: Type characters of a single number and of an array, with their NumPy types.
SCALARS = {"i": "<i4", "q": "<i8", "d": "<f8"}
ARRAYS = {"C": "<i1", "I": "<i4", "Q": "<i8", "D": "<f8"}
LISTS = ("S", "O")

#: Objects within objects; a container of data fields takes three.
MAX_DEPTH = 16

#: Channels that only a cantilever gives.
CANTILEVER = re.compile(
    r"amplitude|deflection|phase|lateral|friction|adhesion|z ?sensor|frequency.?shift", re.IGNORECASE
)
TOPOGRAPHY = re.compile(r"(.*[\]_ ])?z( \(\d+\))?|.*(topography|height|z ?sensor).*", re.IGNORECASE)


@dataclass(frozen=True)
class _Object:
    """A serialised object: the name of its type and its components."""

    kind: str
    components: dict[str, object]

    def number(self, name: str, otherwise: float = 0.0) -> float:
        value = self.components.get(name, otherwise)
        return float(value) if isinstance(value, (int, float)) else otherwise

    def unit(self, name: str) -> str:
        unit = self.components.get(name)
        text = unit.components.get("unitstr", "") if isinstance(unit, _Object) else ""
        return text.strip() if isinstance(text, str) else ""


@dataclass(frozen=True)
class _Channel:
    """One data field of the container with its title taken apart."""

    number: int
    name: str
    direction: Direction | None
    field: _Object

    @property
    def is_topography(self) -> bool:
        return TOPOGRAPHY.fullmatch(self.name) is not None and to_nm(1.0, self.field.unit("si_unit_z")) is not None


class _Parser:
    """Reads components from the bytes of a whole file; every size is checked against the object that contains it."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data = data
        self.path = path

    def parse(self, at: int, end: int, depth: int = 0) -> tuple[_Object, int]:
        """The object that begins at byte ``at`` and the byte after it."""
        if depth > MAX_DEPTH:
            raise self.damaged(f"objects nested more than {MAX_DEPTH} deep at byte {at}")
        kind, at = self.text(at, end)
        (size,) = struct.unpack("<I", self.take(at, end, 4))
        at += 4
        self.check(at, end, size)
        components: dict[str, object] = {}
        stop = at + size
        while at < stop:
            name, at = self.text(at, stop)
            code = self.take(at, stop, 1).decode("latin-1")
            components[name], at = self.value(code, at + 1, stop, depth)
        return _Object(kind, components), at

    def value(self, code: str, at: int, end: int, depth: int) -> tuple[object, int]:
        """The value with type character ``code`` that begins at byte ``at``, and the byte after it."""
        if code == "o":
            return self.parse(at, end, depth + 1)
        if code == "s":
            return self.text(at, end)
        if code == "b":
            return self.take(at, end, 1) != b"\0", at + 1
        if code == "c":
            # gwyfile writes the title "Z" as a character.
            return self.take(at, end, 1).decode("latin-1"), at + 1
        if code in SCALARS:
            dtype = np.dtype(SCALARS[code])
            return np.frombuffer(self.take(at, end, dtype.itemsize), dtype)[0].item(), at + dtype.itemsize
        if code not in ARRAYS and code not in LISTS:
            raise self.damaged(f"a component of the unknown type {code!r} at byte {at}")
        (count,) = struct.unpack("<I", self.take(at, end, 4))
        at += 4
        if code in ARRAYS:
            dtype = np.dtype(ARRAYS[code])
            self.check(at, end, count * dtype.itemsize)
            return np.frombuffer(self.data, dtype, count, at), at + count * dtype.itemsize
        self.check(at, end, count)  # every item takes a byte at least
        items = []
        for _ in range(count):
            item, at = self.text(at, end) if code == "S" else self.parse(at, end, depth + 1)
            items.append(item)
        return items, at

    def text(self, at: int, end: int) -> tuple[str, int]:
        """The text that ends with a zero byte, and the byte after that."""
        stop = self.data.find(b"\0", at, end)
        if stop < 0:
            raise self.damaged(f"a text without an end at byte {at}")
        return self.data[at:stop].decode("utf-8", errors="replace"), stop + 1

    def take(self, at: int, end: int, count: int) -> bytes:
        self.check(at, end, count)
        return self.data[at : at + count]

    def check(self, at: int, end: int, count: int) -> None:
        if at + count > end:
            raise self.damaged(f"{count} bytes are claimed at byte {at}, where {max(end - at, 0)} are left")

    def damaged(self, seen: str) -> CorruptScanError:
        return CorruptScanError(
            self.path, seen, "a complete Gwyddion file", "The file is damaged or truncated: save or copy it again."
        )


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith((MAGIC + b"Gwy", OLD_MAGIC + b"Gwy"))


def _read(path: Path) -> Iterator[Scan]:
    data = path.read_bytes()
    if data.startswith(OLD_MAGIC):
        raise ScanError(
            path,
            "a Gwyddion container of the old kind (it begins with 'GWYO', as Gwyddion 1.x wrote it)",
            "a container that begins with 'GWYP'",
            "Open it in Gwyddion and save it again.",
        )
    container, _ = _Parser(data, path).parse(len(MAGIC), len(data))
    channels = _channels(container)
    if not channels:
        raise ScanError(
            path,
            "a Gwyddion container without a data field (graphs or volumes only?)",
            "at least one image",
            "Open it in Gwyddion, extract an image and save it.",
        )
    modality = _modality(channels)
    channels.sort(key=lambda channel: (not channel.is_topography, channel.direction == "backward", channel.number))
    for channel in channels:
        yield _scan(path, channel, modality, _metadata(container, channel.number))


def _channels(container: _Object) -> list[_Channel]:
    """The data fields ``/N/data`` in the order of their numbers."""
    numbers = {}
    for name, value in container.components.items():
        found = re.fullmatch(r"/(\d{1,9})/data", name)
        if found is not None and isinstance(value, _Object) and value.kind == "GwyDataField":
            numbers[int(found[1])] = value
    titles = []
    for number in sorted(numbers):
        title = container.components.get(f"/{number}/data/title")
        titles.append(direction_of(title if isinstance(title, str) and title.strip() else f"channel {number}"))
    names = distinct_names(titles)
    return [
        _Channel(number, name, direction, numbers[number])
        for number, name, (_, direction) in zip(sorted(numbers), names, titles, strict=True)
    ]


def _image(path: Path, channel: _Channel) -> NDArray[np.float64]:
    field = channel.field
    columns, rows = (field.components.get(side) for side in ("xres", "yres"))
    values = field.components.get("data")
    if not (isinstance(columns, int) and isinstance(rows, int) and isinstance(values, np.ndarray)) or columns < 1:
        raise CorruptScanError(
            path,
            f"the data field /{channel.number}/data says {columns!r} x {rows!r} pixels",
            "a resolution and values",
            "The file is damaged: save it again.",
        )
    check_claim(path, pixels=rows * columns, bytes_claimed=rows * columns * 8, bytes_there=values.nbytes)
    return values[: rows * columns].astype(np.float64).reshape(rows, columns)


def _scan(path: Path, channel: _Channel, modality: Modality, metadata: Mapping[str, object]) -> Scan:
    field = channel.field
    image, warnings = mark_missing_rows(_image(path, channel).astype(np.float32))
    unit = field.unit("si_unit_xy")
    width, height = to_nm(field.number("xreal"), unit), to_nm(field.number("yreal"), unit)
    nm, corner = to_nm(1.0, unit), (field.number("yoff"), field.number("xoff"))
    offset = None
    if width and height and nm and any(corner) and all(math.isfinite(side) for side in corner):
        offset = (corner[0] * nm + height / 2, corner[1] * nm + width / 2)
    return Scan(
        image=image,
        unit=field.unit("si_unit_z"),
        pixel_size_nm=(height / image.shape[0], width / image.shape[1]) if width and height else None,
        offset_nm=offset,
        modality=modality,
        channel=channel.name,
        direction=channel.direction,
        path=path,
        metadata=metadata,
        warnings=warnings,
    )


def _metadata(container: _Object, number: int) -> dict[str, object]:
    """The texts that Gwyddion lists as the metadata of a channel."""
    meta = container.components.get(f"/{number}/meta")
    texts = meta.components if isinstance(meta, _Object) else {}
    return {key: value for key, value in texts.items() if isinstance(value, str)}


def _modality(channels: list[_Channel]) -> Modality:
    """A cantilever's channels mean AFM, a map of the current means STM; with both or neither the container does not say."""
    cantilever = any(CANTILEVER.search(channel.name) for channel in channels)
    current = any(channel.field.unit("si_unit_z") == "A" for channel in channels)
    if cantilever == current:
        return "unknown"
    return "afm" if cantilever else "stm"


READER = Reader(name="Gwyddion", suffixes=(".gwy",), sniff=_sniff, read=_read)
