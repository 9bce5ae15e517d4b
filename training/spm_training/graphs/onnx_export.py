"""From a trained network to the bytes of an ONNX file."""

from __future__ import annotations

import copy
import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spm_training.graphs.base import ExportGraph

__all__ = ["deployable", "to_onnx"]

Network = TypeVar("Network", bound=nn.Module)

#: Opset 18 with IR version 8 loads on onnxruntime 1.14 and later, also on the last one for old glibc.
OPSET = 18
IR_VERSION = 8
#: Tensors smaller than this stay float32 when weights are stored in half precision: they weigh nothing.
_SMALL = 1024


def deployable(network: Network, *, half: bool = False) -> Network:
    """A copy for inference: batch norms folded into the convolutions before them, weights rounded to float16 where asked.

    Parameters
    ----------
    network
        The trained network; it is left as it is.
    half
        Round the weights to values that float16 holds; they stay float32 tensors.
    """
    folded = copy.deepcopy(network).cpu().eval()
    for block in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        layers = list(block)
        for place, (first, second) in enumerate(itertools.pairwise(layers)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                block[place] = fuse_conv_bn_eval(first, second)
                block[place + 1] = nn.Identity()
    if half:
        with torch.no_grad():
            for parameter in folded.parameters():
                if parameter.numel() >= _SMALL:
                    parameter.copy_(parameter.half().float())
    return folded


def to_onnx(graph: ExportGraph, *, identity: str, half: bool = False) -> bytes:
    """Export a network.

    Parameters
    ----------
    graph
        The graph of a network as `deployable` returns it.
    identity
        ``name@version``, the only metadata in the file.
    half
        Store the weights as float16, which halves the file; they are cast to float32 when the model is loaded. Exact when the
        network was rounded by `deployable`.

    Returns
    -------
    bytes
    """
    inputs, axes = graph.inputs(graph.example()), dict(graph.free_axes())
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output.id for output in graph.OUTPUTS],
            dynamic_shapes=(axes, *({0: axes[0]} for _ in graph.VECTORS)),
            external_data=False,
            verbose=False,
        )
    if program is None:  # what the signature allows for the other exporter
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    _strip(model)
    if half:
        _store_half(model)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "adatom", ""
    model.metadata_props.append(onnx.StringStringEntryProto(key="model", value=identity))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter says of its own source files: no path of a training machine leaves it."""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for entry in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        entry.doc_string = ""
        del entry.metadata_props[:]


def _store_half(model: onnx.ModelProto) -> None:
    """Store what float16 holds exactly as float16, and cast it to float32 inside the graph.

    `deployable` has rounded the weights; what a graph computes with besides, as a mixture of Gaussians, stays as it is.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < _SMALL:
            continue
        values: NDArray[np.float32] = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        if not np.array_equal(rounded, values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(rounded, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says about itself while it exports (deprecations inside torch, absent torchvision)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
