"""A simulated surface with its truth: the image, its defects, its steps and its terraces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from spm_training.simulate.scene import in_frame

__all__ = [
    "DEFECT_CLASSES",
    "NOISE_LEVELS",
    "REFERENCE_DEPTH_NM",
    "REFERENCE_SIGMA_NM",
    "REQUIRED_DETECTABILITY",
    "Defects",
    "SurfaceScene",
    "white_noise_nm",
]

#: Classes of point defects, by what they are and how they look. Halos of dopants come in two: bright and dark.
DEFECT_CLASSES: tuple[str, ...] = (
    "vacancy",
    "dimer-vacancy",
    "adatom",
    "dangling-bond",
    "dangling-bond-pair",
    "dopant-bright",
    "dopant-dark",
    "molecule",
    "cluster",
)

#: The defect that states the noise of an image whatever its defects: a Gaussian dip as a single vacancy leaves it.
REFERENCE_DEPTH_NM, REFERENCE_SIGMA_NM = 0.040, 0.20

#: Range of d′ of the reference defect by name of the noise level. At 0.05 nm per pixel they are 2–5, 6–14 and 18–47 pm
#: of white noise per pixel.
NOISE_LEVELS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"clear": (60.0, 140.0), "medium": (20.0, 45.0), "low": (6.0, 16.0)}
)

#: A defect below this d′ cannot be told from the noise of an image with 10⁴ places: it may be found or not.
REQUIRED_DETECTABILITY = 5.0


def white_noise_nm(detectability: float, pixel_size_nm: float) -> float:
    """Standard deviation of the white noise, in nm, in which the reference defect has this d′.

    The matched filter collects ``Σ δ² = π · (σ / pixel)² · depth²`` from a Gaussian dip.
    """
    return float(np.sqrt(np.pi) * REFERENCE_DEPTH_NM * REFERENCE_SIGMA_NM / (pixel_size_nm * detectability))


@dataclass(frozen=True, eq=False)
class Defects:
    """The defects of one image.

    Parameters
    ----------
    yx_px
        ``(N, 2)`` float64 centres in pixels; some lie outside the image, by no more than their radius.
    kind
        ``(N,)`` int32 index into `DEFECT_CLASSES`.
    radius_px
        ``(N,)`` float64 radius of the circle that holds 95 % of the squared difference that the defect makes; of a Gaussian
        1.73 σ.
    height_nm
        ``(N,)`` float64 largest difference that the defect makes to the noise-free image; negative where it is a depression.
    detectability
        ``(N,)`` float64 d′: the root of the sum of the squared difference that it makes inside the image, over the standard
        deviation of the white noise.
    cut
        ``(N,)`` bool: the circle reaches beyond the image.
    ghost
        ``(N,)`` bool: the shadow that the second apex of a double tip throws; no defect of the surface.
    """

    yx_px: NDArray[np.float64]
    kind: NDArray[np.int32]
    radius_px: NDArray[np.float64]
    height_nm: NDArray[np.float64]
    detectability: NDArray[np.float64]
    cut: NDArray[np.bool_]
    ghost: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.yx_px)

    @property
    def names(self) -> list[str]:
        """Class of each."""
        return [DEFECT_CLASSES[kind] for kind in self.kind]


@dataclass(frozen=True, eq=False)
class SurfaceScene:
    """A simulated constant-current image with its truth.

    Parameters
    ----------
    image
        ``(H, W)`` float32 heights in nm, as a microscope would save them (not levelled).
    clean
        ``(H, W)`` float32 nm: the same without noise, line offsets, scars and quantisation. Defects, steps, the tip, tilt and
        bow are in it.
    pristine
        ``(H, W)`` float32 nm: the clean image of the same surface without its defects.
    jumps
        ``(H, W)`` float32 nm: what lasting changes of the apex add to the image; in none of the clean ones.
    pixel_size_nm
        Side of a pixel.
    defects
        The point defects.
    steps
        ``(H, W)`` bool: pixels at the edge of a terrace, on either side.
    terrace
        ``(H, W)`` int32 height of the terrace in steps, 0 for the lowest. Around a screw dislocation one terrace winds into
        the next: there the index changes along a ray without a step.
    orientation_deg
        ``(H, W)`` float32 direction of a short lattice vector (on Si(001): of the dimer rows), from the x axis towards the y
        axis, in [0, 180).
    surface
        Material and reconstruction in words.
    family
        Name of the family, one of `FAMILIES`.
    detectability
        d′ of the reference defect in the white noise of this image.
    white_noise_nm
        Standard deviation of the white noise.
    """

    image: NDArray[np.float32]
    clean: NDArray[np.float32]
    pristine: NDArray[np.float32]
    jumps: NDArray[np.float32]
    pixel_size_nm: float
    defects: Defects
    steps: NDArray[np.bool_]
    terrace: NDArray[np.int32]
    orientation_deg: NDArray[np.float32]
    surface: str
    family: str
    detectability: float
    white_noise_nm: float

    @property
    def required(self) -> NDArray[np.bool_]:
        """``(N,)`` whether each defect must be found: no ghost, its centre in the image, its d′ high enough.

        Evaluation neither requires nor punishes the others.
        """
        inside = in_frame(self.defects.yx_px, self.image.shape)
        return inside & ~self.defects.ghost & (self.defects.detectability >= REQUIRED_DETECTABILITY)

    @property
    def noise(self) -> str:
        """Name of the noise level whose range holds d′, or the nearest one."""

        def distance(name: str) -> float:
            low, high = NOISE_LEVELS[name]
            return abs(float(np.log(np.sqrt(low * high) / self.detectability)))

        return min(NOISE_LEVELS, key=distance)
