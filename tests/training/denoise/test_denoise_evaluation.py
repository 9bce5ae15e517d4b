"""Scores know the truth, peers are tuned on other images than those that are scored, tables and pages say what was found."""

import contextlib
import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from scipy import ndimage

from spm_runtime.errors import ModelError, ParameterError
from spm_runtime.scan import Scan
from spm_training import cli
from spm_training.data import Split
from spm_training.denoise import pictures, run
from spm_training.denoise.compare import DenoiseComparison
from spm_training.denoise.evaluate import AS_RECORDED, as_recorded, at_every_level, evaluate_all
from spm_training.denoise.pictures import add_real, peer_of_scan
from spm_training.denoise.report import DenoiseReport
from spm_training.denoise.scenes import KINDS, SETTINGS, SURFACES, DenoiseOptions, setting_of
from spm_training.denoise.tuning import DenoisePeers, DenoiseTuning
from spm_training.peers.denoise import Gaussian
from spm_training.peers.denoise_scores import defect_contrast
from spm_training.restore.pictures import RealExample
from spm_training.restore.report import Subject
from spm_training.restore.score import Restored
from spm_training.simulate.stm_lattices import NOISE_LEVELS
from spm_training.studies.page import Page

TINY = DenoiseOptions(images=2, side_px=48, names=("cubic", "fcc"), defects=0.05)
WIDER = DenoiseOptions(images=2, side_px=48, names=("cubic", SURFACES), defects=0.05)


def oracle(options):
    """A denoiser that knows the truth, but for a hundredth of the noise."""
    truth = {}
    for level in NOISE_LEVELS:
        for one in options.shown(level):
            left = 0.01 * (one.scene.image - one.scene.clean)
            truth[one.scene.image.tobytes()] = one.scene.clean + left
            truth[one.scene.perfect_image.tobytes()] = one.scene.perfect + left
    return lambda image, sigma: truth[image.tobytes()].astype(np.float32)


def blurred(image, sigma):
    return ndimage.gaussian_filter(image, 3.0)


METHODS = {"BM3D, a stand-in": blurred, "Gaussian": Gaussian(1.0), "oracle 1": oracle(TINY)}


@pytest.fixture(scope="module")
def scores():
    methods = {AS_RECORDED: as_recorded, **METHODS}
    return evaluate_all({name: at_every_level(one) for name, one in methods.items()}, TINY)


@pytest.fixture(scope="module")
def comparison(scores):
    subjects = [Subject(AS_RECORDED), Subject("BM3D, a stand-in", description="a blur"), Subject("Gaussian")]
    subjects.append(Subject("oracle", "1", "abc"))
    reports = [DenoiseReport(TINY, scores[one.label], one) for one in subjects]
    return DenoiseComparison(reports, {"oracle 1": ("cubic",)}, {"wavelet": "pywt is not installed"})


def test_every_method_has_a_score_for_every_image(scores):
    assert all(len(every) == TINY.total == 12 for every in scores.values())
    order = [(one.noise, one.lattice, one.index) for one in scores["Gaussian"]]
    assert order == [(level, name, index) for level in NOISE_LEVELS for name in TINY.names for index in range(2)]
    assert all(one.seconds > 0 for every in scores.values() for one in every)


def test_what_does_nothing_gains_nothing_and_the_oracle_gains_40_db(scores):
    for one in scores[AS_RECORDED]:
        assert one.gain_db == 0
        shares = [share for share in (one.vacancy, one.adatom) if np.isfinite(share)]
        assert shares == pytest.approx([1] * len(shares), abs=1e-3)
    assert [one.gain_db for one in scores["oracle 1"]] == pytest.approx([40] * 12, abs=0.01)
    kept = [one.vacancy for one in scores["oracle 1"] if np.isfinite(one.vacancy)]
    assert kept == pytest.approx([1] * len(kept), abs=0.01)
    wiped = [one.vacancy for one in scores["BM3D, a stand-in"] if np.isfinite(one.vacancy)]
    assert max(wiped) < 0.8


def test_the_contrast_is_that_of_defect_contrast(scores):
    shown = next(iter(TINY.shown("medium")))
    expected = defect_contrast(shown.scene, blurred)
    found = next(one for one in scores["BM3D, a stand-in"] if one.noise == "medium")
    np.testing.assert_allclose((found.vacancy, found.adatom), (expected["vacancy"], expected["adatom"]))


