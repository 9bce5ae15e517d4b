"""Scienta Omicron MATRIX images (``….Z_mtrx``), read with the package access2theMatrix.

A MATRIX image file holds raw numbers only; size, scale and unit stand in the parameter file of the session,
``<session>_0001.mtrx`` (and ``_0002.mtrx`` … when it was long), which must lie beside it under its original name. The
package finds it by that name, gives both line directions in the order of the surface and, for up and down frames alike,
the lowest row first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spm_runtime.errors import CannotOpenError, ChannelError, CorruptScanError, ScanError
from spm_runtime.readers._api import Companions, Probe, Reader, check_claim, import_extra
from spm_runtime.readers._raw import base_unit, to_values
from spm_runtime.scan import Direction, Modality, Scan, to_nm

__all__ = ["READER"]

MAGIC = b"ONTMATRX0101"
#: Tags are stored with their letters reversed: a result file begins with a bricklet ("BKLT"), a parameter file does not.
RESULT = b"TLKB"

#: access2theMatrix holds every sample as a Python integer: sixteen times the size of a file, here a gigabyte.
MAX_BYTES = 2**26

FORMAT = "Omicron MATRIX"
CHAIN_NAME = "<session>_0001.mtrx"


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith(MAGIC)


def _read(path: Path) -> Iterator[Scan]:
    _check(path)
    package = import_extra("access2thematrix", extra="omicron", path=path, format_name=FORMAT)
    matrix = package.MtrxData()
    traces, message = matrix.open(str(path))
    if matrix.object_type not in (None, "image"):
        raise ScanError(
            path,
            f"a {matrix.object_type} (spectroscopy)",
            "an image",
            "Open the topography that was saved with it (….Z_mtrx).",
        )
    if not traces:
        raise CorruptScanError(
            path,
            f"access2theMatrix says: {message}",
            "a complete result file and parameter file",
            "One of the two is damaged or still being written: wait until they are saved, or copy both again.",
        )
    if matrix.param["BREF"] != path.name:
        raise CannotOpenError(
            path,
            f"the parameter file does not mention {path.name!r}, so its size and units are not known",
            f"the complete chain {CHAIN_NAME}, _0002.mtrx … of its session",
            "Copy all parameter files of the session, and keep the original names of all files.",
        )
    for trace in traces.values():
        yield _scan(path, matrix, str(trace))


def _check(path: Path) -> None:
    """Say what is missing before the package fails without a reason."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC) + len(RESULT))
    session, dashes, rest = path.name.rpartition("--")
    if head[len(MAGIC) :] != RESULT:
        raise ScanError(
            path,
            "the parameter file of a MATRIX session, which holds no image",
            "a result file",
            "Open the files beside it whose names end in _mtrx, such as ….Z_mtrx.",
        )
    if not dashes or "_" not in rest or "." not in rest:
        raise ScanError(
            path,
            f"the name {path.name!r}",
            "the name that MATRIX gave, such as session--3_1.Z_mtrx",
            "Rename the file back: the parameter file is found by this name.",
        )
    if not any(True for _ in _chain(path, session)):
        raise CannotOpenError(
            path,
            f"no parameter file '{session}_0001.mtrx' beside it",
            "the parameter file of the session, which holds size, scale and units",
            "Copy it into the same folder.",
        )
    size = max(path.stat().st_size, sum(link.stat().st_size for link in _chain(path, session)))
    if size > MAX_BYTES:
        raise ScanError(
            path,
            f"{size} bytes of data or of parameters",
            f"at most {MAX_BYTES} bytes, which access2theMatrix reads with a gigabyte of memory",
            "Export the image as .gwy or TIFF.",
        )


def _chain(path: Path, session: str) -> Iterator[Path]:
    """The parameter files of the session that there are, in their order."""
    number = 1
    while (link := path.with_name(f"{session}_{number:04d}.mtrx")).is_file():
        yield link
        number += 1


def _scan(path: Path, matrix: Any, trace: str) -> Scan:
    selected, message = matrix.select_image(trace)
    data = np.asarray(selected.data)
    if data.ndim != 2 or data.size == 0:
        raise ChannelError(
            path, f"no {trace!r}: {message}", "an image", "Record this direction, or choose another one."
        )
    check_claim(path, pixels=data.size, bytes_claimed=0, bytes_there=0)
    rows, columns = data.shape
    across, _, along = trace.partition("/")
    channel, unit = selected.channel_name_and_unit
    prefix, unit = base_unit(unit)
    image, warnings = to_values(data[::-1], prefix)
    lines = int(matrix.param["EEPA::XYScanner.Lines"][0])
    if rows < lines:
        warnings = (*warnings, f"aborted scan: {rows} of {lines} lines were measured, and the image holds only these")
    width, height = to_nm(selected.width / columns, "m"), to_nm(selected.height / rows, "m")
    direction: Direction = "backward" if across == "backward" else "forward"
    return Scan(
        image=image,
        unit=unit,
        pixel_size_nm=(height, width) if height is not None and width is not None else None,
        offset_nm=(selected.y_offset * 1e9, selected.x_offset * 1e9),
        angle_deg=float(selected.angle),
        modality=_modality(matrix.param, channel),
        channel=channel if along == "up" else f"{channel} {along}",
        direction=direction,
        path=path,
        metadata={"trace": trace, **_metadata(matrix.param)},
        warnings=warnings,
    )


def _metadata(param: Mapping[str, Any]) -> dict[str, object]:
    """Parameters of the experiment that are plain values, with their unit in the name."""
    return {
        f"{key[6:]} [{value[1]}]" if value[1] else key[6:]: value[0]
        for key, value in param.items()
        if key.startswith("EEPA::") and isinstance(value[0], (str, int, float, bool))
    }


def _modality(param: Mapping[str, Any], channel: str) -> Modality:
    """By the name of the experiment; where it does not tell, a frequency shift means AFM and a gap voltage STM."""
    experiment = " ".join(str(value) for key, value in param.items() if key.startswith("EXPD::")).upper()
    stm, afm = "STM" in experiment, "AFM" in experiment
    if stm != afm:
        return "stm" if stm else "afm"
    if channel in {"Df", "FN", "FL"}:
        return "afm"
    return "stm" if "EEPA::GapVoltageControl.Voltage" in param else "unknown"


def _mention(name: str) -> bytes:
    """What ends the part of a parameter file that concerns a scan: its name, as a string of the format (length, UTF-16)."""
    letters = name.encode("utf-16-le", "surrogatepass")
    return struct.pack("<L", len(letters) // 2) + letters


READER = Reader(
    name=FORMAT,
    suffixes=(".*_mtrx",),
    sniff=_sniff,
    read=_read,
    extra="omicron",
    # MATRIX appends to the parameter files as long as the session lasts.
    companions=Companions(r"(?P<key>.+)--[^-]*_mtrx", r"(?P<key>.+)_\d{4}\.mtrx", _mention),
)
