"""How alike a restored surface and the true one are: pure functions of two images.

All take ``(H, W)`` heights of any common unit. Scores are taken on the inner frame that `inner` cuts out, the same for every
method: a rim of `RIM_PX` is left out, so that a registered image needs no pixel from outside the scan.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal
from skimage.metrics import structural_similarity

__all__ = ["RIM_PX", "Quality", "Registered", "inner", "psnr", "quality", "register", "ssim", "vif"]

Pixels: TypeAlias = NDArray[np.float64]

#: Width of the rim that is left out of all scores, and the longest shift that registration may find.
RIM_PX = 8
#: σ of SSIM's Gaussian window. Source: Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Process. 13, 600 (2004).
SSIM_SIGMA_PX = 1.5
#: Of the pixel-domain VIF: number of scales and variance of the visual noise on a range of 255. Source: H. R. Sheikh's
#: ``vifp_mscale`` to Sheikh and Bovik, IEEE Trans. Image Process. 15, 430 (2006).
VIF_SCALES, VIF_NOISE = 4, 2.0
#: Variances below this are none (on a range of 255).
VIF_LEAST = 1e-10
#: Steps of the sub-pixel search at most, and the change of the shift at which it ends.
STEPS, STILL_PX = 8, 1e-3


class Quality(NamedTuple):
    """PSNR in dB, SSIM and VIF of one image, as `psnr`, `ssim` and `vif` define them."""

    psnr: float
    ssim: float
    vif: float


class Registered(NamedTuple):
    """An image laid over the true one.

    Parameters
    ----------
    image
        ``(H − 2·RIM_PX, W − 2·RIM_PX)``: the inner frame of the shifted image without its offset.
    shift_yx_px
        What was at ``x + shift`` lies at ``x`` now.
    offset
        Height that was subtracted.
    """

    image: Pixels
    shift_yx_px: tuple[float, float]
    offset: float


def inner(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """The frame that is judged: all but a rim of `RIM_PX` pixels."""
    return image[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]


def psnr(image: Pixels, clean: Pixels, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB: ``10·log10(data_range² / mean((image − clean)²))``; infinite for equal images."""
    error = float(np.mean((np.asarray(image, np.float64) - clean) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(image: Pixels, clean: Pixels, data_range: float) -> float:
    """Mean structural similarity as it was published: a Gaussian window with σ = 1.5 px, K₁ = 0.01, K₂ = 0.03.

    Parameters
    ----------
    image, clean
        ``(H, W)``, at least 11 pixels a side. Of both the minimum of the clean image is subtracted: SSIM compares local means by
        their ratio, so that the same surface around another zero would score otherwise.
    data_range
        What stands for the 255 of the publication.

    Notes
    -----
    Wang et al., IEEE Trans. Image Process. 13, 600 (2004), by scikit-image. Windows that reach beyond the border do not count.
    """
    zero = float(np.min(clean))
    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            np.asarray(clean, np.float64) - zero,
            np.asarray(image, np.float64) - zero,
            data_range=data_range,
            gaussian_weights=True,
            sigma=SSIM_SIGMA_PX,
            use_sample_covariance=False,
        )
    )


def vif(image: Pixels, clean: Pixels, data_range: float) -> float:
    """Visual information fidelity in the pixel domain: 1 for equal images, 0 where nothing of the clean one is left.

    Parameters
    ----------
    image, clean
        ``(H, W)``, at least 41 pixels a side. Both are scaled by the clean image: its minimum becomes 0 and ``data_range`` 255.
    data_range
        Range of the clean image.

    Notes
    -----
    Sheikh and Bovik, IEEE Trans. Image Process. 15, 430 (2006), in the multi-scale version for pixels that H. R. Sheikh published
    with it (``vifp_mscale``): windows of 17, 9, 5 and 3 pixels with σ a fifth of that, no padding, halved between the scales.
    Heights on [0, 1] would drown in the visual noise, whose variance of 2 is meant for a range of 255.
    """
    gain, zero = 255 / data_range, float(np.min(clean))
    truth = (np.asarray(clean, np.float64) - zero) * gain
    shown = (np.asarray(image, np.float64) - zero) * gain
    kept = all_of_it = 0.0
    for scale in range(VIF_SCALES):
        side = 2 ** (VIF_SCALES - scale) + 1
        if scale:
            truth, shown = _mean(truth, side)[::2, ::2], _mean(shown, side)[::2, ::2]
        mean, mean_shown = _mean(truth, side), _mean(shown, side)
        variance = np.maximum(_mean(truth**2, side) - mean**2, 0)
        variance_shown = np.maximum(_mean(shown**2, side) - mean_shown**2, 0)
        together = _mean(truth * shown, side) - mean * mean_shown
        # What is shown is a gain times the truth plus noise; a negative gain carries no information.
        slope = np.divide(together, variance, out=np.zeros_like(variance), where=variance > VIF_LEAST)
        slope = np.where(variance_shown > VIF_LEAST, np.maximum(slope, 0), 0)
        noise = np.maximum(variance_shown - slope * np.where(slope > 0, together, 0), VIF_LEAST)
        kept += float(np.log1p(slope**2 * variance / (noise + VIF_NOISE)).sum())
        all_of_it += float(np.log1p(variance / VIF_NOISE).sum())
    return kept / all_of_it if all_of_it else float("nan")


