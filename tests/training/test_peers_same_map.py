"""Every detector finds the peaks of one clean map; tuning takes what scores best."""

import numpy as np
import pytest

from spm_training.metrics import count
from spm_training.peers.same_map import MapOfScene, Settings, detectors, tuned_settings


def confidence_map(spacing=7.0, noise=0.03, seed=0):
    rng = np.random.default_rng(seed)
    shape = (112, 120)
    rows = np.arange(4.0, shape[0] - 3, spacing * np.sqrt(0.75))
    yx = np.concatenate(
        [
            np.stack(np.broadcast_arrays(y, np.arange(4.0 + (i % 2) * spacing / 2, shape[1] - 3, spacing)), 1)
            for i, y in enumerate(rows)
        ]
    )
    yx = yx + rng.uniform(-0.4, 0.4, yx.shape)
    y, x = np.mgrid[: shape[0], : shape[1]]
    score = np.zeros(shape)
    for (a, b), height in zip(yx, rng.uniform(0.6, 1.0, len(yx)), strict=True):
        score = np.maximum(score, height * np.exp(-0.5 * ((y - a) ** 2 + (x - b) ** 2) / (0.18 * spacing) ** 2))
    score = np.clip(score + noise * rng.normal(size=shape), 0, 1).astype(np.float32)
    return MapOfScene(score, spacing, yx, np.ones(len(yx), bool), spacing)


@pytest.mark.parametrize("name", ["LoG", "DoG", "DoH", "max-pool + NMS"])
@pytest.mark.parametrize("spacing", [7.0, 10.0])
def test_a_clean_map_is_read_by_every_detector(name, spacing):
    one = confidence_map(spacing)
    found = detectors()[name](one.confidence, one.spacing_px)
    counts = count(found, one.yx_px, one.required, 0.25 * spacing)
    # The determinant of Hessian of scikit-image is made of boxes and says itself that it is poor below 3 px.
    assert counts.f1 > (0.8 if name == "DoH" else 0.97)


def test_an_empty_map_has_nothing():
    for detect in detectors().values():
        assert detect(np.zeros((40, 50), np.float32), 7.0).shape == (0, 2)


def test_tuning_is_at_least_as_good_as_the_defaults():
    maps = [confidence_map(seed=1), confidence_map(9.0, seed=2)]
    tuned = detectors(tuned_settings(maps))
    for name, detect in detectors().items():
        scores = [
            sum(count(f(m.confidence, m.spacing_px), m.yx_px, m.required, 0.25 * m.true_spacing_px).f1 for m in maps)
            for f in (tuned[name], detect)
        ]
        assert scores[0] >= scores[1] - 0.01
    with pytest.raises(ValueError, match="no maps"):
        tuned_settings([])


def test_settings_are_in_spacings():
    one = confidence_map(7.0)
    wide = detectors(
        {**dict.fromkeys(("LoG", "DoG", "DoH"), Settings(0.18, 0.1)), "max-pool + NMS": Settings(3.0, 0.3)}
    )
    assert len(wide["max-pool + NMS"](one.confidence, 7.0)) < len(one.yx_px) / 2
