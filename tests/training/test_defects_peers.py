"""The peers of the finders of defects: what they must find, that they are tuned on other scenes, and what is kept of it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from spm_runtime.errors import ParameterError
from spm_runtime.scan import Scan
from spm_training.defects.scenes import DefectOptions, scan_of
from spm_training.defects.score import judge_defects
from spm_training.peers.defects import _registry, ucl
from spm_training.peers.defects import tuning as tuning_module
from spm_training.peers.defects.look import AnomalyFinder, Marking, look_at, places, robust_z
from spm_training.peers.defects.maps import IsolationScore, NotchLog, PcaError
from spm_training.peers.defects.oracles import feature_forest, features_of, tuned_matched_filter
from spm_training.peers.defects.tuning import DefectTuning, mean_f1, scene_counts, tuned_finder

PIXEL_NM = 0.08
DEFECTS = np.array([[40.0, 44.0], [100.0, 90.0], [30.0, 100.0]])


def lattice(shape=(128, 128), *, step=False, defects=True, rng=None):
    """A square lattice of 0.4 nm with three adsorbates, a step where asked for, 2 pm of noise."""
    rng = np.random.default_rng(0) if rng is None else rng
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    image = 0.02 * (np.cos(2 * np.pi * y / 5.3) + np.cos(2 * np.pi * x / 5.3))
    if defects:
        for place in DEFECTS:
            image += 0.2 * np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * 3.0**2))
    if step:
        image += 0.3 * (x + 0.4 * y > 95)
    return Scan(
        ((image + rng.normal(0, 0.002, shape)) * 1e-9).astype(np.float32), unit="m", pixel_size_nm=(PIXEL_NM, PIXEL_NM)
    )


def counts_of(found):
    return judge_defects(found.yx_px, DEFECTS, np.full(3, 8.0), np.ones(3, bool)).counts()


METHODS = [NotchLog(20.0, 0.0), PcaError(8, 4, 1.0), IsolationScore(8, 4)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_adsorbates_on_a_lattice_are_what_stands_out(method):
    look = look_at(lattice(), terraces=False)
    z = robust_z(method(look), ~look.ignore)
    assert z.shape == look.image.shape
    found = Marking("regions", 0.5 * float(z.max()), 0)(z, look)
    counts = counts_of(found)
    assert (counts.true_positive, counts.false_positive) == (3, 0)


def test_the_notch_takes_the_lattice_out():
    look = look_at(lattice(defects=False), terraces=False)
    left = NotchLog(10.0, 0.0).residual(look.image)
    assert left.std() < 0.35 * look.image.std()


def test_a_step_is_masked_only_where_it_is_asked_for():
    scan = lattice(step=True)
    plain, known = (look_at(scan, terraces=terraces) for terraces in (False, True))
    assert not plain.ignore.any()
    assert 0.02 < known.ignore.mean() < 0.4
    assert np.ptp(np.median(known.image, axis=0)) < 0.5 * np.ptp(np.median(plain.image, axis=0))
    finder = AnomalyFinder(NotchLog(20.0, 0.0), Marking("peaks", 12.0, 0), True)
    assert counts_of(finder(scan)).true_positive == 3


def test_fine_pixels_are_averaged_and_places_are_those_of_the_scan():
    scan = replace(lattice(), pixel_size_nm=(0.02, 0.02))
    look = look_at(scan, terraces=False)
    assert look.factor == 3
    assert look.pixel_size_nm == pytest.approx(0.06)
    np.testing.assert_allclose(look.in_scan(np.array([[0.0, 1.0]])), [[1.0, 4.0]])


@pytest.mark.parametrize("how", ["regions", "peaks"])
def test_marks_are_where_the_map_is_high_and_not_at_the_frame(how):
    look = look_at(lattice(), terraces=False)
    z = np.zeros(look.image.shape, np.float32)
    z[1, 50], z[60, 60], z[61, 60], z[90, 20] = 9, 7, 6, 4
    height = places(z, look, how, 5.0)[1]
    assert sorted(height.tolist()) == [7.0, 9.0]
    found = Marking(how, 5.0, 4)(z, look)
    assert len(found) == 1
    assert np.linalg.norm(found.yx_px[0] - [60.4, 60.0]) < 0.7
    assert len(Marking(how, 20.0, 0)(z, look)) == 0


def test_an_uncalibrated_or_other_channel_is_refused():
    for scan in (replace(lattice(), unit="V"), replace(lattice(), pixel_size_nm=None)):
        with pytest.raises(ParameterError, match="Choose a topography channel"):
            look_at(scan, terraces=False)


def test_missing_rows_are_filled():
    scan = lattice()
    image = scan.image.copy()
    image[110:] = np.nan
    assert np.isfinite(look_at(replace(scan, image=image), terraces=False).image).all()


@pytest.fixture(scope="module")
def small():
    return DefectTuning(DefectOptions(images=1, side_px=96, families=("si111-7x7", "nacl")), cache=None)


def test_the_tuned_settings_are_the_best_of_the_grid_and_are_kept(small, tmp_path, monkeypatch):
    grid = [NotchLog(20.0, 0.0), NotchLog(1e9, 0.0)]
    said = []
    tuning = DefectTuning(small.options, cache=tmp_path / "peers" / "settings.json", report=said.append)
    best = tuned_finder("notch", grid, tuning, terraces=False)

    def merit(finder):
        counts = {}
        for one in small.shown:
            counts[one.noise] = scene_counts(finder(scan_of(one.scene)), one.scene)
        return mean_f1(counts)

    others = [AnomalyFinder(method, Marking("peaks", 8.0, 0), False) for method in grid]
    assert merit(best) >= max(map(merit, others))
    kept = json.loads(tuning.cache.read_text(encoding="utf-8"))
    (entry,) = kept.values()
    assert float(entry["mean_f1"]) == pytest.approx(merit(best), abs=1e-3)
    assert len(said) == 1
    monkeypatch.setattr(tuning_module, "robust_z", None)  # nothing is computed a second time
    assert tuned_finder("notch", grid, tuning, terraces=False) == best
    tuning.cache.write_text("{", encoding="utf-8")
    with pytest.raises(ParameterError, match="Remove the file"):
        tuned_finder("notch", grid, tuning, terraces=False)


def test_the_matched_filter_finds_nearly_all_where_noise_is_low(small):
    finder = tuned_matched_filter(small)
    clear = next(one.scene for one in small.shown if one.noise == "clear")
    counts = scene_counts(finder(clear), clear)
    assert counts.recall > 0.8
    assert len(finder(replace(clear, defects=replace(clear.defects, ghost=np.ones(len(clear.defects), bool))))) == 0


def test_the_forest_is_told_the_places_and_gives_classes(small):
    forest = feature_forest(replace(small, options=replace(small.options, images=1)))
    scene = small.shown[0].scene
    found = forest(scene)
    counts = scene_counts(found, scene)
    assert (counts.f1, counts.false_positive) == (1.0, 0)
    assert len(found.names) >= 1


def test_features_tell_a_bump_from_a_dip():
    look = look_at(lattice(defects=False), terraces=False)
    y, x = np.mgrid[:128, :128]
    bump = 0.2 * np.exp(-((y - 60) ** 2 + (x - 60) ** 2) / 18).astype(np.float32)
    up, down = (
        features_of(replace(look, image=look.image + sign * bump), [np.array([60.0, 60.0])])[0] for sign in (1, -1)
    )
    assert up.shape == down.shape
    assert up[0] > 0.05 > -0.05 > down[0]
    assert np.isfinite(features_of(look, [np.array([0.0, 127.0])])).all()


def test_without_runs_the_reports_pipeline_says_how_to_get_them(tmp_path):
    commands = ucl.missing_runs(tmp_path)
    assert [command.split()[2] for command in commands] == ["ae1", "ae2"]
    assert all(str(tmp_path) in command for command in commands)
    with pytest.raises(ParameterError, match="no such runs"):
        ucl.report_pipeline(DefectTuning(cache=None, runs=tmp_path))


@pytest.fixture(scope="module")
def printed_runs(trained, tiny_recipe_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("printed")
    shared = ("surfaces.terraces=false", "surfaces.clip_percent=0")
    trained(tiny_recipe_of("network.context=false", *shared, name="ae1"), folder / ucl.AE1_RUN)
    trained(tiny_recipe_of(*shared, name="ae2"), folder / ucl.AE2_RUN)
    return folder


def test_the_reports_pipeline_runs_from_the_scan_to_classes(small, printed_runs, tmp_path):
    tuning = DefectTuning(small.options, cache=tmp_path / "settings.json", runs=printed_runs)
    pipeline = ucl.report_pipeline(tuning)
    scan = scan_of(small.shown[0].scene)
    found = pipeline(scan)
    assert all(name.startswith(("component", "defect")) for name in found.names)
    again = ucl.report_pipeline(tuning)  # from the cache
    assert again.threshold == pipeline.threshold
    np.testing.assert_array_equal(again(scan).yx_px, found.yx_px)


def test_a_run_of_another_network_is_refused(small, printed_runs, tmp_path):
    for name in (ucl.AE1_RUN, ucl.AE2_RUN):
        shutil.copytree(printed_runs / ucl.AE2_RUN, tmp_path / name)
    with pytest.raises(ParameterError, match="without context"):
        ucl.report_pipeline(DefectTuning(small.options, cache=None, runs=tmp_path))


def test_all_peers_are_made_and_those_that_cannot_run_say_why(small, tmp_path, monkeypatch):
    monkeypatch.setattr(_registry, "_GRIDS", {"lattice notch + LoG": ("notch", (NotchLog(20.0, 0.0),))})
    found = _registry.make_peers(replace(small, runs=tmp_path))
    assert list(found.finders) == ["lattice notch + LoG", "lattice notch + LoG, steps masked"]
    assert set(found.oracles) == {_registry.MATCHED, _registry.FOREST}
    assert "spm-train fit ae1" in found.missing[_registry.UCL]
    assert [one.name for one in found.described] == [*found.finders, *found.oracles]
