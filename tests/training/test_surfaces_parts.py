"""The parts of the surface simulator against plain references: raster, tip, feedback, noise, lobes."""

import numpy as np
import pytest
from scipy import ndimage

from spm_training.simulate.surfaces.defects import ENERGY_SHARE, add_lobes, extent
from spm_training.simulate.surfaces.frame import draw_raster
from spm_training.simulate.surfaces.scanner import add_noise, feedback_lag, flicker, tilt_and_bow
from spm_training.simulate.surfaces.tip import DECAY_PER_NM, blunt, double


def test_the_raster_finds_the_pixel_of_a_place(rng):
    for _ in range(8):
        raster = draw_raster(rng, (60, 90), 0.1)
        y, x = raster.places()
        pixels = rng.integers(0, (60, 90), (50, 2))
        places = np.stack([y[tuple(pixels.T)], x[tuple(pixels.T)]], axis=1)
        np.testing.assert_allclose(raster.to_px(places), pixels, atol=0.02)


def test_a_blunt_tip_dilates_tall_features(rng):
    """Grey-scale dilation by the paraboloid, up to the logarithm of how many atoms share the current."""
    radius, pixel = 1.5, 0.1
    relief = np.zeros((64, 64))
    relief[28:34, 30:33] = 0.8
    relief[:, :10] = 0.4
    offset = (np.arange(41) - 20) * pixel
    paraboloid = -np.square(offset)[:, None] / (2 * radius) - np.square(offset)[None] / (2 * radius)
    reference = ndimage.grey_dilation(relief, structure=paraboloid)
    np.testing.assert_allclose(blunt(relief, radius, pixel), reference, atol=0.2)
    assert np.abs(blunt(relief, radius, pixel) - reference).mean() < 0.05


def test_a_blunt_tip_convolves_small_corrugation(rng):
    radius, pixel = 1.0, 0.05
    ripple = 0.0005 * ndimage.gaussian_filter(rng.standard_normal((80, 80)), 2)
    reference = ndimage.gaussian_filter(ripple, np.sqrt(radius / DECAY_PER_NM) / pixel, mode="nearest", truncate=8)
    np.testing.assert_allclose(blunt(ripple, radius, pixel), reference, atol=2e-6)


def test_a_tip_leaves_a_flat_surface_as_it_is():
    flat = np.full((20, 20), 1.25)
    np.testing.assert_array_equal(blunt(flat, 2.0, 0.1), flat)
    np.testing.assert_allclose(double(flat, (0.3, 0.5), 0.1, 0.1), flat)


def test_a_second_apex_adds_a_faint_copy_or_a_shadow():
    gap, pixel = 0.1, 0.1
    share = np.exp(-DECAY_PER_NM * gap) / (1 + np.exp(-DECAY_PER_NM * gap))
    small, tall = np.zeros((30, 30)), np.zeros((30, 30))
    small[15, 15], tall[15, 15] = 1e-4, 1.0
    for image, height, tolerance in ((small, 1e-4 * share, 1e-6), (tall, 1.0 - gap, 0.01)):
        seen = double(image, (0.0, 0.4), gap, pixel)
        assert seen[15, 11] == pytest.approx(height, abs=tolerance)  # the second apex stands 4 pixels to the right
        assert seen[15, 15] == pytest.approx(
            image[15, 15] * (1 if height > 0.1 else 1 - share), abs=0.02 * image[15, 15]
        )
        assert abs(seen[5, 5]) < 1e-12


def test_the_feedback_delays_and_keeps_a_plane():
    lag = 0.8
    ramp = np.tile(np.arange(60.0), (4, 1))
    delayed = feedback_lag(ramp, lag)
    assert (ramp - delayed)[:, 30:] == pytest.approx(1 / np.expm1(1 / lag), abs=1e-6)
    np.testing.assert_array_equal(feedback_lag(ramp, 0.0), ramp)
    np.testing.assert_allclose(feedback_lag(np.full((4, 9), 3.0), lag), 3.0)


def test_flicker_has_its_spectrum(rng):
    """Power along a row falls as 1/f; columns are rougher than rows."""
    series = np.stack([flicker(rng, (64, 256)) for _ in range(6)])
    np.testing.assert_allclose(series.std(axis=(1, 2)), 1.0, rtol=1e-3)
    power = np.square(np.abs(np.fft.rfft(series * np.hanning(256), axis=2))).mean(axis=(0, 1))
    slope = np.polyfit(np.log(np.arange(4, 60)), np.log(power[4:60]), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.2)
    assert np.diff(series, axis=1).std() > 1.3 * np.diff(series, axis=2).std()


def test_noise_scales_with_what_is_asked(rng):
    flat = np.zeros((128, 128))
    spread = [
        np.median([np.median(np.abs(np.diff(add_noise(rng, flat, white)[0], axis=1))) for _ in range(12)])
        for white in (0.01, 0.04)
    ]
    assert spread[1] / spread[0] == pytest.approx(4, rel=0.35)


def test_jumps_of_the_apex_are_told_apart_from_the_noise():
    """Constant between at most three pixels of the path; without them the image is that of the same draw without jumps."""
    flat = np.zeros((64, 80))
    jumped = 0
    for seed in range(60):
        image, jumps = add_noise(np.random.default_rng(seed), flat, 0.01)
        places = np.flatnonzero(np.diff(jumps.ravel()))
        assert len(places) <= 3
        jumped += bool(jumps.any())
        if len(places) == 1 and 1500 < places[0] < 3500 and abs(jumps.max() - jumps.min()) > 0.04:
            left = (image - jumps).ravel()
            step = np.median(image.ravel()[places[0] + 1 :]) - np.median(image.ravel()[: places[0] + 1])
            rest = np.median(left[places[0] + 1 :]) - np.median(left[: places[0] + 1])
            assert abs(rest) < 0.5 * abs(step)
    assert 2 <= jumped <= 16


def test_tilt_and_bow_are_smooth(rng):
    y, x = np.mgrid[:80, :100] * 0.1
    for _ in range(10):
        surface = tilt_and_bow(rng, y, x)
        assert surface.shape == y.shape
        # Creep decays over some rows; along a row there is a parabola and nothing else.
        np.testing.assert_allclose(np.diff(surface, 3, axis=1), 0, atol=1e-9)


def test_lobes_are_what_their_formula_says(rng):
    out = np.zeros((40, 50))
    lobes = np.array([[0.1, -0.2, 0.4, 0.2, 0.6, 0.05, 1.0], [-0.2, 0.1, 0.3, 0.3, 0.0, -0.02, 2.0]])
    centre, pixel = np.array([18.3, 25.7]), 0.1
    add_lobes(out, centre, lobes, pixel)
    y, x = (np.mgrid[:40, :50] - centre[:, None, None]) * pixel
    reference = np.zeros(out.shape)
    for dy, dx, along, across, angle, height, power in lobes:
        u = (np.cos(angle) * (x - dx) + np.sin(angle) * (y - dy)) / along
        v = (np.cos(angle) * (y - dy) - np.sin(angle) * (x - dx)) / across
        reference += height * np.exp(-((0.5 * (u * u + v * v)) ** power))
    np.testing.assert_allclose(out, reference, atol=1e-5)


def test_the_extent_of_a_gaussian_is_the_known_one():
    radius, energy = extent(np.array([[0.0, 0.0, 0.3, 0.3, 0.0, -0.05, 1.0]]))
    assert radius == pytest.approx(0.3 * np.sqrt(-np.log(1 - ENERGY_SHARE)), rel=0.03)
    assert energy == pytest.approx(np.pi * 0.3**2 * 0.05**2, rel=0.02)
