"""What `draw_overlay` draws of defects: a box around each, steps as lines, and the legend that explains them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from spm_runtime.results._result import Defects

__all__ = ["STEP_COLOUR", "Entry", "class_colour", "draw_boxes", "draw_legend", "draw_steps", "legend_rows"]

#: Colours of the classes, by their place in the list of names: a class looks alike in every picture. None is the red of atoms.
CLASS_COLOURS = (
    (64, 200, 255), (110, 150, 255), (255, 160, 30), (255, 228, 40), (190, 245, 70), (50, 220, 110), (0, 200, 180),
    (255, 105, 205), (190, 120, 255), (245, 245, 245),
)  # fmt: skip
STEP_COLOUR = (255, 238, 190)

#: The picture under the rim of a box keeps this share of its brightness: a bright line is seen on a bright surface too.
SHADE = 0.35

#: Half the side of the smallest box, in fine lines.
SMALLEST = 6

#: Length of a dash and of a gap, in line widths; roughly, for an edge begins and ends with a dash.
DASH, GAP = 4, 3

#: Drawn at most this many times finer than the picture, and at most on this many pixels a side, then averaged.
FINER, FINE_SIDE = 4, 4096

#: A step is drawn through the mean place of its pixels within this distance: pixels make stairs.
SMOOTH_PX = 3
MARGIN_PX = 12

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Entry:
    """One line of the legend: how a thing looks, and what it is."""

    look: Literal["box", "dashed", "line", "dot", "ramp", "filled"]
    colour: Colour
    text: str


def class_colour(kind: int) -> Colour:
    """Colour of a class; many classes share the colours in turn."""
    return CLASS_COLOURS[kind % len(CLASS_COLOURS)]


def draw_boxes(picture: NDArray[np.uint8], defects: Defects, zoom: float, unit: int) -> None:
    """Draw a box around every defect into the picture, in place, the best one last; none leaves the picture.

    Parameters
    ----------
    picture
        ``(h, w, 3)``.
    defects
        In pixels of the scan. One that the other scan direction does not confirm gets a dashed box.
    zoom
        Picture pixels per scan pixel.
    unit
        Width of a fine line in the picture.
    """
    centres = (defects.yx_px + 0.5) * zoom
    # The line runs around the defect, not over it; a very small one still gets a box that is seen.
    halves = np.maximum(defects.size_px * zoom / 2, SMALLEST * unit)
    for index in reversed(range(len(defects))):
        half = halves[index]
        width = int(np.clip(round(float(half.min()) / 4), 1, 2 * unit))
        (top, bottom), (left, right) = (
            _within(float(centres[index, axis]), float(half[axis]), width, picture.shape[axis]) for axis in (0, 1)
        )
        colour = class_colour(int(defects.kind[index]))
        is_dashed = bool(defects.confirmed[index] == 0)
        for rim in (unit, 0):
            box = (top - rim, left - rim, bottom + rim, right + rim)
            for rows, columns in _outline(box, width + 2 * rim, picture.shape[:2], is_dashed):
                place = np.ix_(rows, columns)
                picture[place] = (picture[place] * SHADE).astype(np.uint8) if rim else colour


def _within(centre: float, half: float, width: int, size: int) -> tuple[int, int]:
    """First and last row (or column) of a box with a line of this width around it, moved and cut so that all of it is seen.

    A size is that of the pixels in the image: at the frame the box is moved, for the whole of it lies inside.
    """
    low = min(max(centre - half, 0.0), max(size - 2 * half, 0.0))
    return max(math.floor(low) - width, 0), min(math.ceil(low + 2 * half) + width, size - 1)


def draw_steps(picture: NDArray[np.uint8], steps: NDArray[np.bool_], zoom: float, unit: int) -> None:
    """Draw steps as thin lines into the picture, in place.

    Parameters
    ----------
    picture
        ``(h, w, 3)``.
    steps
        ``(H, W)`` pixels at an edge, on either side, as wide as they may be.
    zoom
        Picture pixels per scan pixel.
    unit
        Width of a fine line in the picture.
    """
    from skimage.morphology import skeletonize  # half a second to import, and most scans have no step

    # Continued beyond the frame: a skeleton and a mean both shrink at their ends.
    wider = np.pad(steps, MARGIN_PX, mode="edge")
    line: NDArray[np.bool_] = skeletonize(wider) > 0  # type: ignore[no-untyped-call]
    if not line.any():
        return
    places = (_smoothed(line) - MARGIN_PX + 0.5) * zoom
    number = np.full((line.shape[0] + 2, line.shape[1] + 2), -1)
    number[1:-1, 1:-1][line] = np.arange(len(places))
    finer = max(1, min(FINER, FINE_SIDE // max(picture.shape[:2])))
    ink = Image.new("L", (picture.shape[1] * finer, picture.shape[0] * finer))
    shade = ink.copy()
    pens = [(ImageDraw.Draw(shade), (unit + 3) * finer), (ImageDraw.Draw(ink), (unit + 1) * finer)]
    here = number[1:-1, 1:-1]
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):  # each pair of neighbours once
        there = number[1 + dy : number.shape[0] - 1 + dy, 1 + dx : number.shape[1] - 1 + dx]
        both = (here >= 0) & (there >= 0)
        for a, b in zip(here[both].tolist(), there[both].tolist(), strict=True):
            ends = [(float(x) * finer, float(y) * finer) for y, x in (places[a], places[b])]
            for pen, width in pens:
                pen.line(ends, fill=255, width=width)
    for layer, colour, opacity in ((shade, (0, 0, 0), 0.5), (ink, STEP_COLOUR, 1.0)):
        cover = np.asarray(layer.resize(picture.shape[1::-1], Image.Resampling.BOX))
        touched = np.nonzero(cover)  # a small part
        alpha = cover[touched][:, None] * np.float32(opacity / 255)
        picture[touched] = np.rint(picture[touched] * (1 - alpha) + np.array(colour, np.float32) * alpha).astype(
            np.uint8
        )


def _smoothed(line: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``(N, 2)`` places of the pixels of a line in the order of `np.nonzero`: each the mean of those around it."""
    size = 2 * SMOOTH_PX + 1
    count = ndimage.uniform_filter(line.astype(np.float64), size, mode="constant")[line]
    grids = np.indices(line.shape)
    means = [ndimage.uniform_filter(np.where(line, grid, 0.0), size, mode="constant")[line] / count for grid in grids]
    return np.stack(means, axis=1)


