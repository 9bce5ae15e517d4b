"""Every kernel beside its plain NumPy, SciPy or scikit-image equivalent, on the same input in the same process.

Where the two compute the same thing, that is checked, too. Rules of measuring: README.md.
"""

import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import rank

from spm_kernels import box_nms, local_maxima, refine_centroid, refine_gaussian, sliding_median, warm

SPACING = 10.0
SIGMA = 0.22 * SPACING
RADIUS = 0.45 * SPACING


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm()


@pytest.fixture(scope="module")
def lattice():
    """800² image of 6400 noisy columns, and their rough positions."""
    rng = np.random.default_rng(0)
    sites = np.stack(np.meshgrid(np.arange(80), np.arange(80), indexing="ij"), -1).reshape(-1, 2) * SPACING + 5
    yx = sites + rng.normal(0, 0.3, sites.shape)
    rows = np.arange(800)[:, None]
    along_y, along_x = (np.exp(-0.5 * ((rows - yx[:, i]) / SIGMA) ** 2) for i in (0, 1))
    image = along_y @ along_x.T + 0.1 * rng.standard_normal((800, 800))
    return image.astype(np.float32), np.round(yx)


# --- local_maxima: 800², window 11 --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def score(lattice):
    return ndimage.gaussian_filter(lattice[0], 2.0)


def peaks_by_skimage(score):
    return peak_local_max(score, min_distance=5, threshold_abs=0.5, exclude_border=False)


def test_local_maxima_kernel(benchmark, score):
    benchmark.group = "local_maxima 800x800"
    found = benchmark(local_maxima, score, window_px=11, threshold=0.5)
    assert set(map(tuple, found.tolist())) == set(map(tuple, peaks_by_skimage(score).tolist()))


def test_local_maxima_reference(benchmark, score):
    """skimage.feature.peak_local_max."""
    benchmark.group = "local_maxima 800x800"
    benchmark(peaks_by_skimage, score)


# --- box_nms: 10,000 squares --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares():
    rng = np.random.default_rng(1)
    return rng.uniform(0, 800, (10_000, 2)), rng.random(10_000).astype(np.float32)


def nms_by_numpy(yx, score, side, iou):
    order = np.lexsort((yx[:, 1], yx[:, 0], -score))
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        dy, dx = np.maximum(side - np.abs(yx[order] - yx[best]), 0.0).T
        order = order[dy * dx / (2 * side * side - dy * dx) <= iou]
    return np.array(kept)


def test_box_nms_kernel(benchmark, squares):
    benchmark.group = "box_nms 10000"
    kept = benchmark(box_nms, *squares, side_px=8.0)
    np.testing.assert_array_equal(kept, nms_by_numpy(*squares, 8.0, 0.3))


def test_box_nms_reference(benchmark, squares):
    """Greedy NumPy: one vectorised comparison with all that are left per kept square."""
    benchmark.group = "box_nms 10000"
    benchmark.pedantic(nms_by_numpy, (*squares, 8.0, 0.3), rounds=5)


# --- refine: 400 columns ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few_columns(lattice):
    image, yx = lattice
    return np.ascontiguousarray(image[:200, :200]), yx[((yx < 195) & (yx > 5)).all(axis=1)]


def fits_by_numpy(image, yx, radius):
    """Gauss–Newton with numpy.linalg.lstsq, vectorised over the pixels of a disc; each column alone, centred once."""
    fitted = np.empty(yx.shape)
    reach = int(np.ceil(radius))
    for i, (cy, cx) in enumerate(yx):
        p = np.array([cy, cx, np.log(radius / 2), 1.0, 0.0])
        for _ in range(2):
            cy, cx = p[:2]
            top, left = max(round(cy) - reach, 0), max(round(cx) - reach, 0)
            window = image[top : round(cy) + reach + 1, left : round(cx) + reach + 1].astype(float)
            v, u = np.indices(window.shape)
            v, u = v + top, u + left
            disc = (v - cy) ** 2 + (u - cx) ** 2 <= radius**2
            v, u, pixels = v[disc], u[disc], window[disc]
            for _ in range(30):
                s2 = np.exp(2 * p[2])
                r2 = (v - p[0]) ** 2 + (u - p[1]) ** 2
                g = np.exp(-0.5 * r2 / s2)
                ag = p[3] * g
                jacobian = np.stack([ag * (v - p[0]) / s2, ag * (u - p[1]) / s2, ag * r2 / s2, g, np.ones_like(g)], 1)
                step = np.linalg.lstsq(jacobian, pixels - ag - p[4], rcond=None)[0]
                p = p + step * min(1.0, 0.5 / max(abs(step[2]), 1e-9))
                if np.abs(step[:3]).max() < 1e-3:
                    break
        fitted[i] = p[:2]
    return fitted


def test_refine_gaussian_kernel(benchmark, few_columns):
    benchmark.group = "refine_gaussian 400"
    fit = benchmark(refine_gaussian, *few_columns, radius_px=RADIUS, neighbours=False)
    assert np.median(np.abs(fit.yx - fits_by_numpy(*few_columns, RADIUS))) < 0.02


def test_refine_gaussian_neighbours_kernel(benchmark, few_columns):
    """Three more passes, with the neighbours subtracted: more work than the reference does."""
    benchmark.group = "refine_gaussian 400"
    assert benchmark(refine_gaussian, *few_columns, radius_px=RADIUS).converged.all()


def test_refine_centroid_kernel(benchmark, few_columns):
    benchmark.group = "refine_gaussian 400"
    assert benchmark(refine_centroid, *few_columns, radius_px=RADIUS).converged.all()


def test_refine_gaussian_reference(benchmark, few_columns):
    """Gauss–Newton with numpy.linalg.lstsq."""
    benchmark.group = "refine_gaussian 400"
    benchmark.pedantic(fits_by_numpy, (*few_columns, RADIUS), rounds=3)


# --- sliding_median: 512², radius 16 ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def terraces(lattice):
    image = lattice[0][:512, :512].copy()
    image[:, 300:] += 50.0
    return image


def median_by_rank(image):
    """skimage.filters.rank.median on 1024 quantile levels."""
    bounds = np.sort(image, axis=None)[:: image.size // 1024]
    level = (np.searchsorted(bounds, image, side="right") - 1).clip(0, 1023).astype(np.uint16)
    return bounds[rank.median(level, np.ones((33, 33), np.uint8))]


def test_sliding_median_kernel(benchmark, terraces):
    benchmark.group = "sliding_median 512x512 r16"
    result = benchmark(sliding_median, terraces, radius_px=16)
    inside = np.s_[16:-16, 16:-16]
    difference = np.abs(result - ndimage.median_filter(terraces, size=33))[inside]
    assert np.quantile(difference, 0.99) < 0.01  # of an amplitude of 1: one level


def test_sliding_median_rank(benchmark, terraces):
    """The fast plain equivalent (scikit-image), which is less exact at the border."""
    benchmark.group = "sliding_median 512x512 r16"
    benchmark.pedantic(median_by_rank, (terraces,), rounds=3)


def test_sliding_median_reference(benchmark, terraces):
    """scipy.ndimage.median_filter, as skimage.filters.median calls it."""
    benchmark.group = "sliding_median 512x512 r16"
    benchmark.pedantic(ndimage.median_filter, (terraces,), {"size": 33}, rounds=3)
