"""Nanosurf ``.nid``: a text header in sections and blocks of integers, decoded by Nanosurf's own package NSFopen.

NSFopen believes its header: it takes the blocks from the end of the file, all with the width of the first one, and loops
as often as a group claims. So the header is parsed and checked here first; only then is the package called. Rows are
stored from the bottom to the top and both line directions in the order of the surface (public reader Gwyddion,
``ezdfile.c``). The offset is the centre of the image, as ``CenterPosX`` of Nanosurf's scripting interface; Nanosurf does
not say in which sense the rotation turns; it is taken as counter-clockwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import MAX_PIXELS, Probe, Reader, check_claim, import_extra
from spm_runtime.readers._images import pixel_pair_nm
from spm_runtime.readers._raw import base_unit, distinct_names, text_header, to_values
from spm_runtime.scan import Direction, Modality, Scan, to_nm

__all__ = ["READER"]

MAGIC = b"[DataSet]"
HEADER_END = b"#!"
#: Real headers take 5 to 40 kB.
MAX_HEADER = 2**22
#: Real files have two to four groups of at most 16 channels.
MAX_GROUPS = 64
MAX_CHANNELS = 256
#: NSFopen holds every sample as a Python number: thirty bytes each, here a gigabyte.
MAX_SAMPLES = 2**25

#: Frames that are images, as NSFopen calls them.
FRAMES: Mapping[str, tuple[str, Direction]] = {
    "Scan forward": ("Forward", "forward"),
    "Scan backward": ("Backward", "backward"),
    "2nd scan forward": ("2nd Forward", "forward"),
    "2nd scan backward": ("2nd Backward", "backward"),
}

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
FORMAT = "Nanosurf NID"

_Header = dict[str, dict[str, str]]


@dataclass(frozen=True)
class _DataSet:
    """One block of samples, as its section of the header describes it."""

    frame: str
    channel: str
    key: str  # the name that NSFopen gives to the channel
    points: int
    lines: int
    bits: int
    low: float  # value of the smallest raw number
    span: float  # range of values of all raw numbers
    section: dict[str, str]


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith(MAGIC)


def _read(path: Path) -> Iterator[Scan]:
    header, data_at = _header(path)
    sets = _data_sets(path, header)
    images = [data for data in sets if data.frame in FRAMES and data.lines > 1]
    if not images:
        raise ScanError(
            path,
            "a Nanosurf file without an image",
            "a frame 'Scan forward' or 'Scan backward'",
            "Save the scan itself.",
        )
    _check(path, sets, data_at)
    nsfopen = import_extra("NSFopen.read.read", extra="nanosurf", path=path, format_name=FORMAT)
    decoded = nsfopen.nid_read(filename=str(path), dataframe=False).data["Image"]
    names = distinct_names([(data.channel, FRAMES[data.frame][1]) for data in images])
    order = sorted(
        range(len(images)), key=lambda k: (not _is_length(images[k]), FRAMES[images[k].frame][1] == "backward")
    )
    for index in order:
        data = images[index]
        yield _scan(path, header, data, names[index], decoded[FRAMES[data.frame][0]][data.key])


def _header(path: Path) -> tuple[_Header, int]:
    """The sections of the header, and where the samples begin."""
    with path.open("rb") as file:
        head = text_header(file, path, end=HEADER_END, longest=MAX_HEADER)
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:  # older programs write the encoding of Western Windows
        text = head.decode("latin-1")
    header: _Header = {}
    section: dict[str, str] = {}
    for line in text.splitlines():
        if not line:  # ends a section for NSFopen
            section = {}
        elif line.startswith("[") and line.rstrip().endswith("]"):
            section = header.setdefault(line.strip()[1:-1], {})
        elif "=" in line:
            key, _, value = line.partition("=")
            section[key] = value.strip()
    return header, len(head) + len(HEADER_END)


def _data_sets(path: Path, header: _Header) -> list[_DataSet]:
    """The blocks in the order of the file."""
    sets: list[_DataSet] = []
    seen: set[tuple[str, str]] = set()
    groups = _integer(path, header["DataSet"], "GroupCount", MAX_GROUPS)
    for group in range(groups):
        for channel in range(_integer(path, header["DataSet"], f"Gr{group}-Count", MAX_CHANNELS)):
            name = header["DataSet"].get(f"Gr{group}-Ch{channel}")
            if name is None:
                continue
            section = header[name]
            frame, title = section["Frame"], section["Dim2Name"]
            key = f"{title}2" if (frame, title) in seen else title
            if (frame, key) in seen:  # NSFopen would give the last one for both
                raise ScanError(path, f"three channels {title!r} in one frame", "at most two", "Save each once.")
            sets.append(
                _DataSet(
                    frame=frame,
                    channel=title,
                    key=key,
                    points=_integer(path, section, "Points", MAX_PIXELS),
                    lines=_integer(path, section, "Lines", MAX_PIXELS),
                    bits=_integer(path, section, "SaveBits", 64),
                    low=_float(path, section, "Dim2Min"),
                    span=_float(path, section, "Dim2Range"),
                    section=section,
                )
            )
            seen.add((frame, key))
    return sets


def _check(path: Path, sets: list[_DataSet], data_at: int) -> None:
    """Refuse what NSFopen would misread, and claims that the file does not hold."""
    for data in sets:
        check_claim(path, pixels=data.points * data.lines, bytes_claimed=0, bytes_there=0)
    for key, expected in (("SaveMode", "Binary"), ("SaveSign", "Signed"), ("SaveOrder", "Intel")):
        for data in sets:
            if data.section.get(key, expected) != expected:
                raise ScanError(
                    path,
                    f"{key}={data.section[key]}",
                    f"{key}={expected}",
                    "Save the scan as Nanosurf does by default.",
                )
    widths = {data.bits for data in sets}
    if widths not in ({16}, {32}):
        raise ScanError(
            path, f"samples of {sorted(widths)} bits", "all of 16 or all of 32 bits", "Export the scan again."
        )
    claimed = sum(data.points * data.lines * data.bits // 8 for data in sets)
    there = path.stat().st_size - data_at
    check_claim(path, pixels=sets[0].points * sets[0].lines, bytes_claimed=claimed, bytes_there=there)
    if claimed != there:
        raise CorruptScanError(
            path,
            f"{there} bytes of data where the header describes {claimed}",
            "nothing after the last image",
            "The file is damaged or something was appended to it: save or copy it again.",
        )
    samples = sum(data.points * data.lines for data in sets)
    if samples > MAX_SAMPLES:
        raise ScanError(
            path,
            f"{samples} samples in all channels",
            f"at most {MAX_SAMPLES}, which NSFopen decodes with a gigabyte of memory",
            "Export the scan as .gwy or TIFF.",
        )


def _integer(path: Path, section: dict[str, str], key: str, largest: int) -> int:
    value = section.get(key, "")
    if not re.fullmatch(r"\d{1,12}", value) or int(value) > largest:
        raise CorruptScanError(
            path,
            f"{key}={value or '(missing)'}",
            f"a whole number up to {largest}",
            "The header is damaged: copy the file again.",
        )
    return int(value)


def _float(path: Path, section: dict[str, str], key: str) -> float:
    value = section.get(key, "")
    if not re.fullmatch(NUMBER, value):
        raise CorruptScanError(
            path, f"{key}={value or '(missing)'}", "a number", "The header is damaged: copy the file again."
        )
    return float(value)


def _is_length(data: _DataSet) -> bool:
    return data.section.get("Dim2Unit") == "m"


def _scan(path: Path, header: _Header, data: _DataSet, name: str, values: NDArray[np.float64]) -> Scan:
    section = data.section
    prefix, unit = base_unit(section.get("Dim2Unit", ""))
    # The raw zero, the fill of lines that were not measured, is the middle of the range.
    middle = data.low + 0.5 * data.span
    image, warnings = to_values(np.asarray(values)[::-1] - middle, prefix, middle * prefix)
    info = header.get("DataSet-Info", {})
    imaging = header.get("DataSet\\Parameters\\Imaging", {})
    return Scan(
        image=image,
        unit=unit,
        pixel_size_nm=pixel_pair_nm(
            (float(section["Dim1Range"]) / data.lines, section.get("Dim1Unit", "")),
            (float(section["Dim0Range"]) / data.points, section.get("Dim0Unit", "")),
        ),
        offset_nm=_offset_nm(info, imaging),
        angle_deg=_angle_deg(info, imaging),
        modality=_modality(info),
        channel=name,
        direction=FRAMES[data.frame][1],
        path=path,
        metadata={**info, **section},
        warnings=warnings,
    )


def _vector(imaging: dict[str, str], key: str) -> list[float]:
    """``V[1.2e-06,-1.6e-07,0]*[m,m,m]`` as numbers; empty where it is not there."""
    found = re.match(rf"V\[({NUMBER}),({NUMBER}),({NUMBER})\]", imaging.get(key, ""))
    return [float(number) for number in found.groups()] if found is not None else []


def _offset_nm(info: dict[str, str], imaging: dict[str, str]) -> tuple[float, float] | None:
    vector = _vector(imaging, "ScanOffset")
    if vector:
        return vector[1] * 1e9, vector[0] * 1e9
    pair = []
    for key in ("Y-Pos", "X-Pos"):  # older files have them for people only, as 1.3µm
        found = re.match(rf"({NUMBER})\s*(\S+)", info.get(key, ""))
        per_unit = to_nm(1.0, found[2]) if found is not None else None
        if found is None or per_unit is None:
            return None
        pair.append(float(found[1]) * per_unit)
    return pair[0], pair[1]


def _angle_deg(info: dict[str, str], imaging: dict[str, str]) -> float | None:
    vector = _vector(imaging, "ScanRotation")
    if vector:
        return vector[2]
    found = re.match(NUMBER, info.get("Rotation", ""))
    return float(found[0]) if found is not None else None


def _modality(info: dict[str, str]) -> Modality:
    return "stm" if info.get("Op. mode", "").upper().startswith("STM") else "afm"


READER = Reader(name=FORMAT, suffixes=(".nid",), sniff=_sniff, read=_read, extra="nanosurf")
