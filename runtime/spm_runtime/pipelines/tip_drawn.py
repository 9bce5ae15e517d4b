"""From what a network says of a tip to the tip: the drawn picture, with the second apex where one was found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.pipelines.relief import EVIDENCE, HALF, PAIR_HEIGHTS, TIP_PX

__all__ = ["CODE_WIDTH", "TIP_FAMILIES", "tip_code", "with_second_apex"]

#: Number of the kinds of corruption that a network tells apart.
TIP_FAMILIES = 4
#: Numbers at the end of the evidence, as constant maps.
_NUMBERS = 2
#: Side of the blocks over which the visible tip is averaged for the code.
_BLOCK = 8
#: Length of what `tip_code` returns.
CODE_WIDTH = TIP_FAMILIES + _NUMBERS + (-(-TIP_PX // _BLOCK)) ** 2
#: Probability of a second apex, within a pixel of the likeliest place, above which it is drawn.
LEAST_CHANCE = 0.3
#: Where the evidence of pairs begins.
_FIRST_PAIR = next(number for number, name in enumerate(EVIDENCE) if name.startswith("pair"))


def with_second_apex(
    visible: NDArray[np.float32], second: NDArray[np.float32], evidence: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Draw the second apex, of the shape of the first, where a network is sure enough of it.

    Parameters
    ----------
    visible
        ``(TIP_PX, TIP_PX)`` float32, the tip as `spm_runtime.pipelines.relief.visible_tip` pictures it.
    second
        ``(TIP_PX, TIP_PX)`` float32, probability that the second apex lies at a pixel; in the middle, that there is none.
    evidence
        ``(E, TIP_PX, TIP_PX)`` as `spm_runtime.pipelines.relief.tip_evidence` makes it; further maps may follow.

    Returns
    -------
    A new picture, nowhere darker than the old one. How much lower the second apex is, the evidence says: it is the pair of points
    at this offset that takes the least away from the image.
    """
    away = second.copy()
    away[HALF - 1 : HALF + 2, HALF - 1 : HALF + 2] = 0
    y, x = np.unravel_index(int(np.argmax(away)), away.shape)
    if not float(away[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].sum()) >= LEAST_CHANCE:  # NaN is no chance
        return visible.copy()
    pairs = evidence[_FIRST_PAIR : _FIRST_PAIR + len(PAIR_HEIGHTS), y, x]
    lower = PAIR_HEIGHTS[int(np.argmin(pairs))]
    first = visible.copy()
    first[HALF, HALF] = 1  # an apex is an apex, whatever the picture lacks to it
    moved = ndimage.shift(first, (int(y) - HALF, int(x) - HALF), order=0)
    return np.asarray(np.maximum(visible, moved * np.float32(np.exp(-lower))), np.float32)


def tip_code(
    families: NDArray[np.float32], evidence: NDArray[np.float32], visible: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the networks that go on from a tip are told of it.

    Parameters
    ----------
    families
        ``(TIP_FAMILIES,)`` probabilities of the kinds of corruption.
    evidence, visible
        As for `with_second_apex`; of the evidence the noise and the local height count.

    Returns
    -------
    ``(CODE_WIDTH,)`` float32: the probabilities, noise and local height, and the picture averaged over blocks.
    """
    numbers = evidence[len(EVIDENCE) - _NUMBERS : len(EVIDENCE), 0, 0]
    rim = -TIP_PX % _BLOCK
    padded = np.pad(visible, ((0, rim), (0, rim)))
    side = len(padded) // _BLOCK
    blocks = padded.reshape(side, _BLOCK, side, _BLOCK).mean(axis=(1, 3))
    return np.concatenate([families, numbers, blocks.ravel()]).astype(np.float32)
