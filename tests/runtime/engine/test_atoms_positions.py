"""Where columns are put: fits on the scan's own pixels and the network's word, against known truth."""

import numpy as np
import pytest

from spm_kernels import resize
from spm_runtime.levelling import normalise_contrast, remove_background
from spm_runtime.pipelines.positions import Estimates, fuse, locate, network_positions, to_scan
from spm_runtime.pipelines.scale import ScaledScan
from spm_runtime.scan import Scan

NETWORK_SPACING = 7.0


def lattice(rng, shape, spacing, displacement=0.03):
    """A turned hexagonal lattice, slightly disordered, with the columns that lie around the image too."""
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    n = int(2 * max(shape) / spacing)
    ij = np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n)), -1).reshape(-1, 2)
    yx = ij @ (spacing * np.array([[0, 1], [np.sqrt(0.75), 0.5]]) @ turn) + np.array(shape) / 2
    yx = yx + rng.uniform(0, spacing, 2) + displacement * spacing * rng.standard_normal(yx.shape)
    return yx[np.all((yx > -2 * spacing) & (yx < np.array(shape) + 2 * spacing), axis=1)]


def scene(rng, spacing, *, width=0.2, detectability=28.0, columns=20, slope=0.0):
    """A scan of Gaussian columns in white noise and the true positions inside; the network's view of it."""
    shape = (round(columns * spacing), round((columns + 2) * spacing))
    truth = lattice(rng, shape, spacing)
    sigma = width * spacing
    rows, cols = np.arange(shape[0])[:, None], np.arange(shape[1])[:, None]
    image = np.exp(-0.5 * ((rows - truth[:, 0]) / sigma) ** 2) @ np.exp(-0.5 * ((cols - truth[:, 1]) / sigma) ** 2).T
    image += slope * rows / spacing
    image += np.sqrt(np.pi) * sigma / detectability * rng.standard_normal(shape)
    scan = Scan((3e-10 * image).astype(np.float32))
    inside = np.all((truth > spacing) & (truth < np.array(shape) - 1 - spacing), axis=1)
    return scan, truth[inside], seen(scan, spacing)


def seen(scan, spacing):
    """The scan as a network sees it whose spacing is known."""
    shape = tuple(max(8, round(n * NETWORK_SPACING / spacing)) for n in scan.shape)
    residual = remove_background(resize(scan.image, shape))
    factor = (shape[0] / scan.shape[0], shape[1] / scan.shape[1])
    zoom = float(np.sqrt(factor[0] * factor[1]))
    return ScaledScan(
        residual=residual, levelled=normalise_contrast(residual), valid=np.ones(shape, bool), factor=factor,
        spacing_px=spacing * zoom, certain=True, confidence=None,
    )  # fmt: skip


def network_sees(rng, truth, scaled, std, *, says=True):
    """Positions with Gaussian errors of ``std`` spacings, as the network would give them."""
    yx = (truth + 0.5) * np.asarray(scaled.factor) - 0.5
    yx = yx + std * NETWORK_SPACING * rng.standard_normal(yx.shape)
    return Estimates(yx, np.full(len(truth), std * NETWORK_SPACING if says else np.nan))


def robust(score):
    return 1.4826 * np.median(np.abs(score))


@pytest.mark.parametrize("spacing", [2.7, 3.2, 4.5, 9.0, 14.0, 21.0, 30.0])
@pytest.mark.parametrize("detectability", [28.0, 9.0])
def test_errors_are_as_large_as_stated_at_every_scale(rng, spacing, detectability):
    """The network does not say where its columns are better than to a pixel: the fit decides."""
    width = 0.22 if spacing > 4 else 0.28  # a pixel bounds it from below
    scan, truth, scaled = scene(rng, spacing, width=width, detectability=detectability)
    network = network_sees(rng, truth, scaled, 0.05, says=False)
    atoms = locate(scan, scaled, network, np.ones(len(truth), np.float32))
    error = atoms.yx_px - truth
    good = np.isfinite(atoms.position_std_px)
    assert good.mean() > 0.95
    # Enlarged below 3 px: interpolated pixels are no measurements, and the scale of their noise is a rule of thumb.
    low, high = (0.85, 1.15) if spacing > 3 else (0.6, 1.3)
    assert low < robust((error / atoms.position_std_px[:, None])[good]) < high
    bound = np.sqrt(2) * width * spacing / detectability
    assert robust(error[good]) < (1.25 if spacing > 4 else 1.4 if spacing > 3 else 2.2) * bound
    assert np.median(atoms.width_px[good]) / spacing == pytest.approx(width, rel=0.15)


