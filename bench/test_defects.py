"""Whole images through the first patch autoencoder beside window by window, and the defects pipeline as a whole."""

import numpy as np
import pytest

from spm_runtime import Scan, analyse
from spm_runtime.models import default_model
from spm_runtime.pipelines.patch_maps import CONTEXT_PX, STRIDE_PX, WINDOW_PX
from spm_runtime.session import Session

SIDE = 256


@pytest.fixture(scope="module")
def encoder():
    """The shipped encoder, on the processor, in a session of its own."""
    return Session(default_model("defects").attached["encoder"], "cpu")


@pytest.fixture(scope="module")
def framed():
    """An image with its context."""
    side = SIDE + 2 * CONTEXT_PX
    return np.random.default_rng(0).random((side, side), np.float32)


@pytest.mark.benchmark(group="AE1 encoder, 841 windows of a 256x256 image")
def test_whole_image(benchmark, encoder, framed):
    latent = benchmark(lambda: encoder.run({"image": framed[None, None]}))["latent"][0]
    some = _windows(framed)[::97]
    alone = encoder.run({"image": some[:, None]})["latent"][:, :, 0, 0]
    np.testing.assert_allclose(latent.reshape(len(latent), -1).T[::97], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.benchmark(group="AE1 encoder, 841 windows of a 256x256 image")
def test_windows_reference(benchmark, encoder, framed):
    """The same network on the same windows, each with its context, a batch of all of them."""
    windows = np.ascontiguousarray(_windows(framed)[:, None])
    benchmark.pedantic(lambda: encoder.run({"image": windows}), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="defects in a 256x256 image, finder alone")
def test_everything(benchmark):
    """Finder, terraces, autoencoders, groups and maps."""
    scan = _scan()
    benchmark.pedantic(lambda: analyse(scan, "defects", device="cpu"), rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="defects in a 256x256 image, finder alone")
def test_finder_reference(benchmark):
    """The finder's network alone, once, on as many pixels."""
    session = Session(default_model("defects"), "cpu")
    channels = len(session.package.settings["channels"])
    image = np.random.default_rng(0).normal(size=(1, channels, SIDE, SIDE)).astype(np.float32)
    benchmark.pedantic(lambda: session.run({"image": image}), rounds=5, warmup_rounds=1)


def _windows(framed):
    side = WINDOW_PX + 2 * CONTEXT_PX
    cut = np.lib.stride_tricks.sliding_window_view(framed, (side, side))[::STRIDE_PX, ::STRIDE_PX]
    return cut.reshape(-1, side, side)


def _scan():
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [np.cos(2 * np.pi * (np.sin(a) * y + np.cos(a) * x) / 6) for a in np.deg2rad([7, 67, 127])]
    heights = 0.02 * sum(waves) + np.random.default_rng(0).normal(0, 0.003, y.shape)
    heights[100:104, 80:84] -= 0.1
    return Scan(heights.astype(np.float32), unit="nm", pixel_size_nm=(0.08, 0.08), modality="stm")
