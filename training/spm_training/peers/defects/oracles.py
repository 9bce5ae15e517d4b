"""Bounds that know part of the truth: a matched filter told steps, lattice and templates, a forest told the places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal
from sklearn.ensemble import RandomForestClassifier

from spm_runtime.results import Defects
from spm_training.defects.evaluate import marks
from spm_training.defects.scenes import DefectOptions, scan_of, validation_scenes
from spm_training.defects.score import tolerance_px
from spm_training.metrics import Counts
from spm_training.peers.defects.look import MAD_STD, Look, look_at
from spm_training.peers.defects.tuning import DefectTuning, mean_f1, scene_counts
from spm_training.simulate.surfaces import DEFECT_CLASSES, SurfaceScene

__all__ = ["FeatureForest", "MatchedFilter", "feature_forest", "features_of", "tuned_matched_filter"]

#: Radius of a template in radii of its defect.
_REACH = 1.3
_THRESHOLDS = (3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, 10.0, 13.0, 17.0, 22.0)
#: Discs around a place over which heights are gathered.
_DISCS_NM = (0.3, 0.6, 1.0, 1.6)
_TREES = 300
#: Scenes of every noise level that the forest learns from, per scene that the other peers are tuned on.
_MORE = 4


@dataclass(frozen=True)
class MatchedFilter:
    """Every true defect's own picture as a template, correlated with the image less all that is no noise.

    A defect is found where its picture and the noise over it exceed the threshold together; where the noise alone does, there is
    a false mark. Neighbours do not disturb: an upper bound. On a surface without defects it has nothing to look for.

    Parameters
    ----------
    threshold
        Least height of a correlation in its robust standard deviations.
    """

    threshold: float

    def __call__(self, scene: SurfaceScene) -> Defects:
        """Marks of defects, and of noise like them."""
        return self.kept(*self.answers(scene))

    def kept(self, yx: NDArray[np.float64], height: NDArray[np.float64], radius: NDArray[np.float64]) -> Defects:
        """Marks from the `answers` of this threshold or a lower one."""
        chosen = height > self.threshold
        return marks(yx[chosen], radius[chosen], score=height[chosen])

    def answers(self, scene: SurfaceScene) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Places ``(N, 2)``, heights and radii of the templates: first the defects, then maxima of the noise."""
        noise = (scene.image - scene.clean).astype(np.float64)
        noise -= np.median(noise, axis=1, keepdims=True)
        difference = (scene.clean - scene.pristine).astype(np.float64)
        truth, chosen = scene.defects, np.flatnonzero(scene.required)
        best = np.full(noise.shape, -np.inf)
        which = np.zeros(noise.shape, np.int64)
        heights = []
        for index in chosen:
            template = _template(difference, truth.yx_px[index], _REACH * truth.radius_px[index])
            answer = signal.fftconvolve(noise, template[::-1, ::-1], mode="same")
            spread = max(MAD_STD * float(np.median(np.abs(answer))), 1e-12)
            better = answer / spread > best
            best[better], which[better] = answer[better] / spread, index
            row, column = np.rint(truth.yx_px[index]).astype(int)
            heights.append((answer[row, column] + np.sum(template**2)) / spread)
        places = [*truth.yx_px[chosen]]
        radii = [*truth.radius_px[chosen]]
        reach = tolerance_px(truth.radius_px, scene.pixel_size_nm)
        rows, columns = noise.shape
        y, x = np.mgrid[:rows, :columns]
        while best.max() > self.threshold:
            row, column = divmod(int(np.argmax(best)), columns)
            index = which[row, column]
            places.append(np.array([row, column], np.float64))
            heights.append(best[row, column])
            radii.append(truth.radius_px[index])
            best[(y - row) ** 2 + (x - column) ** 2 <= reach[index] ** 2] = -np.inf
        return np.array(places).reshape(-1, 2), np.array(heights, np.float64), np.array(radii, np.float64)


def _template(difference: NDArray[np.float64], yx_px: NDArray[np.float64], radius_px: float) -> NDArray[np.float64]:
    """What a defect changes in a circle around it, centred in an array of odd sides."""
    half = max(int(np.ceil(radius_px)), 1)
    y, x = (int(part) for part in np.rint(yx_px))
    padded = np.pad(difference, half)
    cut = padded[y : y + 2 * half + 1, x : x + 2 * half + 1]
    dy, dx = np.ogrid[-half : half + 1, -half : half + 1]
    return np.where(dy * dy + dx * dx <= radius_px**2, cut, 0.0)


def tuned_matched_filter(tuning: DefectTuning) -> MatchedFilter:
    """The threshold with the best mean F1 on the tuning scenes."""
    lowest = MatchedFilter(_THRESHOLDS[0])
    counts = {value: {one.noise: Counts() for one in tuning.shown} for value in _THRESHOLDS}
    for one in tuning.shown:
        found = lowest.answers(one.scene)
        for value, by_noise in counts.items():
            by_noise[one.noise] += scene_counts(MatchedFilter(value).kept(*found), one.scene)
    return MatchedFilter(max(_THRESHOLDS, key=lambda value: mean_f1(counts[value])))


