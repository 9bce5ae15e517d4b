"""One image of one channel, as every reader returns it and every pipeline takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Direction", "Modality", "Scan", "mark_missing_rows", "to_nm"]

Modality = Literal["stm", "afm", "stem", "unknown"]
Direction = Literal["forward", "backward"]

#: Nanometres per unit, for the units that instruments write. The empty unit is not a length.
NM_PER_UNIT: Mapping[str, float] = MappingProxyType(
    {
        "m": 1e9, "cm": 1e7, "mm": 1e6, "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "~m": 1e3,
        "nm": 1.0, "n_m": 1.0, "pm": 1e-3, "a": 0.1, "å": 0.1, "angstrom": 0.1, "ang": 0.1,
    }
)  # fmt: skip


def to_nm(value: float, unit: str) -> float | None:
    """Convert a length to nanometres.

    Parameters
    ----------
    value
        The length.
    unit
        Its unit as an instrument wrote it: ``m``, ``nm``, ``n_m``, ``Å``, ``~m`` (how NanoScope writes µm) …

    Returns
    -------
    float or None
        The length in nanometres; None where the unit is empty or no length, or the value is not finite and positive.
    """
    factor = NM_PER_UNIT.get(unit.strip().casefold())
    if factor is None or not np.isfinite(value) or value <= 0:
        return None
    return float(value) * factor


@dataclass(frozen=True, eq=False)
class Scan:
    """One image of one channel, direction and frame. Frozen; the image is read-only.

    Parameters
    ----------
    image
        ``(H, W)`` float32, row 0 at the top of the picture, columns in the order of the surface (backward scans are
        mirrored by the reader). Missing pixels (an aborted scan) are NaN.
    unit
        Unit of the image values as ``m``, ``V``, ``A``, ``Hz`` … or ``""`` when the file does not say.
    pixel_size_nm
        ``(y, x)`` size of a pixel in nanometres, or None when the file is not calibrated.
    offset_nm
        ``(y, x)`` position of the image centre in the scanner's frame (x to the right, y up), or None.
    angle_deg
        Rotation of the image in the scanner's frame, counter-clockwise, or None when the file does not say.
    modality
        ``stm``, ``afm``, ``stem`` or ``unknown``.
    channel
        Name of the channel as the instrument wrote it, without the direction.
    direction
        ``forward``, ``backward`` or None.
    frame
        Index in a stack, or None for a single image.
    path
        The file the scan was read from, or None.
    metadata
        Everything else that the file says, as plain values.
    warnings
        What a person should know before trusting the scan.

    Raises
    ------
    ValueError
        If the image is not two-dimensional, is empty, or a pixel size is not positive: a reader's mistake.
    """

    image: NDArray[np.float32]
    unit: str = ""
    pixel_size_nm: tuple[float, float] | None = None
    offset_nm: tuple[float, float] | None = None
    angle_deg: float | None = None
    modality: Modality = "unknown"
    channel: str = ""
    direction: Direction | None = None
    frame: int | None = None
    path: Path | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        image = np.array(self.image, dtype=np.float32, order="C")  # always a copy: nobody else holds it
        if image.ndim != 2 or image.size == 0:
            raise ValueError(f"a scan's image is (H, W) and not empty, got shape {image.shape}")
        if self.pixel_size_nm is not None and not all(np.isfinite(p) and p > 0 for p in self.pixel_size_nm):
            raise ValueError(f"a pixel size is positive, got {self.pixel_size_nm} nm")
        image.setflags(write=False)
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "warnings", tuple(self.warnings))

    @property
    def shape(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def size_nm(self) -> tuple[float, float] | None:
        """``(y, x)`` extent of the image in nanometres, or None."""
        if self.pixel_size_nm is None:
            return None
        return self.shape[0] * self.pixel_size_nm[0], self.shape[1] * self.pixel_size_nm[1]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """``(H, W)`` mask of the pixels that were measured."""
        return np.isfinite(self.image)

    @property
    def label(self) -> str:
        """Channel, direction and frame in a few words, for listings and messages."""
        words = [self.channel or "image"]
        if self.direction is not None:
            words.append(self.direction)
        if self.frame is not None:
            words.append(f"frame {self.frame}")
        return " ".join(words)

    def positions_nm(self, yx_px: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Positions in nanometres.

        Parameters
        ----------
        yx_px
            ``(N, 2)`` positions in pixels, pixel centres at integers.

        Returns
        -------
        ``(N, 2)`` array of ``(y, x)`` in nanometres, or None when the scan is not calibrated. Where the file gives the
        offset and the angle of the frame they are in the scanner's frame (x right, y **up**); otherwise they
        count from the centre of the first pixel, y **down** as in the picture.
        """
        if self.pixel_size_nm is None:
            return None
        yx = np.asarray(yx_px, dtype=np.float64).reshape(-1, 2)
        scale = np.asarray(self.pixel_size_nm)
        if self.offset_nm is None or self.angle_deg is None:
            return np.asarray(yx * scale)
        centre = (np.asarray(self.shape) - 1) / 2
        down, right = ((yx - centre) * scale).T
        angle = np.deg2rad(self.angle_deg)
        x = right * np.cos(angle) + down * np.sin(angle)
        y = right * np.sin(angle) - down * np.cos(angle)
        return np.stack([y + self.offset_nm[0], x + self.offset_nm[1]], axis=1)


def mark_missing_rows(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Mark what an aborted scan never measured.

    Instruments fill the rest of an aborted scan with NaN (Nanonis) or with exact zeros (Createc). A run of rows at the
    top or the bottom that holds nothing but the same fill becomes NaN.

    Parameters
    ----------
    image
        ``(H, W)`` float32 as read.

    Returns
    -------
    image
        The same, a copy where rows were marked.
    warnings
        One sentence that says how many pixels are missing, or nothing.
    """
    image = np.where(np.isinf(image), np.float32(np.nan), image)
    blank = np.all((image == 0) | np.isnan(image), axis=1)
    if not blank.all():  # an image of zeros is constant, not aborted
        first, last = int(np.argmin(blank)), len(blank) - int(np.argmin(blank[::-1]))
        # One zero row can be a real measurement (a mean-subtracted line); from two rows on it is a fill.
        for rows in (slice(0, first), slice(last, len(blank))):
            if rows.stop - rows.start >= 2:
                image[rows] = np.nan
    missing = int(np.isnan(image).sum())
    if not missing:
        return image, ()
    share = 100.0 * missing / image.size
    return image, (f"aborted or incomplete scan: {share:.1f} % of the pixels are missing; nothing is looked for there",)
