"""What was taken away from a scan: figures of pure noise, of part of the lattice, and of scans without either."""

import json

import numpy as np
import pytest
from scipy import ndimage

from spm_runtime.pipelines.denoise_view import denoise_view
from spm_training.denoise.taken import ScanTaken, Taken, taken_markdown, what_was_taken, write_taken


def lattice(shape=(192, 160)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.cos(2 * np.pi * (x + 0.4 * y) / 9.3) + np.cos(2 * np.pi * (0.9 * y - 0.3 * x) / 8.1) + 0.01 * y


@pytest.mark.parametrize("gain", [1.0, 1e-10])
def test_pure_noise_is_told_as_such(rng, gain):
    clean = gain * lattice()
    noise = 0.4 * gain * rng.standard_normal(clean.shape)
    found = what_was_taken(clean + noise, clean)
    assert found.correlation < 0.04
    assert found.lattice < 0.01
    many = [what_was_taken(clean + 0.4 * gain * rng.standard_normal(clean.shape), clean).at_peaks for _ in range(8)]
    assert np.mean(many) == pytest.approx(1, abs=0.4)
    scale = denoise_view(clean + noise).scale
    assert found.rms == pytest.approx(0.4 * gain / scale, rel=0.02)
    assert found.noise == pytest.approx(found.rms, rel=0.05)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_lattice_that_fades_is_seen(rng, share):
    """The amplitude that is lost counts squared."""
    clean = lattice()
    image = clean + 0.2 * rng.standard_normal(clean.shape)
    plane = denoise_view(clean).background
    found = what_was_taken(image, (1 - share) * (clean - plane) + plane)
    assert found.lattice == pytest.approx(share**2, rel=0.15)
    assert found.at_peaks > 20
    assert found.correlation > (0.1 if share < 0.5 else 0.7)


def test_line_noise_is_noise(rng):
    """Along the lines it is all one, across them it is not."""
    clean = lattice()
    lines = np.repeat(rng.standard_normal((len(clean), 1)), clean.shape[1], axis=1)
    independent = what_was_taken(clean + 0.2 * lines, clean)
    assert independent.at_peaks < 3
    assert independent.correlation < 4 / np.sqrt(len(clean))


def test_a_surface_without_a_lattice_has_no_peaks(rng):
    clean = ndimage.gaussian_filter(rng.standard_normal((128, 128)), 3)
    found = what_was_taken(clean + 0.01 * rng.standard_normal(clean.shape), clean)
    assert np.isnan(found.at_peaks)
    assert np.isnan(found.lattice)
    assert found.correlation < 0.05


def test_missing_pixels_tiny_scans_and_empty_ones(rng):
    clean = lattice()
    image = clean + 0.2 * rng.standard_normal(clean.shape)
    half = image.copy()
    half[110:] = np.nan
    found = what_was_taken(half, np.where(np.isnan(half), np.nan, clean))
    assert found.at_peaks < 3
    assert found.correlation < 0.06
    small = what_was_taken(image[:8, :8], clean[:8, :8])
    assert small.rms > 0
    assert np.isnan(small.correlation)
    same = what_was_taken(image, image)
    assert same.rms == 0
    assert np.isnan([same.correlation, same.at_peaks]).all()
    assert np.isnan(what_was_taken(np.full((64, 64), np.nan), np.full((64, 64), np.nan)).rms)


def test_the_table_has_dashes_and_the_file_nulls(tmp_path):
    rows = [
        ScanTaken("a.sxm", "denoise 1", Taken(0.05, 0.04, 0.01, 1.1, 0.002)),
        ScanTaken("b.sxm", "x", Taken(*[np.nan] * 5)),
    ]
    text = taken_markdown(rows)
    assert "| a.sxm, denoise 1 | 5.00 | 4.00 | 0.010 | 1.10 | 0.20 |" in text
    assert "nan" not in text
    data, _ = write_taken(tmp_path, rows)
    scans = json.loads(data.read_text(encoding="utf-8"))["scans"]
    assert scans[0]["at_peaks"] == 1.1
    assert scans[1]["rms"] is None
