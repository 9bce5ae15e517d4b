"""Restorers and the tip network as they are exported: onnxruntime against torch, sizes, names, two inputs."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from spm_runtime.pipelines.relief import (
    EVIDENCE,
    RESTORE_CHANNELS,
    TIP_PX,
    marks_input,
    relief_view,
    surroundings,
    tip_evidence,
)
from spm_training.graphs.onnx_export import deployable, to_onnx
from spm_training.graphs.restore import JudgeGraph, MarksGraph, RestorerGraph, TipGraph
from spm_training.networks.judge import JUDGED_WIDTH, TOLD_WIDTH, JudgeNet
from spm_training.networks.restorer import RestorerNet
from spm_training.networks.tip import TipNet
from spm_training.networks.tip_models import TipModel1, TipModel2, TipModel3
from spm_training.simulate.tips import FAMILIES, scene_rng, simulate_tip_scene


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def trained(network):
    """Weights and statistics as a training leaves them: nothing is zero or one."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and tensor.dim() <= 4 and tensor.numel() != 2 * TIP_PX**2:
            tensor.data += 0.05 * torch.rand_like(tensor)
    return network.eval()


def session_of(graph, *, half=False):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    data = to_onnx(graph, identity="test@1", half=half)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def compare(graph, session, *tensors):
    """Largest difference between onnxruntime and torch, of all outputs, relative to the largest value of each."""
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
    with torch.no_grad():
        expected = graph.named(*tensors)
    assert [one.name for one in session.get_outputs()] == list(expected) == [one.id for one in graph.OUTPUTS]
    for value, one in zip(found, expected.values(), strict=True):
        assert value.shape == tuple(one.shape)
        assert value.dtype == np.float32
    pairs = [(value, one.numpy()) for value, one in zip(found, expected.values(), strict=True)]
    return max(float(np.abs(value - one).max() / max(np.abs(one).max(), 1.0)) for value, one in pairs)


@pytest.mark.parametrize(
    ("make", "half"),
    [
        (lambda: TipModel1(4, 2), True),
        (lambda: TipModel2(4), False),
        (lambda: TipModel3(2, 2), False),
        (lambda: RestorerNet(2, 2, with_tip=False), False),
    ],
)
def test_a_network_that_sees_the_image_alone(make, half):
    graph = RestorerGraph(deployable(trained(make()), half=half)).eval()
    session = session_of(graph, half=half)
    assert [one.name for one in session.get_inputs()] == ["image"]
    assert graph.channels == ("image",)
    for batch, rows, columns in ((1, 1, 1), (3, 2, 5)):
        image = torch.rand(batch, 1, rows * graph.stride, columns * graph.stride) - 0.5
        assert compare(graph, session, image) < 1e-5


def test_a_network_that_is_told_of_the_tip_has_two_inputs():
    graph = RestorerGraph(deployable(trained(RestorerNet(2, 2)))).eval()
    session = session_of(graph)
    assert [one.name for one in session.get_inputs()] == ["image", "code"]
    assert [one.id for one in graph.OUTPUTS] == ["restored", "touched"]
    assert graph.channels == RESTORE_CHANNELS
    for batch, rows, columns in ((1, 1, 1), (2, 3, 2)):
        image = torch.rand(batch, len(RESTORE_CHANNELS), rows * graph.stride, columns * graph.stride) - 0.5
        code = torch.rand(batch, TOLD_WIDTH)
        assert compare(graph, session, image, code) < 1e-5
    with torch.no_grad():
        one, other = graph.named(image, code), graph.named(image, 1 - code)
    assert not torch.allclose(one["restored"], other["restored"])
    assert ((one["touched"] >= 0) & (one["touched"] <= 1)).all()


def test_the_exported_network_says_what_the_trained_one_says():
    network = trained(RestorerNet(2, 2))
    graph = RestorerGraph(deployable(network)).eval()
    image, code = torch.rand(2, len(RESTORE_CHANNELS), 16, 24), torch.rand(2, TOLD_WIDTH)
    packed = torch.nn.functional.pad(code, (0, 16 * 24 - TOLD_WIDTH)).reshape(2, 1, 16, 24)
    with torch.no_grad():
        expected = network(torch.cat((image, packed), dim=1))
        found = graph.named(image, code)
    torch.testing.assert_close(found["restored"], expected.restored, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["touched"], expected.touched.sigmoid(), atol=1e-5, rtol=1e-4)


