"""What the scanner and the electronics add after the tip: noise, line offsets, scars, bow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_training.simulate.tips.primitives import log_between

__all__ = ["Disturbance", "disturb", "draw_disturbance"]


@dataclass(frozen=True)
class Disturbance:
    """Strengths, as shares of the relief of the surface.

    Parameters
    ----------
    white
        Standard deviation of the noise of a pixel.
    lines
        Standard deviation of the offset of a line.
    drift
        Standard deviation of what wanders slowly along the slow-scan axis.
    scars
        Number of horizontal streaks per hundred lines; each is up to 0.3 of the relief high.
    smooth
        Correlation length of the pixel noise along a line in pixels: a feedback loop slower than the pixels; 0 is white.
    """

    white: float = 0.01
    lines: float = 0.005
    drift: float = 0.0
    scars: float = 0.0
    smooth: float = 0.0


def draw_disturbance(rng: np.random.Generator) -> Disturbance:
    """Draw strengths, from hardly visible to those of a bad scan."""
    return Disturbance(
        white=log_between(rng, 0.001, 0.03),
        lines=log_between(rng, 0.0005, 0.02),
        drift=log_between(rng, 0.001, 0.05) * (rng.random() < 0.5),
        scars=log_between(rng, 0.3, 8.0) * (rng.random() < 0.35),
        smooth=float(rng.uniform(0.3, 1.0)) * (rng.random() < 0.3),
    )


def disturb(
    rng: np.random.Generator, heights: NDArray[np.float32], relief: float, disturbance: Disturbance
) -> NDArray[np.float32]:
    """Add everything to an image.

    Parameters
    ----------
    rng
        The only source of randomness.
    heights
        ``(H, W)`` float32 as the tip made them; not changed.
    relief
        Height that the strengths are shares of, in the unit of the heights.
    disturbance
        The strengths.
    """
    rows, columns = heights.shape
    noise = rng.standard_normal(heights.shape)
    if disturbance.smooth:
        noise = ndimage.gaussian_filter1d(noise, disturbance.smooth, axis=1)
    added = disturbance.white * noise + disturbance.lines * rng.standard_normal((rows, 1))
    if disturbance.drift:
        wander = ndimage.gaussian_filter1d(rng.standard_normal(rows), 0.05 * rows + 1)
        added += disturbance.drift * (wander / max(float(wander.std()), 1e-9))[:, None]
    for _ in range(int(rng.poisson(disturbance.scars * rows / 100))):
        row, start = int(rng.integers(rows)), int(rng.integers(-columns // 4, columns))
        stop = start + int(log_between(rng, 4, columns))
        rise = 0.3 * rng.standard_normal() * rng.random()
        added[row : row + int(rng.choice([1, 1, 2])), max(start, 0) : max(stop, 0)] += rise
    return (heights + relief * added).astype(np.float32)
