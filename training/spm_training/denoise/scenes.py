"""The images on which denoisers are scored, and those on which their peers are tuned; the two never share a draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spm_runtime.scan import Scan
from spm_training.data import Split
from spm_training.peers.denoise_scores import draw_lattices
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, LatticeScene

__all__ = ["DENOISE_SEED", "DenoiseOptions", "Shown", "conditions", "scan_of"]

#: Seed of the evaluation set; changing it would make the published tables incomparable.
DENOISE_SEED = 77_007
#: Pixel size of the scenes: some tens of pixels for a lattice unit of half a nanometre.
_PIXEL_NM = 0.03


class Shown(NamedTuple):
    """An image of the set: its level of noise out of `NOISE_LEVELS`, its number among those of its lattice, and what it shows."""

    level: str
    number: int
    scene: LatticeScene


@dataclass(frozen=True)
class DenoiseOptions:
    """Which images are scored.

    Parameters
    ----------
    images
        Images of every lattice at every level of noise.
    side_px
        Side of an image.
    names
        Names out of `LATTICES`.
    defects
        Share of the sites that are vacancies, and of those that carry an adatom.
    """

    images: int = 4
    side_px: int = 256
    names: tuple[str, ...] = tuple(LATTICES)
    defects: float = 0.01

    @property
    def total(self) -> int:
        """Number of all images."""
        return self.images * len(self.names) * len(NOISE_LEVELS)

    def shown(self, level: str, split: Split = Split.EVALUATION) -> Iterator[Shown]:
        """The images of one level of noise; the surfaces are the same at every level."""
        scenes = draw_lattices(
            DENOISE_SEED,
            split,
            NOISE_LEVELS[level],
            names=self.names,
            count=self.images,
            side_px=self.side_px,
            vacancies=self.defects,
            adatoms=self.defects,
        )
        for number, scene in enumerate(scenes):
            yield Shown(level, number % self.images, scene)


def scan_of(image: NDArray[np.float32]) -> Scan:
    """An image as a reader gives it: heights with a pixel size."""
    return Scan(image, unit="nm", pixel_size_nm=(_PIXEL_NM, _PIXEL_NM), modality="stm", channel="Z")


def conditions(options: DenoiseOptions) -> str:
    """What was scored and how, below a table."""
    levels = "; ".join(
        f"{level}: white noise of {np.hypot(noise.thermal, noise.shot):.2f}, striations of {noise.striation:.2f}"
        for level, noise in NOISE_LEVELS.items()
    )
    return (
        f"Simulated images of {options.side_px}×{options.side_px} px that no training draws, "
        f"{options.images} of every lattice and level of noise, against the clean image; an atom in the plane has "
        f"height 1. {levels} (rms). {100 * options.defects:g} % of the sites are vacancies and as many carry an adatom: "
        "of what these add to the clean image, the share that is left in the answer. Means over images.\n"
    )