def test_a_wrong_answer_is_a_mistake_of_the_method():
    few = DenoiseOptions(images=1, side_px=32, names=("cubic",))
    for wrong in (lambda image, sigma: image[1:], lambda image, sigma: image * np.float32("nan")):
        with pytest.raises(ValueError, match="wrong: expected finite values"):
            evaluate_all({"wrong": at_every_level(wrong)}, few)


def test_the_splits_share_no_image():
    ours = [one.scene.clean for one in TINY.shown("low")]
    theirs = [one.scene.clean for one in TINY.shown("low", Split.VALIDATION)]
    assert not any(np.array_equal(a, b) for a in ours for b in theirs)


def test_goals_tell_trained_lattices_from_unseen_ones(comparison):
    package = comparison.packages[0]
    assert comparison.best_peer("high", TINY.names).subject.name == "Gaussian"
    lines = {line.goal: line for line in comparison.goals(package)}
    assert lines["noise low, trained lattices: 3 dB above BM3D, a stand-in"].is_reached
    assert lines["noise low, unseen lattices: 1 dB above BM3D, a stand-in"].is_reached
    assert "2 / 2 of 2" in lines["noise low, trained lattices: above the best peer, Gaussian"].reached
    assert lines["noise high, unseen lattices: SSIM above that of the best peer, Gaussian"].is_reached
    assert lines["noise high: contrast of vacancies kept within 10%"].is_reached
    assert comparison.verdict() == f"oracle 1 reaches {len(lines)} of {len(lines)} goals."


def test_a_blur_reaches_no_goal(comparison, scores):
    """Beside itself it gains nothing, and the defects are gone."""
    blur = DenoiseReport(TINY, scores["BM3D, a stand-in"], Subject("blur", "1", "abc"))
    lines = DenoiseComparison([*comparison.reports[:2], blur]).goals(blur)
    assert len(lines) == 3 * 5
    assert not any(line.is_reached for line in lines)
    assert "+0.00 [+0.00, +0.00] dB; 0 / 0 of 4" in {line.reached for line in lines}


def test_a_goal_against_bm3d_needs_bm3d(comparison):
    alone = DenoiseComparison([comparison.reports[0], comparison.packages[0]])
    assert {line.goal.partition(": ")[2][:8] for line in alone.goals(alone.packages[0])} == {"contrast"}
    assert "against the best peer" not in alone.markdown()


def test_tables_are_written(comparison, tmp_path):
    data, text = comparison.save(tmp_path)
    document = json.loads(data.read_text(encoding="utf-8"))
    won = document["wins"]["oracle 1"]["Gaussian"]["high"]
    assert (won["images"], won["psnr"], won["ssim"]) == (4, 4, 4)
    assert won["gain_db"]["low"] <= won["gain_db"]["value"] <= won["gain_db"]["high"]
    assert [one["name"] for one in document["reports"]] == [AS_RECORDED, "BM3D, a stand-in", "Gaussian", "oracle"]
    assert all(line["is_reached"] for line in document["goals"]["oracle 1"])
    words = text.read_text(encoding="utf-8")
    for expected in ("seconds per image", "goals of oracle 1", "wavelet was not run", "noise high: MSE"):
        assert expected in words
    assert "nan" not in words
    report = comparison.packages[0]
    one, _ = report.save(tmp_path)
    assert json.loads(one.read_text(encoding="utf-8"))["rows"][0]["psnr_db"] == pytest.approx(
        np.mean([score.after.psnr_db for score in report.scores[:2]])
    )


def test_surfaces_are_level_and_in_units_of_their_relief():
    every = [
        one for level in NOISE_LEVELS for one in DenoiseOptions(images=4, side_px=96, names=(SURFACES,)).shown(level)
    ]
    assert [(one.level, one.number) for one in every] == [
        (level, number) for level in NOISE_LEVELS for number in range(4)
    ]
    for one in every:
        assert one.scene.image.dtype == one.scene.clean.dtype == np.float32
        assert 0.9 < np.subtract(*np.percentile(one.scene.clean, (98, 2))) < 3
        # What is left to take away is noise: hardly any plane.
        noise = one.scene.image.astype(np.float64) - one.scene.clean
        y, x = (np.linspace(-1, 1, 96)[:, None], np.linspace(-1, 1, 96))
        assert max(abs(np.mean(noise * y)), abs(np.mean(noise * x))) < 0.1 * one.scene.noise_rms
    assert every[0].scene.noise_rms < every[-4].scene.noise_rms
    validation = next(iter(DenoiseOptions(images=1, side_px=96, names=(SURFACES,)).shown("low", Split.VALIDATION)))
    assert not np.array_equal(validation.scene.clean, every[0].scene.clean)


