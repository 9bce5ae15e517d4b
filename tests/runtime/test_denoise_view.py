"""What networks that denoise see is the same in every unit, and what they leave alone comes back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spm_runtime.levelling import fit_plane
from spm_runtime.pipelines.denoise_view import DenoiseView, denoise_view, white_noise


def lattice(shape=(96, 128), period=9.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.cos(2 * np.pi * y / period) + np.cos(2 * np.pi * (x + y / 2) / period)


def stairs(height, width, shape=(200, 256)):
    """Terraces with a lattice on them."""
    return lattice(shape) + height * ndimage.gaussian_filter1d((np.arange(shape[1]) // width).astype(float), 1.5)


@pytest.mark.parametrize("missing", [False, True])
def test_the_view_is_the_same_in_any_unit_on_any_offset_and_tilt(missing):
    values = lattice()
    if missing:
        values[20:50, 60:] = np.nan
    view = denoise_view(values)
    y, x = np.mgrid[:96, :128]
    for gain, offset, slope in ((1e-9, 1e-6, 0.0), (1e-12, 0.0, 0.05), (2.5e5, -4e6, -0.3)):
        other = denoise_view((gain * (values + slope * (y - 2 * x)) + offset).astype(np.float32))
        np.testing.assert_allclose(other.image, view.image, atol=3e-4 if abs(offset) > 100 * gain else 2e-5)
        assert other.scale == pytest.approx(gain * view.scale, rel=1e-3)
        np.testing.assert_array_equal(other.valid, np.isfinite(values))


def test_most_of_a_lattice_lies_within_half_and_its_background_is_a_plane():
    view = denoise_view(lattice())
    assert np.percentile(view.image, (2, 98)) == pytest.approx((-0.5, 0.5), abs=1e-5)
    for axis in (0, 1):
        assert np.abs(np.diff(view.background, n=2, axis=axis)).max() < 1e-9
    assert view.image.dtype == np.float32


def test_the_plane_of_a_tilted_scan_comes_back():
    y, x = np.mgrid[:96, :128]
    view = denoise_view(lattice() + 0.7 * y - 0.2 * x + 1000)
    back = view.restored(np.zeros((96, 128), np.float32))
    slopes = [np.polyfit(np.arange(n), back.mean(axis=1 - axis), 1)[0] for axis, n in enumerate(back.shape)]
    np.testing.assert_allclose(slopes, (0.7, -0.2), atol=5e-3)


@pytest.mark.parametrize("width", [50, 90])
def test_on_terraces_the_corrugation_fills_the_range(width):
    scan = stairs(10.0, width)
    view = denoise_view(scan)
    inner = view.image[10:-10, width // 4 : 3 * width // 4]
    assert np.ptp(inner) > 0.4
    # A plane alone leaves much less.
    flat = scan - fit_plane(scan.astype(np.float32))
    assert np.ptp(inner) > 1.4 * 4 / np.ptp(np.percentile(flat, (2, 98)))
    np.testing.assert_allclose(view.restored(view.image), scan, atol=1e-5)


def test_a_tall_outlier_is_compressed_and_comes_back():
    values = lattice()
    values[40, 50] = 1e4
    view = denoise_view(values)
    assert 2 < view.image.max() < 12
    assert view.scale == pytest.approx(denoise_view(lattice()).scale, rel=0.02)
    np.testing.assert_allclose(view.restored(view.image), values, rtol=1e-5, atol=1e-4)
    taken = view.image.copy()
    taken[40, 50] = 0.2
    assert abs(view.restored(taken)[40, 50]) < 4


@pytest.mark.parametrize("islands", [1, 3])
@pytest.mark.parametrize(("height", "offset"), [(1e-9, 0.0), (0.3e-9, 2e-6), (40.0, -1e4)])
def test_few_islands_on_a_flat_terrace_are_the_relief(islands, height, offset):
    """All but a few hundredths of the pixels are one value: no percentile inside tells them apart."""
    values = np.zeros((128, 128))
    for number in range(islands):
        values[20 + 30 * number : 26 + 30 * number, 50:58] = 1 + 0.2 * number
    scan = (height * values + offset).astype(np.float32)
    view = denoise_view(scan)
    assert 0.9 < view.scale / height < 1.6
    assert np.abs(view.image).max() < 1.0
    assert np.ptp(view.image[20:26, 50:58]) < 0.05
    assert view.image[22, 52] - view.image[0, 0] > 0.6
    assert view.noise < 1e-3
    np.testing.assert_allclose(view.restored(view.image), scan, rtol=3e-7, atol=1e-6 * height)


def test_a_spike_beside_islands_is_not_the_relief():
    values = np.zeros((128, 128))
    values[40:52, 60:70] = 1.0  # 0.7 %
    values[100, 30] = 500.0
    assert denoise_view(values).scale == pytest.approx(1.0, rel=0.01)


def test_other_values_of_the_same_scan(rng):
    clean = lattice()
    view = denoise_view(clean + 0.3 * rng.standard_normal(clean.shape))
    seen = view.normalised(clean)
    assert np.std(seen - view.image) == pytest.approx(0.3 / view.scale, rel=0.02)
    np.testing.assert_allclose(view.restored(seen), clean, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(-12, 12),
    st.floats(-4, 4),
    st.floats(0, 1),
    st.integers(0, 2**31 - 1),
)
def test_what_a_network_leaves_alone_comes_back_from_any_scan(height, width, decade, offset, missing, seed):
    rng = np.random.default_rng(seed)
    values = (10.0**decade * (rng.standard_t(2, (height, width)) + 10.0**offset)).astype(np.float32)
    values[rng.random(values.shape) < missing] = np.nan
    view = denoise_view(values)
    assert np.isfinite(view.image).all()
    assert np.isfinite(view.background).all()
    assert view.scale > 0
    assert view.noise >= 0
    there = np.isfinite(values)
    back = view.restored(view.image)
    np.testing.assert_array_equal(np.isfinite(back), there)
    most = float(np.abs(values[there]).max(initial=0.0))
    np.testing.assert_allclose(back[there], values[there], rtol=0, atol=4e-6 * most)


@pytest.mark.parametrize("value", [0.0, 1e-6, -3e9, np.nan])
def test_a_constant_image_is_zero_everywhere(value):
    values = np.full((33, 20), value, np.float32)
    view = denoise_view(values)
    assert isinstance(view, DenoiseView)
    assert not view.image.any()
    assert view.noise == 0
    np.testing.assert_array_equal(view.restored(view.image), values)


@pytest.mark.parametrize("period", [6.5, 10.0, 18.0])
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
def test_the_noise_is_told_whatever_lattice_offset_of_lines_or_plane_is_below_it(rng, period, sigma):
    shape = (200, 240)
    values = lattice(shape, period) + sigma * rng.standard_normal(shape)
    values += 3 * rng.standard_normal(shape[0])[:, None] + np.arange(shape[1])
    values[50:70, 100:] = np.nan
    assert white_noise(values) == pytest.approx(sigma, rel=0.06 if sigma > 0.05 else 0.35)


@pytest.mark.parametrize("rows", [200, 120, 30, 4, 2])
@pytest.mark.parametrize("fill", [np.nan, 0.0, 1e-6, "last line"])
def test_the_noise_of_a_scan_that_was_not_finished_is_that_of_what_was_measured(rng, rows, fill):
    values = 1e-9 * (lattice((256, 256), 9.0) + 0.1 * rng.standard_normal((256, 256))) + 1e-6
    values[rows:] = values[rows - 1] if fill == "last line" else fill
    view = denoise_view(values.astype(np.float32))
    if rows == 2 and fill != "last line":
        values[rows:] = np.nan  # two lines and what a fill adds to them
        assert white_noise(1e9 * values) == pytest.approx(0.1, rel=0.15)
    else:
        assert 1e9 * view.scale * view.noise == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("gap", [2, 3, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_noise_between_lines_that_are_missing(rng, gap, axis):
    values = 0.1 * rng.standard_normal((200, 200))
    np.moveaxis(values, axis, 0)[::gap] = np.nan
    assert white_noise(values) == pytest.approx(0.1, rel=0.05)


def test_the_noise_beside_scattered_gaps(rng):
    values = 0.1 * rng.standard_normal((200, 200))
    values[rng.random(values.shape) < 0.3] = np.nan
    assert white_noise(values) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(("shape", "least"), [((1, 400), True), ((400, 3), True), ((2, 2), False), ((1, 1), False)])
def test_the_noise_of_thin_images(rng, shape, least):
    found = white_noise(rng.standard_normal(shape))
    assert found == pytest.approx(1.0, rel=0.2) if least else found == 0.0
