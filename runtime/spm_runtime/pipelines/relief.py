"""What the networks that restore surfaces see: heights in units of their own relief, and what an image says of its tip.

Training uses these very functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from spm_kernels import certainty_map, dilate, erode, estimate_tip, local_maxima, pair_top_hat
from spm_runtime.levelling import fill_with_nearest
from spm_runtime.pipelines.tip_classical import noise_of

__all__ = [
    "EVIDENCE",
    "RESTORE_CHANNELS",
    "TIP_PX",
    "ReliefView",
    "marks_input",
    "relief_view",
    "restore_channels",
    "surroundings",
    "tip_evidence",
    "tip_heights",
    "visible_tip",
]

Image = NDArray[np.float32]

#: Side of a tip: 30 pixels in every direction.
TIP_PX = 61
HALF = TIP_PX // 2
#: Channels of the network that restores.
RESTORE_CHANNELS = ("image", "eroded", "certain", "blunter", "sharper")
#: Factors on the heights of a tip that make it blunter and sharper.
BLUNTER, SHARPER = 0.5, 2.0
#: Per cent of the pixels beyond each end of the range of heights: spikes.
SPIKES_PERCENT = 0.1
#: Distance over which slopes and the local height are measured, in pixels. The simulated tips are as high as the local height
#: at their reach (`spm_training.simulate.tips`).
STEP_PX = 8
#: Shares of the maxima whose surroundings are lower than the quantile.
QUANTILES = (0.02, 0.1, 0.3)
#: Half windows of the maxima that are asked, in pixels, and the most of them.
REACHES, MOST_MAXIMA = (2, 6), 400
#: Side of the tip that is estimated blindly, in pixels, and its threshold in units of the noise.
BLIND_PX, BLIND_NOISE = 31, 4.0
#: Depths, in units of the local height, below which a tip does not matter.
DEEP = 4.0
#: How much lower a second apex is tried, in units of the local height; about so many pixels are asked; side of the
#: neighbourhood with which a pair is compared, and what is added to both; fewest rows and columns that are asked.
PAIR_HEIGHTS = (0.0, 0.05, 0.1, 0.17, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5)
PAIR_PIXELS, PAIR_AROUND_PX, PAIR_LEAST, PAIR_LEAST_PX = 1 << 14, 5, 0.005, 16
#: What `tip_evidence` tells, channel by channel.
EVIDENCE = (
    *(f"maxima {reach} px, quantile {q:g}" for reach in REACHES for q in QUANTILES),
    "blind tip",
    "autocorrelation",
    "autocorrelation of the fine",
    *(f"pair, {height:g} lower" for height in PAIR_HEIGHTS),
    "noise",
    "local height",
)


@dataclass(frozen=True, eq=False)
class ReliefView:
    """A scan in units of its own relief: ``heights = plane + scale · image``.

    Parameters
    ----------
    image
        ``(H, W)`` float32, from about −0.5 to 0.5; missing pixels hold the nearest measured one.
    valid
        ``(H, W)`` bool: measured.
    slope
        Of the plane that was taken away, along y and x, in the unit of the scan per pixel.
    offset
        Height at the middle of the image that was taken away.
    scale
        Relief of the scan in its unit; positive.
    noise
        Standard deviation of the pixel noise of ``image``.
    local
        Height in ``image`` of what stands next to each other; positive.
    """

    image: Image
    valid: NDArray[np.bool_]
    slope: tuple[float, float]
    offset: float
    scale: float
    noise: float
    local: float

    @property
    def plane(self) -> NDArray[np.float64]:
        """``(H, W)`` heights that were taken away, in the unit of the scan."""
        return _plane(self.image.shape, self.slope) + self.offset

    def normalised(self, heights: NDArray[np.floating]) -> Image:
        """Other heights of the same scan, ``(H, W)`` in its unit, in units of the relief."""
        return ((heights - self.plane) / self.scale).astype(np.float32)

    def heights(self, image: Image) -> Image:
        """The inverse of `normalised`: ``(H, W)`` float32 in the unit of the scan, NaN where the scan is missing."""
        return np.where(self.valid, image * self.scale + self.plane, np.nan).astype(np.float32)


def relief_view(heights: NDArray[np.floating]) -> ReliefView:
    """Bring a scan into units of its own relief.

    Parameters
    ----------
    heights
        ``(H, W)`` in any unit; NaN where missing.

    Returns
    -------
    ReliefView

    Notes
    -----
    The slope is the median of differences: a staircase of terraces keeps its terraces level, and a tilted scan is levelled.
    """
    there = np.isfinite(heights)
    shape = heights.shape
    if not there.any():
        return ReliefView(np.zeros(shape, np.float32), there, (0.0, 0.0), 0.0, 1.0, 0.0, 1.0)
    middle = float(np.median(heights[there]))
    centred = np.where(there, np.asarray(heights, np.float64) - middle, 0.0)
    slope = _slope(centred, there, 0), _slope(centred, there, 1)
    flat = centred - _plane(shape, slope)
    flat = fill_with_nearest(flat, there)
    low, high = np.percentile(flat[there], (SPIKES_PERCENT, 100 - SPIKES_PERCENT))
    # A relief at the rounding error of the heights is a constant image.
    rounding = 4 * float(np.finfo(np.float32).eps) * float(np.abs(heights[there]).max())
    least = max(rounding, float(np.finfo(np.float32).tiny))
    scale = max(float(high - low), least)
    image = ((flat - (low + high) / 2) / scale).astype(np.float32)
    noise = noise_of(np.where(there, image, np.float32(np.nan)))
    local = _local_height(image, noise)
    return ReliefView(image, there, slope, middle + float(low + high) / 2, scale, noise, local)


def _plane(shape: tuple[int, ...], slope: tuple[float, float]) -> NDArray[np.float64]:
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return np.asarray(np.add.outer(slope[0] * y, slope[1] * x))


def _slope(heights: NDArray[np.float64], there: NDArray[np.bool_], axis: int) -> float:
    """Median of the differences over some pixels, per pixel; 0 where there are none."""
    step = min(STEP_PX, heights.shape[axis] - 1)
    if step < 1:
        return 0.0
    after, before = np.moveaxis(heights, axis, 0)[step:], np.moveaxis(heights, axis, 0)[:-step]
    both = np.moveaxis(there, axis, 0)
    values = (after - before)[both[step:] & both[:-step]]
    return float(np.median(values)) / step if values.size else 0.0


def _local_height(image: Image, noise: float) -> float:
    """Three times the rms difference of heights some pixels apart, less that of the noise."""
    step = STEP_PX
    parts = [(image[step:] - image[:-step]).ravel(), (image[:, step:] - image[:, :-step]).ravel()]
    values = np.concatenate(parts).astype(np.float64)
    square = float(np.mean(values**2)) - 2 * noise**2 if values.size else 0.0
    return min(max(3 * float(np.sqrt(max(square, 0.0))), 1e-3), 1.0)


def tip_evidence(view: ReliefView) -> NDArray[np.float32]:
    """What an image says of the tip, as maps over the tip's own pixels.

    Parameters
    ----------
    view
        The scan.

    Returns
    -------
    ``(len(EVIDENCE), TIP_PX, TIP_PX)`` float32. Heights are in units of ``view.local``, 0 at the apex in the middle.

    Notes
    -----
    Where the apex touched a summit, all around it the image is at least as high as the tip: the surroundings of summits bound the
    tip from above, their low quantiles closely. The blind estimate (Villarrubia 1997) is the strict form of that. A double
    tip shows everything twice, which the autocorrelation shows, and its image is its own opening by the two apexes
    (`spm_kernels.pair_top_hat`); what an instrument blurs has no fine structure in it.
    """
    smooth = ndimage.gaussian_filter(view.image, 0.8)
    maps: list[NDArray[np.floating]] = []
    for reach in REACHES:
        maps += [np.clip(one / view.local, -DEEP, 1.0) for one in _round_summits(smooth, view.valid, reach)]
    there = np.where(view.valid, view.image, np.float32(np.nan))
    start = np.zeros((BLIND_PX, BLIND_PX), np.float32)
    blind = estimate_tip(there, start, threshold=BLIND_NOISE * view.noise + 1e-6)
    maps.append(np.pad(np.clip(blind / view.local, -DEEP, 0.0), HALF - BLIND_PX // 2, mode="edge"))
    maps.append(_autocorrelation(smooth - ndimage.gaussian_filter(smooth, 8.0)))
    maps.append(_autocorrelation(smooth - ndimage.gaussian_filter(view.image, 2.0)))
    maps += list(_pairs(smooth, view))
    for number in (view.noise / view.local, view.local):
        maps.append(np.full((TIP_PX, TIP_PX), np.log10(max(number, 1e-4))))
    return np.stack(maps).astype(np.float32)


def _round_summits(image: Image, valid: NDArray[np.bool_], reach: int) -> list[NDArray[np.float32]]:
    """Low quantiles, over the summits, of the heights around each: maps of the tip's size."""
    padded = np.pad(np.where(valid, image, np.nan), HALF, constant_values=np.nan).astype(np.float32)
    peaks = _summits(image, valid, reach)
    if not len(peaks):
        return [np.zeros((TIP_PX, TIP_PX), np.float32) for _ in QUANTILES]
    around = np.lib.stride_tricks.sliding_window_view(padded, (TIP_PX, TIP_PX))[peaks[:, 0], peaks[:, 1]]
    rise = around.reshape(len(peaks), -1).T - image[peaks[:, 0], peaks[:, 1]]  # NaN sorts to the end
    ranks = [min(int(q * len(peaks)), len(peaks) - 1) for q in QUANTILES]
    ordered = np.partition(rise, ranks, axis=1)[:, ranks].reshape(TIP_PX, TIP_PX, -1)
    return [np.nan_to_num(ordered[..., number]) for number in range(len(ranks))]


