r"""Bruker NanoScope ``.spm`` and ``.000`` to ``.999``: a text header and blocks of integers.

The header is made of sections (``\*Ciao scan list``) of lines ``\Key: value``; every ``\*… image list`` describes one
image. A value is ``raw / 256**b * hard value * sensitivity``, where ``b`` is the header's ``Bytes/pixel``::

    \@2:Z scale: V [Sens. Zscan] (0.006713765 V/LSB) 439.9866 V
    \@Sens. Zscan: V 15.06800 nm/V

Since version 9.2 every sample takes four bytes, whatever ``Bytes/pixel`` says; that key still sets the scale. Rows are
stored from the bottom to the top, whatever the frame direction; both line directions are stored in the order of the
surface. Sources: Bruker's "NanoScope file format" notes, as kept by the S. Manne group (University of Arizona), and the
public reader Gwyddion (``nanoscope.c``). The offset is the centre of the image (NanoScope 6.13 User Guide, "X offset,
Y offset"). Bruker does not say in which sense ``Rotate Ang.`` turns; it is taken as counter-clockwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._raw import base_unit, distinct_names, read_at, text_header, to_values
from spm_runtime.scan import Direction, Modality, Scan, to_nm

__all__ = ["READER"]

MAGICS = (b"\\*File list", b"\\*EC File list", b"\\*Force file list")
HEADER_END = b"\\*File list end"

#: Real headers take 8 to 100 kB, their lines a hundred characters; what is longer is cut.
MAX_HEADER = 2**22
MAX_LINE = 512

#: From here on every sample is a 32-bit integer. Source: Gwyddion, ``nanoscope.c``.
VERSION_32_BIT = 0x09200000

#: Sections that describe an image, from NanoScope III to 9.
IMAGE_LISTS = {"ciao image list", "afm image list", "stm image list", "ncafm image list", "image list"}
SCAN_LISTS = {"ciao scan list", "afm list", "stm list", "nc afm list"}

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
#: ``V [soft scale] (hard scale) hard value unit``; the hard scale may hold parentheses of its own.
SCALE = re.compile(rf"V\s+(?:\[(?P<soft>[^\]]*)\]\s*)?(?:\(.*\)\s*)?(?P<value>{NUMBER})\s*(?P<unit>\S*)\s*$")

DIRECTIONS: dict[str, Direction] = {"trace": "forward", "retrace": "backward"}


@dataclass(frozen=True)
class _Section:
    """One section of the header; names and keys in lower case."""

    name: str
    values: dict[str, str] = field(default_factory=dict)

    def integer(self, key: str, path: Path) -> int:
        found = re.match(r"\s*(\d{1,18})\b", self.values.get(key, ""))
        if found is None:
            raise CorruptScanError(
                path,
                f"the section {self.name!r} says {self.values.get(key)!r} for {key!r}",
                "a whole number",
                "The header is damaged: save or copy the scan again.",
            )
        return int(found[1])


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith(MAGICS)


def _read(path: Path) -> Iterator[Scan]:
    with path.open("rb") as file:
        sections = _sections(file, path)
        images = [section for section in sections if section.name in IMAGE_LISTS]
        if not images:
            raise ScanError(
                path,
                "a NanoScope file without an image (force curves?)",
                "at least one image list",
                "Open the image that was saved with the curves.",
            )
        names = distinct_names([(_channel(image), _direction(image)) for image in images])
        order = sorted(
            range(len(images)), key=lambda k: (not _is_height(names[k]), _direction(images[k]) == "backward")
        )
        for index in order:
            yield _scan(file, path, sections, images[index], names[index])


def _sections(file: BinaryIO, path: Path) -> list[_Section]:
    """The header, section by section."""
    head = text_header(file, path, end=HEADER_END, longest=MAX_HEADER)
    sections: list[_Section] = []
    for line in head.decode("latin-1").splitlines():
        if line.startswith("\\*"):
            sections.append(_Section(line[2:].strip().casefold()))
        elif line.startswith("\\"):
            # The number of the group has a colon too: \@2:Z scale: V …
            key, _, value = line[1:].partition(": ")
            sections[-1].values[key.rstrip(":").strip().casefold()] = value[:MAX_LINE].strip()
    return sections


def _channel(image: _Section) -> str:
    for group in "234":
        found = re.match(r'S\s+\[([^\]]*)\]\s*"?([^"]*)"?', image.values.get(f"@{group}:image data", ""))
        if found is not None:
            return (found[2] or found[1]).strip()
    return image.values.get("image data", "")


def _direction(image: _Section) -> Direction | None:
    return DIRECTIONS.get(image.values.get("line direction", "").casefold())


def _is_height(channel: str) -> bool:
    return channel.casefold().startswith(("height", "zsensor"))


def _scan(file: BinaryIO, path: Path, sections: list[_Section], image: _Section, name: str) -> Scan:
    scan_list = next((section for section in sections if section.name in SCAN_LISTS), _Section("scan list"))
    version = _version(sections)
    rows, columns, width = _layout(path, image, scan_list, version)
    offset, length = image.integer("data offset", path), image.integer("data length", path)
    available = min(length, file.seek(0, 2) - offset)
    check_claim(path, pixels=rows * columns, bytes_claimed=rows * columns * width, bytes_there=available)
    data = read_at(file, path, offset, rows * columns * width, f"the data of {name!r}")
    raw = np.frombuffer(data, dtype=f"<i{width}").reshape(rows, columns)[::-1]
    factor, unit, notes = _scale(sections, image)
    values, warnings = to_values(raw, factor)
    pixel, note = _pixel_size_nm(image, scan_list, rows, columns)
    angle = re.match(NUMBER, scan_list.values.get("rotate ang.", ""))
    return Scan(
        image=values,
        unit=unit,
        pixel_size_nm=pixel,
        offset_nm=_offset_nm(scan_list),
        angle_deg=float(angle[0]) if angle is not None else None,
        modality=_modality(sections, image),
        channel=name,
        direction=_direction(image),
        path=path,
        metadata={f"{section.name}.{key}": value for section in (*sections[:1], scan_list, image)
                  for key, value in section.values.items()},
        warnings=(*warnings, *notes, *note),
    )  # fmt: skip


def _version(sections: list[_Section]) -> int:
    found = re.match(r"0x([0-9a-fA-F]{1,8})", sections[0].values.get("version", ""))
    return int(found[1], 16) if found is not None else 0


def _layout(path: Path, image: _Section, scan_list: _Section, version: int) -> tuple[int, int, int]:
    """Rows, columns and bytes per sample, as they agree with the length of the data."""
    length = image.integer("data length", path)
    rows, columns = image.integer("number of lines", path), image.integer("samps/line", path)
    sizes = [(rows, columns)]
    # Some files of version 5.30 give the true number of samples in the scan list only. Source: Gwyddion, nanoscope.c.
    if {"lines", "samps/line"} <= scan_list.values.keys():
        sizes.append((scan_list.integer("lines", path), scan_list.integer("samps/line", path)))
    for high, wide in sizes:
        for width in (2, 4):
            if length == high * wide * width > 0:
                return high, wide, width
    return rows, columns, 4 if version >= VERSION_32_BIT else 2


def _scale(sections: list[_Section], image: _Section) -> tuple[float, str, tuple[str, ...]]:
    """Value of one raw step, its unit without prefix, and what a person should know about it."""
    steps = 256.0 ** int(image.values.get("bytes/pixel") or 2)
    text = next((image.values[key] for key in ("@2:z scale", "@3:z scale", "@4:z scale") if key in image.values), "")
    found = SCALE.match(text)
    if found is None:
        found = re.match(rf"(?P<soft>)(?P<value>{NUMBER})\s+(?P<unit>[^\s(]+)", image.values.get("z scale", ""))
    if found is None:
        return 1.0, "", ("the header gives no Z scale that is understood: the values are raw numbers",)
    factor, unit = base_unit(found["unit"])
    factor *= float(found["value"]) / steps
    soft = found["soft"]
    if not soft:
        return factor, unit, ()
    for section in sections:
        sensitivity = SCALE.match(section.values.get(f"@{soft.casefold()}", ""))
        if sensitivity is not None:
            break
    else:
        return (
            factor,
            unit,
            (f"the header does not give the sensitivity {soft!r}: the values are in {unit or 'raw units'}",),
        )
    numerator, _, per = sensitivity["unit"].partition("/")
    if per:
        prefix, unit = base_unit(numerator)
        factor *= prefix
    return factor * float(sensitivity["value"]), unit, ()


def _pixel_size_nm(
    image: _Section, scan_list: _Section, rows: int, columns: int
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    r"""Pixel size, and a note where it had to be derived.

    ``\Scan Size`` gives the square frame even when the aspect ratio is another one. The rule for those is Gwyddion's.
    """
    text = image.values.get("scan size") or scan_list.values.get("scan size", "")
    found = re.match(rf"({NUMBER})\s+(?:({NUMBER})\s+)?(\S+)", text)
    if found is None:
        return None, ()
    unit = found[3].replace("~", "u")
    width, height = to_nm(float(found[1]), unit), to_nm(float(found[2] or found[1]), unit)
    if width is None or height is None:
        return None, ()
    # Where the samples per line of the header are bogus, the size belongs to the bogus number.
    x = width / _number(image, "samps/line", columns)
    if _is_square(image):
        return (height / _number(image, "number of lines", rows), x), ()
    y = height / _number(scan_list, "lines", rows) if _is_square(scan_list) else height / columns
    ratio = image.values.get("aspect ratio")
    return (y, x), (
        f"aspect ratio {ratio}: the header gives the width only, so the pixel height of {y:.6g} nm is derived",
    )


def _number(section: _Section, key: str, otherwise: int) -> int:
    found = re.match(r"\d{1,9}", section.values.get(key, ""))
    return int(found[0]) if found is not None and int(found[0]) > 0 else otherwise


def _is_square(section: _Section) -> bool:
    found = re.match(rf"({NUMBER})\s*:\s*({NUMBER})", section.values.get("aspect ratio", ""))
    return found is None or float(found[1]) == float(found[2])


def _offset_nm(scan_list: _Section) -> tuple[float, float] | None:
    pair = []
    for key in ("y offset", "x offset"):
        found = re.match(rf"({NUMBER})\s+(\S+)", scan_list.values.get(key, ""))
        per_unit = to_nm(1.0, found[2].replace("~", "u")) if found is not None else None
        if found is None or per_unit is None:
            return None
        pair.append(float(found[1]) * per_unit)
    return pair[0], pair[1]


def _modality(sections: list[_Section], image: _Section) -> Modality:
    modes = [section.values.get("@microscopelist", "") for section in sections]
    stm = any("STM" in mode for mode in modes) or image.name.startswith("stm") or image.values.get("data type") == "STM"
    return "stm" if stm else "afm"


READER = Reader(name="Bruker NanoScope", suffixes=(".spm", ".[0-9][0-9][0-9]"), sniff=_sniff, read=_read)
