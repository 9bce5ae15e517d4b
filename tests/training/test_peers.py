"""The peers on a lattice that anyone must find, their tuning, and what is said of those that are not there."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from spm_runtime.errors import ModelError, ParameterError
from spm_training import peers
from spm_training.atoms.evaluate import EvaluationOptions, evaluation_scenes
from spm_training.metrics import count
from spm_training.peers import Tuning, available_peers, fft_spacing_px
from spm_training.peers.atomai_peer import AtomaiFinder, locate
from spm_training.peers.blob_fft import BlobFinder, tuned_blob_finder
from spm_training.peers.library_defaults import default_blob_finder
from spm_training.peers.tuning import Look, best_settings, mean_neighbour_px
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS

SPACING = 11.0
TRIANGULAR = (0.5, 0.866)


def lattice(spacing=SPACING, shape=(150, 170), noise=0.05, angle=0.2, basis=((0, 0),), a2=TRIANGULAR):
    """Gaussian columns on a lattice (triangular unless told), and where they are."""
    cell = spacing * np.array([(1.0, 0.0), a2])
    ij = np.stack(np.meshgrid(*[np.arange(-40, 41)] * 2), -1).reshape(-1, 1, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    yx = ((ij + np.asarray(basis)).reshape(-1, 2) @ cell) @ turn + np.asarray(shape) / 2 + (0.3, 0.4)
    yx = yx[np.all((yx > -0.5) & (yx < np.asarray(shape) - 0.5), axis=1)]
    y, x = np.mgrid[: shape[0], : shape[1]]
    sigma = 0.2 * spacing
    gy = np.exp(-0.5 * ((y[:, :1, None] - yx[:, 0]) / sigma) ** 2)[:, 0]
    gx = np.exp(-0.5 * ((x[:1, :, None] - yx[:, 1]) / sigma) ** 2)[0]
    image = gy @ gx.T + noise * np.random.default_rng(0).normal(size=shape)
    return image.astype(np.float32), yx


def f1(found, truth, spacing=SPACING):
    return count(found, truth, np.ones(len(truth), bool), 0.25 * spacing)


def tuning_on(image, truth, spacing=SPACING, **options):
    """A tuning whose only scene is the given one."""
    tuning = Tuning(**options)
    scene = SimpleNamespace(image=image, yx_px=truth, required=np.ones(len(truth), bool), spacing_px=spacing)
    tuning.__dict__["looks"] = (Look(scene, *peers.tuning.levelled_and_spacing(image)),)
    return tuning


@pytest.mark.parametrize("spacing", [5.0, 9.0, 17.0, 28.0])
@pytest.mark.parametrize("a2", [TRIANGULAR, (0.0, 1.0), (0.2, 1.1)], ids=["triangular", "square", "oblique"])
def test_the_spectrum_tells_the_spacing(spacing, a2):
    image, _ = lattice(spacing, shape=(256, 230), a2=a2)
    assert fft_spacing_px(image) == pytest.approx(spacing, rel=0.08)


def test_a_cell_of_two_columns_does_not_double_the_spacing():
    image, _ = lattice(10.0, shape=(256, 256), a2=(0.0, 2.4), basis=((0, 0), (0.5, 0.5)))
    assert fft_spacing_px(image) < 14  # the nearest are 10 px apart; the second vector of the cell is 24 px long


def test_lines_of_a_scan_are_no_lattice():
    image, _ = lattice(12.0, shape=(256, 256), noise=0.3)
    lines = np.random.default_rng(1).normal(size=(256, 1)).astype(np.float32)
    assert fft_spacing_px(image + lines) == pytest.approx(12.0, rel=0.08)


def test_the_width_tells_the_scale_of_single_columns():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:200, :200]
    image = sum(np.exp(-0.5 * ((y - a) ** 2 + (x - b) ** 2) / 3.0**2) for a, b in rng.uniform(10, 190, (12, 2)))
    image = image + 0.1 * rng.normal(size=image.shape)
    assert fft_spacing_px(image.astype(np.float32)) == pytest.approx(3.0 / 0.2, rel=0.2)


def test_an_image_of_nothing_has_a_spacing_all_the_same():
    assert fft_spacing_px(np.zeros((64, 80), np.float32)) == 16.0


@pytest.mark.parametrize("kind", ["log", "dog"])
def test_blobs_on_a_clear_lattice(kind):
    image, truth = lattice()
    found = tuned_blob_finder(kind, tuning_on(image, truth))(image)
    counts = f1(found.yx_px, truth)
    assert counts.f1 > 0.95
    assert counts.rms_px < 0.3
    assert found.spacing_px == pytest.approx(SPACING, rel=0.08)


def test_trackpy_on_a_clear_lattice():
    pytest.importorskip("trackpy")
    from spm_training.peers.trackpy_peer import default_trackpy_finder, tuned_trackpy_finder

    image, truth = lattice(shape=(90, 100))
    found = tuned_trackpy_finder(tuning_on(image, truth))(image).yx_px
    assert f1(found, truth).f1 > 0.95
    # At the border a column and its mirror image pull at each other.
    inner = [yx[np.all((yx > SPACING) & (yx < np.array(image.shape) - SPACING), axis=1)] for yx in (found, truth)]
    assert f1(*inner).rms_px < 0.15
    plain = default_trackpy_finder()
    assert plain(image).yx_px.shape[1] == 2
    assert len(plain(np.zeros((64, 64), np.float32)).yx_px) == 0


def test_atomap_on_a_clear_lattice():
    if importlib.util.find_spec("atomap") is None:
        pytest.skip("atomap is not installed")
    from spm_training.peers.atomap_peer import tuned_atomap_finder

    image, truth = lattice(shape=(70, 80))
    found = tuned_atomap_finder(tuning_on(image, truth))(image)
    counts = f1(found.yx_px, truth)
    assert counts.f1 > 0.95
    assert counts.rms_px < 0.4


@pytest.mark.parametrize("kind", ["log", "dog"])
def test_library_defaults_run(kind):
    image, _ = lattice(shape=(64, 64))
    found = default_blob_finder(kind)(image)
    assert found.yx_px.shape[1] == 2


def test_settings_with_the_best_f1_win():
    image, truth = lattice()
    looks = tuning_on(image, truth).looks
    propose = lambda look: [("half", truth[::2]), ("all", truth), ("off", truth + 5.0)]  # noqa: E731
    assert best_settings(looks, propose) == "all"
    propose = lambda look: [("moved", truth + 0.2), ("there", truth), ("too", truth + 0.1)]  # noqa: E731
    assert best_settings(looks, propose) == "there"


@pytest.mark.slow
def test_tuning_scenes_are_of_every_kind_and_never_those_of_the_evaluation():
    tuning = Tuning((7.0, 9.0), side_px=64)
    assert {look.scene.family for look in tuning.looks} == set(FAMILIES)
    assert len(tuning.looks) == len(FAMILIES) * len(NOISE_LEVELS)
    scored = {
        scene.image.tobytes()
        for _, scene in evaluation_scenes(EvaluationOptions(images=1, side_px=64, spacing_px=(7.0, 9.0)))
    }
    assert not scored & {look.scene.image.tobytes() for look in tuning.looks}


def test_what_is_missing_is_named_with_its_reason(monkeypatch):
    there, missing = available_peers()
    assert {peer.name for peer in there} | set(missing) >= {peer.name for peer in peers.PEERS}
    assert {"FindFoci", "AtomSegNet"} <= set(missing)
    assert {peer.name for peer in there if not peer.tuned} >= {"LoG, library defaults", "DoG, library defaults"}
    monkeypatch.setattr(peers._registry, "is_installed", lambda package: package == "skimage")
    there, missing = available_peers()
    assert [peer.name for peer in there][:2] == ["LoG + FFT scale", "DoG + FFT scale"]
    assert "pip install" in missing["Atomap + FFT scale"]
    assert "--no-deps" in missing["AtomAI net, blind"]


def test_a_library_that_is_not_there_names_the_remedy():
    from spm_training.peers.optional import import_peer

    with pytest.raises(ParameterError, match=r"not_a_library_at_all.*Install it: pip install x"):
        import_peer("not_a_library_at_all.core", "pip install x")


def test_neighbours():
    assert mean_neighbour_px(np.array([[0.0, 0.0], [0.0, 2.0], [0.0, 6.0]])) == pytest.approx(8 / 3)
    assert np.isnan(mean_neighbour_px(np.zeros((1, 2))))


def test_positions_are_centres_of_mass_of_areas():
    score = np.zeros((20, 30), np.float32)
    score[3:6, 4:7] = 0.9
    score[10:12, 20:24] = 0.6
    assert locate(score, 0.5).tolist() == [[4.0, 5.0], [10.5, 21.5]]
    assert locate(score, 0.7).tolist() == [[4.0, 5.0]]
    assert locate(score, 0.95).shape == (0, 2)


def test_a_resampled_image_gives_positions_of_the_image(monkeypatch):
    """A network that gives the image back: what comes out are the columns, at any scale."""
    image, truth = lattice(noise=0.0)
    monkeypatch.setattr("spm_training.peers.atomai_net.confidence", lambda network, image: image)
    found = AtomaiFinder(None, 0.6, 17.0)(image)
    counts = f1(found.yx_px, truth)
    assert counts.f1 > 0.97
    assert counts.rms_px < 0.4


@pytest.fixture
def atomai():
    if importlib.util.find_spec("atomai") is None:
        pytest.skip("atomai is not installed")
    return pytest.importorskip("spm_training.peers.atomai_net")


def test_the_network_is_the_one_of_atomai(atomai):
    assert sum(parameter.numel() for parameter in atomai.build_network().parameters()) == 594_033


@pytest.mark.slow
def test_atomai_learns_and_its_weights_are_kept(atomai, tmp_path):
    options = atomai.AtomaiTraining(minutes=0.01, crop_px=32, batch=2, spacing_px=(6.0, 12.0))
    weights = tmp_path / "peers" / "atomai.pt"
    lines = []
    first = atomai.load_or_train(weights, options, report=lines.append)
    assert weights.is_file()
    assert "step 0" in lines[0]
    image, _ = lattice(shape=(45, 51))
    score = atomai.confidence(first, image)
    assert score.shape == (45, 51)
    assert 0 <= score.min() <= score.max() <= 1
    again = atomai.load_or_train(weights, options)
    assert np.array_equal(atomai.confidence(again, image), score)
    with pytest.raises(ParameterError, match=r"atomai\.pt: trained with .*Delete the file"):
        atomai.load_or_train(weights, atomai.AtomaiTraining(minutes=2))
    weights.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="Delete it"):
        atomai.load_or_train(weights, options)


def test_the_target_is_discs_at_the_required_columns(atomai):
    scene = SimpleNamespace(
        image=np.zeros((30, 40), np.float32),
        yx_px=np.array([[10.0, 10.0], [10.0, 22.0], [25.0, 30.0]]),
        required=np.array([True, True, False]),
        spacing_px=12.0,
    )
    mask = atomai.disc_mask(scene)
    assert locate(mask, 0.5).tolist() == [[10.0, 10.0], [10.0, 22.0]]
    assert mask.sum() == 2 * 29  # pixels within 3 px of a pixel
    scene.required[:] = False
    assert not atomai.disc_mask(scene).any()


@pytest.mark.slow
def test_the_tuned_finder_of_atomai_has_both_settings(atomai, tmp_path):
    image, truth = lattice(shape=(64, 64))
    tuning = tuning_on(image, truth, weights=tmp_path / "a.pt", minutes=0.0, spacing_px=(8.0, 12.0))
    by_name = {peer.name: peer for peer in peers.PEERS}
    blind = by_name["AtomAI net, blind"].make(tuning)
    scaled = by_name["AtomAI net + FFT scale"].make(tuning)
    assert blind(image).yx_px.shape[1] == 2
    assert scaled(image).spacing_px == pytest.approx(SPACING, rel=0.08)


@pytest.mark.parametrize("kind", ["log", "dog"])
def test_a_finder_with_its_settings_does_as_in_the_tuning(kind):
    image, truth = lattice()
    assert f1(BlobFinder(kind, 0.18, 0.5, 0.8)(image).yx_px, truth).f1 > 0.95
