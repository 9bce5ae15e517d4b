"""The log-polar spectrum: magnification shifts it, rotation rolls it, gain and offset leave it alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.pipelines.spectrum import (
    ANGLES,
    BINS,
    BINS_PER_OCTAVE,
    CHANNELS,
    MAX_SIDE_PX,
    bin_of_period,
    log_polar_spectrum,
    period_of_bin,
)

MEAN, LARGEST, COUNT = range(3)


def wave(shape, period, angle=0.0):
    """A plane wave whose lines run at an angle; along x at 0."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.cos(2 * np.pi / period * (y * np.sin(angle) + x * np.cos(angle))).astype(np.float32)


def lattice(shape, spacing, angle=0.3, sigma=0.22):
    """A triangular net of Gaussians, written as its first Fourier components."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    image = np.zeros(shape)
    for k in range(3):
        turn = angle + k * np.pi / 3
        image += np.cos(2 * np.pi / (spacing * np.sqrt(0.75)) * ((y + 0.5) * np.sin(turn) + (x + 0.5) * np.cos(turn)))
    return image.astype(np.float32)


def profile(spectrum):
    """Largest power over all angles."""
    return spectrum[LARGEST].max(axis=1)


def test_bins_and_periods_are_inverse():
    assert period_of_bin(bin_of_period(7.3)) == pytest.approx(7.3)
    assert bin_of_period(14.6) - bin_of_period(7.3) == pytest.approx(BINS_PER_OCTAVE)
    assert period_of_bin(-0.5) == pytest.approx(np.sqrt(2))  # the first bin begins at the corner of the spectrum
    bins = np.arange(BINS)
    np.testing.assert_allclose(bin_of_period(period_of_bin(bins)), bins)


@settings(max_examples=25, deadline=None)
@given(number=st.integers(12, 80), angle=st.floats(0, np.pi), shape=st.sampled_from([(512, 512), (401, 500)]))
def test_a_wave_peaks_at_its_period_and_its_angle(number, angle, shape):
    period = float(period_of_bin(number))
    spectrum = log_polar_spectrum(wave(shape, period, angle))
    place = np.unravel_index(np.argmax(spectrum[LARGEST]), (BINS, ANGLES))
    # Samples of the spectrum lie 1/N apart, a bin is 4 % wide: at long periods the nearest sample may be in the next bin.
    width = 0.0443 / period
    slack = 0.5 + np.ceil(0.7 / min(shape) / width)
    assert abs(place[0] - bin_of_period(period)) <= slack
    turn = (place[1] + 0.5) / ANGLES * np.pi - angle
    half_cell = np.pi / ANGLES / 2 + 0.7 * period / min(shape)
    assert abs((turn + np.pi / 2) % np.pi - np.pi / 2) <= half_cell + 1e-9


def test_at_short_periods_the_bin_is_the_one_of_the_period(rng):
    for period in rng.uniform(2.2, 9.0, 10):
        spectrum = log_polar_spectrum(wave((1024, 1024), period, 0.4))
        assert abs(np.argmax(profile(spectrum)) - bin_of_period(period)) <= 0.75


def test_twice_the_magnification_shifts_by_an_octave(rng):
    """A random field and the same one on a grid twice as fine, by its Fourier series."""
    waves = np.fft.fftshift(np.fft.fft2(rng.normal(size=(512, 512)) + lattice((512, 512), 6.0)))
    y, x = np.indices(waves.shape) - 256
    waves[np.hypot(y, x) > 180] = 0
    fine = np.pad(waves, 256)
    once, twice = (
        log_polar_spectrum(np.fft.ifft2(np.fft.ifftshift(one)).real.astype(np.float32) * one.size)
        for one in (waves, fine)
    )
    assert np.argmax(profile(twice)) - np.argmax(profile(once)) == BINS_PER_OCTAVE
    alike = (np.arange(BINS) > bin_of_period(512 / 170)) & (np.arange(BINS) < bin_of_period(24.0))
    before, after = once[:, alike], twice[:, np.roll(alike, BINS_PER_OCTAVE)]
    np.testing.assert_allclose(after[COUNT], before[COUNT])
    # Relative to the median cell, of which many hold nothing: the difference is one number.
    difference = after[:COUNT] - before[:COUNT]
    np.testing.assert_allclose(difference, np.median(difference), atol=0.2)


@pytest.mark.parametrize("side", [127, 192])
def test_a_quarter_turn_rolls_the_angles_by_half_of_them(rng, side):
    image = (lattice((side, side), 7.0) + 0.5 * rng.normal(size=(side, side))).astype(np.float32)
    spectrum, turned = (log_polar_spectrum(one) for one in (image, np.rot90(image).copy()))
    rolled = np.roll(spectrum, ANGLES // 2, axis=2)
    # The edge of the spectrum and its axis x = 0 hold some samples twice or not at all.
    sampled = np.arange(BINS) > bin_of_period(2.1)
    np.testing.assert_allclose(turned[LARGEST][sampled], rolled[LARGEST][sampled], atol=0.02)
    assert np.mean(np.abs(turned - rolled)[:, sampled] < 0.02) > 0.9
    assert np.argmax(turned[LARGEST]) == np.argmax(rolled[LARGEST])


def test_gain_and_offset_count_for_nothing(rng):
    image = (lattice((150, 181), 8.0) + rng.normal(size=(150, 181))).astype(np.float32)
    expected = log_polar_spectrum(image)
    for gain, offset in ((1e-10, 0.0), (1e4, 0.0), (3.0, -700.0), (-1.0, 5.0)):
        spectrum = log_polar_spectrum((gain * image.astype(np.float64) + offset).astype(np.float32))
        np.testing.assert_allclose(spectrum, expected, atol=0.1)
        assert np.median(np.abs(spectrum - expected)) < 1e-2


def test_a_background_and_a_tall_adsorbate_leave_the_peak(rng):
    image = lattice((256, 256), 8.0) + 0.3 * rng.normal(size=(256, 256))
    y, x = np.mgrid[:256, :256] / 256
    disturbed = image + 50 * y - 30 * x**2 + 40 * (np.hypot(y - 0.4, x - 0.6) < 0.05)
    peaks = [np.argmax(profile(log_polar_spectrum(one.astype(np.float32)))) for one in (image, disturbed)]
    assert peaks[0] == peaks[1] == np.rint(bin_of_period(8.0 * np.sqrt(0.75)))


def test_missing_pixels_are_left_out(rng):
    image = (lattice((256, 256), 8.0) + 0.3 * rng.normal(size=(256, 256)) + 100).astype(np.float32)
    expected = log_polar_spectrum(image)
    valid = np.ones(image.shape, bool)
    valid[150:] = False
    valid[10:14, 20:90] = False
    for hole in (np.nan, np.inf, 1e20, 0.0):
        spectrum = log_polar_spectrum(np.where(valid, image, np.float32(hole)), valid)
        assert np.isfinite(spectrum).all()
        assert np.argmax(profile(spectrum)) == np.argmax(profile(expected))
    np.testing.assert_array_equal(log_polar_spectrum(image, np.ones(image.shape, bool)), expected)


@pytest.mark.parametrize("shape", [(64, 200), (201, 63), (97, 97), (17, 33), (5, 7), (2, 2), (1, 40), (1, 1)])
def test_every_shape_gives_the_same_grid(rng, shape):
    spectrum = log_polar_spectrum(rng.normal(size=shape).astype(np.float32))
    assert spectrum.shape == (CHANNELS, BINS, ANGLES)
    assert spectrum.dtype == np.float32
    assert np.isfinite(spectrum).all()
    assert (spectrum[COUNT] >= 0).all()


def test_the_shape_of_an_image_does_not_move_its_peak():
    for shape in ((512, 512), (300, 700), (333, 401)):
        assert np.argmax(profile(log_polar_spectrum(lattice(shape, 9.0)))) == np.rint(
            bin_of_period(9.0 * np.sqrt(0.75))
        )


def test_the_middle_of_a_large_image_is_looked_at(rng):
    image = rng.normal(size=(MAX_SIDE_PX + 101, 300)).astype(np.float32)
    middle = image[50 : 50 + MAX_SIDE_PX]
    expected = log_polar_spectrum(middle)
    np.testing.assert_array_equal(log_polar_spectrum(image), expected)
    image[:50] = 1e6
    np.testing.assert_array_equal(log_polar_spectrum(image), expected)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-9, -3e8])
def test_a_constant_image_has_no_scale_and_no_warning(value):
    for image in (np.full((64, 80), value, np.float32), np.full((300, 300), value, np.float32)):
        spectrum = log_polar_spectrum(image)
        assert np.isfinite(spectrum).all()
        assert np.ptp(spectrum[LARGEST][spectrum[COUNT] > 0]) == 0


def test_an_image_that_is_missing_altogether():
    image = np.full((64, 64), np.nan, np.float32)
    assert np.isfinite(log_polar_spectrum(image, np.zeros(image.shape, bool))).all()


def test_white_noise_is_flat_and_its_samples_are_counted(rng):
    side = 512
    spectrum = log_polar_spectrum(rng.normal(size=(side, side)).astype(np.float32))
    inside = slice(int(bin_of_period(2.1)) + 1, int(bin_of_period(16.0)))
    assert np.abs(np.median(spectrum[MEAN, inside], axis=1)).max() < 0.5
    counted = np.exp(spectrum[COUNT][spectrum[COUNT] > 0]).sum()
    singles = np.count_nonzero(spectrum[COUNT] == 0)  # ln 1: one sample, or none
    assert counted <= side * (side // 2 + 1) <= counted + singles + 1