@pytest.mark.parametrize("width", [0.15, 0.25, 0.33])
@pytest.mark.parametrize("detectability", [28.0, 9.0, 4.0])
def test_the_better_estimate_wins(rng, width, detectability):
    """A network of 0.03 spacings: worse than a fit at a clear dose, better at a low one.

    The result is no worse than the network, nor much worse than the fit.
    """
    scan, truth, scaled = scene(rng, 9.0, width=width, detectability=detectability)
    network = network_sees(rng, truth, scaled, 0.03)
    alone = network_sees(rng, truth, scaled, 0.03, says=False)
    alone.yx[:] = network.yx
    score = np.ones(len(truth), np.float32)
    fused, fitted = locate(scan, scaled, network, score), locate(scan, scaled, alone, score)
    assert len(fused) == len(truth)
    error = np.sqrt(np.mean((fused.yx_px - truth) ** 2))
    assert error < 1.1 * 0.03 * 9.0
    # These columns are what the fit takes them for; it is held back because others are not.
    assert error < 1.7 * np.sqrt(np.mean((fitted.yx_px - truth) ** 2))
    # The errors of this network are not those of the fit, so that the promise is on the safe side where both are alike.
    assert 0.6 < robust((fused.yx_px - truth) / fused.position_std_px[:, None]) < 1.2


def test_no_pixel_locking(rng):
    """Fractions of positions of columns at uniform places are uniform, on fine, coarse and enlarged grids."""
    for spacing in (4.6, 9.3, 21.7):
        scan, truth, scaled = scene(rng, spacing, detectability=15.0, columns=30)
        network = network_sees(rng, truth, scaled, 0.04)
        # The network itself is locked to its pixels here, as one without offsets is.
        locked = Estimates(np.rint(network.yx), np.full(len(truth), np.nan))
        for start in (network, locked):
            fractions = np.sort(np.ravel(locate(scan, scaled, start, np.ones(len(truth), np.float32)).yx_px % 1))
            n = len(fractions)
            steps = np.arange(n + 1) / n
            distance = max(np.abs(fractions - steps[:-1]).max(), np.abs(fractions - steps[1:]).max())
            assert distance < 1.628 / np.sqrt(n), spacing  # Kolmogorov–Smirnov, 1 %


def test_a_slope_does_not_move_columns(rng):
    seed = rng.integers(1 << 30)
    flat, truth, scaled = scene(np.random.default_rng(seed), 10.0)
    steep, _, tilted = scene(np.random.default_rng(seed), 10.0, slope=0.3)
    start = (truth + 0.5) * np.asarray(scaled.factor) - 0.5
    network = Estimates(start, np.full(len(truth), np.nan))
    score = np.ones(len(truth), np.float32)
    found, moved = locate(flat, scaled, network, score), locate(steep, tilted, network, score)
    assert np.abs((moved.yx_px - found.yx_px).mean(axis=0)).max() < 0.02


def test_missing_pixels_and_non_square_ones(rng):
    scan, truth, _ = scene(rng, 10.0)
    image = scan.image.copy()
    image[80:110, 60:100] = np.nan
    broken = Scan(image[::2], pixel_size_nm=(0.06, 0.03))
    here = (truth - [0, 0]) / [2, 1]
    shape = (round(broken.shape[0] * 1.4), round(broken.shape[1] * 0.7))
    factor = (shape[0] / broken.shape[0], shape[1] / broken.shape[1])
    nothing = np.zeros(shape, np.float32)
    scaled = ScaledScan(nothing, nothing, np.ones(shape, bool), factor, 7.0, True, None)
    network = Estimates((here + 0.5) * np.asarray(factor) - 0.5, np.full(len(here), 0.3))
    atoms = locate(broken, scaled, network, np.arange(len(here), dtype=np.float32))
    kept = atoms.score.astype(int)
    hidden = np.all((truth > [81, 61]) & (truth < [108, 98]), axis=1)
    assert not hidden[kept].any()
    away = ~np.all((truth > [70, 50]) & (truth < [120, 110]), axis=1)
    assert away[kept].sum() == away.sum()
    error = (atoms.yx_px - here[kept]) * [2, 1]
    assert np.sqrt(np.mean(error[away[kept]] ** 2)) < 0.3


