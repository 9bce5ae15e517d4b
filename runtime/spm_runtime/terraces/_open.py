"""Steps that end in the middle of a terrace, as at a screw dislocation: no region has them for its border."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.terraces._edges import StepResponse

__all__ = ["open_steps"]

#: Such a step is so many times as high as the lowest one, and as what is seen on most of the surface: nothing is known of what
#: lies on its sides.
HEIGHT, ABOVE = 1.5, 6.0

#: It is so long, and its ends lie so far apart as a share of its length.
LENGTH_NM, STRAIGHT = 4.0, 0.6

_AROUND = np.ones((3, 3))


def open_steps(
    response: StepResponse, known: NDArray[np.bool_], *, least: float, pixel_size_nm: float
) -> NDArray[np.bool_]:
    """Crests of the response that run from the frame into the image and end there.

    Parameters
    ----------
    response
        What the edge filter saw.
    known
        ``(H, W)`` bool: edges of terraces.
    least
        Height of the lowest step in the unit of the image.
    pixel_size_nm
        Side of a pixel.

    Returns
    -------
    ``(H, W)`` bool. A rim meets the frame at both of its ends, or nowhere: it is none.
    """
    limit = max(HEIGHT * least, ABOVE * float(np.median(response.strength)))
    line = response.crest & (response.strength >= limit)
    if known.any():
        line &= ndimage.distance_transform_edt(~known) > 2 * response.width_px
    pieces, _ = ndimage.label(line, _AROUND)
    frame = np.zeros(line.shape, bool)
    near = max(round(response.width_px), 1)
    frame[:near] = frame[-near:] = frame[:, :near] = frame[:, -near:] = True
    found = np.zeros(line.shape, bool)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        length = np.hypot(*(side.stop - side.start for side in box))
        if length * pixel_size_nm < LENGTH_NM:
            continue
        piece = pieces[box] == number
        ends = ndimage.label(piece & frame[box], _AROUND)[1]
        width = max(float(ndimage.distance_transform_edt(np.pad(piece, 1)).max()) * 2 - 1, 1.0)
        if ends == 1 and length >= STRAIGHT * piece.sum() / width:
            found[box] |= piece
    return found
