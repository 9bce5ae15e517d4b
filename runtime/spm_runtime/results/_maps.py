"""Maps as calibrated TIFF files and as one Gwyddion file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from gwyfile.objects import GwyContainer, GwyDataField, GwySIUnit
from numpy.typing import NDArray

from spm_runtime.results._result import Map
from spm_runtime.scan import NM_PER_UNIT, Scan

__all__ = ["si_unit", "stored", "write_gwy", "write_tiff"]

#: Base units other than the metre that instruments put a prefix on.
BASE_UNITS = frozenset({"A", "V", "Hz", "N", "W", "s", "K", "F", "C", "Pa", "J", "eV", "rad", "Ohm"})

PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9}

#: DigitalMicrograph's private TIFF tags: units of x and y, pixel size in x and y, unit of the values. RosettaSciIO takes
#: units from these and ImageJ from the description, so a map carries both.
#: Source: RosettaSciIO, tiff writer.
DM_UNIT_X, DM_UNIT_Y, DM_SCALE_X, DM_SCALE_Y, DM_UNIT_VALUE = 65003, 65004, 65009, 65010, 65022


def write_tiff(path: Path, scan: Scan, layer: Map) -> None:
    """One map as TIFF, calibrated as ImageJ and RosettaSciIO read it.

    Measured values are float32, NaN kept; a mask is 8 bit, 0 and 255, which ImageJ takes for a binary image; labels are 8 or
    16 bit, with what they stand for in the info that ImageJ shows (Image ▸ Show Info).

    Parameters
    ----------
    path
        The file.
    scan
        Gives the pixel size; without one the file carries no calibration.
    layer
        The map.
    """
    metadata: dict[str, object] = {"axes": "YX"}
    if layer.labels:
        metadata["Info"] = "\n".join(f"{value} = {label}" for value, label in enumerate(layer.labels))
    tags: list[tuple[int, str, int, object, bool]] = []
    resolution = None
    if scan.pixel_size_nm is not None:
        size_y, size_x = scan.pixel_size_nm
        resolution = (1.0 / size_x, 1.0 / size_y)  # pixels per unit
        metadata["unit"] = "nm"
        tags = [
            (DM_UNIT_X, "s", 0, "nm", True),
            (DM_UNIT_Y, "s", 0, "nm", True),
            (DM_SCALE_X, "d", 1, size_x, True),
            (DM_SCALE_Y, "d", 1, size_y, True),
        ]
    if layer.unit:
        tags.append((DM_UNIT_VALUE, "s", 0, layer.unit.encode("latin-1", "replace"), True))
    tifffile.imwrite(
        path,
        stored(layer),
        imagej=True,
        resolution=resolution,
        resolutionunit="NONE",
        metadata=metadata,
        extratags=tags,
    )


def stored(layer: Map) -> NDArray[np.float32] | NDArray[np.uint8] | NDArray[np.uint16]:
    """The values of a map as its TIFF file has them, ``(H, W)``.

    Raises
    ------
    ValueError
        If they are of a type that such a file does not take: a pipeline's mistake.
    """
    data = np.asarray(layer.data)
    if data.dtype.kind == "f":
        return np.ascontiguousarray(data, dtype=np.float32)
    if data.dtype == np.bool_:
        return np.where(data, np.uint8(255), np.uint8(0))
    if data.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(data)
    raise ValueError(
        f"map {layer.name!r} has the type {data.dtype}; expected floating point, bool (a mask), uint8 or uint16 (labels)"
    )


def write_gwy(path: Path, scan: Scan, maps: Sequence[Map]) -> None:
    """The scan and all maps in one Gwyddion file, in SI units.

    Gwyddion computes with every pixel, NaN or not: missing ones carry the median and stand in the mask of the channel. A mask
    holds 0 and 1, as Gwyddion's own do; labels hold their numbers.

    Parameters
    ----------
    path
        The file.
    scan
        Its image is the first channel.
    maps
        The other channels, in order; one of another size, a tip, has the pixels of the scan.
    """
    container = GwyContainer()
    layers = [Map(scan.label, scan.image, scan.unit), *maps]
    for index, layer in enumerate(layers):
        data = np.asarray(layer.data, dtype=np.float64)
        there = np.isfinite(data)
        factor, unit = si_unit(layer.unit)
        filled = np.where(there, data, np.median(data[there]) if there.any() else 0.0) * factor
        container[f"/{index}/data"] = _field(scan, filled, unit)
        container[f"/{index}/data/title"] = layer.name.replace("\0", " ")
        container.typecodes[f"/{index}/data/title"] = "s"  # a title of one letter is a string too
        container[f"/{index}/data/visible"] = True
        if not there.all():
            container[f"/{index}/mask"] = _field(scan, np.where(there, 0.0, 1.0), "")
    with path.open("wb") as file:
        container.tofile(file)


def si_unit(unit: str) -> tuple[float, str]:
    """What a unit is in SI.

    Parameters
    ----------
    unit
        As an instrument wrote it: ``m``, ``nm``, ``Å``, ``pA``, ``mV`` …

    Returns
    -------
    factor
        SI units per unit.
    symbol
        The SI unit; an unknown unit is returned as it is, with the factor 1.
    """
    plain = unit.strip().strip("~")
    if plain in BASE_UNITS:  # first: A is an ampere, whereas a and Å are ångström
        return 1.0, plain
    if plain.casefold() in NM_PER_UNIT:
        return NM_PER_UNIT[plain.casefold()] * 1e-9, "m"
    if plain[1:] in BASE_UNITS and plain[:1] in PREFIXES:
        return PREFIXES[plain[0]], plain[1:]
    return 1.0, plain


def _field(scan: Scan, data: NDArray[np.float64], unit: str) -> GwyDataField:
    """A channel of the Gwyddion file; an uncalibrated one counts pixels."""
    height, width = (float(size) for size in data.shape)
    lateral = ""
    if scan.pixel_size_nm is not None:
        size_y, size_x = scan.pixel_size_nm
        height, width, lateral = height * size_y * 1e-9, width * size_x * 1e-9, "m"
    return GwyDataField(
        data,
        xreal=width,
        yreal=height,
        xoff=0.0,
        yoff=0.0,
        si_unit_xy=GwySIUnit(unitstr=lateral),
        si_unit_z=GwySIUnit(unitstr=unit.replace("\0", "")),
    )
