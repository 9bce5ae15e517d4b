"""What the scanner, the feedback and the electronics add: tilt, bow, lag, noise, line offsets, scars, quantisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, signal

__all__ = ["add_noise", "feedback_lag", "flicker", "tilt_and_bow"]

#: The noise beside the white one, as a share of it: 1/f noise and line offsets, from so little to so much, or to so many nm where
#: that is more. Scans of a quiet electronics keep a floor of both: in ten real scans rows differ 1 to 50 times as much as pixels.
FLICKER_SHARE, FLICKER_NM = (0.2, 0.8), 0.008
OFFSET_SHARE, OFFSET_NM = (0.1, 1.0), 0.010


def tilt_and_bow(rng: np.random.Generator, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A plane of 0.01 to 3 nm over the frame, the bow of the tube, and creep along z in the first rows.

    Parameters
    ----------
    rng
        Source of randomness.
    y, x
        ``(H, W)`` places in nm.
    """
    size = max(float(np.ptp(y)), float(np.ptp(x)), 1e-9)
    v, u = (y - y.mean()) / size, (x - x.mean()) / size
    angle, total = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.01), np.log(3.0)))
    surface = total * (np.sin(angle) * v + np.cos(angle) * u)
    bow = rng.normal(size=3) * np.exp(rng.uniform(np.log(0.003), np.log(0.12)))
    surface += bow[0] * v**2 + bow[1] * u**2 + bow[2] * u * v
    if rng.random() < 0.4:
        time = np.linspace(0, 1, y.shape[0])[:, None]
        surface = surface + rng.normal() * 0.1 * np.exp(-time / rng.uniform(0.03, 0.3))
    return np.asarray(surface)


def feedback_lag(surface_nm: NDArray[np.float64], lag_px: float) -> NDArray[np.float64]:
    """The loop follows along x with a time constant of `lag_px` pixels; each line starts in equilibrium.

    Parameters
    ----------
    surface_nm
        ``(H, W)`` heights.
    lag_px
        Time constant in pixels; 0 for none.
    """
    if lag_px <= 0:
        return surface_nm
    keep = float(np.exp(-1.0 / lag_px))
    state = keep * surface_nm[:, :1]
    # Half of the lag is only a shift of the image, which nobody can see: it is kept small.
    return np.asarray(signal.lfilter([1 - keep], [1, -keep], surface_nm, axis=1, zi=state)[0])


def flicker(rng: np.random.Generator, shape: tuple[int, int], exponent: float = 1.0) -> NDArray[np.float64]:
    """1/f noise along the path of the tip, of unit standard deviation over the image.

    The tip goes forth and back: what is seen of its time series are every other W samples.
    """
    rows, columns = shape
    count = fft.next_fast_len(rows * 2 * columns, real=True)
    spectrum = fft.rfft(rng.standard_normal(count, dtype=np.float32))
    frequency = np.arange(len(spectrum), dtype=np.float32)
    frequency[0] = 1.0
    spectrum *= frequency ** np.float32(-0.5 * exponent)
    spectrum[0] = 0.0
    series = fft.irfft(spectrum, count)[: rows * 2 * columns].reshape(rows, 2 * columns)[:, :columns]
    return np.asarray(series / max(float(series.std()), 1e-12), dtype=np.float64)


def add_noise(
    rng: np.random.Generator, clean_nm: NDArray[np.float64], white_nm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Add what the electronics and an unstable apex add.

    Parameters
    ----------
    rng
        Source of randomness.
    clean_nm
        ``(H, W)`` heights.
    white_nm
        Standard deviation of the white noise of a fast amplifier; a slow one keeps its density.

    Returns
    -------
    ``(H, W)`` heights in nm, and what lasting changes of the apex added to them, the same shape.
    """
    rows, columns = clean_nm.shape
    white = white_nm * rng.standard_normal(clean_nm.shape)
    if rng.random() < 0.4:  # an amplifier slower than the pixel clock: the same density at the frequencies of a defect
        white = ndimage.gaussian_filter1d(white, rng.uniform(0.3, 0.9), axis=1)
    image = clean_nm + white
    image += _amount(rng, FLICKER_SHARE, FLICKER_NM, white_nm) * flicker(rng, clean_nm.shape, rng.uniform(0.8, 1.5))
    image += _amount(rng, OFFSET_SHARE, OFFSET_NM, white_nm) * rng.standard_normal((rows, 1))
    if rng.random() < 0.2:  # mains hum: so many periods per line, rarely a whole number
        period = rng.uniform(4, 80)
        time = np.arange(rows)[:, None] * rng.uniform(2.0, 2.2) * columns + np.arange(columns)
        image += white_nm * rng.uniform(0.2, 1.0) * np.sin(2 * np.pi * time / period)
    if rng.random() < 0.35:
        _scars(rng, image, white_nm)
    jumps = np.zeros(clean_nm.shape)
    if rng.random() < 0.12:  # the apex changes and stays changed from one pixel on
        for _ in range(int(rng.integers(1, 4))):
            row, column = int(rng.integers(rows)), int(rng.integers(columns))
            jump = rng.normal() * max(2 * white_nm, 0.02)
            jumps[row, column:] += jump
            jumps[row + 1 :] += jump
        image += jumps
    if rng.random() < 0.5:
        step = np.exp(rng.uniform(np.log(0.0002), np.log(max(white_nm, 0.0004))))
        image = np.rint(image / step) * step
    return np.asarray(image), jumps


def _amount(rng: np.random.Generator, share: tuple[float, float], most_nm: float, white_nm: float) -> float:
    low, high = share[0] * white_nm, max(share[1] * white_nm, most_nm)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _scars(rng: np.random.Generator, image: NDArray[np.float64], white_nm: float) -> None:
    """Strokes along the fast axis, one row high, where something stuck to the tip for a moment."""
    rows, columns = image.shape
    for _ in range(int(np.exp(rng.uniform(0, np.log(25))))):
        row, start = int(rng.integers(rows)), int(rng.integers(-10, columns))
        length = int(np.exp(rng.uniform(np.log(3), np.log(columns))))
        height = rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(2), np.log(12))) * max(white_nm, 0.005)
        image[row, max(start, 0) : start + length] += height
