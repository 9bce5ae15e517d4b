"""Classical denoisers to compare with, each a function of an image and the noise's standard deviation.

Every peer is a list of candidates, one per setting; `tuned` takes the one with the highest mean PSNR on pairs of noisy and clean
validation images. Library defaults prove nothing. All peers answer in the unit of the image and commute with its gain and offset.

BM3D (PyPI ``bm3d``, Mäkinen, Azzari and Foi 2020) is free for research only and not a dependency: `available` says which
peers can run here.
"""

from __future__ import annotations

import itertools
import unittest.mock
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.integrate import trapezoid
from skimage.morphology import disk
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from spm_runtime.pipelines.fourier_wiener import fourier_wiener
from spm_training.peers.optional import import_peer, is_installed

__all__ = [
    "PEERS",
    "Bm3d",
    "Denoiser",
    "Fourier",
    "Gaussian",
    "Median",
    "NonLocalMeans",
    "TotalVariation",
    "Wavelet",
    "available",
    "tuned",
]

Pixels: TypeAlias = NDArray[np.float32]
#: ``(H, W)`` float32 image and the standard deviation of its noise in the same unit, to the ``(H, W)`` float32 denoised image.
Denoiser: TypeAlias = Callable[[Pixels, float], Pixels]


@dataclass(frozen=True)
class Gaussian:
    """Gaussian filter; ``blur_px`` is its σ."""

    blur_px: float

    def __call__(self, image: Pixels, sigma: float) -> Pixels:
        """The denoised image; the strength of the noise is not used."""
        return np.asarray(ndimage.gaussian_filter(image, self.blur_px, mode="reflect"), np.float32)


@dataclass(frozen=True)
class Median:
    """Median over a disc of ``radius_px``."""

    radius_px: int

    def __call__(self, image: Pixels, sigma: float) -> Pixels:
        """The denoised image; the strength of the noise is not used."""
        return np.asarray(ndimage.median_filter(image, footprint=disk(self.radius_px), mode="reflect"), np.float32)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class NonLocalMeans:
    """Non-local means (Buades, Coll and Morel 2005): patches of ``patch_px``, cut-off ``strength`` · σ."""

    strength: float
    patch_px: int
    distance_px: int = 14

    def __call__(self, image: Pixels, sigma: float) -> Pixels:
        """The denoised image."""
        found = denoise_nl_means(
            image, self.patch_px, self.distance_px, h=self.strength * sigma, sigma=sigma, fast_mode=True
        )
        return np.asarray(found, np.float32)


@dataclass(frozen=True)
class TotalVariation:
    """Total variation (Rudin, Osher and Fatemi 1992; Chambolle 2004), weight ``strength`` · σ."""

    strength: float

    def __call__(self, image: Pixels, sigma: float) -> Pixels:
        """The denoised image."""
        found = denoise_tv_chambolle(image.astype(np.float64), self.strength * sigma, eps=1e-4, max_num_iter=200)  # type: ignore[no-untyped-call]
        return np.asarray(found, np.float32)


