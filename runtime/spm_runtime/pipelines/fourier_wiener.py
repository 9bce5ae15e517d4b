"""Noise taken away in Fourier space: what repeats over a window stands above the noise of its spectrum, and stays.

A lattice is a few peaks of a spectrum, noise is all of it. So a window of many periods tells them apart where no neighbourhood of
a pixel can: the filter of the field since its beginning, here with a noise level that the spectrum tells itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft

__all__ = ["STRENGTH", "fourier_wiener", "with_filtered", "without_residue"]

Image = NDArray[np.float32]

#: Power in units of the noise up to which nothing is left of a wave. White noise exceeds it in 5 % of all waves.
STRENGTH = 3.0
#: Windows in which `without_residue` looks, and the share of the white noise that it expects in an answer, at waves of
#: `RESIDUE_PERIOD_PX`; shorter ones have more of it. On validation images windows of 16 to 64 px and shares of 0.1 to 0.4 differ
#: by 0.1 dB on lattices. From real lattices with atoms 3 to 4 px apart 64 px and a share of 0.1 take least: 1 % of the power.
RESIDUE_WINDOW_PX, RESIDUE_SHARE, RESIDUE_PERIOD_PX = 64, 0.1, 4.0
#: Least power that is divided by.
_TINY = np.float32(1e-20)


def fourier_wiener(image: Image, window_px: int, *, strength: float = STRENGTH) -> Image:
    """Shrink every wave of every window by the share of noise in its power (an empirical Wiener filter).

    Windows overlap by half; their weights, a sine before and after, add up to one. The noise of a wave is the median of the power
    of all waves with the same frequency along the lines: as many as the window has rows, of which a lattice takes few. So noise
    that differs from line to line, strong at low frequencies along them, counts as noise too.

    Parameters
    ----------
    image
        ``(H, W)`` float32 without NaN; mirrored at its border.
    window_px
        Side of a window, even.
    strength
        What the noise is multiplied by before it is subtracted.

    Returns
    -------
    ``(H, W)`` float32.

    Raises
    ------
    ValueError
        If the side of a window is not even or below 4.

    Notes
    -----
    Source: J. S. Lim, A. V. Oppenheim, Enhancement and bandwidth compression of noisy speech, Proc. IEEE 67 (1979) 1586 (power
    subtraction), in two dimensions.
    """
    if window_px < 4 or window_px % 2:
        raise ValueError(f"window of {window_px} px: expected an even number from 4 on")
    return _in_windows((image,), window_px, lambda windows, weight: _shrunk(windows, weight, strength))


def without_residue(answer: Image, image: Image) -> Image:
    """What is left of the noise in the answer of a network, taken away.

    A network subtracts noise pixel by pixel, and what it misses is rough, whatever the surface. So the waves of windows
    are shrunk once more, as the empirical Wiener filter does, where they are as small as what is left can be: a share of the
    white noise that the network took away, larger for short waves. Lines that it took away, strong in few waves, do not count.

    Parameters
    ----------
    answer
        ``(H, W)`` float32: the image without its noise.
    image
        ``(H, W)`` float32 as it was.

    Returns
    -------
    ``(H, W)`` float32: the answer itself where nothing was taken away.
    """
    return _in_windows((answer, image - answer), RESIDUE_WINDOW_PX, _without_residue)


def _in_windows(images: tuple[Image, ...], window_px: int, filtered: Callable[..., Image]) -> Image:
    """Windows of images ``(H, W)``, overlapping by half, filtered together and added up.

    ``filtered`` takes the windows ``(N, P, P)`` of every image, which are to be weighted by what comes last, before and after.
    """
    half = window_px // 2
    (height, width), steps = images[0].shape, [-(-n // half) for n in images[0].shape]
    beyond = [(half, half + step * half - n) for n, step in zip(images[0].shape, steps, strict=True)]
    padded = [np.pad(image, beyond, mode="symmetric") for image in images]
    sine = np.sin(np.pi * (np.arange(window_px) + 0.5) / window_px).astype(np.float32)
    weight = sine[:, None] * sine
    out = np.zeros_like(padded[0])
    for y in range(0, (steps[0] + 1) * half, half):
        strips = [sliding_window_view(one[y : y + window_px], window_px, axis=1)[:, ::half] for one in padded]
        found = filtered(*(np.moveaxis(strip, 1, 0) for strip in strips), weight)
        for number, one in enumerate(found):
            out[y : y + window_px, number * half : number * half + window_px] += one
    return out[half : half + height, half : half + width]


def _shrunk(windows: Image, weight: Image, strength: float) -> Image:
    """Windows ``(N, P, P)`` filtered and weighted twice."""
    mean = _mean(windows, weight)
    spectrum = fft.rfft2((windows - mean) * weight)
    power = _power(spectrum)
    # The power of white noise is distributed exponentially: its median is ln 2 of its mean.
    noise = np.median(power, axis=1, keepdims=True) * np.float32(strength / math.log(2))
    spectrum *= np.maximum(1 - noise / np.maximum(power, _TINY), 0)
    return np.asarray((fft.irfft2(spectrum, s=windows.shape[1:]) + mean * weight) * weight, np.float32)


def _without_residue(windows: Image, taken: Image, weight: Image) -> Image:
    """Windows ``(N, P, P)`` of the answer filtered, by the power of what was taken away from them, and weighted twice."""
    mean = _mean(windows, weight)
    spectrum = fft.rfft2((windows - mean) * weight)
    power = _power(spectrum)
    side = windows.shape[1]
    periods = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)) * RESIDUE_PERIOD_PX
    share = (RESIDUE_SHARE / math.log(2) * periods**2).astype(np.float32)
    residue = np.median(_power(fft.rfft2(taken * weight)), axis=(1, 2), keepdims=True) * share
    spectrum *= power / np.maximum(power + residue, _TINY)
    return np.asarray((fft.irfft2(spectrum, s=windows.shape[1:]) + mean * weight) * weight, np.float32)


def _mean(windows: Image, weight: Image) -> Image:
    """Weighted means of windows, ``(N, 1, 1)``."""
    return np.asarray(np.einsum("nij,ij->n", windows, weight**2)[:, None, None] / np.sum(weight**2))


def _power(spectrum: NDArray[np.complex64]) -> Image:
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


def with_filtered(image: Image, windows_px: tuple[int, ...]) -> Image:
    """``(1 + N, H, W)``: an image ``(H, W)``, and as `fourier_wiener` has it with each of N windows.

    Windows larger than the image would see its noise mirrored, twice the same, and take it for a lattice: all are made smaller
    together until the largest fits.
    """
    fits = min(1.0, min(image.shape) / max(windows_px, default=1))
    return np.stack([image, *(fourier_wiener(image, max(4, int(side * fits) // 2 * 2)) for side in windows_px)])
