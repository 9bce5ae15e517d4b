"""Compilation ahead of time."""

import numpy as np

import spm_kernels
from spm_kernels import _centroid, _gaussian, background, nms, peaks


def test_warm_runs_every_kernel_and_says_how_long():
    seconds = spm_kernels.warm()
    functions = {n for n in spm_kernels.__all__ if n[0].islower()} - {"warm"}
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
