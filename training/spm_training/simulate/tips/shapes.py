"""Shapes of tips, and what takes their place where an instrument blurs.

A tip is a square of heights in nanometres with 0 at its apex, the middle pixel: what an infinitely sharp spike would look like
in the image (`spm_kernels.dilate`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.pipelines.relief import TIP_PX
from spm_training.simulate.tips.primitives import between, log_between, self_affine

__all__ = [
    "HACKATHON_KERNEL_PX",
    "SIDE_PX",
    "TIP_KINDS",
    "DrawnTip",
    "blunt_tip",
    "double_tip",
    "gaussian_psf",
    "hackathon_tip",
]

Field = NDArray[np.float64]

#: Side of every tip.
SIDE_PX = TIP_PX
#: Side of the kernel that the hackathon's notebook used, and its range of radii in halves of the kernel.
HACKATHON_KERNEL_PX, HACKATHON_RADIUS = 25, (0.02, 0.8)
#: Distance from the apex at which a tip is one step above its apex: how far it smears the edge of the step.
REACH_PX = (2.0, 20.0)
#: Share and reach of tips that are sharper than a pixel: an image with a good tip must come back unharmed.
SHARP, SHARP_PX = 0.08, (0.4, 1.0)
#: Kinds of tips.
TIP_KINDS = ("parabola", "cone", "sphere", "flattened", "pyramid", "power", "irregular")


class DrawnTip(NamedTuple):
    """A tip and how it was made.

    Parameters
    ----------
    heights
        ``(SIDE_PX, SIDE_PX)`` in the unit of the relief, the apex at 0; −inf where there is none. For a point-spread function:
        weights that sum to 1.
    kind
        Name of its shape.
    scale_px
        Reach of a tip, that of the first of two; σ of a Gaussian.
    apex_yx
        Position of the apex relative to the middle pixel: (0, 0) but for the hackathon's tips, which shift the image by it.
    second_yx
        Position of the second apex relative to the first, of a double tip.
    """

    heights: Field
    kind: str
    scale_px: float
    apex_yx: tuple[float, float] = (0.0, 0.0)
    second_yx: tuple[float, float] | None = None


def blunt_tip(
    rng: np.random.Generator,
    relief: float,
    local: float,
    *,
    reach_px: tuple[float, float] | None = None,
    within_px: int = SIDE_PX // 2,
) -> DrawnTip:
    """Draw a tip with one apex.

    Parameters
    ----------
    rng
        The only source of randomness.
    relief
        Height of the surface from its lowest to its highest point.
    local
        Height of what stands next to each other: the tip is as high as that at its reach.
    reach_px
        Range of the reach: how far the tip smears the edge of a step as high as ``local``. Where none is given, up to 20 pixels,
        and at most one in a few cases.
    within_px
        Half of the square outside which the tip is higher than the whole surface, so that it never touches there; the reach is
        shortened to that end.
    """
    if reach_px is None:
        reach_px = SHARP_PX if rng.random() < SHARP else REACH_PX
    reach = log_between(rng, *reach_px)
    kind = str(rng.choice(TIP_KINDS))
    seed = int(rng.integers(2**63))
    half = SIDE_PX // 2
    rim = np.ones((SIDE_PX, SIDE_PX), bool)
    rim[half - within_px + 1 : half + within_px, half - within_px + 1 : half + within_px] = False
    while True:
        heights = _centred(_single(np.random.default_rng(seed), kind, reach) * local)
        if heights[rim].max() <= -relief:
            return DrawnTip(heights, kind, reach)
        reach *= 0.85


def double_tip(rng: np.random.Generator, relief: float, local: float) -> DrawnTip:
    """Draw a tip with two apexes at any offset up to 16 pixels, the second low enough to be the second and high enough to touch.

    Parameters
    ----------
    rng, relief, local
        As for `blunt_tip`.
    """
    half, farthest = SIDE_PX // 2, 16
    one = functools.partial(blunt_tip, rng, relief, local, reach_px=(0.6, 9.0), within_px=half - farthest)
    first = one()
    other = one() if rng.random() < 0.6 else first
    angle, distance = between(rng, 0, 2 * np.pi), log_between(rng, 3.0, farthest)
    offset = np.rint([distance * np.sin(angle), distance * np.cos(angle)]).astype(int)
    drop = local * between(rng, 0.0, 0.8) ** 1.5
    padded = np.pad(other.heights, half, mode="edge")
    start = half - offset
    second = padded[start[0] : start[0] + SIDE_PX, start[1] : start[1] + SIDE_PX] - drop
    kind = f"{first.kind}+{other.kind}"
    both = np.maximum(first.heights, second)
    return DrawnTip(both, kind, first.scale_px, second_yx=(float(offset[0]), float(offset[1])))


def hackathon_tip(rng: np.random.Generator, relief: float) -> DrawnTip:
    """The tip of the hackathon's notebook: a Gaussian on a square kernel with an apex anywhere in its inner part.

    Its σ is 2 · radius · 24 px for a radius from U[0.02, 0.8), its apex from U[0.2, 0.8)² of the kernel, which shifts the image
    by up to 7 pixels. Its height is that of the surface, which the notebook scales to [0, 1]. Its apex is put at 0 here: a height
    offset cannot be known from an image.
    """
    size = HACKATHON_KERNEL_PX - 1
    sigma = 2 * between(rng, *HACKATHON_RADIUS) * size
    apex = rng.uniform(0.2, 0.8, 2) * size
    y, x = np.ogrid[: size + 1, : size + 1]
    bell = np.exp(-0.5 * ((y - apex[0]) ** 2 + (x - apex[1]) ** 2) / sigma**2)
    margin = (SIDE_PX - HACKATHON_KERNEL_PX) // 2
    heights = np.pad(relief * (bell - bell.max()), margin, constant_values=-np.inf)
    return DrawnTip(heights, "gaussian", sigma, apex_yx=(float(apex[0] - size / 2), float(apex[1] - size / 2)))


def gaussian_psf(rng: np.random.Generator) -> DrawnTip:
    """A point-spread function, round or elongated, as the hackathon's text says; weights that sum to 1."""
    sigma = log_between(rng, 0.7, 4.5)
    long = between(rng, 1.0, 1.6) if rng.random() < 0.4 else 1.0
    v, u = _turned(between(rng, 0, np.pi))
    weights = np.exp(-0.5 * ((v / sigma) ** 2 + (u / min(sigma * long, 6.0)) ** 2))
    return DrawnTip(weights / weights.sum(), "gaussian", sigma)


