"""Resizing beside a plain NumPy sum over all pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_kernels import resize


def reference(size, wanted, kind):
    """Matrix of weights by the definition: kernel at every pixel of an endlessly repeated border, rows adding up to 1."""
    step = size / wanted
    stretch = max(step, 1.0)
    centre = (np.arange(wanted) + 0.5) * step - 0.5
    place = np.arange(-5 * size - 20, 6 * size + 20)
    t = np.abs(place[None] - centre[:, None]) / stretch
    if kind == "linear":
        weight = np.maximum(1 - t, 0)
    else:
        weight = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0))
    weight /= weight.sum(axis=1, keepdims=True)
    matrix = np.zeros((wanted, size))
    for column, p in enumerate(place):
        matrix[:, min(max(p, 0), size - 1)] += weight[:, column]
    return matrix


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    wanted=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(["linear", "cubic"]),
)
def test_equals_the_definition(shape, wanted, kind):
    image = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    expected = reference(shape[0], wanted[0], kind) @ image @ reference(shape[1], wanted[1], kind).T
    np.testing.assert_allclose(resize(image, wanted, kind=kind), expected, atol=3e-5)


@pytest.mark.parametrize("factor", [0.4, 0.7, 1.6, 3.0])
@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_positions_are_kept(factor, kind):
    """A blob lands at (p + 0.5) · factor − 0.5."""
    y, x = np.mgrid[:80, :90]
    image = np.exp(-((y - 37.3) ** 2 + (x - 51.8) ** 2) / (2 * 5.0**2)).astype(np.float32)
    shape = (round(80 * factor), round(90 * factor))
    small = resize(image, shape, kind=kind)
    centre = [np.average(g, weights=small) for g in np.mgrid[: shape[0], : shape[1]]]
    true = (np.array([37.3, 51.8]) + 0.5) * np.array(shape) / np.array(image.shape) - 0.5
    np.testing.assert_allclose(centre, true, atol=0.02)


def test_a_missing_pixel_spreads():
    image = np.ones((20, 20), np.float32)
    image[10, 10] = np.nan
    out = resize(image, (40, 40), kind="linear")
    assert np.isnan(out[20, 20])
    assert np.isfinite(out[:17]).all()
    assert np.isfinite(out[24:]).all()


@pytest.mark.parametrize(
    ("shape", "kind", "message"), [((0, 4), "cubic", "shape"), ((4, 4), "sinc", "kind: expected one of linear, cubic")]
)
def test_wrong_arguments_are_named(shape, kind, message):
    with pytest.raises(ValueError, match=message):
        resize(np.zeros((4, 4), np.float32), shape, kind=kind)
