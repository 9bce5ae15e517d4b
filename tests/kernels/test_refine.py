"""Gaussian fits and centroids on columns whose positions are known."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_kernels import _gaussian as core
from spm_kernels import refine_centroid, refine_gaussian
from spm_kernels._arrays import frozen

SPACING = 12.0
RADIUS = 0.45 * SPACING


def render(yx, sigma, shape, amplitude=1.0):
    """Sum of Gaussians; sigma and amplitude are numbers or one per column."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[:, None]
    yx, sigma = np.atleast_2d(yx), np.broadcast_to(sigma, len(np.atleast_2d(yx)))
    along_y = np.exp(-0.5 * ((rows - yx[:, 0]) / sigma) ** 2)
    along_x = np.exp(-0.5 * ((columns - yx[:, 1]) / sigma) ** 2)
    return (along_y * amplitude) @ along_x.T


def lattice(rng, shape=(200, 200), vacancies=0.1, displacement=0.02):
    """Hexagonal lattice at a random angle, reaching beyond the image."""
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    steps = SPACING * np.array([[0, 1], [np.sqrt(0.75), 0.5]]) @ turn
    n = int(2 * max(shape) / SPACING)
    yx = np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n)), -1).reshape(-1, 2) @ steps
    yx = yx + np.array(shape) / 2 + rng.uniform(0, SPACING, 2) + displacement * SPACING * rng.standard_normal(yx.shape)
    near = ((yx > -2 * SPACING) & (yx < np.array(shape) + 2 * SPACING)).all(axis=1)
    return yx[near & (rng.random(len(yx)) >= vacancies)]


def lattice_scene(rng, sigma, noise, **options):
    """Image, rough positions and true positions of the columns that are well inside."""
    shape = (200, 200)
    columns = lattice(rng, shape, **options)
    image = render(columns, sigma, shape, 1 + 0.1 * rng.standard_normal(len(columns)))
    image += noise * rng.standard_normal(shape)
    truth = columns[((columns > 0) & (columns < np.array(shape) - 1)).all(axis=1)]
    inside = ((truth > 1.5 * SPACING) & (truth < np.array(shape) - 1.5 * SPACING)).all(axis=1)
    return image.astype(np.float32), np.round(truth + rng.uniform(-0.7, 0.7, truth.shape)), truth, inside


def single_columns(rng, sigma, noise, count=50, pitch=16):
    """``count²`` columns too far apart to touch, at random sub-pixel positions."""
    grid = np.stack(np.divmod(np.arange(count**2), count), 1) * pitch + pitch // 2
    truth = grid + rng.uniform(-0.5, 0.5, grid.shape)
    image = 7 + noise * rng.standard_normal((count * pitch, count * pitch))
    for row in range(count):  # row by row: a dense product over the whole image would be large
        image[row * pitch : (row + 1) * pitch] += render(
            truth[row * count : (row + 1) * count] - [row * pitch, 0], sigma, (pitch, count * pitch)
        )
    return image.astype(np.float32), grid.astype(float), truth


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


def uniformity(fractions):
    """Kolmogorov–Smirnov distance from the uniform distribution, in units of its 1 % critical value."""
    ordered, n = np.sort(np.ravel(fractions)), np.size(fractions)
    steps = np.arange(n + 1) / n
    return max(np.abs(ordered - steps[:-1]).max(), np.abs(ordered - steps[1:]).max()) / (1.628 / np.sqrt(n))


# --- the core against NumPy ---------------------------------------------------------------------------------------


def reference_fit(image, usable, centre, radius, sigma):
    """All five parameters by Gauss–Newton with numpy.linalg.lstsq; gives them and the standard deviation of y and x."""
    rows, columns = np.indices(image.shape)
    disc = usable & ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2)
    v, u, pixels = rows[disc], columns[disc], image[disc].astype(float)
    p = np.array([*centre, np.log(sigma), np.ptp(pixels), pixels.min()])
    for _ in range(60):
        y, x, log_sigma, amplitude, background = p
        s2 = np.exp(2 * log_sigma)
        r2 = (v - y) ** 2 + (u - x) ** 2
        g = np.exp(-0.5 * r2 / s2)
        ag = amplitude * g
        jacobian = np.stack([ag * (v - y) / s2, ag * (u - x) / s2, ag * r2 / s2, g, np.ones_like(g)], 1)
        residual = pixels - ag - background
        step = np.linalg.lstsq(jacobian, residual, rcond=None)[0]
        p = p + step * min(1.0, 0.5 / np.abs(step[2]))
    covariance = np.linalg.inv(jacobian.T @ jacobian) * (residual @ residual) / (len(pixels) - 5)
    return p, np.sqrt(np.trace(covariance[:2, :2]) / 2)


