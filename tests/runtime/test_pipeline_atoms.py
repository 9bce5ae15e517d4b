"""The atoms pipeline on images whose atoms are known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from spm_runtime import analyse
from spm_runtime.errors import ModelError, ParameterError
from spm_runtime.models import load_package
from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.scan import Scan
from spm_runtime.session import Session

SHIPPED = Path(
    __import__("os").environ.get("SHIPPED", Path(__file__).resolve().parents[2] / "exported_models" / "atoms")
)


def columns(shape=(160, 192), spacing=10.0, sigma=2.2, noise=0.05, angle=0.3, seed=0, missing=()):
    """A hexagonal lattice of Gaussians, its positions, and vacancies where asked."""
    rng = np.random.default_rng(seed)
    a1 = spacing * np.array([np.sin(angle), np.cos(angle)])
    a2 = spacing * np.array([np.sin(angle + np.pi / 3), np.cos(angle + np.pi / 3)])
    ij = np.stack(np.meshgrid(np.arange(-60, 61), np.arange(-60, 61)), -1).reshape(-1, 2)
    yx = ij @ np.stack([a1, a2]) + np.array(shape) / 2 + 0.37
    yx = yx[np.all((yx > -spacing) & (yx < np.array(shape) + spacing), axis=1)]
    for place in missing:
        yx = yx[np.hypot(*(yx - place).T) > spacing / 2]
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = sum(np.exp(-((y - p[0]) ** 2 + (x - p[1]) ** 2) / (2 * sigma**2)) for p in yx)
    inside = np.all((yx > 0) & (yx < np.array(shape) - 1), axis=1)
    return (image + noise * rng.normal(size=shape)).astype(np.float32), yx[inside]


def compare(found, truth, tolerance):
    """Recall, precision and rms error by nearest neighbour (the lattice is far wider than the tolerance)."""
    distance = np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1))
    recall = (distance.min(axis=0) < tolerance).mean()
    precision = (distance.min(axis=1) < tolerance).mean()
    hits = distance.min(axis=1)
    return recall, precision, np.sqrt(np.mean(hits[hits < tolerance] ** 2))


def test_a_clear_lattice_is_found_whole_and_sub_pixel():
    image, truth = columns()
    result = analyse(Scan(image), "atoms", device="cpu")
    inner = truth[np.all((truth > 4) & (truth < np.array(image.shape) - 5), axis=1)]
    recall, _, rms = compare(result.atoms.yx_px, inner, 2.5)
    # Half a column at the border is a column too, and no mistake: its middle may lie outside.
    found = result.atoms.yx_px
    _, precision, _ = compare(found[np.all((found > 2) & (found < np.array(image.shape) - 3), axis=1)], truth, 2.5)
    assert recall == 1.0
    assert precision > 0.98
    assert rms < 0.1
    assert result.quantities["spacing_px"] == pytest.approx(10.0, rel=0.1)
    assert np.nanmedian(result.atoms.width_px) == pytest.approx(2.2, rel=0.1)
    assert np.nanmedian(result.atoms.intensity) == pytest.approx(1.0 - np.median(image), rel=0.05)
    assert (np.diff(result.atoms.score) <= 0).all()
    assert set(result.timings_s) >= {"scale", "network", "peaks", "refine", "map"}


@pytest.mark.parametrize("spacing", [5.0, 22.0])
def test_the_scale_is_found_without_calibration(spacing):
    image, truth = columns(shape=(256, 256), spacing=spacing, sigma=0.24 * spacing)
    result = analyse(Scan(image), "atoms", device="cpu")
    assert result.quantities["spacing_px"] == pytest.approx(spacing, rel=0.05)
    assert result.quantities["predicted_spacing_px"] == pytest.approx(spacing, rel=0.3)
    recall, precision, _ = compare(result.atoms.yx_px, truth, 0.25 * spacing)
    assert recall > 0.95
    assert precision > 0.95


def test_vacancies_stay_empty():
    image, _ = columns(missing=[(80, 96)])
    gap = np.array([80.0, 96.0])
    full, truth = columns()
    site = truth[np.argmin(np.hypot(*(truth - gap).T))]
    found = analyse(Scan(image), "atoms", device="cpu").atoms.yx_px
    assert np.hypot(*(found - site).T).min() > 5
    assert np.hypot(*(analyse(Scan(full), "atoms", device="cpu").atoms.yx_px - site).T).min() < 1


def test_nothing_is_found_in_the_missing_part():
    image, _ = columns()
    image[100:] = np.nan
    result = analyse(Scan(image), "atoms", device="cpu")
    assert len(result.atoms) > 50
    assert result.atoms.yx_px[:, 0].max() < 100.5
    confidence = result.maps[0].data
    assert confidence.shape == image.shape
    assert np.isnan(confidence[100:]).all()
    assert np.isfinite(confidence[:100]).all()


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.full((64, 64), np.nan), np.ones((5, 7)), np.zeros((1, 1))])
def test_images_without_atoms_give_none(image):
    result = analyse(Scan(image), "atoms", device="cpu")
    assert len(result.atoms) == 0
    assert "spacing_px" not in result.quantities
    assert result.maps[0].data.shape == image.shape


def test_units_do_not_matter():
    """The same surface in metres (1e-10) and in counts (1e4)."""
    image, _ = columns()
    metres, counts = (analyse(Scan(image * gain), "atoms", device="cpu").atoms for gain in (1e-10, 1e4))
    assert len(metres) == len(counts)
    assert metres.yx_px == pytest.approx(counts.yx_px, abs=1e-2)
    assert metres.intensity * 1e14 == pytest.approx(counts.intensity, rel=1e-2, nan_ok=True)


def test_a_tile_equals_the_whole():
    image, _ = columns(shape=(300, 420))
    session = Session(load_package(SHIPPED), "cpu")
    whole = run_tiled(session, image, tile_px=1024)["confidence"]
    tiled = run_tiled(session, image, tile_px=128)["confidence"]
    assert tiled == pytest.approx(whole, abs=2e-5)


def test_unusual_scans_warn():
    image, _ = columns()
    package = load_package(SHIPPED)
    coarse = package.pixel_size_nm[1] * 2
    scan = Scan(image, pixel_size_nm=(coarse, coarse), modality="afm")
    text = " ".join(analyse(scan, "atoms", device="cpu").warnings)
    assert "outside the range" in text
    assert "AFM" in text
    usual = dataclasses.replace(scan, pixel_size_nm=(0.03, 0.03), modality="stm")
    result = analyse(usual, "atoms", device="cpu")
    assert result.warnings == ()
    assert result.quantities["spacing_nm"] == pytest.approx(0.3, rel=0.1)


def test_non_square_pixels():
    """A scan with half as many lines as columns: positions come back in its own pixels."""
    image, truth = columns(shape=(256, 256), spacing=12.0, sigma=2.6)
    scan = Scan(image[::2], pixel_size_nm=(0.06, 0.03))
    found = analyse(scan, "atoms", device="cpu").atoms.yx_px
    recall, precision, _ = compare(found * [2, 1], truth, 3.0)
    assert recall > 0.95
    assert precision > 0.95


def test_parameters_matter_and_are_recorded():
    image, _ = columns(noise=0.6)
    loose = analyse(Scan(image), "atoms", device="cpu", params={"filter_lower_bound": 0.05})
    strict = analyse(Scan(image), "atoms", device="cpu", params={"filter_lower_bound": 0.9})
    assert len(loose.atoms) > len(strict.atoms)
    assert strict.parameters["filter_lower_bound"] == 0.9
    given = analyse(Scan(image), "atoms", device="cpu", params={"spacing_px": 10.0})
    assert given.quantities["predicted_spacing_px"] == pytest.approx(10.0)


@pytest.mark.parametrize("spacing", [0.02, 900.0])
def test_a_spacing_that_makes_no_sense_warns(spacing):
    image, _ = columns(shape=(64, 64))
    result = analyse(Scan(image), "atoms", device="cpu", params={"spacing_px": spacing})
    assert "outside its training" in " ".join(result.warnings)


@pytest.mark.parametrize("spacing", [4.5, 9.0, 20.0])
def test_the_stated_standard_deviation_is_honest_at_every_scale(spacing):
    """Errors over stated deviations of columns in white noise; an enlarged image has no more information than before."""
    image, truth = columns(shape=(224, 224), spacing=spacing, sigma=0.22 * spacing, noise=0.1)
    atoms = analyse(Scan(image), "atoms", device="cpu", params={"spacing_px": spacing}).atoms
    error = atoms.yx_px[:, None] - truth[None]
    nearest = np.hypot(*error.transpose(2, 0, 1)).argmin(axis=1)
    error = error[np.arange(len(nearest)), nearest]
    good = (np.hypot(*error.T) < 0.25 * spacing) & np.isfinite(atoms.position_std_px)
    edge = np.minimum(atoms.yx_px, np.array(image.shape) - 1 - atoms.yx_px).min(axis=1) > spacing
    ratio = np.sqrt(np.mean(error[good & edge] ** 2)) / np.sqrt(np.mean(atoms.position_std_px[good & edge] ** 2))
    # A lattice without any disorder is easier than what the network was taught: there it promises less than it keeps.
    assert 0.4 < ratio < 1.5


def test_wrong_tasks_and_models_are_refused():
    scan = Scan(np.zeros((32, 32)))
    with pytest.raises(ParameterError, match="'strain' is not available"):
        analyse(scan, "strain")
    with pytest.raises(ModelError, match="no package"):
        analyse(scan, "atoms", model="nonsense")
