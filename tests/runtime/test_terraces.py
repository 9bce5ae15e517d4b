"""Steps and terraces on surfaces that are known, simulated and real."""

import numpy as np
import pytest
from scipy import ndimage

import spm_runtime as spm
from spm_runtime.errors import ParameterError
from spm_runtime.terraces import find_terraces

PIXEL = 0.1


def surface(rng, levels, *, step=0.136, noise=0.03, offsets=0.02, corrugation=0.03):
    """Terraces with tilt, bow, a lattice of 0.4 nm, line offsets and noise, in nm."""
    height, width = levels.shape
    y, x = np.mgrid[:height, :width]
    image = step * ndimage.gaussian_filter(levels.astype(float), 1.0)
    image += 0.004 * x - 0.006 * y + 0.1 * (x / width - 0.5) ** 2
    image += corrugation * np.cos(2 * np.pi * x * PIXEL / 0.4) * np.cos(2 * np.pi * y * PIXEL / 0.4)
    image += rng.normal(0, offsets, (height, 1)) + rng.normal(0, noise, levels.shape)
    return image.astype(np.float32)


def staircase(shape, slant=0.4, width=70):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((x + slant * y) // width).astype(int)


def truth_of(levels):
    edges = np.zeros(levels.shape, bool)
    edges[:, 1:] |= levels[:, 1:] != levels[:, :-1]
    edges[1:] |= levels[1:] != levels[:-1]
    return edges


def test_monatomic_steps_of_silicon_are_found_to_the_pixel_and_levelled_away(rng):
    levels = staircase((160, 180))
    found = find_terraces(surface(rng, levels), PIXEL)
    truth = truth_of(levels)
    far = ndimage.distance_transform_edt(~found.steps)
    assert (far[truth] <= 5).mean() > 0.95
    assert (ndimage.distance_transform_edt(~truth)[found.steps] <= 4).mean() > 0.97
    assert len(found.height_nm) == levels.max() + 1
    np.testing.assert_allclose(np.sort(found.height_nm), 0.136 * np.arange(levels.max() + 1), atol=0.03)
    inner = ndimage.distance_transform_edt(~truth) > 8
    assert found.levelled[inner].std() < 1.3 * np.hypot(0.03, 0.015)
    for label in range(len(found.height_nm)):
        here = inner & (found.terrace == label)
        if here.sum() > 600:
            assert abs(np.median(found.levelled[here])) < 0.006


@pytest.mark.parametrize("step", [0.136, 0.33, 0.65])
def test_narrow_terraces_of_a_high_staircase_stay_whole(rng, step):
    """The flanks of high steps reach from both sides into a narrow terrace: no edge runs across it."""
    levels = np.minimum(staircase((256, 256), slant=2.5, width=110), 7)  # the last corner is too small for a terrace
    found = find_terraces(surface(rng, levels, step=step, noise=0.005, offsets=0.005), PIXEL)
    truth = truth_of(levels)
    assert (ndimage.distance_transform_edt(~found.steps)[truth] <= 5).mean() > 0.97
    assert (ndimage.distance_transform_edt(~truth)[found.steps] <= 4).mean() > 0.97
    assert len(found.height_nm) == levels.max() + 1
    inner = ndimage.distance_transform_edt(~truth) > 9
    assert all(len(np.unique(found.terrace[inner & (levels == level)])) == 1 for level in range(levels.max() + 1))


@pytest.mark.parametrize("degrees", [-2.8, -1.5, -0.7, 0.0, 0.4, 1.1, 2.2])
def test_steps_along_the_fast_axis_are_no_line_offsets(rng, degrees):
    y, x = np.mgrid[:256, :256]
    across = y + np.tan(np.radians(degrees)) * (x - 128)
    levels = (across > 80).astype(int) + (across > 160)
    image = surface(rng, levels, step=0.2, noise=0.01, offsets=0.01, corrugation=0.01)
    found = find_terraces(image, PIXEL)
    truth = truth_of(levels)
    assert (ndimage.distance_transform_edt(~found.steps)[truth] <= 5).mean() > 0.95
    assert (ndimage.distance_transform_edt(~truth)[found.steps] <= 5).mean() > 0.95
    np.testing.assert_allclose(np.sort(found.height_nm), [0.0, 0.2, 0.4], atol=0.03)
    inner = ndimage.distance_transform_edt(~truth) > 8
    assert found.levelled[inner].std() < 0.02


def test_a_change_of_the_tip_is_no_step(rng):
    image = surface(rng, np.zeros((256, 256), int), noise=0.01, offsets=0.01)
    image[100, 90:] += 0.2
    image[101:] += 0.2
    image[170:] -= 0.15
    found = find_terraces(image, PIXEL)
    assert not found.steps.any()
    assert len(found.height_nm) == 1
    assert abs(np.median(found.levelled[110:160]) - np.median(found.levelled[:90])) < 0.01


def test_a_surface_without_steps_has_none(rng):
    levels = np.zeros((150, 150), int)
    image = surface(rng, levels, corrugation=0.1)
    y, x = np.mgrid[:150, :150]
    for at_y, at_x, height, size in ((40, 50, 0.6, 8), (100, 30, -0.15, 3), (90, 110, 0.3, 5)):
        image += height * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * size**2)).astype(np.float32)
    image[70, 20:120] += 0.4  # a scar
    found = find_terraces(image, PIXEL)
    assert not found.steps.any()
    assert len(found.height_nm) == 1
    assert (found.terrace == 0).all()
    assert found.levelled[40, 50] > 0.4  # what stands on the terrace is still there
    assert found.levelled[100, 30] < -0.1