def test_surfaces_have_settings_columns_and_a_goal_of_their_own(tmp_path):
    assert {setting_of(level, name) for level in NOISE_LEVELS for name in KINDS} == set(SETTINGS)
    asked = []
    peer = {setting: lambda image, sigma, setting=setting: asked.append(setting) or image for setting in SETTINGS}
    truth = {one.scene.image.tobytes(): one.scene.clean for level in NOISE_LEVELS for one in WIDER.shown(level)}
    ours = at_every_level(lambda image, sigma: truth.get(image.tobytes(), image))
    methods = {AS_RECORDED: at_every_level(as_recorded), "BM3D": peer, "oracle 1": ours}
    scores = evaluate_all(methods, WIDER)
    assert [setting for setting in SETTINGS if asked.count(setting)] == list(SETTINGS)
    subjects = [Subject(AS_RECORDED), Subject("BM3D", description="nothing"), Subject("oracle", "1", "abc")]
    comparison = DenoiseComparison([DenoiseReport(WIDER, scores[one.label], one) for one in subjects])
    goals = {line.goal: line.is_reached for line in comparison.goals(comparison.packages[0])}
    assert goals["noise high, surfaces: above the best peer, BM3D"]
    assert not any("dB" in goal and "surfaces" in goal for goal in goals)
    text = comparison.markdown()
    assert "| surfaces, noise medium |" in text
    assert "nan" not in text
    assert "surfaces, low" in json.loads(comparison.save(tmp_path)[0].read_text())["wins"]["oracle 1"]["BM3D"]
    headline = comparison.reports[1].headline()
    assert headline["surfaces_psnr_gain_low"] == 0
    alone = DenoiseOptions(images=1, side_px=48, names=(SURFACES,))
    few = [one for one in scores["BM3D"] if one.lattice == SURFACES and one.index == 0]
    only = DenoiseComparison([DenoiseReport(alone, few, Subject("p", "1", "abc"))])
    assert only.goals(only.packages[0]) == []
    assert "vacancies" in only.markdown()


def test_peers_are_tuned_on_surfaces_too(tmp_path):
    tuning = DenoiseTuning(
        DenoiseOptions(images=1, side_px=48, names=("cubic",)), tmp_path / "denoise.json", surfaces=2
    )
    assert [len(tuning.pairs[setting]) for setting in SETTINGS] == [1, 1, 1, 2, 2, 2]
    candidates = [Gaussian(0.7), Gaussian(30)]
    assert tuning.best("Gaussian", candidates, "high, surfaces") == candidates[0]
    assert [key.rpartition(" ")[0] for key in json.loads(tuning.cache.read_text())] == ["Gaussian, high, surfaces"]


def test_settings_are_kept_and_found_again(tmp_path):
    options = DenoiseOptions(images=1, side_px=32, names=("cubic",))
    candidates = [Gaussian(0.1), Gaussian(1.5), Gaussian(9.0)]
    said = []
    tuning = DenoiseTuning(options, tmp_path / "peers" / "denoise.json", said.append)
    assert tuning.best("Gaussian", candidates, "high") == Gaussian(1.5)
    assert len(said) == 1
    assert tuning.best("Gaussian", candidates, "high") == Gaussian(1.5)
    assert len(said) == 1
    tuning.best("Gaussian", candidates, "low")
    tuning.best("Gaussian", candidates[:2], "high")
    larger = DenoiseTuning(DenoiseOptions(images=1, side_px=40, names=("cubic",)), tuning.cache, said.append)
    larger.best("Gaussian", candidates, "high")
    assert len(said) == 4
    assert len(json.loads(tuning.cache.read_text(encoding="utf-8"))) == 4
    tuning.cache.write_text("{", encoding="utf-8")
    with pytest.raises(ParameterError, match="Remove the file"):
        tuning.best("Gaussian", candidates, "high")


class Silent:
    def update(self, _):
        pass


def a_bar(total, title):
    return contextlib.nullcontext(Silent())


