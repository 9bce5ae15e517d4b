"""What the readers of scanned-probe files share about channels: scan direction in a title, and whether heights vary."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from spm_runtime.levelling import fit_plane
from spm_runtime.scan import Direction

__all__ = ["carries_no_image", "direction_of"]

#: A title that ends with a direction: ``HeightRetrace``, ``Z (Forward)``, ``Topography [bwd]``.
TITLE = re.compile(
    r"(?P<name>.*?)[\s_:,\-]*[(\[]?\s*(?P<word>forward|fwd|trace|backward|bwd|retrace)\s*[)\]]?\s*", re.IGNORECASE
)

#: A longer title is damage, and would keep the pattern busy.
MAX_TITLE = 200

#: Pixels per side that are enough to tell a plane from an image.
PLANE_SIDE = 256

#: Heights vary less than this about a plane when the tip was held at constant height. Metres.
FLAT_M = 1e-12


def direction_of(title: str) -> tuple[str, Direction | None]:
    """Split the scan direction off the title of a channel.

    Parameters
    ----------
    title
        As a program wrote it: ``HeightRetrace``, ``Z (Forward)``; cut after 200 characters.

    Returns
    -------
    name
        The title without the direction.
    direction
        ``forward`` for forward, fwd and trace, ``backward`` for backward, bwd and retrace, None when it does not say.
    """
    title = title.strip()[:MAX_TITLE]
    found = TITLE.fullmatch(title)
    if found is None or not found["name"]:
        return title, None
    forward = found["word"].casefold() in {"forward", "fwd", "trace"}
    return found["name"], "forward" if forward else "backward"


def carries_no_image(heights_m: NDArray[np.float32], *, held: bool) -> bool:
    """Whether a topography says nothing about the surface.

    Parameters
    ----------
    heights_m
        ``(H, W)`` in metres; NaN where missing.
    held
        Whether the feedback was off while the image was taken (constant height). Then the tip may have followed the tilt
        of the sample, and a plane is no image either.

    Returns
    -------
    bool
        True where the heights are all the same, and where they are a plane to a picometre and the tip was held.
    """
    measured = heights_m[np.isfinite(heights_m)]
    if not measured.size or np.all(measured == measured[0]):
        return True
    return held and _rms_about_plane(heights_m) < FLAT_M


def _rms_about_plane(image: NDArray[np.float32]) -> float:
    """Root mean square about the least-squares plane; a large image is sampled."""
    rows, columns = (max(1, side // PLANE_SIDE) for side in image.shape)
    sample = image[::rows, ::columns].astype(np.float64)
    there = np.isfinite(sample)
    if not there.any():
        return 0.0
    # Around zero first: float32 holds a picometre on top of a micrometre only just.
    sample -= float(np.mean(sample[there]))
    residual = sample - fit_plane(sample.astype(np.float32))
    return float(np.sqrt(np.mean(residual[there] ** 2)))
