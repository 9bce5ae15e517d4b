"""Windows and their blend beside plain NumPy loops; seams; memory bands; threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_kernels import PatchGrid, blend_patches, extract_patches, map_patches, taper


def reference_origins(size, side, stride):
    last = max(size - side, 0)
    return sorted({*range(0, last + 1, stride), last})


def reference_extract(image, grid, margin):
    mirrored = np.pad(image, [(margin, margin + side) for side in grid.side_px], mode="symmetric")
    h, w = (side + 2 * margin for side in grid.side_px)
    return np.stack([mirrored[y : y + h, x : x + w] for y, x in grid.origins])


def reference_blend(patches, grid, weights):
    h, w = grid.side_px
    sums, total = (np.zeros((grid.shape[0] + h, grid.shape[1] + w)) for _ in "ab")
    for (y, x), patch in zip(grid.origins, patches, strict=True):
        sums[y : y + h, x : x + w] += weights * patch.astype(float)
        total[y : y + h, x : x + w] += weights
    with np.errstate(invalid="ignore"):
        return (sums / total)[: grid.shape[0], : grid.shape[1]]


@st.composite
def grids(draw):
    side = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return PatchGrid(shape, side, draw(st.integers(1, min(side))))


@settings(deadline=None, max_examples=60)
@given(grid=grids(), margin=st.integers(0, 9), threads=st.integers(1, 4), seed=st.integers(0, 99))
def test_extract_and_blend_equal_the_plain_loops(grid, margin, threads, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=grid.shape).astype(np.float32)
    assert grid.rows.tolist() == reference_origins(grid.shape[0], grid.side_px[0], grid.stride_px)
    assert len(grid) == len(grid.origins)
    patches = extract_patches(image, grid, margin_px=margin, threads=threads)
    np.testing.assert_array_equal(patches, reference_extract(image, grid, margin))
    found = rng.normal(size=(len(grid), *grid.side_px)).astype(np.float32)
    weights = rng.uniform(0.1, 2, grid.side_px).astype(np.float32)
    blended = blend_patches(found, grid, weights=weights, threads=threads)
    np.testing.assert_allclose(blended, reference_blend(found, grid, weights), atol=2e-5)
    np.testing.assert_array_equal(blended, blend_patches(found, grid, weights=weights))


@settings(deadline=None, max_examples=40)
@given(grid=grids(), most=st.integers(1, 200))
def test_the_blend_of_an_images_own_windows_is_the_image(grid, most):
    """Every pixel is covered, borders and images smaller than the window included; in bands as at once."""
    image = np.random.default_rng(1).normal(size=grid.shape).astype(np.float32) + 3
    np.testing.assert_allclose(blend_patches(extract_patches(image, grid), grid), image, rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(
        map_patches(image, lambda patches: patches, grid, most=most), image, rtol=3e-6, atol=1e-6
    )


def test_the_counts_that_the_papers_print():
    """USC, section 4.2.1: 3600 patches of 17 × 17 at stride 4 from 256 × 256; 16 × 16 give 3721."""
    regular = PatchGrid((256, 256), (17, 17), 4, regular=True)
    assert len(regular) == 3600
    assert len(PatchGrid((256, 256), (17, 17), 4)) == 61 * 61
    assert PatchGrid((256, 256), (17, 17), 4).rows[-1] == 256 - 17
    assert len(PatchGrid((256, 256), (16, 16), 4)) == 3721
    blended = blend_patches(np.ones((3600, 17, 17), np.float32), regular)
    assert np.isnan(blended[253:]).all()
    np.testing.assert_allclose(blended[:253, :253], 1, rtol=1e-6)


def test_a_margin_is_cut_away_by_the_function():
    image = np.random.default_rng(5).normal(size=(33, 47)).astype(np.float32)
    grid = PatchGrid(image.shape, (8, 8), 5)
    seen = []

    def function(patches):
        seen.append(len(patches))
        return np.ascontiguousarray(patches[:, 3:-3, 3:-3])

    np.testing.assert_allclose(map_patches(image, function, grid, margin_px=3, most=20), image, atol=2e-6)
    assert max(seen) <= 20
    assert sum(seen) == len(grid)


def test_weights_that_fall_to_the_rim_leave_no_seam():
    """Windows that disagree by an offset of their own: the step at their borders against that elsewhere."""
    rng = np.random.default_rng(2)
    grid = PatchGrid((120, 136), (16, 16), 8)
    patches = np.zeros((len(grid), 16, 16), np.float32) + rng.normal(size=(len(grid), 1, 1)).astype(np.float32)
    joints = np.arange(15, 120, 8)  # between the last pixel of one window and the first of the next but one

    def seam(weights):
        step = np.diff(blend_patches(patches, grid, weights=weights), axis=1)[8:-8] ** 2
        return step[:, joints].mean() / step[:, 7:121].mean()

    assert seam(np.ones((16, 16), np.float32)) == pytest.approx(8, rel=0.1)  # a plain mean: all the change is there
    assert seam(taper((16, 16))) < 0.2  # the change is where two windows share the weight, not where one begins


def test_a_missing_pixel_spreads_as_far_as_its_windows():
    grid = PatchGrid((20, 20), (5, 5), 5)
    patches = np.zeros((16, 5, 5), np.float32)
    patches[5, 2, 3] = np.nan
    assert np.argwhere(np.isnan(blend_patches(patches, grid))).tolist() == [[7, 8]]


def test_bands_bound_the_memory_and_cover_every_row():
    grid = PatchGrid((100, 80), (10, 10), 3)
    bands = list(grid.bands(100))
    assert [row for band in bands for row in band] == list(range(len(grid.rows)))
    assert all(len(band) * len(grid.columns) <= 100 for band in bands)
    assert all(len(band) == 1 for band in grid.bands(1))


def test_the_input_is_not_changed():
    image = np.random.default_rng(4).normal(size=(20, 20)).astype(np.float32)
    before = image.copy()
    grid = PatchGrid((20, 20), (20, 20), 20)
    patches = extract_patches(image, grid)
    patches[:] = 0
    blend_patches(patches, grid)
    np.testing.assert_array_equal(image, before)


IMAGE = np.zeros((20, 20), np.float32)
GRID = PatchGrid((20, 20), (5, 5), 4)
PATCHES = extract_patches(IMAGE, GRID)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PatchGrid((0, 4), (2, 2), 1), "shape: expected two"),
        (lambda: PatchGrid((4, 4), (2, 0), 1), "side_px: expected two"),
        (lambda: PatchGrid((4, 4), (3, 2), 3), "stride_px: expected 1 to 2"),
        (lambda: extract_patches(IMAGE[:19], GRID), r"image: expected the shape \(20, 20\)"),
        (lambda: extract_patches(IMAGE.astype(float), GRID), "image: expected a float32"),
        (lambda: extract_patches(IMAGE, GRID, margin_px=-1), "margin_px"),
        (lambda: extract_patches(IMAGE, GRID, threads=0), "threads"),
        (lambda: extract_patches(IMAGE, GRID, rows=range(0, 9)), "rows: expected a run"),
        (lambda: blend_patches(PATCHES[1:], GRID), r"patches: expected a float32 array of shape \(25, 5, 5\)"),
        (lambda: blend_patches(PATCHES, GRID, weights=np.zeros((5, 5), np.float32)), "weights: expected positive"),
        (lambda: blend_patches(PATCHES, GRID, weights=np.ones((4, 5), np.float32)), "weights: expected positive"),
        (lambda: map_patches(IMAGE, lambda p: p, GRID, most=0), "most"),
        (lambda: map_patches(IMAGE, lambda p: p[:, 1:], GRID), "patches: expected"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
