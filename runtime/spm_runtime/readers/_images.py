"""What the readers of picture-like formats share: limits, layouts, colours and units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import check_claim
from spm_runtime.scan import to_nm

__all__ = [
    "FREE_BYTES",
    "MAX_FRAMES",
    "MIN_SIDE",
    "as_image",
    "check_compressed",
    "check_frames",
    "check_numbers",
    "is_reciprocal",
    "layout",
    "mark_infinite",
    "pixel_pair_nm",
    "plain",
    "unique_names",
]

#: An array that is narrower is a table (positions, spectra, a calibration vector), not an image.
MIN_SIDE = 8

#: No stack of images is longer; what claims more is a header that lies or a data set of diffraction patterns.
MAX_FRAMES = 2**16

#: Compressed data may claim this much …
FREE_BYTES = 2**26
#: … or this multiple of what is stored. Measured images, noise included, compress by less than ten.
MAX_RATIO = 100

#: A longer text is no metadata that a person reads.
MAX_TEXT = 2000

#: Spelled-out units, beside those that `spm_runtime.scan.to_nm` knows.
SPELLED_UNITS: Mapping[str, str] = {
    "meter": "m", "metre": "m", "millimeter": "mm", "millimetre": "mm", "micrometer": "um", "micrometre": "um",
    "nanometer": "nm", "nanometre": "nm", "picometer": "pm", "picometre": "pm", "ångström": "å", "ångstrom": "å",
}  # fmt: skip

#: ITU-R BT.601-7, section 2.5.1: luminance from red, green and blue.
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def check_numbers(path: Path, dtype: np.dtype[Any]) -> None:
    """Refuse values that are not plain real numbers.

    Raises
    ------
    ScanError
        For complex, text, record and object arrays.
    """
    if dtype.kind not in "biuf":
        what = "complex values (a Fourier transform?)" if dtype.kind == "c" else f"values of type {dtype}"
        raise ScanError(path, what, "an image of real numbers", "Save the image itself, as integers or floats.")


def check_compressed(path: Path, *, pixels: int, bytes_claimed: int, bytes_stored: int) -> None:
    """Refuse a claim that the compressed data cannot hold, before anything is allocated.

    Parameters
    ----------
    path
        The file, for the message.
    pixels
        Pixels of one image that the header claims.
    bytes_claimed
        Bytes after decompression that the header claims.
    bytes_stored
        Bytes of compressed data in the file.

    Raises
    ------
    CorruptScanError
        If nothing is stored, or the claim is more than `MAX_RATIO` times what is stored (small images may be blank).
    """
    check_claim(path, pixels=pixels, bytes_claimed=0, bytes_there=0)
    if bytes_stored <= 0 or bytes_claimed > FREE_BYTES + MAX_RATIO * bytes_stored:
        raise CorruptScanError(
            path,
            f"the header claims {bytes_claimed} bytes of image, and {max(bytes_stored, 0)} compressed bytes are stored",
            "a complete file",
            "The file is truncated or damaged: wait until it is saved, or copy it again.",
        )


def check_frames(path: Path, count: int) -> None:
    """Refuse a stack that is longer than `MAX_FRAMES`.

    Raises
    ------
    ScanError
        Naming the number.
    """
    if count > MAX_FRAMES:
        raise ScanError(
            path,
            f"a stack of {count} frames",
            f"at most {MAX_FRAMES} images",
            "If it is a set of diffraction patterns or spectra, save the image that goes with it.",
        )


def layout(path: Path, shape: tuple[int, ...]) -> tuple[int | None, int, int]:
    """How many images of what size are in an array that says nothing about its axes.

    ``(H, W)`` is one image; ``(H, W, 1)``, ``(H, W, 3)`` and ``(H, W, 4)`` are one image with its colours;
    ``(N, H, W)`` is a stack.

    Returns
    -------
    frames, height, width
        The number of frames, or None for a single image.

    Raises
    ------
    ScanError
        If the array is no image: fewer than two or more than three axes, narrower than `MIN_SIDE`, or a stack of more
        than `MAX_FRAMES`.
    """
    colours = len(shape) == 3 and shape[2] in (1, 3, 4)
    sides = shape[:2] if colours else shape[-2:]
    if len(shape) not in (2, 3) or min(sides) < MIN_SIDE:
        raise ScanError(
            path,
            f"an array of shape {shape}, which is not an image",
            f"rows and columns of at least {MIN_SIDE} pixels, or a stack of such images",
            "Open the image itself: lists of positions, spectra and higher-dimensional data cannot be analysed.",
        )
    if len(shape) == 2 or colours:
        return None, sides[0], sides[1]
    check_frames(path, shape[0])
    return shape[0], sides[0], sides[1]


def as_image(array: NDArray[Any]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """A picture as one channel of float32; values are kept, colours become luminance.

    Parameters
    ----------
    array
        ``(H, W)`` or ``(H, W, samples)`` with 1 (grey), 2 (grey and opacity), 3 (RGB) or 4 (RGB and opacity) samples.

    Returns
    -------
    image
        ``(H, W)`` float32.
    warnings
        Says so when the picture was in colour.
    """
    if array.ndim == 2:
        return array.astype(np.float32), ()
    if array.shape[2] < 3:
        return array[..., 0].astype(np.float32), ()
    red, green, blue = (array[..., sample] for sample in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red.astype(np.float32), ("a grey picture stored in colour (RGB): an export, perhaps not the raw data",)
    return array[..., :3].astype(np.float32) @ LUMINANCE, (
        "a colour picture (RGB), converted to luminance: its values are those of a colour map, not of a detector",
    )


def mark_infinite(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Take infinite pixels as missing, and say how many pixels are missing.

    Rows of zeros stay: in TIFF, PNG and NumPy files black is a value like another, and an export that was clipped at
    the background is full of it. `spm_runtime.scan.mark_missing_rows` is for the formats of instruments.

    Returns
    -------
    image
        The same, a copy where pixels were marked.
    warnings
        One sentence, or nothing.
    """
    bad = ~np.isfinite(image)
    missing = int(bad.sum())
    if not missing:
        return image, ()
    share = 100.0 * missing / image.size
    return np.where(bad, np.float32(np.nan), image), (
        f"{share:.1f} % of the pixels are missing (not a number); nothing is looked for there",
    )


