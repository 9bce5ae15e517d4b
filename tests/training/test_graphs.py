"""Graphs as they are exported: calibration."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import ParameterError
from spm_training.graphs.base import AtomidGraph, AtomsGraph, Calibration, read_calibration
from spm_training.networks.atomid import AtomidNet
from spm_training.networks.atoms import AtomsNet

KNOTS = Calibration((-0.5, 0.2, 0.6, 1.4), (0.0, 0.05, 0.9, 0.99))


@st.composite
def calibrations(draw):
    count = draw(st.integers(2, 8))
    steps = st.lists(st.floats(0.05, 1.0), min_size=count, max_size=count)
    raw = np.cumsum(draw(steps)) - draw(st.floats(-1, 2))
    rise = np.cumsum(draw(steps))
    return Calibration(tuple(raw.tolist()), tuple((rise / rise[-1] * draw(st.floats(0.1, 1.0))).tolist()))


@settings(deadline=None)
@given(calibrations(), st.lists(st.floats(-4, 10), min_size=1, max_size=20))
def test_a_calibrated_score_is_the_interpolated_one(calibration, values):
    graph = AtomidGraph(AtomidNet(1, 1))
    graph.calibrate(calibration)
    found = graph.score(torch.tensor(values, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, np.interp(values, calibration.raw, calibration.probability), atol=1e-12)


def test_the_probability_replaces_the_confidence_and_nothing_else():
    torch.manual_seed(0)
    network = AtomsNet(4, 2).eval()
    image = torch.randn(1, 1, 16, 24)
    plain, calibrated = AtomsGraph(network).eval(), AtomsGraph(network).eval()
    calibrated.calibrate(KNOTS)
    with torch.no_grad():
        raw, before, after = network(image).confidence, plain.named(image), calibrated.named(image)
    np.testing.assert_allclose(after["confidence"], np.interp(raw, KNOTS.raw, KNOTS.probability), atol=1e-6)
    assert all(torch.equal(before[name], after[name]) for name in before if name != "confidence")


@pytest.mark.parametrize(
    ("raw", "probability"),
    [
        ((0.0,), (0.5,)),
        ((0.0, 1.0), (0.2,)),
        ((0.0, 0.0), (0.1, 0.2)),
        ((0.0, 1.0), (0.2, 0.2)),
        ((0.0, 1.0), (0.2, 1.2)),
    ],
)
def test_knots_that_are_no_rising_map_to_probabilities_are_refused(raw, probability):
    with pytest.raises(ParameterError, match="calibration"):
        Calibration(raw, probability)


def test_knots_come_from_a_file(tmp_path):
    file = tmp_path / "knots.json"
    file.write_text(json.dumps({"raw": KNOTS.raw, "probability": KNOTS.probability}), encoding="utf-8")
    assert read_calibration(file) == KNOTS
    for text in ("{}", "[1, 2]", "no json", '{"raw": ["x"], "probability": [1]}'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ParameterError, match=r"knots\.json: no calibration"):
            read_calibration(file)


def test_a_spacing_is_positive_even_before_training():
    network = AtomidNet(2, 2).eval()
    network.spacing_head[-1].bias.data.fill_(-5.0)
    network.spacing_head[-1].weight.data.zero_()
    with torch.no_grad():
        assert AtomidGraph(network).named(torch.randn(3, 1, 8, 8))["spacing_px"].tolist() == [[1.0]] * 3