def quality(image: Pixels, clean: Pixels) -> Quality:
    """PSNR, SSIM and VIF of an image; the data range of all three is that of ``clean``, from its lowest to its highest point."""
    data_range = float(np.ptp(clean)) or 1.0
    return Quality(psnr(image, clean, data_range), ssim(image, clean, data_range), vif(image, clean, data_range))


def register(image: NDArray[np.floating], clean: NDArray[np.floating]) -> Registered:
    """Shift an image and its heights so that the PSNR in the inner frame is highest.

    Parameters
    ----------
    image, clean
        ``(H, W)`` whole images, larger than twice the rim.

    Notes
    -----
    All whole shifts up to `RIM_PX` are compared; from the best one on, Gauss–Newton steps on the cubic spline through the image
    find the fraction, as long as they make the residual smaller. Neither the shift of a tip's apex nor the offset of a height
    can be known from one image.
    """
    shown = np.asarray(image, np.float64)
    truth = np.asarray(inner(np.asarray(clean, np.float64)), np.float64)
    start = _whole_shift(shown, truth)
    spline = ndimage.spline_filter(shown, order=3, mode="mirror")
    best, shift = _cut(shown, start), np.asarray(start, np.float64)
    spread = float(np.var(best - truth))
    slopes = [np.gradient(shown, axis=axis) for axis in (0, 1)]
    for _ in range(STEPS):
        nearest = (round(float(shift[0])), round(float(shift[1])))
        sides = np.stack([(part := _cut(slope, nearest)).ravel() - part.mean() for slope in slopes], axis=1)
        residual = (best - truth).ravel()
        step = np.linalg.lstsq(sides, residual.mean() - residual, rcond=None)[0]
        proposed = np.clip(shift + step, -RIM_PX, RIM_PX)
        moved = _interpolated(spline, proposed)
        if not float(np.var(moved - truth)) < spread:
            break
        done = float(np.abs(proposed - shift).max()) < STILL_PX
        best, shift, spread = moved, proposed, float(np.var(moved - truth))
        if done:
            break
    offset = float(np.mean(best - truth))
    return Registered(best - offset, (float(shift[0]), float(shift[1])), offset)


def _whole_shift(image: Pixels, truth: Pixels) -> tuple[int, int]:
    """Shift by whole pixels with the smallest variance of the difference."""
    level = float(truth.mean())
    image, truth = image - level, truth - level
    count = truth.size
    sums, squares = (_box(values, truth.shape) for values in (image, image**2))
    product = signal.fftconvolve(image, truth[::-1, ::-1], mode="valid")
    # The mean of truth is 0: its square is the same for all shifts.
    spread = squares / count - (sums / count) ** 2 - 2 * product / count
    y, x = np.unravel_index(int(np.argmin(spread)), spread.shape)
    return int(y) - RIM_PX, int(x) - RIM_PX


def _box(values: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Sums over all windows of a shape."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    rows, columns = shape
    return np.asarray(
        total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    )


def _cut(image: Pixels, shift: tuple[int, int]) -> Pixels:
    """The inner frame, shifted by whole pixels."""
    rows, columns = image.shape
    y, x = RIM_PX + shift[0], RIM_PX + shift[1]
    return image[y : y + rows - 2 * RIM_PX, x : x + columns - 2 * RIM_PX]


def _interpolated(spline: Pixels, shift: NDArray[np.float64]) -> Pixels:
    moved = ndimage.shift(spline, -shift, order=3, mode="mirror", prefilter=False)
    return np.asarray(inner(moved), np.float64)


def _mean(image: Pixels, side: int) -> Pixels:
    """Gaussian mean over windows of a side, those alone that lie in the image."""
    place = np.arange(side) - side // 2
    weights = np.exp(-0.5 * (place / (side / 5)) ** 2)
    weights /= weights.sum()
    half = side // 2
    smooth = ndimage.correlate1d(ndimage.correlate1d(image, weights, axis=0), weights, axis=1)
    return np.asarray(smooth[half:-half, half:-half])