@dataclass(frozen=True, eq=False)
class FeatureForest:
    """A random forest on hand-made features at the true places: what classes can be told apart when nothing must be found.

    Parameters
    ----------
    forest
        Fitted to the indices of `DEFECT_CLASSES`.
    """

    forest: RandomForestClassifier

    def __call__(self, scene: SurfaceScene) -> Defects:
        """The required defects, each with a class."""
        chosen = scene.required
        yx, radius = scene.defects.yx_px[chosen], scene.defects.radius_px[chosen]
        if not len(yx):
            return marks(yx, radius)
        found = self.forest.predict(_features(scene, yx))
        return marks(yx, radius, names=[DEFECT_CLASSES[int(kind)] for kind in found])


def feature_forest(tuning: DefectTuning) -> FeatureForest:
    """A forest fitted to defects of the validation split, more of them than the other peers need."""
    options = replace(tuning.options, images=_MORE * tuning.options.images)
    key = hashlib.sha256(repr(options).encode()).hexdigest()[:16]
    file = None if tuning.cache is None else tuning.cache.parent / f"features-{key}.npz"
    if file is not None and file.is_file():
        with np.load(file, allow_pickle=False) as content:
            features, kinds = content["features"], content["kinds"]
    else:
        features, kinds = _learned_from(options)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, allow_pickle=False, features=features, kinds=kinds)
    forest = RandomForestClassifier(_TREES, min_samples_leaf=2, class_weight="balanced", random_state=0)
    return FeatureForest(forest.fit(features, kinds))


def _learned_from(options: DefectOptions) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    features, kinds = [], []
    for one in validation_scenes(options):
        chosen = one.scene.required
        if one.empty:
            break
        if chosen.any():
            features.append(_features(one.scene, one.scene.defects.yx_px[chosen]))
            kinds.append(one.scene.defects.kind[chosen])
    return np.concatenate(features), np.concatenate(kinds)


def _features(scene: SurfaceScene, yx_px: NDArray[np.float64]) -> NDArray[np.float64]:
    look = look_at(scan_of(scene), terraces=True)
    return features_of(look, (yx_px - (look.factor - 1) / 2) / look.factor)


def features_of(look: Look, yx_px: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Hand-made features of places in a look.

    Parameters
    ----------
    look
        The levelled image.
    yx_px
        ``(N, 2)`` places in it.

    Returns
    -------
    ``(N, F)``: of discs around the place mean, spread, minimum and maximum above the surroundings; of the region above half of
    the extreme height its area, elongation, size and number of maxima; of the image its spread and pixel size.
    """
    image = look.image.astype(np.float64)
    soft = ndimage.gaussian_filter(image, 0.1 / look.pixel_size_nm)
    general = [float(np.log(image.std() + 1e-9)), look.pixel_size_nm]
    return np.array([[*_local(soft, look.pixel_size_nm, place), *general] for place in yx_px])


def _local(image: NDArray[np.float64], pixel: float, yx_px: NDArray[np.float64]) -> list[float]:
    reach = 1.6 * max(_DISCS_NM) / pixel
    last = np.asarray(image.shape) - 1
    top, left = (int(value) for value in np.clip(np.floor(yx_px - reach), 0, last))
    bottom, right = (int(value) + 1 for value in np.clip(np.ceil(yx_px + reach), 0, last))
    cut = image[top:bottom, left:right]
    y, x = np.mgrid[top:bottom, left:right]
    distance = np.hypot(y - yx_px[0], x - yx_px[1]) * pixel
    around = cut[distance > max(_DISCS_NM)]
    cut = cut - (np.median(around) if len(around) else np.median(cut))
    values = []
    for radius in _DISCS_NM:
        inside = cut[distance <= max(radius, pixel)]
        values += [inside.mean(), inside.std(), inside.min(), inside.max()]
    near = np.where(distance <= max(_DISCS_NM), cut, 0.0)
    extreme = float(near.flat[np.argmax(np.abs(near))])
    labels, _ = ndimage.label(np.sign(extreme) * near > 0.5 * abs(extreme))
    y0, x0 = np.unravel_index(int(np.argmax(np.abs(near))), near.shape)
    region = np.argwhere(labels == labels[y0, x0]) if labels[y0, x0] else np.array([[y0, x0]])
    spread = np.sort(np.linalg.eigvalsh(np.cov(region.T))) if len(region) > 2 else np.zeros(2)
    maxima = ndimage.maximum_filter(np.sign(extreme) * near, max(round(0.3 / pixel), 1))
    peaks = (np.sign(extreme) * near == maxima) & (maxima > 0.5 * abs(extreme))
    elongation = float(np.sqrt((spread[1] + 0.1) / (spread[0] + 0.1)))
    return [
        *values,
        extreme,
        len(region) * pixel**2,
        elongation,
        float(np.hypot(*spread) * pixel**2),
        float(peaks.sum()),
    ]
