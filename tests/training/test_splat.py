"""Sums of shapes against plain NumPy."""

import numpy as np
import pytest
from scipy import ndimage

from spm_training.simulate.splat import sum_gaussians, sum_tables


def reference_gaussians(yx, height, sigma, shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return sum(
        h * np.exp(-((y - p[0]) ** 2 + (x - p[1]) ** 2) / (2 * sigma**2)) for p, h in zip(yx, height, strict=True)
    )


def reference_tables(yx, height, kind, tables, to_table, shape):
    """Every shape on the whole image, bilinear, nothing beyond the table."""
    grid = np.moveaxis(np.indices(shape, dtype=float), 0, -1)
    half = tables.shape[1] // 2
    out = np.zeros(shape)
    for place, factor, one in zip(yx, height, kind, strict=True):
        steps = (grid - place) @ to_table.T + half
        values = ndimage.map_coordinates(tables[one].astype(float), np.moveaxis(steps, -1, 0), order=1, cval=0.0)
        out += factor * values
    return out


def scattered(rng, shape, count=25):
    """Positions inside the image, at its rim and outside of it."""
    return rng.uniform(-8, np.asarray(shape) + 8, (count, 2)), rng.uniform(-1, 2, count)


@pytest.mark.parametrize("shape", [(40, 56), (1, 30), (3, 2)])
@pytest.mark.parametrize("sigma", [0.6, 2.3])
def test_gaussians_are_summed(rng, shape, sigma):
    yx, height = scattered(rng, shape)
    out = sum_gaussians(yx, height, sigma, shape)
    assert out.dtype == np.float64
    # Cut off at 4 σ: no more than e^-8 of each is missing.
    np.testing.assert_allclose(
        out, reference_gaussians(yx, height, sigma, shape), atol=np.abs(height).sum() * np.exp(-8)
    )


def test_a_gaussian_ends_where_it_no_longer_counts():
    out = sum_gaussians(np.array([[20.0, 20.0]]), np.ones(1), 2.0, (41, 41))
    expected = reference_gaussians([(20, 20)], [1.0], 2.0, (41, 41))
    inside = np.abs(np.arange(41) - 20) <= 8
    box = inside[:, None] & inside[None]
    np.testing.assert_allclose(out[box], expected[box], rtol=1e-12)
    assert not out[~box].any()


def cones(side):
    """Two shapes that end two steps before their table does, as responses do: one round, one not."""
    half = side // 2
    v = np.arange(side) - half
    radius = np.hypot(v[:, None], v[None]) / (half - 2)
    long = np.hypot(v[:, None], 2 * v[None]) / (half - 2)
    return np.stack([np.maximum(1 - one, 0) for one in (radius, long)]).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 56), (2, 30)])
@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.0), (3.7, 0.6), (0.4, 2.0)])
def test_tables_are_summed(rng, shape, scale, angle):
    tables = cones(31)
    yx, height = scattered(rng, shape)
    kind = rng.integers(0, 2, len(yx)).astype(np.int32)
    to_table = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    out = sum_tables(yx, height, kind, tables, to_table, shape)
    np.testing.assert_allclose(out, reference_tables(yx, height, kind, tables, to_table, shape), atol=1e-6)


def test_a_table_is_turned_as_its_matrix_says():
    """The second shape is long along y; steps of the table that run along x of the image turn it onto x."""
    turn = np.array([[0.0, 1.0], [1.0, 0.0]])
    where, kind = np.array([[20.0, 20.0]]), np.array([1], np.int32)
    upright = sum_tables(where, np.ones(1), kind, cones(31), np.eye(2), (41, 41))
    lying = sum_tables(where, np.ones(1), kind, cones(31), turn, (41, 41))
    assert upright[30, 20] > 0.2 > upright[20, 30] == 0
    np.testing.assert_allclose(lying, upright.T, atol=1e-12)


def test_no_shapes_are_an_empty_image():
    assert not sum_gaussians(np.empty((0, 2)), np.empty(0), 1.0, (4, 5)).any()
    assert not sum_tables(np.empty((0, 2)), np.empty(0), np.empty(0, np.int32), cones(9), np.eye(2), (4, 5)).any()