def one_pass(image, usable, yx, radius):
    """The compiled core once, without a pull to a common width."""
    fits = np.empty((len(yx), core.COLUMNS))
    before = np.full_like(fits, np.nan)
    before[:, [core.Y, core.X]] = yx
    before[:, core.CONVERGED] = 0.0
    prior = (np.log(radius / 2), 0.0, 0.0)
    core.fit_all(frozen(image), frozen(usable), frozen(yx), before, radius, prior, fits)
    return fits


@pytest.mark.parametrize("unit", [1.0, 1e-10, 3e4])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_core_equals_numpy(rng, unit, missing):
    sigma = 2.5
    image, yx, _ = single_columns(rng, sigma, 0.05, count=6)
    image = (unit * image).astype(np.float32)
    usable = rng.random(image.shape) >= missing
    yx = np.vstack([yx, [[0, 0], [95, 3]]])  # two in corners, half of whose disc is cut off and which see no column
    fits = one_pass(image, usable, yx, 6.0)
    for fit, centre in zip(fits[:36], yx[:36], strict=True):
        p, std = reference_fit(image, usable, centre, 6.0, sigma)
        assert fit[core.CONVERGED] == 1.0
        np.testing.assert_allclose(fit[[core.Y, core.X]], p[:2], atol=2e-3 * std)
        np.testing.assert_allclose(fit[core.LOG_SIGMA], p[2], atol=1e-3)
        np.testing.assert_allclose(fit[[core.AMPLITUDE, core.BACKGROUND]], p[3:], rtol=1e-3)
        np.testing.assert_allclose(fit[core.STD], std, rtol=1e-2)


def test_centroid_equals_numpy(rng):
    image, yx, _ = single_columns(rng, 2.0, 0.05, count=6)
    rows, columns = np.indices(image.shape)
    found = refine_centroid(image, yx, radius_px=5.0, iterations=3)
    for (y, x), result in zip(yx, found.yx, strict=True):
        for _ in range(3):
            distance = np.hypot(rows - y, columns - x)
            rim = np.clip(distance - 4.0, 0, 1) * (distance <= 5.5)
            weight = np.clip(5.5 - distance, 0, 1) * np.clip(image - (rim * image).sum() / rim.sum(), 0, None)
            y, x = (weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum()
        np.testing.assert_allclose(result, (y, x), atol=2e-3)  # it may have stopped at a step below 1e-3


# --- single columns -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    offset=st.tuples(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9)),
    sigma=st.floats(1.2, 4.0),
    amplitude=st.sampled_from([1.0, -1.0, 2e-10, 5e4]),
    background=st.sampled_from([0.0, 3.0, -20.0]),
    neighbours=st.booleans(),
)
def test_a_clean_column_is_found_exactly(offset, sigma, amplitude, background, neighbours):
    truth = np.array([[14.0, 17.0]]) + offset
    image = (amplitude * (render(truth, sigma, (30, 33)) + background)).astype(np.float32)
    fit = refine_gaussian(image, np.array([[14.0, 17.0]]), radius_px=6.0, neighbours=neighbours)
    assert fit.converged.tolist() == [True]
    np.testing.assert_allclose(fit.yx, truth, atol=3e-4)  # the start has a little weight
    np.testing.assert_allclose(fit.sigma_px, sigma, rtol=1e-3)
    np.testing.assert_allclose(fit.amplitude, amplitude, rtol=2e-3)
    np.testing.assert_allclose(fit.background, amplitude * background, rtol=1e-3, atol=abs(2e-3 * amplitude))
    assert fit.yx_std_px[0] < 1e-3


@pytest.mark.parametrize(("sigma", "radius"), [(1.3, 3.0), (2.4, 5.4), (3.0, 5.4)])
@pytest.mark.parametrize("detectability", [100, 30, 15])
def test_standard_deviation_is_honest(rng, sigma, radius, detectability):
    noise = np.sqrt(np.pi) * sigma / detectability
    image, start, truth = single_columns(rng, sigma, noise)
    fit = refine_gaussian(image, start, radius_px=radius)
    assert fit.converged.mean() > 0.999
    error, std = (fit.yx - truth)[fit.converged], fit.yx_std_px[fit.converged]
    assert 0.94 < rms(error) / rms(std) < 1.06
    assert 0.9 < rms(error / std[:, None]) < 1.15  # small discs: Student's t with few degrees of freedom
    # The bound of a column of known shape on an endless plane; a small disc holds less of it.
    bound = noise * np.sqrt(2 / np.pi)
    t = (radius / sigma) ** 2
    bound_in_disc = bound / np.sqrt(1 - np.exp(-t) * (1 + t))
    assert 0.9 < rms(error) / bound_in_disc < 1.1  # the start helps a little where the noise is strong
    assert np.abs(error.mean(axis=0)).max() < 4 * rms(error) / np.sqrt(len(error))