def test_an_island_is_a_terrace(rng):
    y, x = np.mgrid[:180, :180]
    levels = (np.hypot(y - 90, x - 80) < 45).astype(int)
    found = find_terraces(surface(rng, levels, step=0.24), PIXEL)
    assert len(found.height_nm) == 2
    assert np.ptp(found.height_nm) == pytest.approx(0.24, abs=0.02)
    assert (found.terrace == found.terrace[90, 80])[levels == 1].mean() > 0.95
    assert found.terrace[0, 0] == 0  # the larger one


def test_a_large_cluster_is_no_terrace_wherever_it_sits(rng):
    """On a step, where the edge cuts it into two parts; on a terrace; at the frame."""
    y, x = np.mgrid[:256, :256]
    levels = (x + y > 250).astype(int)
    image = surface(rng, levels, step=0.236, noise=0.005, offsets=0.005)
    for at_y, at_x in ((125, 125), (60, 60), (200, 245)):
        image += 0.9 * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * 18.0**2)).astype(np.float32)
    found = find_terraces(image, PIXEL)
    assert len(found.height_nm) == 2
    truth = truth_of(levels)
    assert (ndimage.distance_transform_edt(~found.steps)[truth] <= 5).mean() > 0.8
    assert (ndimage.distance_transform_edt(~truth)[found.steps] <= 10).mean() > 0.85  # it may go around a part of one


def test_what_the_frame_shows_of_a_terrace_is_one(rng):
    levels = np.zeros((200, 200), int)
    levels[:, :9] = 1
    found = find_terraces(surface(rng, levels, step=0.33, noise=0.005, offsets=0.005), PIXEL)
    assert len(found.height_nm) == 2
    assert (found.terrace[:, :6] == 1).mean() > 0.9


@pytest.mark.parametrize("pixel", [0.1, 0.6])
@pytest.mark.parametrize("length_nm", [0.6, 4.0])
@pytest.mark.parametrize("rms_nm", [0.15, 0.5])
def test_a_rough_surface_is_said_to_be_rough_and_has_no_terraces(rng, pixel, length_nm, rms_nm):
    """A self-affine random field; the exponent of its spectrum is that of many real surfaces."""
    wave = 2 * np.pi * np.hypot(*np.meshgrid(np.fft.fftfreq(160, pixel), np.fft.fftfreq(160, pixel)))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=wave.shape)) * (1 + (wave * length_nm) ** 2) ** -0.85).real
    y, x = np.mgrid[:160, :160]
    image = field * (rms_nm / field.std()) + rng.normal(0, 0.01, wave.shape) + 0.02 * x - 0.01 * y
    image[:20] = np.nan
    found = find_terraces(image.astype(np.float32), pixel)
    assert found.rough
    assert not found.steps.any()
    assert len(found.height_nm) == 1
    assert (found.terrace[20:] == 0).all()
    assert (found.terrace[:20] == -1).all()
    rest = found.levelled[20:] - field[20:] * (rms_nm / field.std())
    assert rest.std() < 0.6 * rms_nm  # still there, without the plane


@pytest.mark.parametrize("corrugation", [0.0, 0.03, 0.06])
def test_a_lattice_is_not_rough(rng, corrugation):
    assert not find_terraces(surface(rng, staircase((160, 180)), corrugation=corrugation), PIXEL).rough


def test_a_step_that_ends_is_an_edge_within_one_terrace(rng):
    """A screw dislocation. What its smooth ramp leaves after the alignment of rows is not looked at."""
    y, x = np.mgrid[:160, :160] - 80.3
    turned = np.cos(0.7) * x + np.sin(0.7) * y, -np.sin(0.7) * x + np.cos(0.7) * y
    height = 0.24 * np.arctan2(turned[1], turned[0]) / (2 * np.pi)
    found = find_terraces((height + rng.normal(0, 0.01, height.shape)).astype(np.float32), PIXEL)
    near_cut = (np.abs(turned[1]) < 1) & (turned[0] < -20)
    assert (ndimage.distance_transform_edt(~found.steps)[near_cut] <= 3).mean() > 0.9