def test_vectors_to_test_with_are_always_the_same():
    graph = RestorerGraph(RestorerNet(2, 2).eval())
    inputs = graph.inputs(graph.example())
    assert list(inputs) == ["image", "code"]
    assert inputs["code"].shape == (2, TOLD_WIDTH)
    assert torch.equal(graph.vectors(2)[0], inputs["code"])
    assert not torch.equal(inputs["code"][0], inputs["code"][1])


def test_the_network_that_marks_points():
    graph = MarksGraph(deployable(trained(TipNet(2, 2, pairs=3)))).eval()
    session = session_of(graph)
    for batch, rows, columns in ((1, 1, 2), (2, 5, 3)):
        image = torch.randn(batch, 1, rows * graph.STRIDE, columns * graph.STRIDE)
        assert compare(graph, session, image) < 1e-5
    with torch.no_grad():
        found = graph.named(image)
    assert {name: value.shape[1] for name, value in found.items()} == {
        one.id: len(one.channels) for one in graph.OUTPUTS
    }
    assert found["points"].shape == (2, 3, 20, 12)
    assert (found["points"] > 0).all()


def test_the_parts_of_the_tip_network_say_what_the_whole_says():
    """The runtime correlates with NumPy between the two, at every offset that training knows."""
    network = TipNet(4, 2, pairs=3)
    scene = simulate_tip_scene(scene_rng("test", 1), shape=(128, 192), families=["blunt"])
    view = relief_view(scene.image)
    evidence = tip_evidence(view)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one look at the scan, and nothing is too small or too large
    with torch.no_grad():
        network.estimate(torch.from_numpy(view.image)[None, None], torch.from_numpy(evidence)[None])
        deployed = deployable(network.eval())
        marks, tip = MarksGraph(deployed).eval(), TipGraph(deployed).eval()
        around = surroundings(*(value[0].numpy() for value in marks(torch.from_numpy(marks_input(view))[None])))
        found = tip.named(torch.from_numpy(np.concatenate((evidence, around)))[None])
        expected = network.estimate(torch.from_numpy(view.image)[None, None], torch.from_numpy(evidence)[None])
    torch.testing.assert_close(found["visible"], expected.visible.sigmoid(), atol=1e-3, rtol=1e-3)
    second = expected.second.flatten(1).softmax(dim=1).reshape(found["second"].shape)
    torch.testing.assert_close(found["second"], second, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found["families"], expected.families.softmax(dim=1), atol=1e-3, rtol=1e-3)
    assert found["visible"].std() > 1e-3


def test_the_network_that_draws_tips():
    graph = TipGraph(deployable(trained(TipNet(2, 2, pairs=3)))).eval()
    session = session_of(graph)
    assert [one.name for one in session.get_inputs()] == ["evidence"]
    for batch in (1, 3):
        evidence = torch.randn(batch, len(EVIDENCE) + 3 + 16, TIP_PX, TIP_PX)
        assert compare(graph, session, evidence) < 1e-5
    with torch.no_grad():
        found = graph.named(evidence)
    assert found["visible"].shape == (3, 1, TIP_PX, TIP_PX)
    assert ((found["visible"] > 0) & (found["visible"] < 1)).all()
    torch.testing.assert_close(found["families"].sum(dim=1), torch.ones(3))
    assert found["families"].shape == (3, len(FAMILIES))
    assert found["second"].shape == (3, 1, TIP_PX, TIP_PX)
    torch.testing.assert_close(found["second"].sum(dim=(1, 2, 3)), torch.ones(3))


@pytest.mark.parametrize("network", [TipModel1(2, 2), TipModel2(4), TipModel3(2, 2), RestorerNet(2, 2)])
def test_the_card_has_words_for_every_network(network):
    assert RestorerGraph(network).architecture


def test_the_network_that_judges_tips():
    graph = JudgeGraph(deployable(trained(JudgeNet(8, 2)))).eval()
    session = session_of(graph)
    for batch in (1, 3):
        assert compare(graph, session, torch.randn(batch, JUDGED_WIDTH)) < 1e-5
