"""The peers of restoration: what they must do, that they are tuned on other scenes, and what is kept of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from spm_kernels import dilate, erode
from spm_runtime.errors import ParameterError
from spm_runtime.scan import Scan
from spm_training.peers.optional import is_installed
from spm_training.peers.restore import RestoreTuning, _registry, make_peers
from spm_training.peers.restore import gwyddion as library
from spm_training.peers.restore.denoised import Bm3dAlone, Bm3dThen
from spm_training.peers.restore.morphology import Blind, GwyddionBlind, gwyddion_true_tip
from spm_training.peers.restore.richardson_lucy import TruePsf
from spm_training.peers.restore.tuning import OF_TIPS, best
from spm_training.restore.metrics import inner, psnr
from spm_training.restore.scenes import NM_TO_M, RestoreOptions, scan_of, validation_scenes
from spm_training.simulate.tips import FAMILIES, Disturbance, scene_rng, simulate_tip_scene

TINY = RestoreOptions(images=1, side_px=64, modalities=("afm",))
QUIET = Disturbance(white=0.0, lines=0.0)

needs_gwyddion = pytest.mark.skipif(library.why_missing() is not None, reason="libgwyprocess2 is not installed")
needs_bm3d = pytest.mark.skipif(not is_installed("bm3d"), reason="bm3d is not installed")


def a_scene(family, *, disturbance=QUIET, side=96, index=4):
    return simulate_tip_scene(
        scene_rng("validation", index),
        shape=(side, side),
        families=[family],
        surfaces=["particles"],
        disturbance=disturbance,
    )


def spikes():
    """Pillars, and spikes that show the whole of an oblique tip."""
    surface = np.zeros((90, 90), np.float32)
    surface[60:80, 10:80:12] = 5
    surface[60:80, 14:80:12] = 5
    surface[[20, 40], [25, 60]] = 40, 50
    away = np.arange(-4, 5)
    tip = -(0.3 * (away[:, None] ** 2 + away**2) + 2.0 * np.maximum(away, 0)).astype(np.float32)
    return tip, dilate(surface, tip)


def rms(values):
    return float(np.sqrt(np.mean(values**2)))


def test_a_tip_that_is_not_turned_does_harm():
    tip, image = spikes()
    best_of_all = erode(image, tip)
    right, wrong = (Blind(True, 9, 1e-4, turned)(image) - best_of_all for turned in (True, False))
    assert rms(right) < 0.02
    assert rms(wrong) > 0.5


@needs_gwyddion
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_gwyddion_and_the_kernels_do_the_same(full, turned):
    scene = a_scene("blunt", disturbance=Disturbance())
    settings = Blind(full, 9, 0.03, turned)
    theirs = GwyddionBlind(settings)(scan_of(scene)).heights / NM_TO_M
    ours = settings(scene.image)
    off = inner(theirs - ours) / np.ptp(scene.image)
    assert rms(off) < 5e-4  # a bound that moves by a step of Gwyddion's rounding may move others
    assert np.abs(off).max() < 2e-2


@needs_gwyddion
@pytest.mark.parametrize("family", OF_TIPS)
def test_gwyddion_with_the_true_tip_finds_what_was_touched(family):
    scene = a_scene(family)
    restored = gwyddion_true_tip(scene)
    bound = erode(scene.image, scene.tip)
    assert np.abs(restored.heights / NM_TO_M - bound)[inner_of(30)].max() < 1e-3 * np.ptp(scene.image)
    off = np.abs(restored.heights / NM_TO_M - scene.clean)[inner_of(30)]
    assert off[scene.touched[inner_of(30)]].max() < 2e-3 * np.ptp(scene.image)
    assert gwyddion_true_tip(a_scene("convolution")) is None


def inner_of(rim):
    """Where no pixel from beyond the border counts."""
    return np.s_[rim:-rim, rim:-rim]


def test_deconvolution_gives_back_what_was_blurred():
    scene = a_scene("convolution", index=1)
    clean = np.asarray(inner(scene.clean), np.float64)
    before, after = (
        psnr(np.asarray(inner(image), np.float64), clean, np.ptp(clean))
        for image in (scene.image, TruePsf(20, 0.05)(scene).heights / NM_TO_M)
    )
    assert after > before + 2
    assert TruePsf(1, 1.0)(a_scene("blunt")) is None


def test_deconvolution_keeps_what_is_flat():
    flat = np.full((40, 40), 7.0, np.float32)
    point = np.zeros((61, 61), np.float32)
    point[29:32, 30] = 1 / 3
    np.testing.assert_allclose(TruePsf(5, 1.0).deconvolved(flat, point), 7, rtol=1e-5)


@needs_bm3d
def test_bm3d_takes_noise_out_of_any_unit(rng):
    clean = np.add.outer(np.arange(64.0), np.sin(np.arange(64.0) / 5))
    noisy = (clean + rng.normal(0, 1, clean.shape)) * 1e-9
    quiet = Bm3dAlone(1.0).denoised(noisy.astype(np.float32)) * 1e9
    assert rms(quiet - clean) < 0.5
    flat = np.ones((64, 64), np.float32)
    np.testing.assert_array_equal(Bm3dAlone(1.0).denoised(flat), flat)


class Halved(Bm3dAlone):
    def denoised(self, image):
        return (0.5 * image).astype(np.float32)


@needs_gwyddion
def test_denoising_comes_before_the_tip():
    scan = scan_of(a_scene("blunt", side=64))
    settings = GwyddionBlind(Blind(True, 7, 0.01))
    both = Bm3dThen(Halved(1.0), settings)(scan)
    np.testing.assert_array_equal(both.heights, settings(Scan(0.5 * scan.image)).heights)


def constant(level, shown):
    return np.full_like(shown.scene.clean, level * float(shown.scene.clean.mean()))


def test_the_best_candidate_is_taken_and_kept(tmp_path):
    tuning = RestoreTuning(TINY, cache=tmp_path / "known" / "restore.json")
    tried = []

    def attempt(share, shown):
        tried.append(share)
        return (1 - share) * shown.scene.image + share * shown.scene.clean

    figures = tuning.figures("mixed", (0.0, 0.9, 0.5), attempt)
    assert best((0.0, 0.9, 0.5), figures, FAMILIES) == 0.9
    assert set(figures["0.9"]) == set(FAMILIES)
    assert len(tried) == 3 * len(FAMILIES)
    assert tuning.figures("mixed", (0.0, 0.9, 0.5), attempt) == figures
    assert len(tried) == 3 * len(FAMILIES)  # from the file
    other = RestoreTuning(replace(TINY, side_px=72), cache=tuning.cache)
    other.figures("mixed", (0.0, 0.9, 0.5), attempt)
    assert len(tried) == 6 * len(FAMILIES)
    assert len(json.loads(tuning.cache.read_text(encoding="utf-8"))) == 2


def test_what_is_best_depends_on_the_families():
    figures = {"1": {"blunt": 20.0, "double": 30.0}, "2": {"blunt": 24.0, "double": 21.0}}
    assert best((1, 2), figures, ("blunt",)) == 2
    assert best((1, 2), figures, OF_TIPS) == 1
    assert best((2, 1), {"1": figures["1"], "2": figures["1"]}, OF_TIPS) == 2  # the first of equals


def test_a_damaged_cache_is_named(tmp_path):
    file = tmp_path / "restore.json"
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"restore\.json: no JSON.*Remove the file"):
        RestoreTuning(TINY, cache=file).figures("any", (1,), constant)


def test_peers_are_tuned_on_scenes_that_are_not_scored():
    tuned = {one.scene.clean.tobytes() for one in RestoreTuning(TINY, cache=None).shown}
    assert tuned == {one.scene.clean.tobytes() for one in validation_scenes(TINY)}


def test_what_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr(_registry, "why_missing", lambda: "libgwyprocess2 is not installed")
    monkeypatch.setattr(_registry, "is_installed", lambda _: False)
    monkeypatch.setattr(_registry, "_RL", (TruePsf(2, 1.0),))
    peers = make_peers(RestoreTuning(TINY, cache=None))
    assert set(peers.restorers) == {_registry.CLASSICAL}
    assert set(peers.oracles) == {_registry.RL}
    assert "bm3d is not installed" in peers.missing[_registry.BM3D]
    assert set(_registry.GWYDDION_BLIND) < set(peers.missing)


@needs_bm3d
@needs_gwyddion
def test_every_peer_restores(monkeypatch):
    for name in ("_PARTIAL", "_FULL", "_QUIET"):
        monkeypatch.setattr(_registry, name, tuple(Blind(name != "_PARTIAL", 5, share) for share in (0.02, 0.05)))
    monkeypatch.setattr(_registry, "_BM3D", (Bm3dAlone(1.0),))
    monkeypatch.setattr(_registry, "_RL", (TruePsf(2, 1.0), TruePsf(4, 1.0)))
    peers = make_peers(RestoreTuning(TINY, cache=None))
    assert not peers.missing
    assert {one.name: one.oracle for one in peers.described} == {
        **dict.fromkeys(peers.restorers, False),
        **dict.fromkeys(peers.oracles, True),
    }
    scene = a_scene("double", side=64)
    for restore in peers.restorers.values():
        assert np.isfinite(restore(scan_of(scene)).heights).all()
    for name, oracle in peers.oracles.items():
        made = {family: oracle(a_scene(family, side=64)) for family in FAMILIES}
        applies = {_registry.RL: ("convolution",), _registry.GWYDDION_TRUE: OF_TIPS}.get(name, FAMILIES)
        assert {family for family, one in made.items() if one is not None} == set(applies)
