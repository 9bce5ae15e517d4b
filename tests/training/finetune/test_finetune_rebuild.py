"""Networks out of their ONNX files: the same answers, to rounding."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from spm_runtime.errors import ModelError, ModelIntegrityError
from spm_runtime.models import find_model, load_package
from spm_runtime.session import Session
from spm_training.finetune.rebuild import calibration_of, rebuilt_autoencoder, rebuilt_finder
from spm_training.graphs.finder import FinderOfDefectsGraph
from spm_training.graphs.patches import DecoderGraph, ImageEncoderGraph


def test_the_finder_says_what_the_package_says(package, rng):
    network = rebuilt_finder(package)
    graph = FinderOfDefectsGraph(network, package.settings["classes"], package.settings["channels"])
    graph.calibrate(calibration_of(package))
    image = rng.normal(size=(2, 4, 48, 80)).astype(np.float32)
    found = Session(package, "cpu").run({"image": image})
    with torch.no_grad():
        for name, value in graph.eval().named(torch.from_numpy(image)).items():
            np.testing.assert_allclose(value.numpy(), found[name], atol=1e-4, rtol=1e-4)


def test_the_shipped_finder_can_be_rebuilt():
    network = rebuilt_finder(find_model("defects"))
    assert (network.base_width, network.depth, network.kinds) == (16, 4, 9)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_autoencoder_says_what_encoder_and_decoder_say(package, rng):
    network = rebuilt_autoencoder(package)
    image = rng.random((1, 1, 78, 94), np.float32)
    latent = Session(package.attached["encoder"], "cpu").run({"image": image})["latent"]
    with torch.no_grad():
        mine = ImageEncoderGraph(network, stride_px=8).named(torch.from_numpy(image))["latent"].numpy()
    np.testing.assert_allclose(mine, latent, atol=1e-4)
    flat = np.ascontiguousarray(latent[0].reshape(len(latent[0]), -1).T)
    windows = Session(package.attached["decoder"], "cpu").run({"latent": flat})["reconstruction"]
    with torch.no_grad():
        np.testing.assert_allclose(network.decode(torch.from_numpy(flat)).numpy(), windows, atol=1e-4)
        again = DecoderGraph(network).named(torch.from_numpy(flat))["reconstruction"].numpy()
    np.testing.assert_allclose(again, windows, atol=1e-4)


def test_it_learns(package):
    """A step along the gradient makes the error smaller: encoder and decoder both get one."""
    network = rebuilt_autoencoder(package)
    image = torch.rand(2, 1, 46, 46, generator=torch.Generator().manual_seed(0))
    target = image[:, :, 7:-7, 7:-7]
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(5):
        loss = (network(image) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_another_network_is_refused(package):
    classes = [*package.settings["classes"], "one more"]
    with pytest.raises(ModelError, match="not a network that can go on learning"):
        rebuilt_finder(dataclasses.replace(package, settings={**package.settings, "classes": classes}))


def test_promised_outputs_that_it_does_not_give_are_refused(package, tmp_path):
    folder = shutil.copytree(package.folder, tmp_path / "package")
    file = folder / "test_output_presence.npy"
    np.save(file, np.load(file) + 0.1)
    text = (folder / "rdf.yaml").read_text(encoding="utf-8")
    from spm_training.packages.card import file_entry

    old = next(one.sha256 for one in package.outputs if one.id == "presence")
    new = file_entry(folder, file.name)["sha256"]
    (folder / "rdf.yaml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelIntegrityError, match=r"presence differs by 0\.1"):
        rebuilt_finder(load_package(folder))