def test_a_step_that_ends_soon_is_seen_and_a_blob_at_the_frame_is_none(rng):
    y, x = np.mgrid[:200, :200]
    height = 0.24 * np.arctan2(x - 100.3, 140.3 - y) / (2 * np.pi)
    height += 0.4 * np.exp(-((y - 60) ** 2 + x**2) / (2 * 12.0**2))
    found = find_terraces((height + rng.normal(0, 0.005, height.shape)).astype(np.float32), PIXEL)
    cut = (np.abs(x - 100.3) < 1) & (y > 148)
    assert (ndimage.distance_transform_edt(~found.steps)[cut] <= 3).mean() > 0.9
    assert not found.steps[np.hypot(y - 60, x) < 40].any()


def test_missing_rows_stay_missing(rng):
    image = surface(rng, staircase((160, 180)))
    image[120:] = np.nan
    found = find_terraces(image, PIXEL)
    assert np.isnan(found.levelled[120:]).all()
    assert np.isfinite(found.levelled[:120]).all()
    assert (found.terrace[120:] == -1).all()
    assert not found.steps[120:].any()
    assert found.steps[:120].any()
    nothing = find_terraces(np.full((40, 40), np.nan, np.float32), PIXEL)
    assert not nothing.steps.any()
    tiny = find_terraces(np.ones((3, 5), np.float32), PIXEL)
    assert (tiny.levelled == 0).all()
    flat = find_terraces(np.ones((64, 64), np.float32), PIXEL)
    assert len(flat.height_nm) == 1
    assert not flat.steps.any()


def test_the_input_is_not_changed_and_an_offset_changes_nothing(rng):
    image = surface(rng, staircase((120, 120)))
    before = image.copy()
    found = find_terraces(image, PIXEL)
    np.testing.assert_array_equal(image, before)
    lifted = find_terraces(image + np.float32(2), PIXEL)
    assert (lifted.steps ^ found.steps).mean() < 0.002


@pytest.mark.parametrize("family", ["si001-2x1-h", "si111-7x7", "cu111", "nacl"])
def test_simulated_scans(family):
    surfaces = pytest.importorskip("spm_training.simulate.surfaces")
    near, all_steps, wrong = 0, 0, 0
    for number in range(3):
        rng = np.random.default_rng([7, number])
        scene = surfaces.simulate_surface(rng, shape=(192, 192), families=[family], noise="medium", pixel_size_nm=0.15)
        found = find_terraces(scene.image, scene.pixel_size_nm)
        near += (ndimage.distance_transform_edt(~found.steps)[scene.steps] <= 10).sum() if found.steps.any() else 0
        all_steps += scene.steps.sum()
        away = ndimage.distance_transform_edt(~scene.steps) > 10 if scene.steps.any() else np.ones((192, 192), bool)
        wrong += (found.steps & away).sum()
    assert near >= 0.8 * all_steps
    assert wrong <= 0.05 * all_steps + 20


def test_real_scans(real_data):
    """Cu(111) and Si(111): the heights of the terraces are those of the crystals."""
    scan = spm.open(real_data / "stm" / "probeflow_createc_terrace.dat")
    found = find_terraces(scan.image * np.float32(1e9), scan.pixel_size_nm[0])
    large = found.height_nm[np.bincount(found.terrace.ravel()) > 2000]
    assert len(large) >= 6
    np.testing.assert_allclose(np.diff(np.sort(large)), 0.196, atol=0.01)
    scan = spm.open(real_data / "stm" / "spiepy_image_with_defects.dat")
    for pixel in (None, 0.0589):  # an adsorbate of several nm at the frame
        assert not find_terraces(scan.image * np.float32(1e9), pixel).steps.any()


def test_rough_graphite_has_no_terraces(real_data):
    scan = spm.open(real_data / "stm" / "topo_ABC_Graphite-Sample5_9K_2021_08_13_19_11_10_065.sm4")
    found = find_terraces(scan.image * np.float32(1e9), scan.pixel_size_nm[0])
    assert found.rough
    assert len(found.height_nm) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_terraces(np.zeros((3, 40, 40), np.float32), PIXEL), "expected .H, W."),
        (lambda: find_terraces(np.zeros((40, 40), np.float32), -1.0), "pixel_size_nm"),
        (lambda: find_terraces(np.zeros((40, 40), np.float32), PIXEL, least_step_nm=0.0), "least_step_nm"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()