def pixel_pair_nm(y: tuple[float, str], x: tuple[float, str]) -> tuple[float, float] | None:
    """Pixel size from the scale and unit of the two axes.

    Parameters
    ----------
    y, x
        Scale per pixel and its unit, as the file gives them.

    Returns
    -------
    tuple or None
        ``(y, x)`` in nanometres; None where a unit is missing or no length, or a scale is not positive.
    """
    pair = tuple(_to_nm(*axis) for axis in (y, x))
    return None if pair[0] is None or pair[1] is None else (pair[0], pair[1])


def is_reciprocal(unit: str) -> bool:
    """Whether the unit of an axis is that of a diffraction pattern: an inverse length or an angle."""
    unit = unit.casefold()
    return "1/" in unit.replace(" ", "") or "^-1" in unit or "⁻" in unit or "rad" in unit


def plain(values: Mapping[Any, object]) -> dict[str, object]:
    """Keep the metadata that are plain values, texts cut to a readable length."""
    kept: dict[str, object] = {}
    for key, value in values.items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        if isinstance(value, str):
            value = value[:MAX_TEXT]
        if isinstance(value, (str, int, float, bool)):
            kept[str(key)] = value
    return kept


def unique_names(names: Iterable[str]) -> list[str]:
    """The same names, a number added where one occurs again, so that each channel can be asked for."""
    seen: set[str] = set()
    unique = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in seen:
            number += 1
            candidate = f"{name} ({number})" if name else str(number)
        seen.add(candidate.casefold())
        unique.append(candidate)
    return unique


def _to_nm(scale: float, unit: str) -> float | None:
    if not math.isfinite(scale) or scale <= 0:
        return None
    unit = unit.strip().strip("[]").casefold()
    if "\\u" in unit:  # ImageJ escapes what is not ASCII
        unit = unit.replace("\\u00b5", "µ").replace("\\u03bc", "µ").replace("\\u00c5", "å").replace("\\u212b", "å")
    unit = SPELLED_UNITS.get(unit.removesuffix("s"), unit.removesuffix("s") if len(unit) > 3 else unit)
    size = to_nm(scale, unit.replace("u_m", "um"))
    return size if size is not None and math.isfinite(size) and size > 0 else None