@dataclass(frozen=True)
class Wavelet:
    """Wavelet shrinkage (BayesShrink: Chang, Yu and Vetterli 2000), averaged over ``shifts + 1`` shifts along both axes."""

    strength: float
    wavelet: str
    shifts: int = 3

    def __call__(self, image: Pixels, sigma: float) -> Pixels:
        """The denoised image."""
        turns = list(itertools.product(range(self.shifts + 1), repeat=2))
        total = np.zeros(image.shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Level value of .* is too high")  # small images
            for turn in turns:
                turned = np.roll(image.astype(np.float64), turn, axis=(0, 1))
                found = denoise_wavelet(turned, self.strength * sigma, self.wavelet, rescale_sigma=False)
                total += np.roll(found, (-turn[0], -turn[1]), axis=(0, 1))
        return np.asarray(total / len(turns), np.float32)


@dataclass(frozen=True)
class Fourier:
    """Wiener filter of the waves in windows of ``window_px``, as `fourier_wiener` has it: what microscopists do to a lattice."""

    window_px: int
    strength: float

    def __call__(self, image: Pixels, sigma: float) -> Pixels:
        """The denoised image; the strength of the noise is not used, the spectrum tells it."""
        return fourier_wiener(image, self.window_px, strength=self.strength)


@dataclass(frozen=True)
class Bm3d:
    """Block matching and collaborative filtering of the groups (Dabov et al. 2007).

    Parameters
    ----------
    strength
        Factor on σ.
    lines
        Share of the variance that is noise along the fast axis, told to the method as a power spectrum; 0 for white noise.
    length_px
        Correlation length of that noise.
    """

    strength: float
    lines: float = 0.0
    length_px: float = 64.0

    def __call__(self, image: Pixels, sigma: float) -> Pixels:
        """The denoised image."""
        bm3d = import_peer("bm3d", "pip install bm3d (free for research, not for commerce)")
        level = self.strength * sigma
        noise = level if self.lines == 0 else level**2 * self._spectrum(image.shape) * image.size
        middle = float(image.mean())
        # For noise with a spectrum the library calls a function that NumPy 2 has renamed.
        with unittest.mock.patch.object(np, "trapz", trapezoid, create=True):
            return np.asarray(bm3d.bm3d(image.astype(np.float64) - middle, noise) + middle, np.float32)

    def _spectrum(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Power spectrum with mean 1: white, and lines that are first-order autoregressive along x and independent along y."""
        kept = np.exp(-1 / self.length_px)
        along = (1 - kept**2) / np.abs(1 - kept * np.exp(-2j * np.pi * np.fft.fftfreq(shape[1]))) ** 2
        mixed = (1 - self.lines) + self.lines * along / along.mean()
        return np.broadcast_to(mixed, shape).copy()


#: Candidates by the name of the peer, in the order of the tables.
PEERS: Mapping[str, tuple[Denoiser, ...]] = MappingProxyType(
    {
        "Gaussian": tuple(Gaussian(blur) for blur in (0.35, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.8, 2.1, 2.5)),
        "median": tuple(Median(radius) for radius in (1, 2, 3, 4)),
        "non-local means": tuple(
            NonLocalMeans(*one) for one in itertools.product((0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 1.1), (5, 7, 11))
        ),
        "total variation": tuple(TotalVariation(strength) for strength in (0.3, 0.5, 0.7, 0.9, 1.2, 1.6, 2.0)),
        "wavelet": tuple(
            Wavelet(*one) for one in itertools.product((0.7, 1.0, 1.4, 2.0, 2.8), ("db2", "sym4", "coif2"))
        ),
        "Wiener filter in Fourier space": tuple(
            Fourier(*one) for one in itertools.product((16, 32, 64, 128, 256), (1.0, 1.5, 2.0, 3.0, 4.5, 6.0))
        ),
        "BM3D": tuple(Bm3d(strength) for strength in (1.0, 1.25, 1.5, 1.8, 2.2, 2.7, 3.3)),
        "BM3D, told of the lines": tuple(
            Bm3d(*one) for one in itertools.product((0.9, 1.1, 1.35, 1.6), (0.06, 0.12, 0.25, 0.5, 0.75), (64.0, 256.0))
        ),
    }
)

#: Package that a peer needs beyond the extra `train`, and how to install it.
_NEEDS = {"wavelet": ("pywt", "pip install PyWavelets"), "BM3D": ("bm3d", "pip install bm3d")}


def available() -> tuple[dict[str, tuple[Denoiser, ...]], dict[str, str]]:
    """The peers that can run in this environment, and why the others cannot, both by name."""
    there, missing = {}, {}
    for name, candidates in PEERS.items():
        package, remedy = _NEEDS.get(name.partition(",")[0], ("skimage", ""))
        if is_installed(package):
            there[name] = candidates
        else:
            missing[name] = f"{package} is not installed: {remedy}"
    return there, missing


def tuned(candidates: Iterable[Denoiser], pairs: Sequence[tuple[Pixels, Pixels]]) -> Denoiser:
    """The candidate with the highest mean PSNR.

    Parameters
    ----------
    candidates
        One per setting.
    pairs
        Noisy and clean validation images; a candidate is told the root mean square of their difference as the noise's σ.
    """

    def loss(candidate: Denoiser) -> float:
        return float(
            np.mean([np.log(_mse(candidate(noisy, _mse(noisy, clean) ** 0.5), clean)) for noisy, clean in pairs])
        )

    return min(candidates, key=loss)


def _mse(one: Pixels, other: Pixels) -> float:
    return float(np.mean((one.astype(np.float64) - other) ** 2))
