"""Classical denoisers lower the error and commute with gain and offset; tuning takes the best; the scores know the truth."""

import numpy as np
import pytest
from scipy import ndimage

from spm_runtime.errors import ParameterError
from spm_training.data import Split
from spm_training.peers import denoise, optional
from spm_training.peers.denoise import (
    PEERS,
    Bm3d,
    Gaussian,
    Median,
    NonLocalMeans,
    TotalVariation,
    Wavelet,
    available,
    tuned,
)
from spm_training.peers.denoise_scores import compare, defect_contrast, draw_lattices, score
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, Cut, simulate_lattice

ONE_OF_EACH = [
    Gaussian(1.1), Median(2), NonLocalMeans(0.75, 7), TotalVariation(0.7), Wavelet(1.4, "sym4"), Bm3d(1.0), Bm3d(1.0, 0.1),
]  # fmt: skip


def usable(denoiser):
    need = {"Wavelet": "pywt", "Bm3d": "bm3d"}.get(type(denoiser).__name__)
    if need:
        pytest.importorskip(need)
    return denoiser


def scene_of(seed=0, name="cubic", **options):
    options = {"shape": (64, 72), "noise": NOISE_LEVELS["medium"], **options}
    return simulate_lattice(np.random.default_rng(seed), name, **options)


@pytest.mark.parametrize("denoiser", ONE_OF_EACH, ids=str)
def test_every_peer_lowers_the_error_and_commutes_with_gain_and_offset(denoiser):
    denoiser, scene = usable(denoiser), scene_of()
    image = scene.image.copy()
    found = denoiser(scene.image, scene.noise_rms)
    np.testing.assert_array_equal(scene.image, image)
    assert found.dtype == np.float32
    assert found.shape == scene.image.shape
    assert score(found, scene.clean).mse < 0.6 * score(scene.image, scene.clean).mse
    gain, offset = 250.0, -40.0
    other = denoiser((scene.image * gain + offset).astype(np.float32), scene.noise_rms * gain)
    np.testing.assert_allclose((other - offset) / gain, found, atol=0.02)


def test_tuning_takes_the_best_candidate():
    scenes = [scene_of(seed, noise=NOISE_LEVELS["high"]) for seed in range(2)]
    pairs = [(scene.image, scene.clean) for scene in scenes]
    candidates = PEERS["Gaussian"]
    best = tuned(candidates, pairs)
    error = [np.mean([score(c(s.image, 0.3), s.clean).psnr_db for s in scenes]) for c in candidates]
    assert best == candidates[int(np.argmax(error))]
    assert best not in (candidates[0], candidates[-1])


def test_the_spectrum_of_the_line_noise_is_that_of_the_simulator():
    quiet = {"position": 0.0, "brightness": 0.0}
    noise = type(NOISE_LEVELS["low"])(thermal=0.2, striation=0.1, **quiet)
    scene = scene_of(noise=noise, shape=(512, 256), cut=Cut(0, 0, 0))
    seen = np.mean(np.abs(np.fft.fft(scene.image - scene.clean, axis=1)) ** 2, axis=0) / 256 / 0.05
    expected = Bm3d(1.0, lines=0.2)._spectrum((512, 256))[0]
    assert expected.mean() == pytest.approx(1)
    # The transform of a line that does not close on itself leaks a little.
    np.testing.assert_allclose(seen[[0, 1, 2, 60, 128]], expected[[0, 1, 2, 60, 128]], rtol=0.3)


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    there, missing = available()
    assert set(there) | set(missing) == set(PEERS)
    assert "Gaussian" in there
    for module in (denoise, optional):
        monkeypatch.setattr(module, "is_installed", lambda package: package == "skimage")
    there, missing = available()
    assert set(missing) == {"wavelet", "BM3D", "BM3D, told of the lines"}
    assert all("pip install" in reason for reason in missing.values())
    with pytest.raises(ParameterError, match="pip install bm3d"):
        Bm3d(1.0)(np.zeros((16, 16), np.float32), 0.1)


def test_scores_of_known_errors():
    clean = scene_of().clean
    perfect = score(clean, clean)
    assert (perfect.mse, perfect.psnr_db, perfect.ssim) == (0, np.inf, pytest.approx(1))
    shifted = score(clean + np.float32(0.1), clean)
    assert shifted.mse == pytest.approx(0.01, rel=1e-4)
    assert shifted.psnr_db == pytest.approx(20, abs=1e-3)
    assert 0 < shifted.ssim < 1


def test_contrast_of_defects_that_are_kept_halved_and_wiped_out():
    scene = scene_of(3, name="bcc", shape=(128, 128), vacancies=0.04, adatoms=0.04)
    kept = defect_contrast(scene, lambda image, sigma: image)
    halved = defect_contrast(scene, lambda image, sigma: 0.5 * image + 3)
    wiped = defect_contrast(scene, lambda image, sigma: scene.perfect)
    for kind in ("vacancy", "adatom"):
        assert kept[kind] == pytest.approx(1, abs=1e-3)
        assert halved[kind] == pytest.approx(0.5, abs=1e-3)
        assert wiped[kind] == 0
    blurred = defect_contrast(scene, lambda image, sigma: ndimage.gaussian_filter(image, 2.0))
    assert 0.2 < blurred["vacancy"] < 0.8
    assert np.isnan(defect_contrast(scene_of(), lambda image, sigma: image)["adatom"])


def test_the_table_and_its_images():
    scenes = draw_lattices(5, Split.EVALUATION, NOISE_LEVELS["low"], count=2, side_px=48)
    assert [scene.name for scene in scenes] == [name for name in LATTICES for _ in range(2)]
    other = draw_lattices(5, Split.VALIDATION, NOISE_LEVELS["low"], count=2, side_px=48)
    assert not any(np.array_equal(a.clean, b.clean) for a in scenes for b in other)
    louder = draw_lattices(5, Split.EVALUATION, NOISE_LEVELS["high"], count=2, side_px=48)
    assert all(np.array_equal(a.clean, b.clean) for a, b in zip(scenes, louder, strict=True))
    table = compare({"Gaussian": Gaussian(0.7)}, scenes)
    assert list(table) == ["none", "Gaussian"]
    assert list(table["none"]) == list(LATTICES)
    for name, none in table["none"].items():
        pair = [scene for scene in scenes if scene.name == name]
        assert none.mse == pytest.approx(np.mean([scene.noise_rms**2 for scene in pair]), rel=1e-4)
        assert table["Gaussian"][name].psnr_db > none.psnr_db
