"""The scale of an image: how far its atoms are apart, and the image resampled so that a network is at ease with that.

A small network reads the spacing off the power spectrum of the whole image (`spm_runtime.pipelines.spectrum`) and says how sure
it is; where several readings are possible, the finder looks at the middle of the image at each of them and the one at which
it sees what it knows is taken. A package without a scale network uses its own spacing branch instead: it looks at the middle
of the image, which is resampled to the nominal spacing and looked at again until the answer is comfortable.

Calibration is not used: it is often missing, and sometimes wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from spm_kernels import local_maxima, resize
from spm_runtime.levelling import normalise_contrast, remove_background
from spm_runtime.pipelines.spectrum import log_polar_spectrum, period_of_bin
from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.scan import Scan
from spm_runtime.session import Session, shared_session

__all__ = ["SCALE_NETWORK", "ScaledScan", "find_scale"]

#: Name under which a package carries the network that reads the scale.
SCALE_NETWORK = "scale"
#: Spacing to which images are resampled, and the spacings at which they are used as they are.
NOMINAL_SPACING_PX = 7.0
COMFORTABLE_SPACING_PX = (6.0, 8.5)
#: The same of a network that finds the scale by looking.
LOOK_NOMINAL_SPACING_PX = 9.0
LOOK_COMFORTABLE_SPACING_PX = (6.0, 14.0)
#: Side of the middle part from which the scale is taken.
LOOK_PX = 512
#: How often the image is resampled before the search is given up.
MAX_LOOKS = 4
#: Share of the distribution that makes a reading certain, and that a further reading needs to be looked at.
CERTAIN_SHARE, POSSIBLE_SHARE = 0.75, 0.06
#: Half the width of a reading, in bins; and how many readings are compared.
_READING_BINS, _MAX_READINGS = 2, 3
#: Side in network pixels of the middle part that is looked at to compare readings.
COMPARE_PX = 128
#: The first ring of spots of a honeycomb is that of a triangular net √3 times as wide, of a centred square net that of a square
#: one √2 times as wide, and a scale network that was never shown such a structure is sure of the wider one. So those finer
#: spacings are looked at too, whatever the spectrum says.
_FINER_RATIOS = (float(np.sqrt(3.0)), float(np.sqrt(2.0)))
#: A spacing that is finer than the likeliest one by about such a ratio counts as much as that one, times a bonus, where the
#: finder fills at least this share of the places with atoms: a coarser reading can fit by leaving atoms out, a finer one cannot.
#: Not so where the faint atoms have less than this part of the height of the bright ones: those are light columns beside heavy
#: ones, and the spacing is that of the heavy ones. It is 0.34 to 0.51 for the sulphur of MoS2, 0.40 to 0.75 for honeycombs. The
#: three numbers are the best of a grid on validation scenes: the right scale in 0.84 of all families instead of 0.82, and in
#: 0.59 instead of 0.41 of those that neither network was trained on.
_FINER, _FINER_BONUS, _FINER_FILLED, _FINER_EVEN = (1.3, 1.85), 1.5, 0.55, 0.45
#: The shares of the peaks that are taken for faint and bright ones, the share of the pixels that lies below all atoms, and the
#: blur σ in network pixels against noise.
_FAINT, _BRIGHT, _BELOW, _BLUR_PX = 0.15, 0.85, 0.05, 1.0
#: Below this share of filled places there is no lattice.
_SPARSE = 0.3
#: Least score of a peak in a look, and the logarithm of the ratio of spacings at which a look loses 40 % of its weight.
_LOOK_SCORE, _MISFIT = 0.4, 0.18
#: Bounds of the resampling, and of the resampled image.
MIN_FACTOR, MAX_FACTOR = 1 / 24, 8.0
MAX_NETWORK_PIXELS = 2**25


@dataclass(frozen=True, eq=False)
class ScaledScan:
    """A scan as the network sees it.

    Parameters
    ----------
    residual
        ``(h, w)`` float32 heights above the background in the unit of the scan; NaN where missing.
    levelled
        ``(h, w)`` float32 input of the network.
    valid
        ``(h, w)`` pixels that were measured.
    factor
        Network pixels per scan pixel, ``(y, x)``.
    spacing_px
        Mean nearest-neighbour spacing in network pixels.
    certain
        Whether the spacing was given, or read with confidence.
    confidence
        ``(h, w)`` float32, where the look covered the whole image already; None otherwise.
    """

    residual: NDArray[np.float32]
    levelled: NDArray[np.float32]
    valid: NDArray[np.bool_]
    factor: tuple[float, float]
    spacing_px: float
    certain: bool
    confidence: NDArray[np.float32] | None

    @property
    def zoom(self) -> float:
        """Network pixels per scan pixel, the geometric mean of both axes."""
        return float(np.sqrt(self.factor[0] * self.factor[1]))


def find_scale(scan: Scan, session: Session, *, given_px: float = 0.0) -> ScaledScan:
    """Bring a scan to the scale of the network.

    Parameters
    ----------
    scan
        The scan; non-square pixels are made square.
    session
        The network that finds atoms, with the outputs ``confidence`` and ``spacing_px``; its package may carry a `SCALE_NETWORK`.
    given_px
        Spacing in pixels of the scan (geometric mean of both axes) where the user knows it; 0 to find it.

    Returns
    -------
    ScaledScan
    """
    aspect = _square_pixels(scan)
    attached = session.package.attached.get(SCALE_NETWORK)
    comfortable = LOOK_COMFORTABLE_SPACING_PX if attached is None else COMFORTABLE_SPACING_PX
    nominal = LOOK_NOMINAL_SPACING_PX if attached is None else NOMINAL_SPACING_PX
    if given_px > 0:
        square_px = given_px * float(np.sqrt(aspect[0] * aspect[1]))
        scaled = _resample(scan, aspect, _factor(square_px, nominal, comfortable))
        return replace(scaled, spacing_px=given_px * scaled.zoom, certain=True)
    if attached is None:
        return _by_looks(scan, session, aspect)
    # The network is small: a GPU would not pay for the way to it.
    spacing_px, certain = _by_spectrum(scan, session, shared_session(attached, "cpu"), aspect)
    scaled = _resample(scan, aspect, _factor(spacing_px, nominal, comfortable))
    square_zoom = scaled.zoom / float(np.sqrt(aspect[0] * aspect[1]))
    return replace(scaled, spacing_px=spacing_px * square_zoom, certain=certain)


def _factor(square_px: float, nominal: float, comfortable: tuple[float, float]) -> float:
    """Factor that brings a spacing to the nominal one, 1 where it is comfortable already."""
    low, high = comfortable
    return 1.0 if low <= square_px <= high else float(np.clip(nominal / square_px, MIN_FACTOR, MAX_FACTOR))


def _by_spectrum(
    scan: Scan, session: Session, scale_session: Session, aspect: tuple[float, float]
) -> tuple[float, bool]:
    """Spacing in square pixels of the scan, and whether it is certain."""
    square = _make_square(scan, aspect)
    spectrum = log_polar_spectrum(square.image, square.valid)
    name = scale_session.package.inputs[0].id
    logits = scale_session.run({name: spectrum[None]})["logits"][0].astype(np.float64)
    readings = _readings(np.exp(logits - logits.max()))
    likely = readings[0]
    candidates = [*readings, *((likely[0] / ratio, likely[1]) for ratio in _FINER_RATIOS)]
    looks = [_look_at(square, session, spacing) for spacing, _ in candidates]
    weights = [0.0] * len(candidates)
    for number, ((spacing, part), look) in enumerate(zip(candidates, looks, strict=True)):
        trust = look.weight * min(1.0, look.even / _FINER_EVEN) ** 2
        if _FINER[0] < likely[0] / spacing < _FINER[1] and look.filled >= _FINER_FILLED and look.even >= _FINER_EVEN:
            weights[number] = _FINER_BONUS * trust * max(part, likely[1])
        elif number < len(readings):
            weights[number] = trust * part
    best = int(np.argmax(weights))
    share_of_best = weights[best] / sum(weights) if sum(weights) > 0 else 0.0
    return candidates[best][0], max(share_of_best, likely[1] if best == 0 else 0.0) >= CERTAIN_SHARE


def _readings(share: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Spacings that a distribution over the bins allows, with their share, the likeliest first; at least one."""
    left = share / share.sum()
    bins = np.arange(len(left))
    found: list[tuple[float, float]] = []
    for _ in range(_MAX_READINGS):
        top = int(np.argmax(left))
        near = slice(max(top - _READING_BINS, 0), top + _READING_BINS + 1)
        part = float(left[near].sum())
        if found and part < POSSIBLE_SHARE:
            break
        found.append((float(period_of_bin(float((left[near] * bins[near]).sum() / part))), part))
        left = left.copy()
        left[near] = 0.0
    return sorted(found, key=lambda reading: -reading[1])


