"""The images on which denoisers are scored, and those on which their peers are tuned; the two never share a draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spm_runtime.pipelines.denoise_view import denoise_view
from spm_runtime.scan import Scan
from spm_training.data import Split, rng_for
from spm_training.peers.denoise_scores import draw_lattices
from spm_training.simulate.lattice_pairs import without_noise
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, LatticeScene
from spm_training.simulate.surfaces import simulate_surface

__all__ = [
    "DENOISE_SEED",
    "KINDS",
    "SETTINGS",
    "SURFACES",
    "DenoiseOptions",
    "Shown",
    "SurfaceImage",
    "conditions",
    "scan_of",
    "setting_of",
]

#: Seed of the evaluation set; changing it would make the published tables incomparable.
DENOISE_SEED = 77_007
#: Pixel size of the scenes: some tens of pixels for a lattice unit of half a nanometre.
_PIXEL_NM = 0.03

#: What is not a lattice cut by a plane: terraces with point defects, as `spm_training.simulate.surfaces` has them.
SURFACES = "surfaces"
#: All that an image can show.
KINDS: tuple[str, ...] = (*LATTICES, SURFACES)
#: The noise of surfaces at the levels of `NOISE_LEVELS`, by its name in `spm_training.simulate.surfaces`.
_SURFACE_NOISE = MappingProxyType({"low": "clear", "medium": "medium", "high": "low"})
#: Peers have settings of their own for each of these: a level of noise, of lattices or of surfaces.
SETTINGS: tuple[str, ...] = (*NOISE_LEVELS, *(f"{level}, {SURFACES}" for level in NOISE_LEVELS))


class SurfaceImage(NamedTuple):
    """A surface that is no lattice: level, terraces too, in units of its relief without noise.

    ``image`` and ``clean`` ``(H, W)`` float32, with noise and as `spm_training.simulate.lattice_pairs.without_noise` has it.
    """

    image: NDArray[np.float32]
    clean: NDArray[np.float32]
    name: str = SURFACES

    @property
    def noise_rms(self) -> float:
        """Root mean square of what stands between the image and the clean one."""
        return float(np.sqrt(np.mean((self.image - self.clean) ** 2)))


class Shown(NamedTuple):
    """An image of the set: its level of noise out of `NOISE_LEVELS`, its number among those of its kind, and what it shows."""

    level: str
    number: int
    scene: LatticeScene | SurfaceImage


def setting_of(level: str, name: str) -> str:
    """Which of `SETTINGS` an image asks for, by its level of noise and its kind."""
    return f"{level}, {SURFACES}" if name == SURFACES else level


@dataclass(frozen=True)
class DenoiseOptions:
    """Which images are scored.

    Parameters
    ----------
    images
        Images of every kind at every level of noise.
    side_px
        Side of an image.
    names
        Names out of `KINDS`.
    defects
        Of lattices: share of the sites that are vacancies, and of those that carry an adatom.
    """

    images: int = 4
    side_px: int = 256
    names: tuple[str, ...] = KINDS
    defects: float = 0.01

    @property
    def lattices(self) -> tuple[str, ...]:
        """The lattices among the names."""
        return tuple(name for name in self.names if name != SURFACES)

    @property
    def total(self) -> int:
        """Number of all images."""
        return self.images * len(self.names) * len(NOISE_LEVELS)

    def shown(self, level: str, split: Split = Split.EVALUATION) -> Iterator[Shown]:
        """The images of one level of noise; the lattices are the same at every level."""
        scenes = draw_lattices(
            DENOISE_SEED,
            split,
            NOISE_LEVELS[level],
            names=self.lattices,
            count=self.images,
            side_px=self.side_px,
            vacancies=self.defects,
            adatoms=self.defects,
        )
        for number, scene in enumerate(scenes):
            yield Shown(level, number % self.images, scene)
        for number in range(self.images if SURFACES in self.names else 0):
            yield Shown(level, number, _surface(level, number, split, self.side_px))


def _surface(level: str, number: int, split: Split, side_px: int) -> SurfaceImage:
    rng = rng_for(DENOISE_SEED, split, len(LATTICES), number)
    surface = simulate_surface(rng, shape=(side_px, side_px), noise=_SURFACE_NOISE[level])
    clean = without_noise(surface)
    # What levels the image levels the clean one: a plane is no noise.
    background, scale = denoise_view(surface.image).background, denoise_view(clean).scale
    image, truth = (((one - background) / scale).astype(np.float32) for one in (surface.image, clean))
    return SurfaceImage(image, truth)


def scan_of(image: NDArray[np.float32]) -> Scan:
    """An image as a reader gives it: heights with a pixel size."""
    return Scan(image, unit="nm", pixel_size_nm=(_PIXEL_NM, _PIXEL_NM), modality="stm", channel="Z")


def conditions(options: DenoiseOptions) -> str:
    """What was scored and how, below a table."""
    levels = "; ".join(
        f"{level}: white noise of {np.hypot(noise.thermal, noise.shot):.2f}, striations of {noise.striation:.2f}"
        for level, noise in NOISE_LEVELS.items()
    )
    kinds = []
    if options.lattices:
        kinds.append(
            f"Lattices: an atom in the plane has height 1. {levels} (rms). {100 * options.defects:g} % of the sites are "
            "vacancies and as many carry an adatom: of what these add to the clean image, the share that is left in the answer."
        )
    if SURFACES in options.names:
        kinds.append(
            "Surfaces: terraces with point defects, level; their relief has height 1. White noise by the detectability of a "
            "vacancy: low 60 to 140, medium 20 to 45, high 6 to 16; offsets of lines and scars too."
        )
    return (
        f"Simulated images of {options.side_px}×{options.side_px} px that no training draws, "
        f"{options.images} of every kind and level of noise, against the clean image. {' '.join(kinds)} Means over images.\n"
    )
