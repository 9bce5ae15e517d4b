"""The graph that is exported: equal to torch, clean, small."""

import numpy as np
import onnx
import pytest
import torch

from spm_training.graphs.base import AtomsGraph
from spm_training.graphs.onnx_export import deployable, to_onnx
from spm_training.networks.atoms import AtomsNet

OUTPUTS = ["confidence", "offset_px", "position_std_px", "spacing_px"]


@pytest.fixture(scope="module")
def network():
    """A network whose batch norms have seen something, so that folding them matters."""
    torch.manual_seed(3)
    network = AtomsNet(8, 2)
    for _ in range(5):
        network(3 * torch.randn(4, 1, 32, 32) + 1)
    return network.eval()


@pytest.fixture(scope="module")
def models(network):
    graphs = {half: AtomsGraph(deployable(network, half=half)) for half in (False, True)}
    return {half: to_onnx(graph, identity="atoms@1.2.3", half=half) for half, graph in graphs.items()}


def test_folding_changes_nothing_and_leaves_the_network_alone(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = deployable(network)
    image = torch.randn(2, 1, 32, 48)
    with torch.no_grad():
        for a, b in zip(network(image), folded(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_graph_clamps_the_confidence(network):
    found = AtomsGraph(network).named(20 * torch.randn(2, 1, 32, 32))
    assert found["confidence"].min() >= 0
    assert found["confidence"].max() <= 1
    assert found["spacing_px"].shape == (2, 1)


def test_the_graph_says_positions_in_pixels(network):
    image = torch.randn(2, 1, 32, 48)
    with torch.no_grad():
        raw, found = network(image), AtomsGraph(network).named(image)
    assert found["offset_px"].shape == (2, 2, 32, 48)
    torch.testing.assert_close(found["offset_px"], raw.offset)
    torch.testing.assert_close(found["position_std_px"].log(), raw.log_std)


@pytest.mark.parametrize("half", [False, True])
def test_the_file_is_standard_and_tells_nothing_of_its_maker(models, half):
    model = onnx.load_from_string(models[half])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    assert {entry.key: entry.value for entry in model.metadata_props} == {"model": "atoms@1.2.3"}
    assert [entry.name for entry in model.graph.input] == ["image"]
    assert [entry.name for entry in model.graph.output] == OUTPUTS
    for word in (b".py", b"/home", b"spm_training", b"site-packages"):
        assert word not in models[half]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_half_precision_halves_the_file(models):
    assert len(models[True]) < 0.6 * len(models[False])


@pytest.mark.parametrize("half", [False, True])
def test_onnx_equals_torch_at_any_size(network, models, half):
    """By ONNX's own reference implementation, which shares no code with torch or onnxruntime."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_from_string(models[half]))
    graph = AtomsGraph(deployable(network, half=half)).eval()
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 4, 4), (2, 1, 8, 20)):
        image = rng.normal(size=shape).astype(np.float32)
        found = evaluator.run(None, {"image": image})
        with torch.no_grad():
            expected = graph(torch.from_numpy(image))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-5)


def test_rounding_to_half_moves_the_output_little(network):
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        full, rounded = AtomsGraph(deployable(network))(image), AtomsGraph(deployable(network, half=True))(image)
    assert float((full[0] - rounded[0]).abs().max()) < 1e-2
    torch.testing.assert_close(full[-1], rounded[-1], rtol=1e-2, atol=0)
