"""Pixel size of a TIFF file: the tags of the programs that write one.

A TIFF has no field for the size of a pixel on the sample. Programs use private tags or the image description; the
resolution that every TIFF may state is that of the printer or the screen (72 or 300 dots per inch) and counts only where it
is finer than any of these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import tifffile

from spm_runtime.readers._images import pixel_pair_nm
from spm_runtime.scan import Modality

__all__ = ["calibration"]

Pair = tuple[float, float] | None

#: DigitalMicrograph's private tags, which RosettaSciIO writes too: unit and scale of x and y.
DM_UNIT_X, DM_UNIT_Y, DM_SCALE_X, DM_SCALE_Y = 65003, 65004, 65009, 65010

#: A pixel below this is no dot of a printer (25 400 dpi).
FINEST_PRINT_NM = 1e3

#: Nanometres in the units of baseline TIFF (tag 296). Source: TIFF revision 6.0, section 8.
RESOLUTION_UNIT_NM = {2: 25.4e6, 3: 1e7}

#: Units in which print sizes come: ImageJ passes the dots per inch on as ``inch`` or ``cm``.
PRINT_UNITS = {"inch", "inches", "cm", "mm", "m", "pixel", "pixels", ""}

OME_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]{0,4000}>")
OME_ATTRIBUTE = re.compile(r"\bPhysicalSize([XY])(Unit)?\s*=\s*\"([^\"]{1,40})\"")


def calibration(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[Pair, Modality, str]:
    """Pixel size of one page.

    Parameters
    ----------
    tif
        The open file.
    page
        The page.

    Returns
    -------
    pixel_size_nm
        ``(y, x)`` in nanometres, or None when no program left one.
    modality
        ``stem`` where the tags are those of an electron microscope's program, otherwise ``unknown``.
    source
        Whose tags they are, or an empty text.
    """
    modality: Modality = "stem" if DM_SCALE_X in page.tags else "unknown"
    ways: tuple[tuple[str, Callable[[], Pair]], ...] = (
        ("DigitalMicrograph", lambda: _digital_micrograph(page)),
        ("OME", lambda: _ome(tif)),
        ("ImageJ", lambda: _imagej(tif, page)),
        ("FEI", lambda: _fei(tif)),
        ("Olympus SIS", lambda: _sis(tif)),
        ("TVIPS", lambda: _tvips(tif)),
        ("Zeiss", lambda: _zeiss(tif)),
        ("resolution", lambda: _resolution(page)),
    )
    for name, way in ways:
        pair = way()
        if pair is not None:
            return pair, modality, name
    return None, modality, ""


def _digital_micrograph(page: tifffile.TiffPage) -> Pair:
    x = (_number(page.tags.valueof(DM_SCALE_X)), _text(page.tags.valueof(DM_UNIT_X)))
    y = (_number(page.tags.valueof(DM_SCALE_Y)), _text(page.tags.valueof(DM_UNIT_Y)))
    return pixel_pair_nm(y, x)


def _ome(tif: tifffile.TiffFile) -> Pair:
    """OME-XML; without a unit the sizes are micrometres. Source: OME data model, June 2016."""
    found = OME_PIXELS.search(tif.ome_metadata or "")
    if found is None:
        return None
    values = {(axis, bool(unit)): value for axis, unit, value in OME_ATTRIBUTE.findall(found.group())}
    y, x = ((_number(values.get((axis, False))), values.get((axis, True), "µm")) for axis in "YX")
    return pixel_pair_nm(y, x)


def _imagej(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Pair:
    """ImageJ: the unit stands in the description, pixels per unit in the resolution tags."""
    metadata = tif.imagej_metadata or {}
    unit = _text(metadata.get("unit", ""))
    if unit.strip().casefold() in PRINT_UNITS:
        return None
    steps = _steps(page)
    return steps and pixel_pair_nm((steps[0], _text(metadata.get("yunit", unit))), (steps[1], unit))


def _fei(tif: tifffile.TiffFile) -> Pair:
    scan = _section(tif.fei_metadata, "Scan")
    return pixel_pair_nm((_number(scan.get("PixelHeight")), "m"), (_number(scan.get("PixelWidth")), "m"))


def _sis(tif: tifffile.TiffFile) -> Pair:
    metadata = tif.sis_metadata or {}
    return pixel_pair_nm((_number(metadata.get("pixelsizey")), "m"), (_number(metadata.get("pixelsizex")), "m"))


def _tvips(tif: tifffile.TiffFile) -> Pair:
    metadata = tif.tvips_metadata or {}
    return pixel_pair_nm((_number(metadata.get("PixelSizeY")), "nm"), (_number(metadata.get("PixelSizeX")), "nm"))


def _zeiss(tif: tifffile.TiffFile) -> Pair:
    """Zeiss SmartSEM: a triple of name, value and unit."""
    metadata = tif.sem_metadata or {}
    value = metadata.get("ap_image_pixel_size") or metadata.get("ap_pixel_size")
    if not isinstance(value, tuple) or len(value) != 3:
        return None
    axis = (_number(value[1]), _text(value[2]))
    return pixel_pair_nm(axis, axis)


def _resolution(page: tifffile.TiffPage) -> Pair:
    """Baseline TIFF: pixels per inch or centimetre, taken only where no printer can be meant."""
    nm = RESOLUTION_UNIT_NM.get(int(_number(page.tags.valueof(296)) or 0))
    steps = _steps(page)
    if nm is None or steps is None or max(steps) * nm >= FINEST_PRINT_NM:
        return None
    return pixel_pair_nm((steps[0] * nm, "nm"), (steps[1] * nm, "nm"))


def _steps(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """``(y, x)`` units per pixel, from the tags YResolution (283) and XResolution (282)."""
    steps = []
    for tag in (283, 282):
        value = page.tags.valueof(tag)
        if not isinstance(value, tuple) or len(value) != 2:
            return None
        pixels, units = _number(value[0]), _number(value[1])
        if not pixels > 0 or not units > 0:
            return None
        steps.append(units / pixels)
    return steps[0], steps[1]


def _section(metadata: object, name: str) -> Mapping[str, object]:
    section = metadata.get(name) if isinstance(metadata, dict) else None
    return section if isinstance(section, dict) else {}


def _number(value: object) -> float:
    """A number, or 0 where there is none: no pixel size is 0."""
    try:
        return float(value) if isinstance(value, (int, float, str)) else 0.0
    except ValueError:
        return 0.0


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""
