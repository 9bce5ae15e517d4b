"""The Wiener filter in Fourier space, beside one that is written out window by window, and on images whose truth is known."""

import numpy as np
import pytest

from spm_runtime.pipelines.fourier_wiener import STRENGTH, fourier_wiener, with_filtered, without_residue

SHAPE = (150, 111)


def plainly(image, side, strength):
    """One window after the other, in float64."""
    half = side // 2
    height, width = image.shape
    rows, columns = -(-height // half), -(-width // half)
    padded = np.pad(
        image.astype(float), [(half, half + rows * half - height), (half, half + columns * half - width)], "symmetric"
    )
    sine = np.sin(np.pi * (np.arange(side) + 0.5) / side)
    weight = np.outer(sine, sine)
    out = np.zeros_like(padded)
    for i in range(rows + 1):
        for j in range(columns + 1):
            place = slice(i * half, i * half + side), slice(j * half, j * half + side)
            mean = np.average(padded[place], weights=weight**2)
            spectrum = np.fft.fft2((padded[place] - mean) * weight)
            power = np.abs(spectrum) ** 2
            noise = strength * np.median(power, axis=0) / np.log(2)
            spectrum *= np.clip(1 - noise / np.maximum(power, 1e-20), 0, None)
            out[place] += (np.fft.ifft2(spectrum).real + mean * weight) * weight
    return out[half : half + height, half : half + width]


def lattice(shape, period=11.3, turn=0.3):
    """Three waves."""
    y, x = np.indices(shape)
    angles = turn + np.arange(3) * np.pi / 3
    return sum(np.cos(2 * np.pi / period * (x * np.cos(a) + y * np.sin(a))) for a in angles).astype(np.float32)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_it_is_the_filter_that_is_written_out(side, rng):
    image = (lattice(SHAPE) + rng.normal(0, 0.5, SHAPE)).astype(np.float32)
    np.testing.assert_allclose(fourier_wiener(image, side), plainly(image, side, STRENGTH), atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (64, 64), (33, 200)])
def test_without_strength_nothing_is_taken_away(shape, rng):
    image = rng.normal(2, 1, shape).astype(np.float32)
    np.testing.assert_allclose(fourier_wiener(image, 32, strength=0), image, atol=1e-5)


def test_what_is_flat_stays():
    image = np.full((40, 300), 5, np.float32)
    np.testing.assert_allclose(fourier_wiener(image, 128), image, atol=1e-5)


@pytest.mark.parametrize(("sigma", "gain_db"), [(0.3, 10), (1.0, 12), (3.0, 10)])
def test_a_lattice_stands_out_of_white_noise(sigma, gain_db, rng):
    clean = lattice((256, 256))
    image = (clean + rng.normal(0, sigma, clean.shape)).astype(np.float32)
    error = np.mean((fourier_wiener(image, 128) - clean) ** 2)
    assert 10 * np.log10(sigma**2 / error) > gain_db


def test_noise_that_differs_from_line_to_line_is_noise(rng):
    clean = lattice((256, 256), turn=0.2)
    image = (clean + rng.normal(0, 1, (256, 1))).astype(np.float32)
    error = np.mean((fourier_wiener(image, 128) - clean) ** 2)
    assert error < 0.1


def test_the_image_comes_first():
    image = lattice((40, 50))
    seen = with_filtered(image, (16, 32))
    assert seen.shape == (3, 40, 50)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen[0], image)
    np.testing.assert_array_equal(seen[2], fourier_wiener(image, 32))
    assert with_filtered(image, ()).shape == (1, 40, 50)


@pytest.mark.parametrize(
    ("shape", "sides"), [((40, 50), [16, 32]), ((20, 90), [10, 20]), ((3, 90), [4, 4]), ((1, 1), [4, 4])]
)
def test_windows_are_no_larger_than_the_image(shape, sides, rng):
    image = rng.normal(0, 1, shape).astype(np.float32)
    seen = with_filtered(image, (16, 32))
    for one, side in zip(seen[1:], sides, strict=True):
        np.testing.assert_array_equal(one, fourier_wiener(image, side))


def plainly_without_residue(answer, image):
    """One window after the other, in float64: windows of 64 px, a tenth of the noise at a period of 4 px."""
    side, half = 64, 32
    height, width = image.shape
    rows, columns = -(-height // half), -(-width // half)
    beyond = [(half, half + rows * half - height), (half, half + columns * half - width)]
    padded, taken = (np.pad(one.astype(float), beyond, "symmetric") for one in (answer, image - answer))
    sine = np.sin(np.pi * (np.arange(side) + 0.5) / side)
    weight = np.outer(sine, sine)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    out = np.zeros_like(padded)
    for i in range(rows + 1):
        for j in range(columns + 1):
            place = slice(i * half, i * half + side), slice(j * half, j * half + side)
            mean = np.average(padded[place], weights=weight**2)
            spectrum = np.fft.rfft2((padded[place] - mean) * weight)
            noise = np.median(np.abs(np.fft.rfft2(taken[place] * weight)) ** 2) / np.log(2)
            power = np.abs(spectrum) ** 2
            spectrum *= power / np.maximum(power + 0.1 * (4 * frequency) ** 2 * noise, 1e-20)
            out[place] += (np.fft.irfft2(spectrum) + mean * weight) * weight
    return out[half : half + height, half : half + width]


def test_residue_is_taken_away_as_it_is_written_out(rng):
    answer = lattice(SHAPE) + rng.normal(0, 0.05, SHAPE)
    image = answer + rng.normal(0, 0.5, SHAPE)
    found = without_residue(answer.astype(np.float32), image.astype(np.float32))
    np.testing.assert_allclose(found, plainly_without_residue(answer, image), atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (33, 200)])
def test_an_answer_that_took_nothing_away_stays(shape, rng):
    image = rng.normal(2, 1, shape).astype(np.float32)
    np.testing.assert_allclose(without_residue(image, image), image, atol=1e-5)


def test_noise_that_an_answer_still_has_goes_and_a_step_stays(rng):
    clean = lattice((128, 128)) + 3 * (np.arange(128) > 60)
    noise = rng.normal(0, 0.5, clean.shape)
    answer = (clean + 0.15 * noise).astype(np.float32)
    found = without_residue(answer, (clean + noise).astype(np.float32)) - clean
    assert np.mean(found**2) < 0.35 * np.mean((answer - clean) ** 2)
    assert np.abs(found.mean(axis=0)).max() < 0.1


@pytest.mark.parametrize("side", [0, 2, 7])
def test_windows_have_a_middle(side):
    with pytest.raises(ValueError, match="even number"):
        fourier_wiener(np.zeros((10, 10), np.float32), side)