@pytest.mark.parametrize(("sigma", "radius"), [(1.3, 3.0), (2.4, 5.4)])
def test_no_pixel_locking(rng, sigma, radius):
    image, start, _ = single_columns(rng, sigma, 0.02 * sigma)
    fit = refine_gaussian(image, start, radius_px=radius)
    assert uniformity(fit.yx[fit.converged] % 1) < 1
    found = refine_centroid(image, start, radius_px=radius)
    assert found.converged.all()
    assert uniformity(found.yx % 1) < 1


def test_missing_pixels_are_skipped(rng):
    truth = np.array([[15.3, 14.8]])
    clean = render(truth, 2.5, (30, 30)).astype(np.float32)
    broken, valid = clean.copy(), np.ones(clean.shape, bool)
    broken[13], broken[17, 15], valid[:, 17] = np.nan, -np.inf, False
    broken[:, 17] = 1e6
    fit = refine_gaussian(broken, np.array([[15.0, 15.0]]), radius_px=6.0, valid=valid)
    np.testing.assert_allclose(fit.yx, truth, atol=1e-4)


def test_columns_at_the_border(rng):
    truth = np.array([[0.2, 10.3], [29.0, 20.4], [15.0, -0.4], [29.1, 39.0]])
    image = render(truth, 2.0, (30, 40)).astype(np.float32)
    fit = refine_gaussian(image, np.round(truth), radius_px=5.0)
    assert fit.converged.all()
    np.testing.assert_allclose(fit.yx, truth, atol=1e-3)


# --- what cannot be fitted ----------------------------------------------------------------------------------------


def assert_kept(fit, start):
    np.testing.assert_array_equal(fit.yx, start)
    assert not fit.converged.any()
    for field in dataclasses.fields(fit):
        if field.name not in {"yx", "converged"}:
            assert np.isnan(getattr(fit, field.name)).all()


@pytest.mark.parametrize(
    "image",
    [
        np.full((30, 30), 2.0, np.float32),
        np.full((30, 30), np.nan, np.float32),
        np.tile(np.arange(30, dtype=np.float32), (30, 1)),
        render([[25.0, 15.0]], 3.0, (30, 30)).astype(np.float32),
    ],
    ids=["flat", "missing", "slope", "elsewhere"],
)
@pytest.mark.parametrize("neighbours", [True, False])
def test_without_a_column_the_input_is_kept(image, neighbours):
    start = np.array([[15.0, 15.0]])
    assert_kept(refine_gaussian(image, start, radius_px=5.0, neighbours=neighbours), start)


def test_outside_the_image_the_input_is_kept():
    image = render([[15.0, 15.0]], 2.0, (30, 30)).astype(np.float32)
    start = np.array([[-40.0, 5.0], [5.0, 1e6], [-1e9, -1e9]])
    assert_kept(refine_gaussian(image, start, radius_px=5.0), start)
    found = refine_centroid(image, start, radius_px=5.0)
    np.testing.assert_array_equal(found.yx, start)
    assert not found.converged.any()


def test_centroid_without_a_column_keeps_the_input():
    start = np.array([[15.0, 15.0]])
    for image in (np.full((30, 30), 2.0, np.float32), np.full((30, 30), np.nan, np.float32)):
        found = refine_centroid(image, start, radius_px=5.0)
        np.testing.assert_array_equal(found.yx, start)
        assert found.converged.tolist() == [False]


def test_one_bad_position_does_not_touch_the_others(rng):
    image, start, truth = single_columns(rng, 2.4, 0.01, count=5)
    image[30:50, 30:50] = np.nan
    fit = refine_gaussian(image, np.vstack([start, [[40.0, 40.0]]]), radius_px=5.4)
    assert fit.converged.tolist() == [True] * 12 + [False] + [True] * 12 + [False]
    np.testing.assert_allclose(fit.yx[fit.converged], truth[fit.converged[:25]], atol=0.05)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 40), (40, 1), (2, 2)])
def test_tiny_images(shape, rng):
    image = rng.random(shape).astype(np.float32)
    start = np.array([[0.0, 0.0], [0.0, 1.0]])
    assert len(refine_gaussian(image, start, radius_px=3.0)) == 2
    assert len(refine_centroid(image, start, radius_px=3.0)) == 2