def _turned(angle: float) -> tuple[Field, Field]:
    half = SIDE_PX // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    return np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x


def _single(rng: np.random.Generator, kind: str, reach: float) -> Field:
    """Heights of a tip that is 1 below its apex at the distance ``reach``, averaged over directions."""
    v, u = _turned(between(rng, 0, 2 * np.pi))
    norm = 2.0
    if kind == "pyramid":
        norm = between(rng, 6, 14)
        r = np.abs(v) ** norm + np.abs(u) ** norm
    else:
        r = v**2 + u**2
    r = r ** (1 / norm)
    # A tilted or worn tip is steeper on one side; an oval one along one axis. Level lines stay star-shaped.
    phi = np.arctan2(v, u)
    lean, oval = between(rng, 0, 0.5) * (rng.random() < 0.6), between(rng, 0, 0.35) * (rng.random() < 0.6)
    r = r * (1 + lean * np.cos(phi - between(rng, 0, 6.3)) + oval * np.cos(2 * phi - between(rng, 0, 6.3))) / reach
    if kind == "flattened":
        flat = between(rng, 0.3, 0.8)
        depth = (np.maximum(r - flat, 0) / (1 - flat)) ** between(rng, 1.0, 2.0) + 1e-3 * r
    elif kind == "power":
        depth = r ** between(rng, 1.0, 4.0)
    elif kind in ("cone", "pyramid"):
        rounding = log_between(rng, 0.02, 0.6)
        depth = (np.sqrt(r**2 + rounding**2) - rounding) / (np.sqrt(1 + rounding**2) - rounding)
    elif kind == "sphere":
        depth = _cap_and_cone(r, radius=between(rng, 0.6, 1.0), touch=between(rng, 0.6, 0.95))
    else:
        depth = r**2
    if kind == "irregular":
        bumps = self_affine(rng, r.shape, hurst=0.8, correlation=max(2 * reach, 4.0), shortest=max(reach / 2, 2.0))
        depth = depth + between(rng, 0.05, 0.35) * bumps * np.minimum(r, 1.5)
        for _ in range(int(rng.integers(0, 4))):  # further asperities on the blunt end
            y, x = rng.normal(0, 0.6, 2)
            side = np.hypot(v / reach - y, u / reach - x)
            depth = np.minimum(depth, between(rng, 0.02, 0.7) + (side / between(rng, 0.15, 0.6)) ** 2)
    return np.asarray(-depth)


def _cap_and_cone(r: Field, radius: float, touch: float) -> Field:
    """Depth of a cap of a sphere that goes over into its tangent cone at ``touch`` of the radius; 1 at r = 1."""
    edge = touch * radius
    slope = edge / np.sqrt(radius**2 - edge**2)

    def depth(distance: Field) -> Field:
        cap = radius - np.sqrt(radius**2 - np.minimum(distance, edge) ** 2)
        return np.asarray(cap + slope * np.maximum(distance - edge, 0))

    return depth(r) / float(depth(np.ones(1))[0])


def _centred(heights: Field) -> Field:
    """The same with its highest pixel at 0 in the middle; what comes in from beyond the edge repeats the edge."""
    half = SIDE_PX // 2
    apex = np.unravel_index(int(np.argmax(heights)), heights.shape)
    moved = ndimage.shift(heights, (half - int(apex[0]), half - int(apex[1])), order=0, mode="nearest")
    return np.asarray(moved - moved.max())