def test_the_whole_run_writes_tables_and_a_page(monkeypatch, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    image = np.random.default_rng(0).normal(0, 1, (64, 70)).astype(np.float32)
    image[-9:] = np.nan
    np.save(real / "scan.npy", image)
    (real / "notes.txt").write_text("no scan", encoding="utf-8")
    few = DenoisePeers({"Gaussian": at_every_level(Gaussian(1.0))}, {"BM3D": "bm3d is not installed"})
    monkeypatch.setattr(run, "make_peers", lambda _: few)
    said = []
    options = DenoiseOptions(images=2, side_px=32, names=("cubic",))
    out = tmp_path / "out"
    run.run_denoise([], options, out, peers=True, real=real, device="cpu", bar=a_bar, say=said.append)
    page = (out / "pictures-denoise.html").read_text(encoding="utf-8")
    assert page.count("<img") == 4  # a lattice at three levels of noise, a real scan
    assert "scan.npy" in page
    text = "\n".join(said)
    assert "BM3D was not run: bm3d is not installed" in text
    assert "notes.txt: not read" in text
    assert "| scan.npy, Gaussian |" in text
    assert json.loads((out / "real-denoise.json").read_text(encoding="utf-8"))["scans"][0]["rms"] > 0
    rows = list(csv.DictReader((out / "denoise-images.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * options.total
    assert {row["method"] for row in rows} == {AS_RECORDED, "Gaussian"}
    assert all(float(row["psnr_db"]) > 0 for row in rows)


def test_what_was_taken_away_is_the_difference(monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "pictures", lambda row: shown.extend(row) or Figure())
    image = np.add.outer(np.arange(64.0), np.zeros(64)).astype(np.float32) * 1e-9
    image[:3] = np.nan
    restored = image + np.float32(2e-10)
    (taken,) = add_real(Page("", ""), [RealExample(Scan(image), {"up": Restored(restored)}, {})])
    assert taken.method == "up"
    assert [one.title for one in shown] == ["before", "after: up", "taken away, 4 times: up"]
    np.testing.assert_allclose(shown[2].image[3:], -2e-10, rtol=0.05)
    assert shown[2].ends[0] == -shown[2].ends[1]
    assert np.ptp(shown[0].image[3:]) < 1e-12


def test_a_peer_sees_a_real_scan_as_the_networks_do(rng):
    """Gain and offset are given back, missing pixels stay so."""
    image = (3e-9 + 1e-10 * rng.normal(size=(64, 64))).astype(np.float32)
    image[10, 10] = np.nan
    told = []

    def nothing(view, sigma):
        told.append(sigma)
        return view

    same = peer_of_scan(nothing)(Scan(image))
    np.testing.assert_allclose(same, image, atol=2e-12)
    scale = np.subtract(*np.nanpercentile(image, (99.5, 0.5)))
    assert told[0] == pytest.approx(1e-10 / scale, rel=0.2)


def test_a_run_of_nothing_is_refused(tmp_path):
    def attempt(options, *, peers=True, real=None):
        run.run_denoise([], options, tmp_path, peers=peers, real=real, device="cpu", bar=a_bar, say=print)

    with pytest.raises(ParameterError, match="no such folder"):
        attempt(TINY, real=tmp_path / "absent")
    with pytest.raises(ParameterError, match="add --peers"):
        attempt(TINY, peers=False)
    with pytest.raises(ParameterError, match="no peers on simulated"):
        attempt(DenoiseOptions(images=0), real=tmp_path)


def test_names_of_another_task_are_left_to_it(monkeypatch):
    monkeypatch.setattr(run, "list_models", lambda: iter(()))
    assert run.denoise_packages(["denoise"]) == []
    assert run.denoise_packages(["restore"]) is None
    assert run.denoise_packages(["defects"]) is None
    with pytest.raises(ParameterError, match="denoise, restore; expected one task"):
        run.denoise_packages(["denoise", "restore"])
    with pytest.raises(ModelError):
        run.denoise_packages(["denoise", "no-such-package"])


def test_options_of_the_command():
    assert run.denoise_options(None, 256, KINDS) == DenoiseOptions()
    with pytest.raises(ParameterError, match="--fit-calibration"):
        run.denoise_options(1, 64, ("fcc",), "knots.json")


def test_the_command_takes_the_word(monkeypatch, tmp_path):
    taken = {}
    monkeypatch.setattr(
        run, "run_denoise", lambda packages, options, out, **rest: taken.update(options=options, out=out, **rest)
    )
    monkeypatch.setattr(run, "list_models", lambda: iter(()))
    words = ["evaluate", "denoise", "--peers", "--images", "3", "--family", "fcc", "--out", str(tmp_path)]
    outcome = CliRunner().invoke(cli.cli, words, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert taken["options"] == DenoiseOptions(images=3, names=("fcc",))
    assert taken["peers"]
