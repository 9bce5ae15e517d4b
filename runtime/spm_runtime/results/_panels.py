"""What `draw_overlay` shows of a changed image: before and after on one scale, and what is not known of it or was taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spm_runtime.levelling import fit_level, fit_plane
from spm_runtime.results._marks import Entry
from spm_runtime.results._result import Result
from spm_runtime.scan import NM_PER_UNIT, Scan

__all__ = ["UNCERTAIN_COLOUR", "Panels", "panels_of", "picture_of", "side_by_side", "suited"]

Grey: TypeAlias = NDArray[np.uint8]
Values: TypeAlias = NDArray[np.float64]

MISSING_DARK, MISSING_LIGHT = (38, 58, 94), (74, 108, 168)
UNCERTAIN_COLOUR = (255, 128, 30)
#: Opacity of the colour where nothing is known.
TINT = 0.6

#: Per cent of the pixels beyond each end of the scale of heights.
BEYOND_PERCENT = 0.5

#: The same where the edges of steps stand out from what is on one level.
STEPS_PERCENT = 2.0

#: Side of the picture of the tip, as a share of the shorter side of a panel.
INSET = 0.3


@dataclass(frozen=True, eq=False)
class Panels:
    """Pictures of a scan and of what became of it.

    Parameters
    ----------
    greys
        ``(H, W)`` uint8 each, from left to right, the scan first; 0 where missing.
    names
        Of the panels.
    legend
        What the greys and the colour stand for.
    certainty
        ``(H, W)`` from 0 to 1, 1 where missing: colour over the last panel; None for no colour.
    inset
        ``(h, w)`` uint8 in a corner of the last panel; None for none.
    """

    greys: tuple[Grey, ...]
    names: tuple[str, ...]
    legend: tuple[Entry, ...]
    certainty: NDArray[np.float32] | None = None
    inset: Grey | None = None


def panels_of(scan: Scan, result: Result) -> Panels | None:
    """Panels of a restored surface or of a denoised image; None where a result has neither."""
    maps = {layer.name: np.asarray(layer.data, np.float64) for layer in result.maps}
    if result.tip is not None and {"restored", "certainty"} <= maps.keys():
        tip = np.asarray(result.tip.data, np.float64)
        return _of_surface(scan, maps["restored"], maps["certainty"], tip)
    if result.task == "denoise" and "denoised" in maps:
        return _of_denoised(scan, maps["denoised"])
    return None


def _of_surface(scan: Scan, restored: Values, certainty: Values, tip: Values) -> Panels:
    """The surface above the plane through the scan, and its tip, apex white, black where it is one scale of heights below."""
    plane = fit_plane(scan.image)
    flats = scan.image - plane, restored - plane
    low, span = _one_scale(flats)
    before, after = (_grey(flat, low, span) for flat in flats)
    wide = f"{tip.shape[1]} px" if scan.pixel_size_nm is None else suited(tip.shape[1] * scan.pixel_size_nm[1], "nm")
    legend = (
        Entry("ramp", (255, 255, 255), f"heights, black to white {suited(span, scan.unit)}"),
        Entry("filled", UNCERTAIN_COLOUR, "uncertain: the tip may not have touched"),
    )
    return Panels(
        (before, after, after),
        ("before", "after", f"certainty; tip, {wide} wide"),
        legend,
        np.nan_to_num(certainty, nan=1.0).astype(np.float32),
        _grey(tip, -span or -1.0, span),
    )


def _of_denoised(scan: Scan, denoised: Values) -> Panels:
    """The image with its terraces on one level, and what was taken away on a scale of its own: a lattice in it would be seen."""
    level = fit_level(scan.image)
    flats = scan.image - level, denoised - level
    low, span = _one_scale(flats, STEPS_PERCENT)
    taken = scan.image - denoised
    known = np.abs(taken[np.isfinite(taken)])
    most = float(np.percentile(known, 100 - BEYOND_PERCENT)) if known.size else 0.0
    legend = (
        Entry("ramp", (255, 255, 255), f"black to white {suited(span, scan.unit)}"),
        Entry("ramp", (255, 255, 255), f"taken away, black to white {suited(2 * most, scan.unit)}"),
    )
    greys = *(_grey(flat, low, span) for flat in flats), _grey(taken, -most or -0.5, 2 * most)
    return Panels(greys, ("before", "after", "taken away"), legend)


def _one_scale(flats: tuple[Values, ...], beyond_percent: float = BEYOND_PERCENT) -> tuple[float, float]:
    """Lowest value of the scale that suits several images, and its length."""
    known = [flat[np.isfinite(flat)] for flat in flats]
    if not all(values.size for values in known):
        return 0.0, 0.0
    ends = np.percentile(known, (beyond_percent, 100 - beyond_percent), axis=1)
    low, high = float(ends[0].min()), float(ends[1].max())
    return low, high - low


def picture_of(grey: Grey, valid: NDArray[np.bool_], zoom: float) -> Grey:
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


def side_by_side(first: Grey, panels: Panels, valid: NDArray[np.bool_], zoom: float, gap: int) -> Grey:
    """The first picture, perhaps with marks in it, and the other panels.

    Parameters
    ----------
    first
        ``(h, w, 3)``: the scan.
    panels
        The panels; the first one is in the first picture already.
    valid
        ``(H, W)`` bool.
    zoom
        Picture pixels per pixel of the scan.
    gap
        Width of the dark bars between the panels.

    Returns
    -------
    ``(h, n w + (n − 1) gap, 3)`` for n panels.
    """
    others = [picture_of(grey, valid, zoom) for grey in panels.greys[1:]]
    if panels.certainty is not None:
        size = _size(panels.certainty.shape, zoom)
        unknown = 1 - np.asarray(Image.fromarray(panels.certainty).resize(size, Image.Resampling.BOX))
        alpha = TINT * np.clip(unknown, 0, 1)[:, :, None]
        others[-1] = np.rint(others[-1] * (1 - alpha) + np.array(UNCERTAIN_COLOUR, np.float32) * alpha).astype(np.uint8)
    if panels.inset is not None:
        _put_inset(others[-1], panels.inset, max(1, gap // 4))
    bar = np.zeros((len(first), gap, 3), np.uint8)
    return np.concatenate([first, *(part for other in others for part in (bar, other))], axis=1)


def _put_inset(picture: Grey, inset: Grey, rim: int) -> None:
    """Draw a small picture into the lower right corner, in place; nothing where there is no room."""
    side = round(INSET * min(picture.shape[:2]))
    if side < 8:
        return
    drawn = Image.fromarray(inset).resize((side, side), Image.Resampling.BICUBIC)
    framed = np.full((side + 2 * rim, side + 2 * rim), 255, np.uint8)
    framed[rim:-rim, rim:-rim] = drawn
    margin = 4 * rim
    picture[-margin - len(framed) : -margin, -margin - len(framed) : -margin] = framed[:, :, None]


def _size(shape: tuple[int, ...], zoom: float) -> tuple[int, int]:
    """Width and height of a magnified image."""
    return max(1, round(shape[1] * zoom)), max(1, round(shape[0] * zoom))


def _grey(heights: Values, low: float, span: float) -> Grey:
    """Black at the lowest value, white one scale above; a scale without length counts as 1."""
    share = np.clip((np.where(np.isfinite(heights), heights, low) - low) / (span or 1.0), 0, 1)
    return np.rint(255 * share).astype(np.uint8)


def suited(height: float, unit: str) -> str:
    """A height, or any other value, in words with a unit that suits it."""
    factor = NM_PER_UNIT.get(unit.strip().casefold())
    if factor is None:
        return f"{height:.3g} {unit}".strip()
    nm = height * factor
    for name, size in (("µm", 1e3), ("nm", 1.0)):
        if nm >= size:
            return f"{nm / size:.3g} {name}"
    return f"{1e3 * nm:.3g} pm"