def test_no_positions():
    image = np.ones((20, 20), np.float32)
    fit = refine_gaussian(image, np.empty((0, 2)), radius_px=3.0)
    assert fit.yx.shape == (0, 2)
    assert len(fit) == len(fit.yx_std_px) == 0
    assert refine_centroid(image, np.empty((0, 2)), radius_px=3.0).yx.shape == (0, 2)


# --- lattices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relative_sigma", "alone", "subtracted"),
    # rms error in spacings that may not be exceeded; what the neighbours' tails do, without noise
    [(0.2, 0.0008, 0.0001), (0.25, 0.006, 0.0012), (0.3, 0.022, 0.007), (0.35, 0.07, 0.025)],
)
@pytest.mark.parametrize("vacancies", [0.0, 0.1])
def test_subtraction_removes_the_pull_of_the_neighbours(rng, relative_sigma, alone, subtracted, vacancies):
    image, start, truth, inside = lattice_scene(rng, relative_sigma * SPACING, 0.0, vacancies=vacancies)
    without = refine_gaussian(image, start, radius_px=RADIUS, neighbours=False)
    fit = refine_gaussian(image, start, radius_px=RADIUS)
    assert fit.converged[inside].all()
    bias_without = rms((without.yx - truth)[inside & without.converged]) / SPACING
    bias = rms((fit.yx - truth)[inside]) / SPACING
    assert bias_without < alone
    assert bias < subtracted
    assert bias < 0.5 * bias_without


@pytest.mark.parametrize("relative_sigma", [0.2, 0.25, 0.3, 0.35])
@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
def test_subtraction_is_stable_in_noise(rng, relative_sigma, noise):
    image, start, truth, inside = lattice_scene(rng, relative_sigma * SPACING, noise)
    without = refine_gaussian(image, start, radius_px=RADIUS, neighbours=False)
    fit = refine_gaussian(image, start, radius_px=RADIUS)
    assert fit.converged[inside].mean() > 0.98
    use = inside & fit.converged & without.converged
    assert rms((fit.yx - truth)[use]) < 1.02 * rms((without.yx - truth)[use])


@pytest.mark.parametrize("relative_sigma", [0.15, 0.2, 0.25, 0.3, 0.35])
@pytest.mark.parametrize("detectability", [30, 15, 9])
def test_standard_deviation_is_honest_on_lattices(rng, relative_sigma, detectability):
    """Columns far apart up to such that overlap so much that their neighbours' tails add to the noise."""
    score = []
    noise = np.sqrt(np.pi) * relative_sigma * SPACING / detectability
    for _ in range(3):
        image, start, truth, inside = lattice_scene(rng, relative_sigma * SPACING, noise)
        fit = refine_gaussian(image, start, radius_px=RADIUS)
        good = inside & fit.converged
        assert good.sum() > 0.9 * inside.sum()
        score.append(((fit.yx - truth) / fit.yx_std_px[:, None])[good])
    # At 0.35 the columns are one corrugation; there it is to be of the right size, and rather too large in strong noise.
    low, high = (0.87, 1.15) if relative_sigma < 0.35 else (0.6, 1.3)
    assert low < 1.4826 * np.median(np.abs(np.concatenate(score))) < high


def test_a_narrow_prior_holds_the_column(rng):
    image, start, _, inside = lattice_scene(rng, 0.25 * SPACING, 0.5)
    free = refine_gaussian(image, start, radius_px=RADIUS, prior_std_px=np.full(len(start), 5.0))
    held = refine_gaussian(image, start, radius_px=RADIUS, prior_std_px=np.full(len(start), 0.05))
    both = inside & free.converged & held.converged
    assert rms((held.yx - start)[both]) < 0.1 * rms((free.yx - start)[both])
    assert (held.yx_std_px[both] < 0.1).all()
    with pytest.raises(ValueError, match="prior_std_px: expected 3 positive numbers"):
        refine_gaussian(image, start[:3], radius_px=RADIUS, prior_std_px=np.zeros(3))


def test_two_inputs_on_one_column_both_find_it():
    truth = np.array([[15.2, 15.4]])
    image = render(truth, 2.4, (30, 30)).astype(np.float32)
    fit = refine_gaussian(image, np.array([[15.0, 15.0], [16.0, 16.0]]), radius_px=5.4)
    np.testing.assert_allclose(fit.yx, np.repeat(truth, 2, axis=0), atol=1e-3)


