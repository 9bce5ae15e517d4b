"""What every public wrapper checks before a compiled core sees an array."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_image", "as_positions", "as_scores", "as_usable", "check_positive", "frozen", "seen"]

#: Largest coordinate in pixels that is believed; beyond it a cell index would overflow or a difference lose its digits.
MAX_COORDINATE_PX = 2.0**31

Scalar = TypeVar("Scalar", bound=np.generic)


def seen(value: object) -> str:
    """Describe a value for an error message: type and shape of an array, or the value itself."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return f"{type(value).__name__} {value!r}"[:80]


def _is_array(value: object) -> bool:
    """Whether a caller without a type checker gave an array at all."""
    return isinstance(value, np.ndarray)


def frozen(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """Give a contiguous, read-only view of an array; a copy only where it is not contiguous.

    Numba compiles read-only and writable arrays separately. A scan's image is read-only and a network's output is not,
    so all inputs are handed over read-only and each core is compiled once.
    """
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view


def as_image(image: NDArray[np.float32], name: str = "image") -> NDArray[np.float32]:
    """Check an image.

    Parameters
    ----------
    image
        ``(H, W)`` float32; may be empty.
    name
        Name of the argument, for the message.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if not _is_array(image) or image.ndim != 2 or image.dtype != np.float32:
        raise ValueError(f"{name}: expected a float32 array of shape (H, W), got {seen(image)}")
    return frozen(image)


def as_usable(image: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Mark the pixels that hold a measurement: finite and, where a mask is given, valid.

    Parameters
    ----------
    image
        ``(H, W)`` float32.
    valid
        ``(H, W)`` bool, or None when only non-finite pixels are missing.

    Raises
    ------
    ValueError
        If the mask is not boolean or has another shape.
    """
    usable = np.isfinite(image)
    if valid is not None:
        if not _is_array(valid) or valid.dtype != np.bool_ or valid.shape != image.shape:
            raise ValueError(f"valid: expected a bool array of shape {image.shape} like the image, got {seen(valid)}")
        usable &= valid
    return frozen(usable)


def as_positions(yx: NDArray[np.float64], name: str = "yx") -> NDArray[np.float64]:
    """Check positions.

    Parameters
    ----------
    yx
        ``(N, 2)`` finite integers or floats, in pixels.
    name
        Name of the argument, for the message.

    Returns
    -------
    ``(N, 2)`` float64, read-only.

    Raises
    ------
    ValueError
        If the shape or type is another, or a coordinate is not finite or beyond ``MAX_COORDINATE_PX``.
    """
    if not _is_array(yx) or yx.ndim != 2 or yx.shape[1] != 2 or yx.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected a numeric array of shape (N, 2), got {seen(yx)}")
    positions = yx.astype(np.float64, copy=False)
    wrong = ~(np.abs(positions) <= MAX_COORDINATE_PX)
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        raise ValueError(
            f"{name}: expected finite pixel coordinates below {MAX_COORDINATE_PX:.0f}, "
            f"got {positions[row].tolist()} in row {row}"
        )
    return frozen(positions)


def as_scores(score: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Check one score per position.

    Parameters
    ----------
    score
        ``(N,)`` floats, none of them NaN.
    count
        The N that is expected.

    Returns
    -------
    ``(N,)`` float64, read-only.

    Raises
    ------
    ValueError
        If the shape or type is another, or a score is NaN.
    """
    if not _is_array(score) or score.shape != (count,) or score.dtype.kind != "f":
        raise ValueError(f"score: expected a float array of shape ({count},), one per position, got {seen(score)}")
    if np.isnan(score).any():
        raise ValueError(f"score: expected numbers, got NaN in row {int(np.flatnonzero(np.isnan(score))[0])}")
    return frozen(score.astype(np.float64, copy=False))


def check_positive(value: float, name: str, *, at_least: float = 0.0) -> float:
    """Check a length or another positive number.

    Parameters
    ----------
    value
        The number.
    name
        Name of the argument, for the message.
    at_least
        Smallest value that is accepted; with 0, zero itself is refused.

    Raises
    ------
    ValueError
        If it is not finite, not positive or below ``at_least``.
    """
    number = float(value)
    if not math.isfinite(number) or number <= 0 or number < at_least:
        bound = f"of at least {at_least:g}" if at_least > 0 else "above 0"
        raise ValueError(f"{name}: expected a finite number {bound}, got {value!r}")
    return number
