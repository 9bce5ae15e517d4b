"""Blind estimation against its definition, against Gwyddion, and against tips that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from spm_kernels import certainty_map, dilate, erode, estimate_tip


def refine_at(image, tip, point, threshold):
    """Villarrubia's refinement of a tip by one pixel, as it is written: an intersection over the parts that can have touched.

    ``image`` is a function of (y, x), None where nothing is known.
    """
    rows, columns = tip.shape
    parts = list(np.ndindex(rows, columns))
    own = image(*point)

    def can_have_touched(part):
        apex = image(point[0] + rows // 2 - part[0], point[1] + columns // 2 - part[1])
        return apex is None or own - apex <= tip[part]

    touching = [part for part in parts if can_have_touched(part)]
    result, changed = tip.copy(), False
    for x in parts:
        bounds = []
        for d in touching:
            beside = image(point[0] + x[0] - d[0], point[1] + x[1] - d[1])
            bounds.append(np.inf if beside is None else beside + tip[d] - own)
        if max(bounds) < tip[x] - threshold:
            result[x], changed = max(bounds) + threshold, True
    return result, changed


def reference(image, shape, threshold, full, use_edges):
    """The whole algorithm with Python's loops."""
    rows, columns = shape
    height, width = image.shape
    tip = np.zeros(shape)

    def at(y, x):
        known = 0 <= y < height and 0 <= x < width and np.isfinite(image[y, x])
        return float(image[y, x]) if known else None

    def complete(y, x):
        return all(at(y + v, x + u) is not None for v in range(1 - rows, rows) for u in range(1 - columns, columns))

    def is_maximum(y, x):
        reach = max(max(shape) // 10, 1)
        around = [at(y + v, x + u) for v in range(-reach, reach + 1) for u in range(-reach, reach + 1)]
        highest, risen = at(y, x), 0
        for value in around:
            if value is not None and value >= highest:
                highest, risen = value, risen + 1
        return highest == at(y, x) and risen <= (2 * reach + 1) ** 2 // 5

    points = [
        (y, x)
        for y in range(rows // 2, height - rows // 2)
        for x in range(columns // 2, width - columns // 2)
        if at(y, x) is not None and (use_edges or complete(y, x))
    ]
    while True:
        if full:
            rounded = tip.astype(np.float32)
            opened = dilate(erode(image, rounded), rounded)
            chosen = [p for p in points if image[p] - opened[p] > threshold]
        else:
            chosen = [p for p in points if is_maximum(*p)]
        refined = 0
        for point in chosen:
            tip, changed = refine_at(at, tip, point, threshold)
            refined += changed
        if refined <= (0 if full else 20):
            return tip.astype(np.float32)


WHOLE = st.integers(0, 30).map(float)


@settings(deadline=None, max_examples=25)
@given(
    arrays(np.float32, (13, 12), elements=WHOLE | st.just(np.nan), fill=WHOLE),
    st.sampled_from([(3, 3), (3, 5), (5, 1), (1, 1)]),
    st.sampled_from([0.0, 1.0, 4.0]),
    st.booleans(),
    st.booleans(),
)
def test_it_is_the_algorithm(image, shape, threshold, full, use_edges):
    result = estimate_tip(image, np.zeros(shape, np.float32), threshold=threshold, full=full, use_edges=use_edges)
    np.testing.assert_array_equal(result, reference(image, shape, threshold, full, use_edges))


def whole_surface(rng, shape, smooth):
    """Heights from 0 to 10 000 in whole numbers, so that no rounding stands between two implementations."""
    surface = ndimage.gaussian_filter(rng.standard_normal(shape), smooth)
    return np.round((surface - surface.min()) / np.ptp(surface) * 10_000).astype(np.float32)


def skewed_tip(rows, columns):
    v, u = np.arange(rows)[:, None] - rows // 2, np.arange(columns) - columns // 2
    return np.round(-400 * np.hypot(v, u) - 100 * np.maximum(u, 0) - 70 * np.maximum(v, 0)).astype(np.float32)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.0, 4.0]), st.booleans(), st.booleans())
def test_without_noise_the_estimate_is_no_sharper_than_the_tip(seed, smooth, full, use_edges):
    tip = skewed_tip(9, 7)
    image = dilate(whole_surface(np.random.default_rng(seed), (60, 64), smooth), tip)[5:-5, 5:-5]
    estimate = estimate_tip(image, np.zeros_like(tip), threshold=0.0, full=full, use_edges=use_edges)
    assert (estimate >= tip).all()
    assert estimate[4, 3] == estimate.max() == 0


def test_a_sharp_spike_gives_the_tip_away(rng):
    tip = skewed_tip(11, 11)
    surface = whole_surface(rng, (80, 80), 6.0)
    surface[40, 40] = 20_000
    image = dilate(surface, tip)
    for full in (False, True):
        estimate = estimate_tip(image, np.zeros_like(tip), threshold=0.0, full=full)
        shown = image[40, 40] + tip >= image[35:46, 35:46]  # the rest of the tip was above its surroundings nowhere
        np.testing.assert_array_equal(estimate[shown], tip[shown])


def test_a_double_tip_is_found_where_its_shadows_stand_apart():
    surface = np.zeros((90, 90), np.float32)
    surface[20::30, 20::30] = 50.0
    tip = np.full((15, 15), -200.0, np.float32)
    tip[7, 7], tip[10, 12] = 0.0, -8.0
    estimate = estimate_tip(dilate(surface, tip), np.zeros_like(tip), threshold=0.5)
    assert estimate[10, 12] == pytest.approx(-8.0, abs=0.6)
    below = estimate < -40
    assert below.sum() == tip.size - 2


