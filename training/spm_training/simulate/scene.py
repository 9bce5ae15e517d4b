"""A simulated image with its truth, and the columns that it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOISE_LEVELS", "REQUIRED_HEIGHT", "Columns", "Scene", "in_frame"]

#: Range of d′ by name of the noise level, as the tables report them.
NOISE_LEVELS = {"clear": (20.0, 36.0), "medium": (7.5, 11.0), "low": (3.0, 4.6)}

#: A column lower than this share of the full height may be found or not (light columns beside heavy ones).
REQUIRED_HEIGHT = 0.4

#: Columns up to this share of the spacing outside the frame belong to the truth, as optional ones: the flank of such a column
#: shows, and whether its middle lies within or without is a matter of a fraction of a pixel.
BORDER = 0.5


@dataclass(frozen=True, eq=False)
class Scene:
    """A simulated image with its truth.

    Parameters
    ----------
    image
        ``(H, W)`` float32 in arbitrary units, as a microscope would save it (not levelled).
    yx_px
        ``(N, 2)`` float64 positions of every column inside the image and up to half a spacing outside; none where the columns
        are too broad to be told apart.
    required
        ``(N,)`` bool: False where a finder may, but need not, report the column (light, buried under an adsorbate, or outside).
        Training leaves the surroundings of those columns out of the loss; evaluation neither requires nor punishes them.
    sublattice
        ``(N,)`` int32 index of the site in its unit cell.
    crb_px
        ``(N,)`` float64 Cramér–Rao bound of the root mean square distance of each column in pixels, both axes together: that of
        an isolated column of known shape in the white noise of the image.
    spacing_px
        Mean nearest-neighbour distance of the required columns of the undisturbed structure, in pixels. Atoms without a lattice
        have none: theirs is their width (σ at the peak) over 0.21.
    width_px
        σ of a full-height column in pixels, from the curvature of its peak.
    detectability
        Matched-filter d′ of a full-height column in the white noise of the image.
    noise_px
        Standard deviation of the white noise relative to a full-height column.
    family
        Name of the arrangement.
    contrast
        ``stem`` or ``stm``.
    """

    image: NDArray[np.float32]
    yx_px: NDArray[np.float64]
    required: NDArray[np.bool_]
    sublattice: NDArray[np.int32]
    crb_px: NDArray[np.float64]
    spacing_px: float
    width_px: float
    detectability: float
    noise_px: float
    family: str
    contrast: str

    @property
    def noise(self) -> str:
        """Name of the noise level whose range holds d′, or the nearest one."""
        return min(NOISE_LEVELS, key=lambda name: abs(np.log(np.mean(NOISE_LEVELS[name]) / self.detectability)))


class Columns(NamedTuple):
    """Columns while a scene grows.

    Parameters
    ----------
    yx
        ``(N, 2)`` positions, in pixels once they are placed.
    height
        ``(N,)`` factor on the brightness of the column's kind.
    site
        ``(N,)`` int32 site in the unit cell.
    kind
        ``(N,)`` int32 index of the kind of column.
    """

    yx: NDArray[np.float64]
    height: NDArray[np.float64]
    site: NDArray[np.int32]
    kind: NDArray[np.int32]

    def shown(self, shape: tuple[int, int], spacing: float) -> Columns:
        """Those that leave a trace in the frame: inside, or up to `BORDER` spacings outside."""
        return self.keep(in_frame(self.yx, shape, margin_px=BORDER * spacing))

    def keep(self, mask: NDArray[np.bool_]) -> Columns:
        """Those where the mask is True."""
        return Columns(self.yx[mask], self.height[mask], self.site[mask], self.kind[mask])


def in_frame(yx_px: NDArray[np.float64], shape: tuple[int, int], *, margin_px: float = 0.0) -> NDArray[np.bool_]:
    """``(N,)`` whether ``(N, 2)`` positions lie on pixels of an image, which reach half a pixel beyond their centres.

    Parameters
    ----------
    yx_px
        Positions in pixels.
    shape
        ``(H, W)``.
    margin_px
        Width of a rim outside the image that counts as inside.
    """
    reach = 0.5 + margin_px
    return np.asarray(np.all((yx_px >= -reach) & (yx_px < np.asarray(shape) - 1 + reach), axis=1))
