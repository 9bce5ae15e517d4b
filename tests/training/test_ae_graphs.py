"""Clusters against scikit-learn, and the exported graphs of the patch autoencoders in onnxruntime against torch."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import MinMaxScaler

from spm_runtime.errors import ParameterError
from spm_training.clusters import (
    Clusters,
    ClustersLayer,
    Mixture,
    MixtureLayer,
    Scaling,
    fit_clusters,
    fit_mixture,
)
from spm_training.graphs.onnx_export import deployable, to_onnx
from spm_training.graphs.patches import DecoderGraph, DefectGraph, ImageEncoderGraph, WindowEncoderGraph
from spm_training.networks.ae1 import Ae1
from spm_training.networks.ae2 import Ae2


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def latents(count, dimensions, groups=6, seed=0):
    """Latents in groups of different widths, on scales of 0.1 to 10 that differ by dimension; float32 as a network gives them."""
    rng = np.random.default_rng(seed)
    group = rng.integers(groups, size=count)
    centres, widths = 2 * rng.normal(size=(groups, dimensions)), np.exp(rng.normal(-1, 0.7, (groups, dimensions)))
    values = centres[group] + widths[group] * rng.normal(size=(count, dimensions))
    return (values * np.geomspace(0.1, 10, dimensions) + 3).astype(np.float32)


def test_scaling_is_that_of_scikit_learn():
    values = latents(50, 5)
    values[:, 2] = 7.0
    expected = MinMaxScaler().fit_transform(values.astype(float))
    np.testing.assert_allclose(Scaling.of(values)(values), expected, atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 32])
def test_clusters_are_those_of_scikit_learn(dimensions):
    fitted, new = latents(600, dimensions), latents(500, dimensions, seed=1)
    clusters = fit_clusters(fitted, 6, seed=3, starts=4)
    scaler = MinMaxScaler().fit(fitted.astype(float))
    reference = KMeans(6, n_init=4, random_state=3).fit(scaler.transform(fitted.astype(float)))
    label, distance = ClustersLayer(clusters)(torch.from_numpy(new))
    x = scaler.transform(new.astype(float))
    assert label.dtype == torch.float32
    np.testing.assert_array_equal(label[:, 0], reference.predict(x))
    np.testing.assert_allclose(distance[:, 0], reference.transform(x).min(axis=1), rtol=1e-4, atol=1e-4)


def test_mixtures_are_those_of_scikit_learn():
    """20 Gaussians with full covariances in 8 dimensions: probabilities, likelihood and the class that is chosen."""
    fitted, new = latents(3000, 8, groups=20), latents(500, 8, groups=20, seed=0)[:300]
    mixture = fit_mixture(fitted, 20, seed=2)
    scaler = MinMaxScaler().fit(fitted.astype(float))
    reference = GaussianMixture(20, covariance_type="full", random_state=2).fit(scaler.transform(fitted.astype(float)))
    x = scaler.transform(new.astype(float))
    log_probability, log_likelihood = (value.numpy() for value in MixtureLayer(mixture)(torch.from_numpy(new)))
    np.testing.assert_allclose(log_likelihood[:, 0], reference.score_samples(x), rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(np.exp(log_probability), reference.predict_proba(x), atol=1e-3)
    np.testing.assert_array_equal(log_probability.argmax(axis=1), reference.predict(x))
    np.testing.assert_allclose(np.exp(log_probability).sum(axis=1), 1, atol=1e-5)


def test_what_nothing_was_like_has_a_low_likelihood_and_stays_finite():
    mixture = fit_mixture(latents(500, 4), 3)
    far = torch.tensor([[1e3, -1e3, 1e3, 1e4]])
    log_probability, log_likelihood = MixtureLayer(mixture)(far)
    assert log_likelihood.item() < -1e3
    assert torch.isfinite(log_probability).all()


def test_clusters_and_mixtures_survive_their_files(tmp_path):
    values = latents(300, 4)
    clusters, mixture = fit_clusters(values, 3, starts=1), fit_mixture(values, 3)
    clusters.write(tmp_path / "clusters.npz")
    mixture.write(tmp_path / "mixture.npz")
    again = Clusters.read(tmp_path / "clusters.npz")
    np.testing.assert_array_equal(again.centres, clusters.centres)
    np.testing.assert_array_equal(again.scaling.gain, clusters.scaling.gain)
    np.testing.assert_array_equal(Mixture.read(tmp_path / "mixture.npz").factors, mixture.factors)
    with pytest.raises(ParameterError, match=r"clusters\.npz: not readable .*weights"):
        Mixture.read(tmp_path / "clusters.npz")
    with pytest.raises(ParameterError, match=r"absent\.npz: not readable"):
        Clusters.read(tmp_path / "absent.npz")


def clusters_of(network, images):
    """Clusters of what a network says of some images: far enough apart that rounding decides nothing."""
    with torch.no_grad():
        values = network.encode(images).numpy()
    return fit_clusters(values, 3, starts=2)


def compare(graph, *tensors):
    """Export, run, and compare the outputs of every input; the outputs of the last."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(to_onnx(graph, identity="test@1"), options, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == [graph.INPUT]
    assert [one.name for one in session.get_outputs()] == [one.id for one in graph.OUTPUTS]
    for tensor in tensors:
        found = session.run(None, {graph.INPUT: tensor.numpy()})
        with torch.no_grad():
            expected = graph.named(tensor)
        for spec, value in zip(graph.OUTPUTS, found, strict=True):
            assert value.dtype == np.float32
            if spec.id != "reconstruction":
                assert value.shape[1] == len(spec.channels)
            np.testing.assert_allclose(value, expected[spec.id].numpy(), atol=1e-4, rtol=1e-4)
    return dict(zip((one.id for one in graph.OUTPUTS), found, strict=True))