# --- the rule by itself -------------------------------------------------------------------------------------------


def estimates(yx, std):
    return Estimates(np.asarray(yx, float), np.asarray(std, float))


def test_fits_that_ran_away_are_refused():
    network = estimates([[0, 0]] * 4, [0.5, 0.5, 0.5, np.nan])
    fitted = estimates([[0.1, 0], [3, 0], [0.2, 0], [3, 0]], [0.05, 0.05, np.nan, 0.05])
    fused, believed = fuse(network, fitted, spacing_px=20.0)
    assert believed.tolist() == [True, False, False, True]
    np.testing.assert_allclose(fused.yx[:, 0], [0.1, 0, 0, 3], atol=1e-3)
    np.testing.assert_allclose(fused.std_px, [0.05, 0.5, 0.5, 0.05], rtol=1e-2)
    _, near = fuse(estimates([[0, 0]], [2.0]), estimates([[3.5, 0]], [1.0]), spacing_px=10.0)
    assert not near[0]  # 0.35 spacing


def test_nothing_known_stays_unknown():
    fused, believed = fuse(estimates([[4, 5]], [np.nan]), estimates([[9, 9]], [np.nan]), spacing_px=10.0)
    assert fused.yx.tolist() == [[4, 5]]
    assert np.isnan(fused.std_px[0])
    assert not believed[0]


@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.0, 1.5, 3.0])
def test_estimates_with_one_noise_are_not_averaged_as_two(rng, ratio):
    """The better estimate is efficient: the worse one is it plus an error of its own."""
    better = min(ratio, 1.0) * rng.standard_normal((20000, 2))
    worse = better + np.sqrt(max(ratio, 1.0) ** 2 - min(ratio, 1.0) ** 2) * rng.standard_normal(better.shape)
    fit, net = (better, worse) if ratio < 1 else (worse, better)
    n = len(better)
    fused, believed = fuse(Estimates(net, np.ones(n)), Estimates(fit, np.full(n, ratio)), spacing_px=100.0)
    assert believed.mean() > 0.98
    assert np.std(fused.yx) < 1.05 * min(ratio, 1.0)
    assert np.std(fused.yx) == pytest.approx(np.sqrt(np.mean(fused.std_px**2)), rel=0.06)


def test_offsets_point_from_the_pixel_to_the_column():
    """The pixels around a peak are asked too: those that point at one column agree, those without confidence are silent."""
    y, x = np.mgrid[:6, :9].astype(np.float32)
    offset = np.stack([2.25 - y, 2.6 - x])
    offset[:, 4, 7] = 0.0, 9.0  # farther than a peak is from its column
    confidence = np.where((y <= 3) & (x <= 4), np.float32(0.5), np.float32(0))
    confidence[2, 3] = confidence[4, 7] = 0.9
    std = np.full((6, 9), 0.2, np.float32)
    found = network_positions(np.array([[2, 3], [4, 7]], np.int32), confidence, offset, std)
    np.testing.assert_allclose(found.yx, [[2.25, 2.6], [4.0, 8.5]], atol=1e-5)
    np.testing.assert_allclose(found.std_px, 0.2, rtol=1e-6)
    bare = network_positions(np.array([[2, 3]], np.int32), confidence, None, None)
    assert bare.yx.tolist() == [[2.0, 3.0]]
    assert np.isnan(bare.std_px).all()
    assert to_scan(np.array([[0.5, 2.0]]), (2.0, 0.5)).tolist() == [[0.0, 4.5]]
