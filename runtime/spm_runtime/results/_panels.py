"""What `draw_overlay` shows of a restored surface: before and after in one scale of heights, and where it is not known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spm_runtime.levelling import fit_plane
from spm_runtime.results._marks import Entry
from spm_runtime.results._result import Result
from spm_runtime.scan import NM_PER_UNIT, Scan

__all__ = ["UNCERTAIN_COLOUR", "SurfacePanels", "picture_of", "side_by_side", "surface_panels"]

MISSING_DARK, MISSING_LIGHT = (38, 58, 94), (74, 108, 168)
UNCERTAIN_COLOUR = (255, 128, 30)
#: Opacity of the colour where nothing is known.
TINT = 0.6

#: Per cent of the pixels beyond each end of the scale of heights.
BEYOND_PERCENT = 0.5

#: Side of the picture of the tip, as a share of the shorter side of a panel.
INSET = 0.3


@dataclass(frozen=True, eq=False)
class SurfacePanels:
    """A restored surface in grey.

    Parameters
    ----------
    before, after
        ``(H, W)`` uint8 heights on one scale, above the plane through the scan; 0 where missing.
    certainty
        ``(H, W)`` from 0 to 1; 1 where missing.
    tip
        ``(h, w)`` uint8, its apex white, black where it is one scale of heights below.
    names
        Of the panels, from left to right.
    legend
        What the greys and the colour stand for.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    certainty: NDArray[np.float32]
    tip: NDArray[np.uint8]
    names: tuple[str, ...]
    legend: tuple[Entry, ...]


def surface_panels(scan: Scan, result: Result) -> SurfacePanels | None:
    """What a result shows of a restored surface; None where it has none."""
    maps = {layer.name: np.asarray(layer.data, np.float64) for layer in result.maps}
    if result.tip is None or not {"restored", "certainty"} <= maps.keys():
        return None
    plane = fit_plane(scan.image)
    flats = scan.image - plane, maps["restored"] - plane
    known = [flat[np.isfinite(flat)] for flat in flats]
    low, high = 0.0, 0.0
    if all(values.size for values in known):
        ends = np.percentile(known, (BEYOND_PERCENT, 100 - BEYOND_PERCENT), axis=1)
        low, high = float(ends[0].min()), float(ends[1].max())
    span = high - low if high > low else 1.0
    before, after = (_grey(flat, low, span) for flat in flats)
    tip = _grey(np.asarray(result.tip.data, np.float64), -span, span)
    wide = f"{tip.shape[1]} px" if scan.pixel_size_nm is None else _length(tip.shape[1] * scan.pixel_size_nm[1], "nm")
    names = ("before", "after", f"certainty; tip, {wide} wide")
    legend = (
        Entry("ramp", (255, 255, 255), f"heights, black to white {_length(high - low, scan.unit)}"),
        Entry("filled", UNCERTAIN_COLOUR, "uncertain: the tip may not have touched"),
    )
    return SurfacePanels(
        before, after, np.nan_to_num(maps["certainty"], nan=1.0).astype(np.float32), tip, names, legend
    )


def picture_of(grey: NDArray[np.uint8], valid: NDArray[np.bool_], zoom: float) -> NDArray[np.uint8]:
    """A grey image with its missing parts hatched, ``(h, w, 3)``.

    Parameters
    ----------
    grey, valid
        ``(H, W)``: the image, and what was measured.
    zoom
        Picture pixels per pixel.
    """
    size = _size(grey.shape, zoom)
    smooth = Image.Resampling.BICUBIC if zoom > 1 else Image.Resampling.BOX
    picture = np.repeat(np.asarray(Image.fromarray(grey).resize(size, smooth))[:, :, None], 3, axis=2)
    if not valid.all():
        missing = np.asarray(Image.fromarray(~valid).resize(size, Image.Resampling.NEAREST))
        y, x = np.nonzero(missing)
        stripe = (x + y) % 16 < 3
        picture[y, x] = np.where(stripe[:, None], MISSING_LIGHT, MISSING_DARK)
    return picture


def side_by_side(
    first: NDArray[np.uint8], panels: SurfacePanels, valid: NDArray[np.bool_], zoom: float, gap: int
) -> NDArray[np.uint8]:
    """The first picture, the restored surface, and the same with what is not known in colour and the tip in a corner.

    Parameters
    ----------
    first
        ``(h, w, 3)``: the scan.
    panels
        The surface.
    valid
        ``(H, W)`` bool.
    zoom
        Picture pixels per pixel of the scan.
    gap
        Width of the dark bars between the panels.

    Returns
    -------
    ``(h, 3 w + 2 gap, 3)``.
    """
    after = picture_of(panels.after, valid, zoom)
    size = _size(panels.after.shape, zoom)
    unknown = 1 - np.asarray(Image.fromarray(panels.certainty).resize(size, Image.Resampling.BOX))
    alpha = TINT * np.clip(unknown, 0, 1)[:, :, None]
    tinted = np.rint(after * (1 - alpha) + np.array(UNCERTAIN_COLOUR, np.float32) * alpha).astype(np.uint8)
    _put_inset(tinted, panels.tip, max(1, gap // 4))
    bar = np.zeros((len(first), gap, 3), np.uint8)
    return np.concatenate([first, bar, after, bar, tinted], axis=1)


def _put_inset(picture: NDArray[np.uint8], tip: NDArray[np.uint8], rim: int) -> None:
    """Draw the tip into the lower right corner, in place; nothing where there is no room."""
    side = round(INSET * min(picture.shape[:2]))
    if side < 8:
        return
    drawn = Image.fromarray(tip).resize((side, side), Image.Resampling.BICUBIC)
    framed = np.full((side + 2 * rim, side + 2 * rim), 255, np.uint8)
    framed[rim:-rim, rim:-rim] = drawn
    margin = 4 * rim
    picture[-margin - len(framed) : -margin, -margin - len(framed) : -margin] = framed[:, :, None]


def _size(shape: tuple[int, ...], zoom: float) -> tuple[int, int]:
    """Width and height of a magnified image."""
    return max(1, round(shape[1] * zoom)), max(1, round(shape[0] * zoom))


def _grey(heights: NDArray[np.float64], low: float, span: float) -> NDArray[np.uint8]:
    share = np.clip((np.where(np.isfinite(heights), heights, low) - low) / span, 0, 1)
    return np.rint(255 * share).astype(np.uint8)


def _length(height: float, unit: str) -> str:
    """A height with a unit that suits it."""
    factor = NM_PER_UNIT.get(unit.strip().casefold())
    if factor is None:
        return f"{height:.3g} {unit}".strip()
    nm = height * factor
    for name, size in (("µm", 1e3), ("nm", 1.0)):
        if nm >= size:
            return f"{nm / size:.3g} {name}"
    return f"{1e3 * nm:.3g} pm"
