"""The whole analysis of one image beside the detector that everybody has at hand."""

import dataclasses
import time

import numpy as np
import pytest
from skimage.feature import blob_log

from spm_runtime import Scan, analyse
from spm_runtime.levelling import level_for_network
from spm_runtime.models import default_model
from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.session import Session


@pytest.fixture(scope="module")
def image():
    """A hexagonal lattice of 800×800 pixels with a spacing of 10 px and noise."""
    y, x = np.mgrid[:800, :800]
    waves = [np.cos(2 * np.pi * (np.sin(a) * y + np.cos(a) * x) / 8.66) for a in np.deg2rad([7, 67, 127])]
    noise = np.random.default_rng(0).normal(size=y.shape)
    return (sum(waves) + 0.5 * noise).astype(np.float32)


@pytest.mark.benchmark(group="whole image 800x800")
def test_analyse(benchmark, image):
    scan = Scan(image)
    result = benchmark.pedantic(lambda: analyse(scan, "atoms", device="cpu"), rounds=5, warmup_rounds=1)
    assert len(result.atoms) > 5000


@pytest.mark.benchmark(group="whole image 800x800")
def test_blob_log_defaults_reference(benchmark, image):
    grey = (image - image.min()) / np.ptp(image)
    benchmark.pedantic(lambda: blob_log(grey), rounds=1)


def test_the_whole_analysis_beside_blob_log(image, capsys):
    """One figure for both: the analysis over `blob_log` at its defaults, single calls after warm-up, in one run."""
    scan, grey = Scan(image), (image - image.min()) / np.ptp(image)
    analyse(scan, "atoms", device="cpu")
    blob_log(grey[:100, :100])
    ours, theirs = [], []
    for _ in range(3):
        start = time.perf_counter()
        result = analyse(scan, "atoms", device="cpu")
        middle = time.perf_counter()
        blob_log(grey)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    stages = ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in result.timings_s.items())
    with capsys.disabled():
        print(
            f"\nanalysis / blob_log: {np.median(ours) / np.median(theirs):.3f} (stages of the last one in ms: {stages})"
        )
    assert np.median(ours) < np.median(theirs)


@pytest.mark.benchmark(group="tiles 1200x1200")
def test_tiled(benchmark, image):
    session = Session(default_model("atoms"), "cpu")
    wide = level_for_network(np.tile(image, (2, 2))[:1200, :1200])
    benchmark.pedantic(lambda: run_tiled(session, wide, tile_px=608), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="tiles 1200x1200")
def test_one_piece_reference(benchmark, image):
    session = Session(default_model("atoms"), "cpu")
    wide = level_for_network(np.tile(image, (2, 2))[:1200, :1200])
    benchmark.pedantic(lambda: run_tiled(session, wide, tile_px=1216), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="saving one result")
def test_save(benchmark, image, tmp_path):
    result = analyse(Scan(image, pixel_size_nm=(0.03, 0.03)), "atoms", device="cpu")
    benchmark.pedantic(lambda: dataclasses.replace(result).save(tmp_path / "out"), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="saving one result")
def test_analyse_reference(benchmark, image):
    scan = Scan(image, pixel_size_nm=(0.03, 0.03))
    benchmark.pedantic(lambda: analyse(scan, "atoms", device="cpu"), rounds=3, warmup_rounds=1)
