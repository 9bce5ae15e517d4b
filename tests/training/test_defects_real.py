"""The annotation of SPIEPy's images: it fits them, and the scores say what was found, missed and forgiven."""

from pathlib import Path

import numpy as np
import pytest

import spm_runtime
from spm_runtime.errors import ParameterError
from spm_runtime.scan import Scan
from spm_training.defects.evaluate import marks
from spm_training.defects.real import CELL_NM, REAL_IMAGES, read_annotation, real_scores

SHAPES = {"image_with_defects": 256, "image_with_step_edge_and_atoms": 512, "image_with_step_edge": 512}
CLASSES = {"vacancy", "molecule", "cluster", "adatom", "other"}


def blank(*names):
    return {name: Scan(np.zeros((SHAPES[name], SHAPES[name]), np.float32), "m", modality="stm") for name in names}


def finds(yx, sizes=None):
    def finder(scan):
        if sizes is not None:
            sizes.append(scan.pixel_size_nm)
        return marks(np.asarray(yx, float).reshape(-1, 2), 5.0)

    return finder


@pytest.mark.parametrize("name", REAL_IMAGES)
def test_an_annotation_lies_in_its_image(name):
    truth = read_annotation(name)
    assert np.all((truth.yx_px >= -0.5) & (truth.yx_px < SHAPES[name] + 0.5))
    assert np.all(truth.radius_px > 0)
    assert set(truth.classes) <= CLASSES
    assert len(truth.classes) == len(truth.sure) == len(truth.yx_px)
    for line in truth.steps:
        assert np.all((line >= 0) & (line < SHAPES[name]))


def test_no_defect_must_be_found_within_a_nanometre_of_a_step():
    truth = read_annotation("image_with_step_edge_and_atoms")
    assert truth.step_distance_nm(truth.yx_px[truth.sure]).min() > 1.0
    line = truth.steps[0]
    np.testing.assert_allclose(truth.step_distance_nm(line), 0, atol=1e-9)


def test_sure_vacancies_are_dark_and_bright_adatoms_bright():
    folder = Path(pytest.importorskip("spiepy").__file__).parent / "demo"
    name = "image_with_defects"
    image, truth = spm_runtime.open(folder / f"{name}.dat").image.astype(float), read_annotation(name)
    for kind, sign in (("vacancy", -1), ("adatom", 1)):
        for n in np.flatnonzero(truth.sure & (np.array(truth.classes) == kind)):
            y, x = np.rint(truth.yx_px[n]).astype(int)
            far, near = (image[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1] for r in (20, 2))
            assert sign * (near.mean() - np.median(far)) > 0, (kind, y, x)


def test_the_pixel_size_gives_the_spacing_of_the_reconstruction():
    folder = Path(pytest.importorskip("spiepy").__file__).parent / "demo"
    name = "image_with_step_edge"
    image = spm_runtime.open(folder / f"{name}.dat").image[190:510, 120:440].astype(float)
    window = np.outer(np.hanning(320), np.hanning(320))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window, s=(1024, 1024)))
    frequency = np.hypot(np.fft.fftfreq(1024)[:, None], np.fft.rfftfreq(1024)[None])
    power[(frequency < 0.085) | (frequency > 0.125)] = 0
    row = 1 / frequency.flat[np.argmax(power)] * read_annotation(name).pixel_size_nm
    # Drift stretches the three directions by up to a tenth.
    assert row == pytest.approx(CELL_NM * np.sqrt(3) / 2, rel=0.1)


def test_all_sure_defects_found_is_perfect_and_unsure_ones_do_not_count():
    name = "image_with_defects"
    truth = read_annotation(name)
    perfect = real_scores(finds(truth.yx_px[truth.sure]), blank(name))
    assert (perfect.f1.value, perfect.precision.value, perfect.recall.value) == (1, 1, 1)
    assert (perfect.f1.low, perfect.f1.high) == (1, 1)
    everything = real_scores(finds(truth.yx_px), blank(name))
    assert everything.f1.value == 1
    assert sum(score.counts.true_positive for score in everything.images) == truth.sure.sum()


def test_misses_and_wrong_marks_lower_the_figures():
    name = "image_with_defects"
    truth = read_annotation(name)
    yx = truth.yx_px[truth.sure]
    # A corner hole in perfect surroundings is no defect.
    scores = real_scores(finds(np.vstack([yx[1:], [[44.6, 153.5], [68.1, 193.0]]])), blank(name))
    counts = scores.images[0].counts
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (len(yx) - 1, 2, 1)
    assert scores.f1.low < scores.f1.value < scores.f1.high
    assert real_scores(finds([]), blank(name)).recall.value == 0


def test_only_the_step_of_the_blurred_image_is_judged():
    name = "image_with_step_edge"
    step = read_annotation(name).steps[0]
    scores = real_scores(finds(np.vstack([step[3], [400.0, 300.0]])), blank(name))
    assert scores.images[0].counts.false_positive == 0
    assert (scores.images[0].marks, scores.images[0].at_steps) == (2, 1)
    assert scores.images[0].step_nm == pytest.approx(0.25 * 545, rel=0.1)


def test_the_finder_is_told_the_pixel_size_or_not():
    sizes = []
    real_scores(finds([], sizes), blank("image_with_defects"))
    real_scores(finds([], sizes), blank("image_with_defects"), calibrated=False)
    assert sizes == [(0.0589, 0.0589), None]


def test_an_unknown_image_is_refused():
    with pytest.raises(ParameterError, match="image_with_defects"):
        read_annotation("other")
