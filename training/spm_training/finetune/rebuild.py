"""From the ONNX files of a model package back to torch networks that can go on learning.

Initialisers keep the names of the modules they come from (`spm_training.graphs.onnx_export`). Batch norms are folded into the
convolutions and decoders are folded (`spm_training.networks.folding`), so the networks are rebuilt folded: the same answers,
fewer layers, and no batch statistics to be spoiled by small batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from spm_runtime.errors import ModelError, ModelIntegrityError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.patch_maps import STRIDE_PX
from spm_training.graphs.base import Calibration, ExportGraph
from spm_training.graphs.finder import FinderOfDefectsGraph
from spm_training.graphs.onnx_export import deployable
from spm_training.graphs.patches import DecoderGraph, ImageEncoderGraph
from spm_training.networks.ae1 import FEATURES, Ae1
from spm_training.networks.finder import FinderNet

__all__ = ["calibration_of", "description_of", "rebuilt_autoencoder", "rebuilt_finder"]

#: Name of the network within its graph, and what is added to the name of weights stored as float16.
_PREFIX, _HALF = "network.", "_half"
#: Largest difference between the rebuilt network and a stored test output, relative to the output's largest value where that
#: exceeds 1: both come from torch, on machines that sum in another order.
_TOLERANCE = 1e-3


def rebuilt_finder(package: ModelPackage) -> FinderNet:
    """The finder of a package, ready to go on learning.

    Parameters
    ----------
    package
        A package of the task ``defects``.

    Raises
    ------
    ModelError
        If its graph is none of this finder.
    ModelIntegrityError
        If a file is damaged, or the rebuilt network does not give the package's test outputs.
    """
    weights = _weights(package)
    kinds, channels = (tuple(package.settings[name]) for name in ("classes", "channels"))
    depth = sum(name.startswith("up.") and name.endswith(".weight") for name in weights)
    try:
        base_width = int(weights["encoder.0.0.bias"].shape[0])
        fresh = FinderNet(base_width, depth, kinds=len(kinds), channels_in=len(channels))
        network = deployable(fresh.eval())
        network.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError) as error:
        raise _another(package, error) from error
    graph = FinderOfDefectsGraph(network, kinds, channels)
    calibration = calibration_of(package)
    if calibration is not None:
        graph.calibrate(calibration)
    _check(graph, package)
    return network.requires_grad_(True)  # folding leaves the new biases out


def rebuilt_autoencoder(package: ModelPackage) -> Ae1:
    """The first patch autoencoder of a package, from its ``encoder`` and ``decoder``; raises as `rebuilt_finder`.

    Parameters
    ----------
    package
        A package of the task ``defects`` that has both.
    """
    encoder, decoder = package.attached["encoder"], package.attached["decoder"]
    weights = _weights(encoder)
    try:
        latent = int(weights["to_latent.bias"].shape[0])
        network = deployable(Ae1(latent, context=True, dropout=0.0).eval())
        network.decoder = _folded_decoder(_weights(decoder))
        network.load_state_dict(weights | {f"decoder.{name}": value for name, value in _weights(decoder).items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise _another(package, error) from error
    _check(ImageEncoderGraph(network, stride_px=STRIDE_PX), encoder)
    _check(DecoderGraph(network), decoder)
    return network.requires_grad_(True)


def calibration_of(package: ModelPackage) -> Calibration | None:
    """What makes the scores of a package probabilities; None where nothing does."""
    knots = description_of(package)["config"]["spm"].get("calibration")
    return None if knots is None else Calibration(tuple(knots["raw"]), tuple(knots["probability"]))


def description_of(package: ModelPackage) -> dict[str, Any]:
    """The content of ``rdf.yaml``, of which `ModelPackage` has the part that the runtime needs."""
    return dict(yaml.safe_load((package.folder / "rdf.yaml").read_text(encoding="utf-8")))


def _weights(package: ModelPackage) -> dict[str, Tensor]:
    """Weights by the name of the module, as float32; the file's hash is checked."""
    model = onnx.load_from_string(package.verified_weights())
    found: dict[str, Tensor] = {}
    for tensor in model.graph.initializer:
        if tensor.name.startswith(_PREFIX):
            values: NDArray[np.float32] = numpy_helper.to_array(tensor).astype(np.float32)
            found[tensor.name.removeprefix(_PREFIX).removesuffix(_HALF)] = torch.from_numpy(values)
    return found


def _folded_decoder(weights: Mapping[str, Tensor]) -> nn.Sequential:
    """Layers as `spm_training.networks.folding.folded` leaves them, of the sizes of these weights."""
    inner = weights["3.weight"].shape[0]
    side = 2 * FEATURES[1]  # the first doubling is part of the dense layer
    layers: list[nn.Module] = [nn.Linear(weights["0.weight"].shape[1], inner * side * side)]
    layers.append(nn.Unflatten(1, (inner, side, side)))
    for number in (3, 5):
        channels_in, channels_out, size, _ = weights[f"{number}.weight"].shape
        layers += [nn.ReLU(), nn.ConvTranspose2d(channels_in, channels_out, size, stride=2, padding=(size - 1) // 2)]
    return nn.Sequential(*layers)


def _check(graph: ExportGraph, package: ModelPackage) -> None:
    """Compare a rebuilt network with the outputs that the package promises, as far as both have them."""
    inputs, outputs = package.test_tensors()
    with torch.no_grad():
        found = graph.eval().named(torch.from_numpy(inputs[graph.INPUT]))
    for name, value in found.items():
        promised = outputs[name]
        worst = float(np.abs(value.numpy() - promised).max()) / max(1.0, float(np.abs(promised).max()))
        if not worst <= _TOLERANCE:
            raise ModelIntegrityError(
                f"{package.weights}: rebuilt in torch its {name} differs by {worst:.2g} from the test output; expected at most "
                f"{_TOLERANCE:g}. Train with the version of Adatom that exported the package."
            )


def _another(package: ModelPackage, error: Exception) -> ModelError:
    reason = f"{type(error).__name__}: {str(error).splitlines()[-1].strip()}"
    return ModelError(
        f"{package.folder}: not a network that can go on learning ({reason}); expected a finder of defects with its patch "
        "autoencoder as `spm-train export` writes them. Name another package."
    )
