"""Noise taken away in Fourier space: what repeats over a window stands above the noise of its spectrum, and stays.

A lattice is a few peaks of a spectrum, noise is all of it. So a window of many periods tells them apart where no neighbourhood of
a pixel can: the filter of the field since its beginning, here with a noise level that the spectrum tells itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft

__all__ = ["STRENGTH", "fourier_wiener", "with_filtered"]

Image = NDArray[np.float32]

#: Power in units of the noise up to which nothing is left of a wave. White noise exceeds it in 5 % of all waves.
STRENGTH = 3.0
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
    half = window_px // 2
    (height, width), steps = image.shape, [-(-n // half) for n in image.shape]
    beyond = [(half, half + step * half - n) for n, step in zip(image.shape, steps, strict=True)]
    padded = np.pad(image, beyond, mode="symmetric")
    sine = np.sin(np.pi * (np.arange(window_px) + 0.5) / window_px).astype(np.float32)
    weight = sine[:, None] * sine
    out = np.zeros_like(padded)
    for y in range(0, (steps[0] + 1) * half, half):
        strip = sliding_window_view(padded[y : y + window_px], window_px, axis=1)[:, ::half]
        found = _shrunk(np.moveaxis(strip, 1, 0), weight, strength)
        for number, one in enumerate(found):
            out[y : y + window_px, number * half : number * half + window_px] += one
    return out[half : half + height, half : half + width]


def _shrunk(windows: Image, weight: Image, strength: float) -> Image:
    """Windows ``(N, P, P)`` filtered and weighted twice."""
    mean = np.einsum("nij,ij->n", windows, weight**2)[:, None, None] / np.sum(weight**2)
    spectrum = fft.rfft2((windows - mean) * weight)
    power = spectrum.real**2 + spectrum.imag**2
    # The power of white noise is distributed exponentially: its median is ln 2 of its mean.
    noise = np.median(power, axis=1, keepdims=True) * np.float32(strength / math.log(2))
    spectrum *= np.maximum(1 - noise / np.maximum(power, _TINY), 0)
    filtered = fft.irfft2(spectrum, s=windows.shape[1:])
    return np.asarray((filtered + mean * weight) * weight, np.float32)


def with_filtered(image: Image, windows_px: tuple[int, ...]) -> Image:
    """``(1 + N, H, W)``: an image ``(H, W)``, and as `fourier_wiener` has it with each of N windows."""
    return np.stack([image, *(fourier_wiener(image, side) for side in windows_px)])