@dataclass(frozen=True)
class _Looked:
    """What the finder sees in the middle of an image at an assumed spacing.

    Parameters
    ----------
    weight
        How well that fits the spacing, 0 to 1: the mean score of the atoms, less where they are farther apart or closer
        than was assumed.
    filled
        Atoms found over those of a square net of the assumed spacing.
    even
        Height of the faint atoms over that of the bright ones.
    """

    weight: float
    filled: float
    even: float


def _look_at(square: _Square, session: Session, spacing_px: float) -> _Looked:
    """Let the finder look at the middle of the image as if its atoms were so far apart."""
    factor = float(np.clip(NOMINAL_SPACING_PX / spacing_px, MIN_FACTOR, MAX_FACTOR))
    side = max(int(COMPARE_PX / factor), 8)
    y, x = (max(0, (n - side) // 2) for n in square.image.shape)
    cut = square.image[y : y + side, x : x + side]
    shape = max(1, round(cut.shape[0] * factor)), max(1, round(cut.shape[1] * factor))
    levelled = normalise_contrast(remove_background(resize(cut, shape)))
    confidence = run_tiled(session, levelled)["confidence"]
    assumed = spacing_px * factor
    peaks = local_maxima(confidence, window_px=3, threshold=_LOOK_SCORE)
    if len(peaks) < 3:
        return _Looked(1e-6, 0.0, 0.0)
    distance = cKDTree(peaks).query(peaks, k=2)[0][:, 1]
    misfit = float(np.log(np.median(distance) / assumed)) / _MISFIT
    filled = len(peaks) * assumed**2 / levelled.size
    if filled < _SPARSE:  # single atoms: that they are far apart says nothing
        misfit = min(misfit, 0.0)
    score = float(confidence[peaks[:, 0], peaks[:, 1]].mean())
    return _Looked(score * float(np.exp(-0.5 * misfit**2)) + 1e-6, filled, _evenness(levelled, peaks))


def _evenness(levelled: NDArray[np.float32], peaks: NDArray[np.int32]) -> float:
    """Height of the faint atoms over that of the bright ones, both above the darkest parts of the image."""
    smooth = ndimage.gaussian_filter(levelled, _BLUR_PX)
    faint, bright = np.quantile(smooth[tuple(peaks.T)], [_FAINT, _BRIGHT]) - np.quantile(smooth, _BELOW)
    return float(faint / bright) if bright > 0 else 0.0


def _by_looks(scan: Scan, session: Session, aspect: tuple[float, float]) -> ScaledScan:
    """Look, resample, look again: for networks that know the scale by themselves."""
    factor = 1.0
    for look in range(MAX_LOOKS):
        scaled = _look(session, _resample(scan, aspect, factor))
        wanted = float(np.clip(factor * LOOK_NOMINAL_SPACING_PX / scaled.spacing_px, MIN_FACTOR, MAX_FACTOR))
        if scaled.certain or look == MAX_LOOKS - 1 or abs(wanted / factor - 1) < 0.02:
            break
        factor = wanted
    return scaled


@dataclass(frozen=True, eq=False)
class _Square:
    """A scan with square pixels: ``(h, w)`` finite heights and where they were measured."""

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]


def _resize_valid(valid: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of a resized image that were measured as a whole."""
    if valid.all():
        return np.ones(shape, bool)
    return np.asarray(resize(valid.astype(np.float32), shape, kind="linear") > 0.99)


def _make_square(scan: Scan, aspect: tuple[float, float]) -> _Square:
    valid = scan.valid
    middle = np.float32(np.median(scan.image[valid])) if valid.any() else np.float32(0)
    image = np.where(valid, scan.image - middle, np.float32(0))
    if aspect == (1.0, 1.0):
        return _Square(image, valid)
    shape = max(1, round(scan.shape[0] * aspect[0])), max(1, round(scan.shape[1] * aspect[1]))
    return _Square(resize(image, shape), _resize_valid(valid, shape))


def _square_pixels(scan: Scan) -> tuple[float, float]:
    """Factors that make the pixels square, the coarser axis refined."""
    if scan.pixel_size_nm is None or np.isclose(*scan.pixel_size_nm, rtol=0.01):
        return 1.0, 1.0
    finest = min(scan.pixel_size_nm)
    return scan.pixel_size_nm[0] / finest, scan.pixel_size_nm[1] / finest


def _resample(scan: Scan, aspect: tuple[float, float], factor: float) -> ScaledScan:
    """Bring a scan to a scale whose spacing is not known yet; it never outgrows `MAX_NETWORK_PIXELS`."""
    pixels = scan.image.size * aspect[0] * aspect[1] * factor**2
    factor *= min(1.0, float(np.sqrt(MAX_NETWORK_PIXELS / pixels)))
    valid = scan.valid
    middle = np.float32(np.median(scan.image[valid])) if valid.any() else np.float32(0)
    image = np.where(valid, scan.image - middle, np.float32(0))
    shape = max(1, round(scan.shape[0] * aspect[0] * factor)), max(1, round(scan.shape[1] * aspect[1] * factor))
    there = valid if shape == scan.shape else _resize_valid(valid, shape)
    residual = remove_background(np.where(there, resize(image, shape), np.float32(np.nan)))
    return ScaledScan(
        residual=residual,
        levelled=normalise_contrast(residual),
        valid=there,
        factor=(shape[0] / scan.shape[0], shape[1] / scan.shape[1]),
        spacing_px=float("nan"),
        certain=False,
        confidence=None,
    )


def _look(session: Session, scaled: ScaledScan) -> ScaledScan:
    """Ask the network for the spacing in the middle of the image; keep the confidence if that was all of it."""
    y, x = (max(0, (n - LOOK_PX) // 2) for n in scaled.levelled.shape)
    outputs = run_tiled(session, np.ascontiguousarray(scaled.levelled[y : y + LOOK_PX, x : x + LOOK_PX]))
    spacing = float(outputs["spacing_px"][0])
    low, high = LOOK_COMFORTABLE_SPACING_PX
    whole = outputs["confidence"].shape == scaled.levelled.shape
    return replace(
        scaled,
        spacing_px=spacing,
        certain=low <= spacing <= high,
        confidence=outputs["confidence"] if whole else None,
    )
