"""Scenes with bad tips: what is true of them by construction, and that the sets do not overlap."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from spm_kernels import certainty_map, dilate, erode
from spm_training.simulate.tips import FAMILIES, SIDE_PX, SPLITS, SURFACES, Disturbance, scene_rng, simulate_tip_scene
from spm_training.simulate.tips.disturb import disturb, draw_disturbance
from spm_training.simulate.tips.primitives import add_ball, self_affine, tube, walk
from spm_training.simulate.tips.shapes import TIP_KINDS, _single, blunt_tip, double_tip, gaussian_psf, hackathon_tip

SHAPE = (96, 120)
HALF = SIDE_PX // 2
INNER = np.s_[HALF:-HALF, HALF:-HALF]
KINDS = [(modality, surface) for modality, surfaces in SURFACES.items() for surface in surfaces]
SILENT = Disturbance(white=0.0, lines=0.0)


def scene(index, *, split="test", **options):
    return simulate_tip_scene(scene_rng(split, index), shape=SHAPE, **options)


@pytest.mark.parametrize(("modality", "surface"), KINDS)
def test_every_surface_in_every_family(modality, surface):
    for index, family in enumerate(FAMILIES):
        made = scene(index, modality=modality, surfaces=[surface], families=[family])
        assert (made.modality, made.surface, made.family) == (modality, surface, family)
        for heights in (made.image, made.clean, made.blurred):
            assert heights.shape == SHAPE
            assert heights.dtype == np.float32
            assert np.isfinite(heights).all()
        assert made.touched.shape == SHAPE
        assert made.touched.dtype == np.bool_
        assert made.relief_nm == pytest.approx(np.ptp(made.clean), rel=1e-4)
        assert made.clean.mean() == pytest.approx(0, abs=1e-3 * made.relief_nm)
        low, high = (0.01, 0.4) if modality == "stm" else (0.02, 250)
        assert low < made.pixel_size_nm < high
        assert made.clean.std() > 0.005 * made.relief_nm


@pytest.mark.parametrize("family", ["blunt", "double", "hackathon"])
def test_the_image_is_the_dilation_of_the_surface_by_the_tip(family):
    for index in range(8):
        made = scene(index, families=[family], disturbance=SILENT)
        np.testing.assert_array_equal(made.image, made.blurred)
        np.testing.assert_allclose(dilate(made.clean, made.tip)[INNER], made.blurred[INNER], atol=1e-5 * made.relief_nm)
        assert (made.blurred >= made.clean).all() == (made.tip[HALF, HALF] == 0)
        assert made.tip.max() == 0


def test_erosion_by_the_true_tip_is_right_where_it_touched_and_above_elsewhere():
    certain, wrong = 0, 0
    for index in range(12):
        made = scene(index, families=["blunt", "double"], disturbance=SILENT)
        back = erode(made.image, made.tip)[INNER]
        gap = back - made.clean[INNER]
        touched = made.touched[INNER]
        assert np.abs(gap[touched]).max(initial=0) < 3e-5 * made.relief_nm
        assert (gap[~touched] > 0).all()
        # What the certainty map says of the noiseless image is true of the surface; heights are rounded to float32.
        told = certainty_map(made.image, made.tip, tolerance=1e-6 * made.relief_nm)
        certain += told.sum()
        wrong += (told[INNER] & ~touched).sum()
    assert certain > 10_000
    assert wrong < 1e-3 * certain


def test_the_border_is_no_border_for_the_surface_and_the_tip():
    """A scene that is part of a wider way: the rim of the image knows what lies beyond it."""
    risen, inside = [], []
    for index in range(30):
        made = scene(index, families=["blunt"], surfaces=["rough"], disturbance=SILENT)
        excess = (made.blurred - made.clean) / made.relief_nm
        risen.append(excess[[0, -1]].mean())
        inside.append(excess[40:56].mean())
    assert np.mean(risen) == pytest.approx(np.mean(inside), rel=0.15)


def test_convolution_is_a_weighted_mean():
    for index in range(6):
        made = scene(index, families=["convolution"], disturbance=SILENT)
        assert made.tip.sum() == pytest.approx(1, abs=1e-5)
        assert made.touched.all()
        expected = ndimage.convolve(made.clean.astype(float), made.tip[::-1, ::-1].astype(float))
        np.testing.assert_allclose(made.image[INNER], expected[INNER], atol=1e-4 * made.relief_nm)


def test_the_surface_does_not_depend_on_the_family_and_nothing_depends_on_the_clock():
    first = [scene(3, families=[family]) for family in FAMILIES]
    for made in first[1:]:
        np.testing.assert_array_equal(made.clean, first[0].clean)
    again = scene(3, families=[FAMILIES[0]])
    np.testing.assert_array_equal(again.image, first[0].image)
    np.testing.assert_array_equal(again.tip, first[0].tip)


def test_no_surface_and_no_tip_is_in_two_sets_or_twice_in_one():
    for pick in ("clean", "tip", "image"):
        seen = set()
        for split in SPLITS:
            for index in range(25):
                made = simulate_tip_scene(scene_rng(split, index), shape=(24, 24), surfaces=["rough", "grating"])
                seen.add(hashlib.sha256(getattr(made, pick).tobytes()).digest())
        assert len(seen) == 25 * len(SPLITS)
    streams = {scene_rng(split, i, seed=s).bytes(16) for split in SPLITS for i in range(300) for s in range(3)}
    assert len(streams) == 900 * len(SPLITS)


def test_tips_have_their_apex_in_the_middle_and_end_inside_their_square():
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        tip = blunt_tip(rng, relief=5.0, local=2.0)
        kinds.add(tip.kind)
        assert tip.heights.shape == (SIDE_PX, SIDE_PX)
        assert tip.heights[HALF, HALF] == tip.heights.max() == 0
        rim = np.concatenate([tip.heights[[0, -1]].ravel(), tip.heights[:, [0, -1]].ravel()])
        assert rim.max() <= -5.0
        assert 0.2 < tip.scale_px <= 20
    assert kinds == set(TIP_KINDS)


@pytest.mark.parametrize("kind", [kind for kind in TIP_KINDS if kind != "irregular"])
def test_a_tip_is_one_high_at_its_reach_and_falls_from_its_apex(kind):
    depths = []
    for seed in range(40):
        tip = _single(np.random.default_rng(seed), kind, 8.0)
        y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
        depths.append(-tip[np.abs(np.hypot(y, x) - 8) < 0.5].mean())
        for ray in (tip[HALF, HALF:], tip[HALF::-1, HALF], np.diagonal(tip)[HALF:]):
            assert (np.diff(ray) <= 1e-9).all()
    assert 0.6 < np.median(depths) < 2.0


def test_double_tips_show_every_spike_twice():
    rng = np.random.default_rng(1)
    offsets, drops = [], []
    for _ in range(40):
        tip = double_tip(rng, relief=4.0, local=3.0)
        dy, dx = (int(v) for v in tip.second_yx)
        offsets.append(np.hypot(dy, dx))
        drops.append(-tip.heights[HALF + dy, HALF + dx])
        surface = np.full((141, 141), -100.0, np.float32)
        surface[70, 70] = 0.0
        image = dilate(surface, tip.heights.astype(np.float32))
        assert image[70, 70] == 0
        assert image[70 + dy, 70 + dx] == pytest.approx(-drops[-1], abs=1e-5)
        rim = np.concatenate([tip.heights[[0, -1]].ravel(), tip.heights[:, [0, -1]].ravel()])
        assert rim.max() <= -4.0
    assert min(offsets) >= 2
    assert 10 < max(offsets) <= 17
    assert min(drops) < 0.2
    assert max(drops) > 1.0


def test_the_hackathon_tip_is_as_its_notebook_says():
    rng = np.random.default_rng(2)
    shifts, sigmas = [], []
    for _ in range(200):
        tip = hackathon_tip(rng, relief=7.0)
        inside = np.isfinite(tip.heights)
        assert inside.sum() == 25**2
        assert inside[HALF - 12 : HALF + 13, HALF - 12 : HALF + 13].all()
        assert tip.heights.max() == 0
        assert tip.heights[inside].min() > -7.0
        highest = np.unravel_index(np.argmax(tip.heights), tip.heights.shape)
        assert np.abs(np.subtract(highest, HALF) - tip.apex_yx).max() <= 0.5
        shifts.append(tip.apex_yx)
        sigmas.append(tip.scale_px)
    assert 6.5 < np.abs(shifts).max() <= 7.2
    assert min(sigmas) < 3
    assert 35 < max(sigmas) < 38.4


def test_point_spread_functions_are_centred():
    y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
    rng = np.random.default_rng(3)
    for _ in range(20):
        psf = gaussian_psf(rng)
        assert psf.heights.sum() == pytest.approx(1)
        assert abs((psf.heights * y).sum()) < 1e-9
        assert abs((psf.heights * x).sum()) < 1e-9
        narrow, wide = np.sqrt(np.linalg.eigvalsh(np.cov([y.ravel(), x.ravel()], aweights=psf.heights.ravel())))
        assert narrow == pytest.approx(psf.scale_px, rel=0.1)  # of pixels, not of points
        assert wide < 6.1


def test_disturbances_have_the_strength_that_they_say():
    rng = np.random.default_rng(4)
    flat = np.zeros((400, 300), np.float32)
    white = disturb(rng, flat, 10.0, Disturbance(white=0.02, lines=0.0))
    assert white.std() == pytest.approx(0.2, rel=0.02)
    lines = disturb(rng, flat, 10.0, Disturbance(white=0.0, lines=0.01))
    assert lines.mean(axis=1).std() == pytest.approx(0.1, rel=0.15)
    assert np.ptp(lines, axis=1).max() == 0
    drift = disturb(rng, flat, 10.0, Disturbance(white=0.0, lines=0.0, drift=0.05))
    assert drift.std() == pytest.approx(0.5, rel=0.01)
    assert np.abs(np.diff(drift[:, 0])).max() < 0.2
    scars = disturb(rng, flat, 10.0, Disturbance(white=0.0, lines=0.0, scars=5.0))
    rows = (scars != 0).any(axis=1).sum()
    assert 8 < rows < 45
    assert np.abs(scars).max() < 15
    np.testing.assert_array_equal(flat, 0)
    np.testing.assert_array_equal(disturb(rng, flat, 10.0, SILENT), flat)
    drawn = [draw_disturbance(rng) for _ in range(100)]
    assert 0 < sum(d.scars > 0 for d in drawn) < 60
    assert replace(drawn[0], scars=0.0).scars == 0


def test_self_affine_roughness_has_its_exponent():
    """The structure function rises as the lag to twice the roughness exponent."""
    rng = np.random.default_rng(5)
    for hurst in (0.3, 0.8):
        rises = np.zeros(2)
        for _ in range(6):
            field = self_affine(rng, (400, 400), hurst=hurst, correlation=500.0, shortest=1.0)
            assert field.std() == pytest.approx(1)
            rises += [np.mean((field[lag:] - field[:-lag]) ** 2) for lag in (4, 16)]
        assert np.log(rises[1] / rises[0]) / np.log(4) / 2 == pytest.approx(hurst, abs=0.12)


def test_balls_and_tubes_are_round():
    ground = np.zeros((41, 41))
    add_ball(ground, np.array([20.0, 20.0]), 8.0)
    assert ground[20, 20] == pytest.approx(16)
    assert ground[20, 26] == pytest.approx(8 + np.sqrt(64 - 36))
    assert ground[20, 29] == 0
    add_ball(ground, np.array([300.0, -50.0]), 8.0)  # outside: nothing happens
    assert ground.max() == pytest.approx(16)
    line = np.stack([np.full(200, 20.0), np.linspace(-10, 60, 200)], 1)
    lying = tube((41, 41), line, 5.0)
    assert lying[20, 20] == pytest.approx(10, abs=0.01)
    assert lying[23, 20] == pytest.approx(5 + 4, abs=0.05)
    assert lying[26].max() == 0
    assert tube((41, 41), line + 500, 5.0).max() == 0


def test_chains_are_as_stiff_as_they_should():
    rng = np.random.default_rng(6)
    chains = [walk(rng, np.zeros(2), 400.0, 50.0) for _ in range(60)]
    for points in chains:
        np.testing.assert_allclose(np.hypot(*np.diff(points, axis=0).T), 0.5)
    # Mean square end-to-end distance of a worm-like chain in the plane.
    expected = 4 * 50 * 400 * (1 - 2 * 50 / 400 * (1 - np.exp(-400 / 100)))
    assert np.mean([np.sum((p[-1] - p[0]) ** 2) for p in chains]) == pytest.approx(expected, rel=0.35)
    closed = walk(rng, np.zeros(2), 400.0, 50.0, closed=True)
    assert np.hypot(*(closed[-1] - closed[0])) < 1.5


@pytest.mark.parametrize(
    "options", [{"families": ["triple"]}, {"surfaces": ["lattice"]}, {"modality": "stm", "surfaces": ["rough"]}]
)
def test_unknown_names_are_refused(options):
    with pytest.raises(ValueError, match=r"(triple|lattice|rough): unknown; expected one of"):
        scene(0, **options)