def test_a_start_is_refined_and_its_height_taken_off(rng):
    tip = skewed_tip(9, 7)
    image = dilate(whole_surface(rng, (60, 64), 2.0), tip)
    partial = estimate_tip(image, np.zeros_like(tip), threshold=0.0)
    both = estimate_tip(image, partial + 5, threshold=0.0, full=True)
    assert (both <= partial).all()
    assert (both >= tip).all()


def test_missing_pixels_teach_nothing(rng):
    tip = skewed_tip(9, 7)
    image = dilate(whole_surface(rng, (70, 64), 2.0), tip)
    image[30:33, 20:40] = np.nan
    for full in (False, True):
        for use_edges in (False, True):
            estimate = estimate_tip(image, np.zeros_like(tip), threshold=0.0, full=full, use_edges=use_edges)
            assert (estimate >= tip).all()
    nothing = np.full((30, 30), np.nan, np.float32)
    assert not estimate_tip(nothing, np.zeros_like(tip), threshold=0.0, full=True).any()


def test_a_threshold_above_the_noise_keeps_the_tip(rng):
    tip = skewed_tip(9, 9)
    image = dilate(whole_surface(rng, (90, 90), 2.0), tip)
    noisy = image + rng.normal(0, 60, image.shape).astype(np.float32)
    start = np.zeros_like(tip)
    sharp, kept = (estimate_tip(noisy, start, threshold=t, full=True) for t in (1.0, 400.0))
    assert (kept >= tip - 100).mean() > 0.95
    assert np.abs(kept - tip).mean() < np.abs(sharp - tip).mean()


@pytest.mark.parametrize("shape", [(0, 0), (3, 4), (9, 9)])
def test_an_image_smaller_than_the_tip_teaches_nothing(shape):
    for full in (False, True):
        tip = estimate_tip(np.ones(shape, np.float32), np.zeros((9, 9), np.float32), threshold=0.1, full=full)
        assert not tip.any()


IMAGE, START = np.zeros((9, 9), np.float32), np.zeros((3, 3), np.float32)


@pytest.mark.parametrize(
    ("image", "start", "threshold", "message"),
    [
        (np.zeros((9, 9)), START, 0.0, "image: expected a float32 array"),
        (IMAGE, np.zeros((3, 4), np.float32), 0.0, "tip: expected odd"),
        (IMAGE, START, -1.0, "threshold: expected a finite height of 0 or more, got -1.0"),
        (IMAGE, START, np.inf, "threshold"),
        (
            IMAGE,
            np.eye(3, dtype=np.float32) - np.eye(3, dtype=np.float32)[1] * 2,
            0.0,
            "start: .*highest in the middle",
        ),
    ],
)
def test_wrong_arguments_are_named(image, start, threshold, message):
    with pytest.raises(ValueError, match=message):
        estimate_tip(image, start, threshold=threshold)


# --- the same by Gwyddion -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gwyddion():
    """The library as the comparison of restorers uses it; it is no dependency, and kernels know nothing of that module."""
    peer = pytest.importorskip("spm_training.peers.restore.gwyddion")
    missing = peer.why_missing()
    if missing is not None:
        pytest.skip(missing)
    return peer.gwyddion()


def gwyddion_image(rng, smooth, noise):
    """Whole heights that span exactly 0 to 10 000: Gwyddion's own steps, of which it has ten thousand."""
    image = dilate(whole_surface(rng, (70, 82), smooth), skewed_tip(11, 9))
    image = np.round((image - image.min()) / np.ptp(image) * 10_000 + rng.normal(0, noise, image.shape))
    image = np.clip(image, 0, 10_000).astype(np.float32)
    image[0, :2] = 0, 10_000
    return image


@pytest.mark.parametrize(("smooth", "noise"), [(1.5, 0.0), (2.5, 20.0), (4.0, 0.0), (5.0, 40.0)])
def test_gwyddion_finds_the_same_tip(gwyddion, rng, smooth, noise):
    image = gwyddion_image(rng, smooth, noise)
    for full in (False, True):
        for use_edges in (False, True):
            for threshold in (0, 30, 300):
                ours = estimate_tip(
                    image, np.zeros((11, 9), np.float32), threshold=threshold, full=full, use_edges=use_edges
                )
                theirs = gwyddion.estimate(image, (11, 9), threshold=threshold, full=full, use_edges=use_edges)
                np.testing.assert_array_equal(ours, theirs)


def test_gwyddion_finds_the_same_tip_within_its_rounding(gwyddion, rng):
    image = (dilate(whole_surface(rng, (90, 90), 3.0), skewed_tip(11, 11)) * np.pi / 1000).astype(np.float32)
    step = np.ptp(image) / 10_000
    for full in (False, True):
        theirs = gwyddion.estimate(image, (11, 11), threshold=0.05, full=full, use_edges=False)
        ours = estimate_tip(image, np.zeros((11, 11), np.float32), threshold=0.05, full=full)
        assert np.abs(ours - theirs).max() < 3 * step


def test_gwyddion_gives_the_same_image_surface_and_certainty(gwyddion, rng):
    surface, tip = whole_surface(rng, (70, 82), 3.0), skewed_tip(11, 9)
    inside = np.s_[11:-11, 9:-9]  # beyond the border it repeats the outermost pixel
    image = gwyddion_image(rng, 3.0, 0.0)
    turned = tip[::-1, ::-1]  # it takes the tip as it is, not as a spike shows it
    np.testing.assert_array_equal(gwyddion.dilation(surface, turned)[inside], dilate(surface, tip)[inside])
    np.testing.assert_array_equal(gwyddion.erosion(image, turned)[inside], erode(image, tip)[inside])
    certain = gwyddion.certainty(image, turned)
    np.testing.assert_array_equal(certain[inside], certainty_map(image, tip)[inside])
    assert certain.any()
