"""Threshold, mask and boxes on maps whose truth is known."""

import numpy as np
import pytest
from scipy import ndimage

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.defect_mask import (
    MaskSettings,
    calibrate_threshold,
    defect_boxes,
    defect_mask,
    noise_std,
)

NOTHING = np.full((120, 120), -1, np.int32)


def disc(shape, y, x, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - y, columns - x) <= radius


@pytest.mark.parametrize("smoothing", [1.5, 4.0])
@pytest.mark.parametrize("lattice", [0.0, 0.7])
def test_false_alarms_come_as_rarely_as_stated(rng, smoothing, lattice):
    """Noise alone, or noise and a lattice that the network cannot reproduce: one image in ten has an alarm."""
    y, x = np.mgrid[:128, :128]
    missed = 0.05 * lattice * np.sin(1.3 * x) * np.sin(1.1 * y)
    alarms = 0
    for _ in range(100):
        noise = rng.normal(0, 0.05, (128, 128))
        error = ndimage.gaussian_filter((noise + missed) ** 2, smoothing, mode="wrap").astype(np.float32)
        found = calibrate_threshold(error, noise.astype(np.float32), smoothing_px=smoothing, false_alarms=0.1)
        alarms += bool((error > found.value).any())
    assert alarms <= 22


def test_a_clear_defect_is_above_the_threshold_and_hardly_moves_it(rng):
    noise = rng.normal(0, 0.05, (120, 120))
    difference = noise + 0.3 * disc(noise.shape, 40, 70, 5)
    errors = [ndimage.gaussian_filter(part**2, 2.0).astype(np.float32) for part in (noise, difference)]
    image = difference.astype(np.float32)
    quiet, found = (calibrate_threshold(error, image, smoothing_px=2.0) for error in errors)
    assert found.value == pytest.approx(quiet.value, rel=0.1)
    assert errors[1][40, 70] > 3 * found.value
    assert found.noise_std == pytest.approx(0.05, rel=0.05)


def test_a_rarer_alarm_needs_a_higher_threshold_and_the_unit_follows(rng):
    noise = rng.normal(0, 1, (100, 100)).astype(np.float32)
    error = ndimage.gaussian_filter(noise**2, 2.0)
    often, rarely = (calibrate_threshold(error, noise, smoothing_px=2.0, false_alarms=p).value for p in (0.5, 0.001))
    assert 1 < often < rarely
    small = calibrate_threshold(error * np.float32(1e-6), noise * np.float32(1e-3), smoothing_px=2.0, false_alarms=0.5)
    assert small.value == pytest.approx(1e-6 * often, rel=1e-3)


def test_a_map_that_is_too_quiet_is_measured_by_the_noise(rng):
    """A network that copies the noise has no error anywhere: the image says how much there must be."""
    noise = rng.normal(0, 0.2, (100, 100)).astype(np.float32)
    found = calibrate_threshold(np.zeros((100, 100), np.float32), noise, smoothing_px=2.0)
    assert found.value > 0.2**2


def test_the_noise_is_measured_beside_lattice_steps_and_line_offsets(rng):
    y, x = np.mgrid[:200, :200]
    image = rng.normal(0, 0.01, (200, 200)) + rng.normal(0, 0.1, (200, 1)) + 0.05 * np.sin(x / 4) * np.sin(y / 5)
    image[:, 90:] += 0.3
    assert noise_std(image.astype(np.float32)) == pytest.approx(0.01, rel=0.1)
    image[50:60] = np.nan
    assert noise_std(image.astype(np.float32)) == pytest.approx(0.01, rel=0.1)
    assert noise_std(np.zeros((2, 9), np.float32)) == 0


def test_high_errors_and_target_clusters_are_joined():
    error = np.zeros((120, 120), np.float32)
    error[disc(error.shape, 30, 30, 6)] = 2
    character = NOTHING.copy()
    character[disc(error.shape, 80, 40, 7)] = 3
    character[disc(error.shape, 80, 100, 7)] = 1
    mask = defect_mask(error, character, 1.0, MaskSettings(target_clusters=(3, 5)))
    assert mask[30, 30]
    assert mask[80, 40]
    assert not mask[80, 100]
    boxes = defect_boxes(mask)
    np.testing.assert_allclose(boxes.yx_px, [[80, 40], [30, 30]], atol=0.01)
    assert (np.diff(boxes.area_px) <= 0).all()
    assert (boxes.size_px >= 13).all()
    np.testing.assert_array_equal(boxes.region >= 0, mask)
    for index, area in enumerate(boxes.area_px):
        assert (boxes.region == index).sum() == area


def test_lines_specks_and_what_is_ignored_go_and_a_defect_at_the_frame_stays():
    error = np.zeros((120, 120), np.float32)
    error[60:63, 10:100] = 2  # a line
    error[20, 20] = 2  # a speck
    error[disc(error.shape, 0, 70, 6)] = 2  # cut by the frame
    error[disc(error.shape, 100, 60, 6)] = 2
    ignore = disc(error.shape, 100, 60, 12)
    boxes = defect_boxes(defect_mask(error, NOTHING, 1.0, MaskSettings(), ignore=ignore))
    assert len(boxes) == 1
    assert boxes.corner_px[0, 0] == 0
    assert boxes.yx_px[0, 1] == pytest.approx(70)
    missing = error.copy()
    missing[:10] = np.nan
    assert not defect_mask(missing, NOTHING, 1.0, MaskSettings(), ignore=ignore).any()


def test_the_order_of_the_steps_is_that_of_the_report():
    """A line goes before the dilation could join it to a disc; a small region is measured after the dilation."""
    error = np.zeros((120, 120), np.float32)
    error[50, 10:60] = 2
    error[disc(error.shape, 50, 66, 4)] = 2
    settings = MaskSettings(erosion_px=0, smoothing_px=0, dilation_px=3, least_area_px=30, opening_px=0)
    boxes = defect_boxes(defect_mask(error, NOTHING, 1.0, settings))
    assert len(boxes) == 1
    assert boxes.corner_px[0, 1] > 55
    speck = np.zeros((120, 120), np.float32)
    speck[disc(speck.shape, 30, 30, 1)] = 2
    assert defect_mask(speck, NOTHING, 1.0, settings).sum() >= 30


def test_nothing_gives_no_boxes():
    boxes = defect_boxes(np.zeros((9, 7), bool))
    assert len(boxes) == 0
    assert boxes.corner_px.shape == boxes.yx_px.shape == (0, 2)
    assert (boxes.region == -1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MaskSettings(erosion_px=-1), "erosion_px -1"),
        (lambda: MaskSettings(largest_aspect=0.5), "largest_aspect"),
        (lambda: defect_mask(np.zeros((4, 4), np.float32), NOTHING, 1.0, MaskSettings()), "different shapes"),
        (
            lambda: calibrate_threshold(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32), smoothing_px=0),
            "smoo",
        ),
        (
            lambda: calibrate_threshold(
                np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32), smoothing_px=1, false_alarms=1
            ),
            "false_alarms",
        ),
        (
            lambda: calibrate_threshold(
                np.full((4, 4), np.nan, np.float32), np.zeros((4, 4), np.float32), smoothing_px=1
            ),
            "no pixel",
        ),
    ],
)
def test_wrong_parameters_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()