def _summits(image: Image, valid: NDArray[np.bool_], reach: int) -> NDArray[np.intp]:
    """``(N, 2)`` pixels that are the highest of their window, the highest first, spread evenly when there are too many."""
    found = local_maxima(image, window_px=2 * reach + 1, threshold=-np.inf, valid=valid)
    return np.asarray(found[:: len(found) // MOST_MAXIMA + 1], np.intp)


def _autocorrelation(image: Image) -> NDArray[np.float64]:
    """Autocorrelation up to half a tip, 1 in the middle."""
    size = [max(n + HALF, TIP_PX) for n in image.shape]
    whole = fft.irfft2(np.abs(fft.rfft2(image, size)) ** 2, size)
    around = np.roll(whole, (HALF, HALF), (0, 1))[:TIP_PX, :TIP_PX]
    return np.asarray(around / max(float(around[HALF, HALF]), 1e-12))


def _pairs(smooth: Image, view: ReliefView) -> NDArray[np.float32]:
    """What openings by two points take away, as the logarithm of its share of what neighbouring pairs take away.

    ``(len(PAIR_HEIGHTS), TIP_PX, TIP_PX)``; far below 0 at a second apex, and 0 where too little of the scan is asked to tell.
    """
    levelled = np.where(view.valid, smooth / np.float32(view.local), np.float32(np.nan))
    step = min(smooth.size // PAIR_PIXELS, smooth.shape[0] // 16)
    taken = pair_top_hat(levelled, np.array(PAIR_HEIGHTS, np.float32), reach_px=HALF, row_step=max(step, 1))
    away = 2 * np.abs(np.arange(TIP_PX) - HALF)
    enough = [length - away >= PAIR_LEAST_PX for length in smooth.shape]
    known = np.isfinite(taken) & np.logical_and.outer(*enough)
    taken = np.where(known, taken, 0)
    window = (1, PAIR_AROUND_PX, PAIR_AROUND_PX)
    share = ndimage.uniform_filter(known.astype(np.float64), window)
    around = ndimage.uniform_filter(taken.astype(np.float64), window) / np.maximum(share, 1e-3)
    found = np.log((taken + PAIR_LEAST) / (around + PAIR_LEAST))
    return np.where(known, found, 0).astype(np.float32)


def marks_input(view: ReliefView) -> Image:
    """``(1, H, W)`` input of the network that marks points of a scan: heights in units of what stands next to each other."""
    return view.image[None] / np.float32(view.local)


def surroundings(
    points: NDArray[np.float32], values: NDArray[np.float32], features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What lies around the points that a network marks, on average, as maps over the tip's own pixels.

    Parameters
    ----------
    points, values
        ``(P, h, w)`` float32 at half of the resolution: how much a pixel counts as a point, positive; and what is averaged.
    features
        ``(F, h, w)`` float32, of which the mean over the image is told.

    Returns
    -------
    ``(P + F, TIP_PX, TIP_PX)`` float32: the mean of each value at every offset from the points of the same number,
    interpolated to whole pixels; then the means as constant maps.
    """
    reach = HALF // 2
    size = [fft.next_fast_len(n + reach, real=True) for n in points.shape[1:]]
    mark = fft.rfft2(points, size).conj()
    total = fft.irfft2(mark * fft.rfft2(values, size), size)
    weight = fft.irfft2(mark * fft.rfft2(np.ones_like(points[:1]), size), size)
    mean = np.roll(total / np.maximum(weight, 1e-6), (reach, reach), (1, 2))[:, : 2 * reach + 1, : 2 * reach + 1]
    fine = np.zeros((len(points), TIP_PX, TIP_PX))
    fine[:, ::2, ::2] = mean
    fine[:, 1::2, ::2] = (mean[:, 1:] + mean[:, :-1]) / 2
    fine[:, :, 1::2] = (fine[:, :, 2::2] + fine[:, :, :-2:2]) / 2
    told = np.broadcast_to(features.mean(axis=(1, 2))[:, None, None], (len(features), TIP_PX, TIP_PX))
    return np.concatenate([fine, told]).astype(np.float32)


def visible_tip(tip: Image, local: float) -> Image:
    """The tip as a picture: 1 at the apex, 0 where it is far below.

    Parameters
    ----------
    tip
        ``(TIP_PX, TIP_PX)`` heights, 0 at the apex, in units of the relief; −inf where there is no tip.
    local
        As in `ReliefView`.
    """
    return np.asarray(np.exp(np.minimum(tip / np.float32(local), np.float32(0.5))), np.float32)


def tip_heights(visible: Image, local: float) -> Image:
    """The inverse of `visible_tip`; −inf where the picture is darker than ``exp(−DEEP)``, 0 in the middle."""
    there = visible > np.exp(-DEEP)
    heights = np.where(there, local * np.log(np.maximum(visible, 1e-6)), -np.inf).astype(np.float32)
    heights[HALF, HALF] = 0.0
    return heights


def restore_channels(view: ReliefView, tip: Image) -> NDArray[np.float32]:
    """What the network that restores sees: the image, its erosion by a tip, where that is the surface itself, and more erosions.

    Parameters
    ----------
    view
        The scan.
    tip
        ``(h, w)`` float32 in units of the relief, as `spm_kernels.erode` takes it.

    Returns
    -------
    ``(5, H, W)`` float32 in the order of `RESTORE_CHANNELS`. A tip that is only estimated may be too sharp or too blunt: the last
    two are erosions by a tip of half and of twice its heights.
    """
    eroded = erode(view.image, tip)
    certain = certainty_map(dilate(eroded, tip), tip, tolerance=1e-6)
    more = [erode(view.image, np.float32(factor) * tip) for factor in (BLUNTER, SHARPER)]
    return np.stack([view.image, eroded, certain.astype(np.float32), *more])
