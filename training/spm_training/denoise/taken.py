"""What a denoiser took away from a real scan: noise, or some of the surface? No truth is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.pipelines.denoise_view import denoise_view
from spm_training.restore.report import plain
from spm_training.tables import markdown_table, write_tables

__all__ = ["ScanTaken", "Taken", "taken_markdown", "what_was_taken", "write_taken"]

Floats = NDArray[np.float64]

#: Lags of the correlation in pixels: further than neighbouring lines, and as far as some atoms.
_LEAST_LAG, _MOST_LAG = 2, 32
#: Peaks of the spectrum: at least so many periods across the scan and as many along the lines (what differs from line to line is
#: noise), this far above what is around them, and no more than so many.
_LEAST_PERIODS, _ABOVE, _MOST_PEAKS = 4, 50.0, 12
#: Half sides, in steps of frequency, of what belongs to a peak and of what is around it.
_PEAK, _NEAR, _AROUND = 1, 3, 10
#: Below this side there is no spectrum to speak of.
_LEAST_PX = 48


@dataclass(frozen=True)
class Taken:
    """Figures of what was taken away; of pure noise that differs from line to line ``correlation`` is 0 and ``at_peaks`` is 1.

    Parameters
    ----------
    noise
        Standard deviation of the white noise of the scan, as a share of its relief.
    rms
        Of what was taken away, as a share of the relief.
    correlation
        Largest correlation, without its sign, of what was taken away with itself two lines or more apart.
    at_peaks
        Its power where the spectrum of the answer has the peaks of a lattice, over that around them; NaN without such peaks.
    lattice
        Share of the lattice's power in the scan, at these peaks, that was taken away; NaN without.
    """

    noise: float
    rms: float
    correlation: float
    at_peaks: float
    lattice: float


@dataclass(frozen=True)
class ScanTaken:
    """What one method took away from one scan."""

    scan: str
    method: str
    taken: Taken


def what_was_taken(image: NDArray[np.floating], denoised: NDArray[np.floating]) -> Taken:
    """Compare a scan with what a denoiser made of it.

    Parameters
    ----------
    image, denoised
        ``(H, W)`` in the same unit; NaN where missing, at the same pixels.
    """
    view = denoise_view(image)
    there = view.valid
    if not there.any():
        return Taken(*(float("nan") for _ in range(5)))
    away = np.where(there, np.asarray(image, np.float64) - denoised, 0.0) / view.scale
    rms = float(np.sqrt(np.mean(away[there] ** 2)))
    away -= np.where(there, away[there].mean(), 0.0)
    at_peaks, lattice = _at_peaks(view.image, away, denoise_view(denoised).image)
    return Taken(view.noise, rms, _correlation(away), at_peaks, lattice)


def _correlation(away: Floats) -> float:
    """Largest autocorrelation beyond the neighbouring lines; NaN where nothing was taken away or too few pixels are there."""
    if min(away.shape) < _LEAST_PX or not away.any():
        return float("nan")
    every = np.fft.irfft2(np.abs(np.fft.rfft2(away)) ** 2, s=away.shape)
    lags = np.roll(every[_LEAST_LAG : _MOST_LAG + 1] / every[0, 0], _MOST_LAG, axis=1)[:, : 2 * _MOST_LAG + 1]
    return float(np.abs(lags).max())


def _at_peaks(image: NDArray[np.float32], away: Floats, denoised: NDArray[np.float32]) -> tuple[float, float]:
    """Power of what was taken away over that around, and the share of that of the scan, at the peaks of the answer."""
    if min(image.shape) < _LEAST_PX:
        return float("nan"), float("nan")
    before, taken, after = (_spectrum(one) for one in (image, away, denoised))
    peaks = _peaks(after)
    if not peaks:
        return float("nan"), float("nan")
    mine, around, whole = 0.0, 0.0, 0.0
    for place in peaks:
        inner, ring = _peak_and_ring(taken, place)
        mine += float(inner.sum())
        around += inner.size * float(ring.mean())
        whole += float(_peak_and_ring(before, place)[0].sum())
    return mine / around if around > 0 else float("nan"), max(0.0, mine - around) / whole


def _spectrum(image: NDArray[np.floating]) -> Floats:
    """Power ``(H, W)``, zero frequency in the middle, of an image that fades towards its border."""
    fade = np.multiply.outer(*(np.hanning(n) for n in image.shape))
    faded = fade * (image - np.average(image, weights=fade))
    return np.asarray(np.fft.fftshift(np.abs(np.fft.fft2(faded)) ** 2), np.float64)


def _peaks(power: Floats) -> list[tuple[int, int]]:
    """Places of the peaks of a lattice in one half of a spectrum, the strongest first."""
    middle = [n // 2 for n in power.shape]
    y, x = (np.arange(n) - half for n, half in zip(power.shape, middle, strict=True))
    allowed = (
        (np.hypot.outer(y, x) >= _LEAST_PERIODS) & (x >= _LEAST_PERIODS) & (np.abs(y) < middle[0] - _AROUND)[:, None]
    )
    allowed &= x < middle[1] - _AROUND
    highest = allowed & (power == ndimage.maximum_filter(power, size=2 * _NEAR + 1))
    places = np.argwhere(highest)
    order = np.argsort(-power[highest])[: 4 * _MOST_PEAKS]
    found = []
    for row, column in places[order]:
        place = int(row), int(column)
        inner, ring = _peak_and_ring(power, place)
        if inner.max() >= _ABOVE * np.median(ring):
            found.append(place)
    return found[:_MOST_PEAKS]


def _peak_and_ring(power: Floats, place: tuple[int, int]) -> tuple[Floats, Floats]:
    """The values of a peak and those around it."""
    y, x = place
    inner = power[y - _PEAK : y + _PEAK + 1, x - _PEAK : x + _PEAK + 1]
    rows, columns = slice(max(y - _AROUND, 0), y + _AROUND + 1), slice(max(x - _AROUND, 0), x + _AROUND + 1)
    away = np.maximum.outer(
        np.abs(np.arange(rows.start, rows.stop) - y), np.abs(np.arange(columns.start, columns.stop) - x)
    )
    block = power[rows, columns]
    return inner, block[away[: block.shape[0], : block.shape[1]] > _NEAR]


def taken_markdown(every: Sequence[ScanTaken]) -> str:
    """The table of real scans, with what its columns are."""
    rows = [
        [
            f"{one.scan}, {one.method}",
            f"{100 * one.taken.noise:.2f}",
            f"{100 * one.taken.rms:.2f}",
            f"{one.taken.correlation:.3f}",
            f"{one.taken.at_peaks:.2f}",
            f"{100 * one.taken.lattice:.2f}",
        ]
        for one in every
    ]
    headings = ("real scan", "white noise, %", "taken away, %", "correlation", "at peaks / around", "lattice lost, %")
    return markdown_table(headings, rows) + (
        "\nNoise and what was taken away: rms as a share of the scan's relief. Correlation: the largest of what was taken away "
        "with itself 2 to 32 lines apart, 0 for noise. At peaks: its power where the answer's spectrum has the peaks of a "
        "lattice, over that around them, 1 for noise. Lattice lost: share of the scan's power at these peaks. A hum has such "
        "peaks too: look at the pictures.\n"
    )


def write_taken(folder: Path, every: Sequence[ScanTaken]) -> tuple[Path, Path]:
    """Write ``real-denoise.json`` and ``.md`` and give their paths."""
    rows: list[Mapping[str, object]] = [{"scan": one.scan, "method": one.method, **asdict(one.taken)} for one in every]
    return write_tables(folder / "real-denoise", {"scans": plain(rows)}, taken_markdown(every))
