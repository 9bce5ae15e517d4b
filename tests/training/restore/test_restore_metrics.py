"""The metrics of restoration against what is known of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.signal import convolve2d

from spm_training.restore.metrics import RIM_PX, inner, psnr, quality, register, ssim, vif

SHAPE = (96, 88)
SEWAR = 0.6857103916176034


def waves(shape=SHAPE, *, shift=(0.0, 0.0), seed=1):
    """A smooth surface that is known between its pixels: twelve waves of eight pixels and more."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = y - shift[0], x - shift[1]
    image = np.zeros(shape)
    for _ in range(12):
        k = rng.uniform(-1, 1, 2) * 2 * np.pi / 11.5
        image += rng.uniform(0.3, 1) * np.cos(k[0] * y + k[1] * x + rng.uniform(0, 7))
    return image


def test_psnr_is_the_range_over_the_error():
    clean = waves()
    assert psnr(clean + 0.01, clean, 2.0) == pytest.approx(20 * np.log10(2.0 / 0.01))
    assert psnr(clean, clean, 2.0) == np.inf


def test_ssim_is_as_published(rng):
    clean = waves((60, 61))
    image = clean + rng.normal(0, 0.5, clean.shape)
    place = np.arange(-5, 6)
    window = np.exp(-0.5 * (place / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2

    def mean(values):
        return convolve2d(values, window, mode="valid")

    c1, c2 = (0.01 * 3.0) ** 2, (0.03 * 3.0) ** 2
    clean, image = clean - clean.min(), image - clean.min()
    m1, m2 = mean(clean), mean(image)
    v1, v2, v12 = mean(clean**2) - m1**2, mean(image**2) - m2**2, mean(clean * image) - m1 * m2
    expected = np.mean((2 * m1 * m2 + c1) * (2 * v12 + c2) / ((m1**2 + m2**2 + c1) * (v1 + v2 + c2)))
    assert ssim(image, clean, 3.0) == pytest.approx(expected, rel=1e-10)
    assert ssim(clean, clean, 3.0) == pytest.approx(1)


def published_vif(reference, image):
    """``vifp_mscale`` as it is written, with two-dimensional windows, for images on a range of 255."""
    top = bottom = 0.0
    for scale in range(1, 5):
        side = 2 ** (4 - scale + 1) + 1
        place = np.arange(side) - side // 2
        window = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * (side / 5) ** 2))
        window /= window.sum()
        if scale > 1:
            reference = convolve2d(reference, window, mode="valid")[::2, ::2]
            image = convolve2d(image, window, mode="valid")[::2, ::2]
        m1, m2 = convolve2d(reference, window, mode="valid"), convolve2d(image, window, mode="valid")
        v1 = convolve2d(reference**2, window, mode="valid") - m1**2
        v2 = convolve2d(image**2, window, mode="valid") - m2**2
        v12 = convolve2d(reference * image, window, mode="valid") - m1 * m2
        v1[v1 < 0] = 0
        v2[v2 < 0] = 0
        g = v12 / (v1 + 1e-10)
        noise = v2 - g * v12
        g[v1 < 1e-10] = 0
        noise[v1 < 1e-10] = v2[v1 < 1e-10]
        v1[v1 < 1e-10] = 0
        g[v2 < 1e-10] = 0
        noise[v2 < 1e-10] = 0
        noise[g < 0] = v2[g < 0]
        g[g < 0] = 0
        noise[noise <= 1e-10] = 1e-10
        top += np.sum(np.log10(1 + g**2 * v1 / (noise + 2.0)))
        bottom += np.sum(np.log10(1 + v1 / 2.0))
    return top / bottom


def on_255(image, clean):
    return (image - clean.min()) * 255 / np.ptp(clean)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
def test_vif_is_as_published(rng, noise):
    clean = waves((120, 131))
    image = ndimage.gaussian_filter(clean, 1.0) + rng.normal(0, noise, clean.shape)
    expected = published_vif(on_255(clean, clean), on_255(image, clean))
    assert vif(image, clean, np.ptp(clean)) == pytest.approx(expected, rel=1e-6)


def test_vif_of_another_library():
    """The figure is that of sewar 0.4.10, ``vifp(clean, image)`` of the images brought to 0…255 as here."""
    clean = waves((120, 131))
    image = clean + np.random.default_rng(5).normal(0, 0.2, clean.shape)
    assert vif(image, clean, np.ptp(clean)) == pytest.approx(SEWAR, rel=1e-6)


def test_vif_knows_equal_better_and_lost(rng):
    clean = waves((100, 100))
    span = np.ptp(clean)
    noise = rng.normal(0, 1, clean.shape)
    assert vif(clean, clean, span) == pytest.approx(1, rel=1e-6)
    assert vif(1.5 * clean, clean, span) > 1  # more contrast is more information, as the authors say
    values = [vif(clean + strength * noise, clean, span) for strength in (0.02, 0.1, 0.5)]
    assert values == sorted(values, reverse=True)
    assert vif(noise, clean, span) < 0.02
    assert vif(-clean, clean, span) == pytest.approx(0, abs=1e-9)
    assert vif(np.zeros_like(clean), clean, span) == 0


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-9, 1e3), st.floats(-1e2, 1e2), st.integers(0, 100))
def test_quality_does_not_depend_on_the_unit(gain, offset, seed):
    clean = waves((80, 80), seed=seed)
    image = clean + np.random.default_rng(seed).normal(0, 0.3, clean.shape)
    offset *= gain
    expected = quality(image, clean)
    np.testing.assert_allclose(quality(gain * image + offset, gain * clean + offset), expected, rtol=1e-5)


def test_a_flat_surface_has_no_information():
    flat = np.zeros((80, 80))
    assert np.isnan(quality(flat + 1, flat).vif)


@settings(deadline=None, max_examples=25)
@given(st.floats(-7.5, 7.5), st.floats(-7.5, 7.5), st.floats(-5, 5), st.integers(0, 1000))
def test_shift_and_offset_are_found(y, x, offset, seed):
    clean, image = waves(seed=seed), waves(shift=(y, x), seed=seed) + offset
    found = register(image, clean)
    assert found.shift_yx_px == pytest.approx((y, x), abs=0.02)
    assert found.offset == pytest.approx(offset, abs=0.01)
    assert found.image.shape == tuple(side - 2 * RIM_PX for side in clean.shape)
    assert np.abs(found.image - inner(clean)).max() < 0.03 * np.ptp(clean)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 3))
def test_registration_never_does_harm(seed, noise):
    rng = np.random.default_rng(seed)
    clean = ndimage.gaussian_filter(rng.normal(0, 5, SHAPE), rng.uniform(0.3, 5))
    image = clean + noise * rng.normal(0, 1, SHAPE)
    found, truth = register(image, clean), inner(clean)
    assert np.mean((found.image - truth) ** 2) <= np.mean((inner(image) - truth) ** 2) + 1e-12


def test_a_shift_beyond_the_rim_is_not_sought():
    clean, image = waves(), waves(shift=(20, 0))
    assert np.abs(register(image, clean).shift_yx_px).max() <= RIM_PX


def test_flat_images_register_as_they_are():
    found = register(np.ones(SHAPE), np.zeros(SHAPE))
    assert found.offset == 1
    assert not found.image.any()
