"""The annotation of SPIEPy's images: it fits them, and the scores say what was found, missed and forgiven."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from spm_runtime import demo
from spm_training.defects import annotated
from spm_training.defects.annotated import SUFFIX, AnnotatedScan, AnnotatedSet, spiepy_set
from spm_training.defects.annotated_score import TILE_NM, WITHOUT_SIZE, score_annotated_scan, score_annotated_set
from spm_training.defects.evaluate import marks

CLASSES = {"vacancy", "molecule", "cluster", "adatom", "other"}
#: Side of the cell of Si(111)-7×7: seven times 0.384 nm. Source: Takayanagi et al., Surf. Sci. 164, 367 (1985).
CELL_NM = 2.688


@pytest.fixture(scope="module")
def spiepy():
    pytest.importorskip("spiepy", reason="SPIEPy comes with the extra `demo`", exc_type=ImportError)
    return spiepy_set()


@pytest.fixture(scope="module")
def by_name(spiepy):
    return {one.name.removesuffix(".dat"): one for one in spiepy.scans}


def finds(yx):
    return lambda scan: marks(np.asarray(yx, float).reshape(-1, 2), 5.0)


def f1_of(truth, yx):
    return score_annotated_set(AnnotatedSet("one", "One", "", [truth]), {"it": finds(yx)}).f1("it")


def classes_of(name):
    with (annotated._FOLDER / f"{name}.dat{SUFFIX}").open(encoding="utf-8", newline="") as stream:
        return np.array([row["class"] for row in csv.DictReader(stream)])


def test_all_three_are_annotated_and_their_pixels_are_those_of_the_demonstration(spiepy):
    assert [one.name for one in spiepy.scans] == list(demo.DEMO_SCANS)
    assert spiepy.size_is_told
    for one in spiepy.scans:
        assert one.scan.pixel_size_nm == (demo.DEMO_PIXEL_NM[one.name],) * 2
    assert "101 defects must be found" in spiepy.note


@pytest.mark.parametrize("name", [name.removesuffix(".dat") for name in demo.DEMO_SCANS])
def test_an_annotation_lies_in_its_image(by_name, name):
    truth = by_name[name]
    assert np.all((truth.yx_px >= -0.5) & (truth.yx_px < np.array(truth.scan.shape) + 0.5))
    assert np.all(truth.radius_px > 0)
    assert set(classes_of(name)) <= CLASSES
    for line in truth.steps:
        assert np.all((line >= 0) & (line < truth.scan.shape))


def test_no_defect_must_be_found_within_a_nanometre_of_a_step(by_name):
    truth = by_name["image_with_step_edge_and_atoms"]
    assert truth.step_distance_nm(truth.yx_px[truth.required]).min() > 1.0
    line = truth.steps[0]
    np.testing.assert_allclose(truth.step_distance_nm(line), 0, atol=1e-9)


def test_sure_vacancies_are_dark_and_bright_adatoms_bright(by_name):
    name = "image_with_defects"
    truth = by_name[name]
    image = truth.scan.image.astype(float)
    for kind, sign in (("vacancy", -1), ("adatom", 1)):
        for n in np.flatnonzero(truth.required & (classes_of(name) == kind)):
            y, x = np.rint(truth.yx_px[n]).astype(int)
            far, near = (image[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1] for r in (20, 2))
            assert sign * (near.mean() - np.median(far)) > 0, (kind, y, x)


def test_the_pixel_size_gives_the_spacing_of_the_reconstruction(by_name):
    truth = by_name["image_with_step_edge"]
    image = truth.scan.image[190:510, 120:440].astype(float)
    window = np.outer(np.hanning(320), np.hanning(320))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window, s=(1024, 1024)))
    frequency = np.hypot(np.fft.fftfreq(1024)[:, None], np.fft.rfftfreq(1024)[None])
    power[(frequency < 0.085) | (frequency > 0.125)] = 0
    row = 1 / frequency.flat[np.argmax(power)] * truth.pixel_nm[0]
    # Drift stretches the three directions by up to a tenth.
    assert row == pytest.approx(CELL_NM * np.sqrt(3) / 2, rel=0.1)


def test_all_sure_defects_found_is_perfect_and_unsure_ones_do_not_count(by_name):
    truth = by_name["image_with_defects"]
    perfect = f1_of(truth, truth.yx_px[truth.required])
    assert (perfect.value, perfect.low, perfect.high) == (1, 1, 1)
    assert f1_of(truth, truth.yx_px).value == 1
    assert score_annotated_scan(finds(truth.yx_px)(None), truth).counts.true_positive == truth.required.sum()


def test_misses_and_wrong_marks_lower_the_figures(by_name):
    truth = by_name["image_with_defects"]
    yx = truth.yx_px[truth.required]
    # A corner hole in perfect surroundings is no defect.
    found = np.vstack([yx[1:], [[44.6, 153.5], [68.1, 193.0]]])
    counts = score_annotated_scan(finds(found)(None), truth).counts
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (len(yx) - 1, 2, 1)
    f1 = f1_of(truth, found)
    assert f1.low < f1.value < f1.high
    assert score_annotated_scan(finds([])(None), truth).counts.recall == 0


def test_only_the_step_of_the_blurred_image_is_judged(by_name):
    truth = by_name["image_with_step_edge"]
    score = score_annotated_scan(finds(np.vstack([truth.steps[0][3], [400.0, 300.0]]))(None), truth)
    assert score.counts.false_positive == 0
    assert score.tiles == ()
    assert score.at_steps == 1
    assert score.step_nm == pytest.approx(0.25 * 545, rel=0.1)
    assert np.isnan(f1_of(truth, [[400.0, 300.0]]).low)


def test_a_package_is_also_scored_without_the_pixel_size_where_the_files_do_not_know_it(spiepy, by_name):
    sizes = []

    def finder(scan):
        sizes.append(scan.pixel_size_nm)
        return marks(np.empty((0, 2)), 5.0)

    one = AnnotatedSet("one", "One", "", [by_name["image_with_defects"]])
    told = []
    scores = score_annotated_set(one, {"package": finder}, without_size=["package"], on_image=told.append)
    assert sizes == [(0.0589, 0.0589), None]
    assert list(scores.by_finder) == ["package", "package" + WITHOUT_SIZE]
    assert len(told) == 2
    assert list(scores.of("package").by_finder) == list(scores.by_finder)
    assert not scores.of("pack").by_finder
    known = AnnotatedSet("one", "One", "", [replace(one.scans[0], size_is_told=False)])
    assert list(score_annotated_set(known, {"package": finder}, without_size=["package"]).by_finder) == ["package"]


def test_oblong_pixels_count_as_they_are(by_name):
    whole = by_name["image_with_defects"]
    scan = replace(whole.scan, pixel_size_nm=(0.1, 0.2))
    step = np.array([[100.0, 0.0], [100.0, 255.0]])
    none = np.zeros((0, 2))
    truth = AnnotatedScan("oblong", scan, none, np.zeros(0), np.zeros(0, bool), steps=(step,))
    assert truth.step_nm == pytest.approx(255 * 0.2)
    np.testing.assert_allclose(truth.step_distance_nm(np.array([[110.0, 50.0], [90.0, 7.0]])), 1.0)
    tiles = score_annotated_scan(finds([])(None), truth).tiles
    assert len(tiles) == round(25.6 / TILE_NM) * round(51.2 / TILE_NM)
