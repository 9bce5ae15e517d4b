"""Compilation ahead of time, and without a place for the compiled code."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import spm_kernels
from spm_kernels import _centroid, _gaussian, background, nms, peaks


def test_warm_runs_every_kernel_and_says_how_long():
    seconds = spm_kernels.warm()
    functions = {n for n in spm_kernels.__all__ if n[0].islower()} - {"cache_folder", "warm"}
    assert set(seconds) == functions
    assert all(isinstance(s, float) and s >= 0 for s in seconds.values())


def test_nothing_is_left_to_compile(rng):
    cores = (peaks._peaks, nms._suppress, background._median, _gaussian.fit_all, _centroid.centroid_all)
    spm_kernels.warm()
    compiled = [core.signatures.copy() for core in cores]
    image = rng.random((40, 50)).astype(np.float32)
    for writable in (True, False):
        image.setflags(write=writable)
        found = spm_kernels.local_maxima(image, window_px=5, threshold=0.5, valid=image > 0.1)
        kept = found[spm_kernels.box_nms(found, image[tuple(found.T)], side_px=5.0)]
        spm_kernels.refine_gaussian(image, kept, radius_px=3.0)
        spm_kernels.refine_gaussian(image[:, ::-1], kept.astype(float), radius_px=3.0, valid=image > 0.1)
        spm_kernels.refine_centroid(image, kept, radius_px=3.0)
        spm_kernels.sliding_median(image, radius_px=4, valid=image > 0.1)
    assert [core.signatures for core in cores] == compiled


def test_the_cache_lies_in_a_folder():
    assert isinstance(spm_kernels.cache_folder(), Path)


def test_without_a_place_for_the_cache_the_kernels_work_and_say_so_once():
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"  # a system on which nothing can be written
        "import numpy as np, spm_kernels\n"
        "assert spm_kernels.cache_folder() is None\n"
        "print(spm_kernels.box_nms(np.zeros((2, 2)), np.ones(2, np.float32), side_px=3.0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[0]" in done.stdout
    assert done.stderr.count("set NUMBA_CACHE_DIR") == 1