def _outline(
    box: tuple[int, int, int, int], width: int, shape: tuple[int, ...], is_dashed: bool
) -> Iterator[tuple[NDArray[np.int_], NDArray[np.int_]]]:
    """Rows and columns of the four edges of a box (first and last row and column), as far as they are in the picture."""
    top, left, bottom, right = box
    for horizontal, at in ((True, top), (True, bottom - width + 1), (False, left), (False, right - width + 1)):
        (first, last), (length, depth) = ((left, right), shape[1::-1]) if horizontal else ((top, bottom), shape[:2])
        along, across = np.arange(first, last + 1), np.arange(max(0, at), min(depth, at + width))
        if is_dashed:
            count = max(2, round((len(along) / width + GAP) / (DASH + GAP)))
            place = (along - first) * ((count * (DASH + GAP) - GAP) / len(along))
            along = along[place % (DASH + GAP) < DASH]
        if not horizontal:  # its ends belong to the other edges
            along = along[(along >= top + width) & (along <= bottom - width)]
        along = along[(along >= 0) & (along < length)]
        yield (across, along) if horizontal else (along, across)


def legend_rows(entries: Sequence[Entry], font: ImageFont.FreeTypeFont, room: float) -> list[list[Entry]]:
    """The entries in as many rows as they need."""
    rows: list[list[Entry]] = []
    used = 0.0
    for entry in entries:
        length = _length(entry, font)
        if not rows or used + length > room:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += length
    return rows


def draw_legend(
    pen: ImageDraw.ImageDraw,
    entries: Sequence[Entry],
    font: ImageFont.FreeTypeFont,
    left: float,
    base: float,
    text: Colour,
) -> None:
    """Draw one row of the legend: a sample of each thing, then what it is.

    Parameters
    ----------
    pen
        Draws on the sheet.
    entries
        The row.
    font
        For the words.
    left, base
        Where it begins, and the line that the words stand on.
    text
        Colour of the words.
    """
    side = round(0.7 * font.size)
    line = max(2, round(font.size / 10))
    for entry in entries:
        x, y = round(left), round(base) - side
        middle = y + side // 2
        if entry.look == "box":
            pen.rectangle((x, y, x + side, y + side), outline=entry.colour, width=line)
        elif entry.look == "dashed":
            for a, b in ((0.0, 0.3), (0.7, 1.0)):
                for c in (0, side):
                    pen.line((x + a * side, y + c, x + b * side, y + c), fill=entry.colour, width=line)
                    pen.line((x + c, y + a * side, x + c, y + b * side), fill=entry.colour, width=line)
        elif entry.look == "line":
            pen.line((x - side // 4, middle, x + side + side // 4, middle), fill=entry.colour, width=line)
        elif entry.look == "filled":
            pen.rectangle((x, y, x + side, y + side), fill=entry.colour)
        elif entry.look == "ramp":
            for shade in range(side):
                grey = round(255 * shade / max(side - 1, 1))
                pen.line((x + shade, y, x + shade, y + side), fill=(grey, grey, grey))
        else:
            pen.ellipse((x + side / 4, y + side / 4, x + 3 * side / 4, y + 3 * side / 4), fill=entry.colour)
        pen.text((x + side + 0.5 * font.size, base), entry.text, font=font, fill=text, anchor="ls")
        left += _length(entry, font)


def _length(entry: Entry, font: ImageFont.FreeTypeFont) -> float:
    """How much of a row an entry takes, with the gap after it."""
    return 0.7 * font.size + 0.5 * font.size + font.getlength(entry.text) + 1.6 * font.size