@pytest.mark.parametrize("refine", [refine_gaussian, refine_centroid])
def test_symmetries(rng, refine):
    image, start, _, inside = lattice_scene(rng, 0.25 * SPACING, 0.05)
    found = refine(image, start, radius_px=RADIUS).yx
    height = image.shape[0]

    order = rng.permutation(len(start))
    np.testing.assert_allclose(refine(image, start[order], radius_px=RADIUS).yx, found[order], atol=1e-6)

    # The columns are visited row by row, until steps are small beside the noise (standard deviation 0.05 px). At the border,
    # where neighbours are not listed, more is left to the path.
    close, which = (1e-6, slice(None)) if refine is refine_centroid else (0.02, inside)
    transposed = refine(image.T, start[:, ::-1], radius_px=RADIUS).yx
    np.testing.assert_allclose(transposed[which, ::-1], found[which], atol=close)

    flipped = refine(image[::-1], [height - 1, 0] + start * [-1, 1], radius_px=RADIUS).yx
    np.testing.assert_allclose(([height - 1, 0] + flipped * [-1, 1])[which], found[which], atol=close)

    canvas = np.full((260, 240), np.nan, np.float32)
    canvas[31:231, 17:217] = image
    shift = np.array([31, 17])
    np.testing.assert_allclose(
        (refine(canvas, start + shift, radius_px=RADIUS).yx - shift)[which], found[which], atol=close
    )


def test_scale_of_the_image_does_not_matter(rng):
    image, start, _, _ = lattice_scene(rng, 0.25 * SPACING, 0.05)
    fit = refine_gaussian(image, start, radius_px=RADIUS)
    scaled = refine_gaussian((image * np.float32(2.0**-33)), start, radius_px=RADIUS)  # 0.1 nm in metres, exactly
    np.testing.assert_allclose(scaled.yx, fit.yx, atol=1e-9)
    np.testing.assert_allclose(scaled.yx_std_px, fit.yx_std_px, rtol=1e-6)
    np.testing.assert_allclose(scaled.amplitude * 2.0**33, fit.amplitude, rtol=1e-6)


def test_input_is_not_changed_and_may_be_read_only(rng):
    image, start, _, _ = lattice_scene(rng, 0.25 * SPACING, 0.05)
    before = image.copy(), start.copy()
    writable = refine_gaussian(image, start, radius_px=RADIUS)
    image.setflags(write=False)
    start.setflags(write=False)
    np.testing.assert_array_equal(refine_gaussian(image, start, radius_px=RADIUS).yx, writable.yx)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(start, before[1])
    writable.yx[0] = 0.0  # the result belongs to the caller


def test_real_columns_converge_near_the_annotation(real_data):
    h5py = pytest.importorskip("h5py")
    folder = real_data / "haadf_annotated"
    with h5py.File(folder / "Cropped_PTO-SRO_Aligned.hspy") as file:
        (experiment,) = file["Experiments"].values()
        image = experiment["data"][()].astype(np.float32)
    annotated = np.load(folder / "Cropped_PTO-SRO_Aligned_atom_positions1.npy")[:, ::-1].astype(float)
    spacing = 23.2
    fit = refine_gaussian(image, np.round(annotated), radius_px=0.45 * spacing)
    assert fit.converged.all()
    assert np.median(np.hypot(*(fit.yx - annotated).T)) < 0.05 * spacing
    assert np.median(fit.yx_std_px) < 0.005 * spacing


# --- wrong arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refine", [refine_gaussian, refine_centroid])
@pytest.mark.parametrize(
    ("image", "yx", "options", "message"),
    [
        (np.zeros((9, 9)), np.zeros((1, 2)), {}, "image: expected a float32 array"),
        (np.zeros((9, 9), np.float32), np.zeros(2), {}, r"yx: expected a numeric array of shape \(N, 2\)"),
        (np.zeros((9, 9), np.float32), np.array([[np.inf, 0]]), {}, "yx: expected finite"),
        (np.zeros((9, 9), np.float32), np.zeros((1, 2)), {"radius_px": 1.0}, "radius_px: .* at least 1.5, got 1.0"),
        (np.zeros((9, 9), np.float32), np.zeros((1, 2)), {"radius_px": np.nan}, "radius_px"),
        (np.zeros((9, 9), np.float32), np.zeros((1, 2)), {"valid": np.ones(9, bool)}, "valid"),
    ],
)
def test_wrong_arguments_are_named(refine, image, yx, options, message):
    with pytest.raises(ValueError, match=message):
        refine(image, yx, **{"radius_px": 3.0, **options})


def test_iterations_must_be_positive():
    with pytest.raises(ValueError, match="iterations: expected 1 or more, got 0"):
        refine_centroid(np.zeros((9, 9), np.float32), np.zeros((1, 2)), radius_px=3.0, iterations=0)