def test_a_whole_image_through_the_exported_encoder_and_decoder():
    """Latents and labels at stride 4, any size; every second window is that of stride 8; the decoder takes what comes out."""
    network = deployable(Ae1(16))
    clusters = clusters_of(network, torch.rand(40, 1, 46, 46))
    graph = ImageEncoderGraph(network, clusters=clusters)
    assert (graph.stride_px, graph.side_px, graph.margin_px) == (4, 32, 7)
    image = torch.rand(2, 1, 40 + 14, 52 + 14)
    found = compare(graph, torch.rand(1, 1, 46, 46), image)
    assert found["latent"].shape == (2, 16, 3, 6)
    assert found["label"].shape == found["distance"].shape == (2, 1, 3, 6)
    with torch.no_grad():
        coarse = ImageEncoderGraph(network, stride_px=8).named(image)
        window = network.encode(image[:, :, 8:54, 12:58])
    assert list(coarse) == ["latent"]
    np.testing.assert_allclose(found["latent"][:, :, ::2, ::2], coarse["latent"], atol=1e-5)
    np.testing.assert_allclose(found["latent"][:, :, 2, 3], window, atol=1e-5)
    flat = torch.from_numpy(found["latent"]).permute(0, 2, 3, 1).reshape(-1, 16)
    answer = compare(DecoderGraph(network), flat)["reconstruction"]
    assert answer.shape == (36, 1, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(answer, network.decode(flat), atol=1e-5)
    with pytest.raises(ValueError, match="network with context"):
        ImageEncoderGraph(Ae1(16, context=False))


def test_windows_one_by_one_through_the_exported_reference():
    network = deployable(Ae1(16, context=False))
    windows = torch.rand(30, 1, 32, 32)
    graph = WindowEncoderGraph(network, clusters=clusters_of(network, windows))
    assert compare(graph, windows[:1], windows)["label"].shape == (30, 1)


def test_patches_of_any_scale_through_the_exported_second_stage():
    network = deployable(Ae2(hidden=32))
    patches = torch.rand(400, 1, 32, 32)
    with torch.no_grad():
        values = network.encode(patches).numpy()
    graph = DefectGraph(network, mixture=fit_mixture(values, 4))
    found = compare(graph, patches[:1], patches[:9])
    assert found["log_probability"].shape == (9, 4)
    with torch.no_grad():
        other = graph.named(patches[:9] * 1e-3 + 5)  # what the scale of the image was does not matter
        flat = graph.named(torch.full((1, 1, 32, 32), 7.0))
    np.testing.assert_allclose(found["latent"], other["latent"], atol=1e-2)
    assert all(torch.isfinite(value).all() for value in flat.values())
    assert list(DefectGraph(network).named(patches[:1])) == ["latent"]
