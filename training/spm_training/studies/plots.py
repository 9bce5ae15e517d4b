"""Figures of the reports, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["Cloud", "Panel", "Picture", "clouds", "grey_scale", "panels", "pictures", "sheet"]

#: Width of a panel and its height in inches.
_WIDE, _HIGH = 4.2, 3.1
#: Pictures beside each other, and the width and height of one in inches.
_ACROSS, _PICTURE_WIDE, _PICTURE_HIGH = 6, 2.3, 2.55
#: Share of the pixels at either end of the grey scale.
_CUT_PERCENT = 0.5


@dataclass(frozen=True)
class Panel:
    """Curves over one axis.

    Parameters
    ----------
    title, x_label
        Words.
    curves
        x and y by name.
    log_x, log_y
        Logarithmic axes.
    marks
        Places on the x axis by name, drawn as lines.
    """

    title: str
    x_label: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log_x: bool = False
    log_y: bool = False
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points in a plane, coloured by label.

    Parameters
    ----------
    title
        Words.
    xy
        ``(N, 2)``.
    labels
        ``(N,)`` whole numbers from 0; negative ones are grey.
    names
        Name of every label; none leaves the legend out.
    """

    title: str
    xy: NDArray[np.floating]
    labels: NDArray[np.integer]
    names: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Picture:
    """An image ``(H, W)`` in grey, with its title and the values that are black and white."""

    title: str
    image: NDArray[np.generic]
    ends: tuple[float, float]


def panels(content: Sequence[Panel], *, columns: int = 2) -> Figure:
    """Curves side by side."""
    rows = -(-len(content) // columns)
    figure = Figure(figsize=(_WIDE * columns, _HIGH * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one, panel in zip(axes, content, strict=False):
        for name, (x, y) in panel.curves.items():
            one.plot(x, y, marker="." if len(x) < 60 else "", label=name)
        for place, (name, x_mark) in enumerate(panel.marks.items()):
            one.axvline(x_mark, color=f"C{7 + place % 3}", linestyle="--", label=name)
        one.set(title=panel.title, xlabel=panel.x_label)
        if panel.log_x:
            one.set_xscale("log", base=2)
        if panel.log_y:
            one.set_yscale("log")
        if len(panel.curves) + len(panel.marks) > 1:
            one.legend(fontsize="small")
    for one in axes[len(content) :]:
        one.set_axis_off()
    return figure


def clouds(content: Sequence[Cloud], *, columns: int = 2) -> Figure:
    """Points side by side."""
    rows = -(-len(content) // columns)
    figure = Figure(figsize=(1.4 * _WIDE * columns, 1.4 * _HIGH * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one, cloud in zip(axes, content, strict=False):
        for label in np.unique(cloud.labels):
            mine = cloud.labels == label
            name = cloud.names[label] if 0 <= label < len(cloud.names) else None
            one.scatter(*cloud.xy[mine].T, s=6, color=_colour(int(label)), label=name, linewidths=0)
        one.set(title=cloud.title, xticks=[], yticks=[])
        if len(cloud.names):
            one.legend(fontsize="x-small", markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for one in axes[len(content) :]:
        one.set_axis_off()
    return figure


def pictures(content: Sequence[Picture]) -> Figure:
    """Images in rows."""
    across = min(_ACROSS, len(content))
    down = -(-len(content) // across)
    figure = Figure(figsize=(_PICTURE_WIDE * across, _PICTURE_HIGH * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, one in zip(axes, content, strict=False):
        axis.imshow(one.image, cmap="gray", vmin=one.ends[0], vmax=one.ends[1], interpolation="nearest")
        axis.set_title(one.title, fontsize=7)
        axis.set_axis_off()
    for axis in axes[len(content) :]:
        axis.set_visible(False)
    return figure


def grey_scale(image: NDArray[np.floating]) -> tuple[float, float]:
    """Ends of the grey scale of an image, apart; a few outliers are cut off."""
    known = image[np.isfinite(image)]
    low, high = np.percentile(known, (_CUT_PERCENT, 100 - _CUT_PERCENT)) if known.size else (0.0, 1.0)
    return float(low), max(float(high), float(low) + 1e-30)


def sheet(
    rows: Mapping[str, NDArray[np.floating] | Sequence[NDArray[np.floating]]], *, zoom: float = 0.62, high: float = 1.0
) -> Figure:
    """Grey patches in rows: 0 is black, `high` is white.

    Parameters
    ----------
    rows
        Square images, as ``(n, 32, 32)``, by the name of the row.
    zoom
        Side of a patch in inches.
    high
        What is white.
    """
    most = max(len(patches) for patches in rows.values())
    names = max(len(name) for name in rows) * 0.075 + 0.2
    figure = Figure(figsize=(names + zoom * max(most, 1), zoom * len(rows) + 0.1))
    axes = figure.subplots(len(rows), max(most, 1), squeeze=False)
    figure.subplots_adjust(names / (names + zoom * max(most, 1)), 0.01, 0.995, 0.99, 0.06, 0.06)
    for line, (name, patches) in zip(axes, rows.items(), strict=True):
        for place, one in enumerate(line):
            one.set_axis_off()
            if place < len(patches):
                one.imshow(patches[place], cmap="gray", vmin=0, vmax=high, interpolation="nearest")
        line[0].text(-0.12, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize="small")
    return figure


def _colour(label: int) -> tuple[float, ...] | str:
    if label < 0:
        return "0.75"
    cycle = matplotlib.colormaps["tab20"]
    return tuple(cycle((2 * label) % 20 if label < 10 else (2 * label + 1) % 20))
