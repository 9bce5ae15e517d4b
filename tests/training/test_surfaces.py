"""Simulated STM surfaces: does the image hold what the truth says?"""

import numpy as np
import pytest
from scipy import ndimage

from spm_training.simulate.scene import in_frame
from spm_training.simulate.surfaces import (
    DEFECT_CLASSES,
    FAMILIES,
    NOISE_LEVELS,
    simulate_surface,
    white_noise_nm,
)
from spm_training.simulate.surfaces import simulate as assembly
from spm_training.simulate.surfaces.frame import Raster
from spm_training.simulate.surfaces.relief import draw_relief
from spm_training.simulate.surfaces.tip import Tip

PIXEL = 0.05
SIDE = 256

#: Length of the shortest lattice vector that shows, and the angle between neighbouring ones.
LATTICES = {
    "si001-2x1-h": (0.768, None),
    "si111-7x7": (2.688, 60),
    "au111": (0.2884, 60),
    "cu111": (0.2556, 60),
    "ag111": (0.2889, 60),
    "graphite": (0.2461, 60),
    "cu100": (0.2556, 90),
    "fe001": (0.2866, 90),
    "nacl": (0.3988, 90),
}


def still(shape=(SIDE, SIDE), pixel=PIXEL):
    """A raster without drift and creep."""
    return Raster(shape, pixel, np.zeros((shape[0], 2)), np.zeros(shape[1]))


def corrugation(family, rng, angle, level=0, pixel=PIXEL):
    """The pattern of a family on one terrace, and the surface."""
    raster = still(pixel=pixel)
    surface = FAMILIES[family].build(rng, angle, float(raster.size_nm.max()))
    y, x = raster.places()
    return surface.pattern.corrugation(raster, y, x, np.full(y.shape, level, np.int32)), surface


def power_at(image, vectors, pixel=PIXEL):
    """Power of an image at wave vectors in rad/nm, by direct summation under a window."""
    window = np.hanning(len(image))
    image = (image - image.mean()) * np.outer(window, window)
    place = np.arange(len(image)) * pixel
    return np.array([abs(np.exp(-1j * qy * place) @ image @ np.exp(-1j * qx * place)) ** 2 for qy, qx in vectors])


def directions(length, angles):
    """Wave vectors of a wavelength, (y, x), at angles from x towards y."""
    q = 2 * np.pi / length
    return np.stack([q * np.sin(angles), q * np.cos(angles)], axis=1)


@pytest.mark.parametrize("family", sorted(LATTICES))
def test_lattices_have_their_constants_and_directions(family, rng):
    constant, corner = LATTICES[family]
    angle = 0.3
    pixel = 0.12 if family == "si111-7x7" else PIXEL
    image, _ = corrugation(family, rng, angle, pixel=pixel)
    if corner is None:  # rows along `angle`: their period is across
        spacing, across = constant, np.array([angle + np.pi / 2])
    else:
        spacing = constant * np.sin(np.deg2rad(corner))
        across = angle + np.pi / 2 + np.deg2rad(corner) * np.arange(360 // corner // 2)
    if family == "si111-7x7":  # the adatoms are strongest in the order 3/7 of the unreconstructed lattice
        spacing /= 3
    right = power_at(image, directions(spacing, across), pixel).min()
    scales = [power_at(image, directions(spacing * scale, across), pixel).max() for scale in (0.93, 1.07)]
    turned = power_at(image, directions(spacing, across + np.deg2rad(8)), pixel).max()
    assert right > 5 * max(*scales, turned)


def test_dimer_rows_turn_by_90_degrees_from_terrace_to_terrace():
    angle = 0.4
    for level in range(4):
        image, surface = corrugation("si001-2x1-h", np.random.default_rng(5), angle, level)
        rows = angle + np.pi / 2 * (level % 2)
        along_rows, turned = power_at(image, directions(0.768, np.array([rows + np.pi / 2, rows])))
        assert along_rows > 30 * turned
        told = float(surface.pattern.angle(np.array([level]))[0])
        assert told % np.pi == pytest.approx(rows % np.pi)


def test_the_orientation_map_follows_the_terraces():
    seen = set()
    for seed in range(12):
        scene = simulate_surface(np.random.default_rng(seed), shape=(64, 64), families=["si001-2x1-h"])
        first = scene.orientation_deg[scene.terrace % 2 == scene.terrace[0, 0] % 2]
        assert np.ptp(first) == 0
        other = scene.orientation_deg[scene.terrace % 2 != scene.terrace[0, 0] % 2]
        if other.size:
            assert abs(float(other[0] - first[0])) == pytest.approx(90, abs=1e-3)
        seen.add(bool(other.size))
    assert seen == {True, False}


def test_graphite_is_triangular_and_metals_are_not():
    """Three of the six directions around an atom differ from the other three on graphite alone."""
    for family, triangular in (("graphite", True), ("cu111", False)):
        image, surface = corrugation(family, np.random.default_rng(3), 0.0, pixel=0.01)
        image = (image - image.min()) / np.ptp(image)
        site = surface.pattern.site(np.array([1.3, 1.3]), 0)
        bearings = np.pi / 6 + np.pi / 3 * np.arange(6)
        reach = 0.2461 / np.sqrt(3) if triangular else 0.2556 / np.sqrt(3)
        around = site.yx_nm + reach * np.stack([np.sin(bearings), np.cos(bearings)], axis=1)
        values = ndimage.map_coordinates(image, around.T / 0.01, order=1)
        assert (abs(values[::2].mean() - values[1::2].mean()) > 0.15) == triangular


def test_the_7x7_has_twelve_adatoms_in_a_cell(rng):
    surface = FAMILIES["si111-7x7"].build(rng, 0.0, 40.0)
    atoms = surface.pattern.atoms_nm[0]
    inside = np.hypot(*(atoms - 20.0).T) < 16
    assert inside.sum() / (np.pi * 16**2) == pytest.approx(12 / (2.688**2 * np.sqrt(0.75)), rel=0.03)


def test_steps_have_their_heights():
    """Medians of neighbouring terraces differ by the step, without the scanner's tilt."""
    heights = {"si001-2x1-h": 0.1358, "si111-7x7": 0.3135, "graphite": 0.3354, "au111": 0.2355, "nacl": 0.282}
    raster = still((128, 128), 0.2)
    y, x = raster.places()
    for family, step in heights.items():
        surface = FAMILIES[family].build(np.random.default_rng(0), 0.2, 26.0)
        assert surface.step_nm == pytest.approx(step, rel=0.01)
        found = 0
        for seed in range(12):
            relief = draw_relief(
                np.random.default_rng(seed), y, x, surface.step_nm, 0.2, surface.spacing_nm, alternate=False
            )
            levels = np.unique(relief.terrace)
            assert levels[0] == 0
            assert relief.steps.any() == (len(levels) > 1)
            if len(levels) == 1 or len(np.unique(relief.height_nm)) > len(levels):  # around a screw it rises smoothly
                continue
            bases = [np.median(relief.height_nm[relief.terrace == level]) for level in levels]
            np.testing.assert_allclose(np.diff(bases), step * np.diff(levels), rtol=0.01)
            found += 1
        assert found


def test_a_screw_dislocation_ends_a_step():
    """Once around the core the surface climbs one step, and the mask holds one edge that does not go through."""
    raster = still((160, 160), 0.1)
    y, x = raster.places()
    seen = 0
    for seed in range(60):
        relief = draw_relief(np.random.default_rng(seed), y, x, 0.3, 0.2, 0.3, alternate=False)
        if len(np.unique(relief.height_nm)) < 1000:
            continue
        seen += 1
        gradient = np.hypot(*np.gradient(relief.height_nm))
        assert np.median(gradient[~relief.steps]) < 0.01
        # Across an edge the height jumps by the step, nowhere by more.
        jumps = np.abs(np.diff(relief.height_nm, axis=1))
        sharp = jumps[jumps > 0.15]
        if sharp.size:
            assert np.median(sharp) == pytest.approx(0.3, abs=0.02)
        assert not relief.steps.all()
    assert seen >= 3


def test_the_difference_between_clean_and_pristine_lies_at_the_defects():
    """Almost all of what the defects change lies around the stated places, halos included."""
    for seed in range(16):
        scene = simulate_surface(
            np.random.default_rng(seed), shape=(192, 192), families=["si001-2x1-h", "cu100", "tmd"]
        )
        change = np.square(scene.clean - scene.pristine)
        if not len(scene.defects):
            assert not change.any()
            continue
        y, x = np.mgrid[:192, :192]
        near = np.zeros(change.shape, bool)
        for (cy, cx), radius in zip(scene.defects.yx_px, scene.defects.radius_px, strict=True):
            near |= np.hypot(y - cy, x - cx) < 3.5 * radius + 2
        assert change[near].sum() > 0.97 * change.sum()


def test_defects_show_where_the_truth_says_with_the_stated_height():
    """Of single defects on a flat surface: the centre of what changes, its extreme and its energy."""
    checked = 0
    for seed in range(150):
        scene = simulate_surface(np.random.default_rng(seed), shape=(128, 128), pixel_size_nm=0.08, noise="clear")
        truth, change = scene.defects, scene.clean.astype(np.float64) - scene.pristine
        if truth.ghost.any() or scene.steps.any():
            continue
        for index in np.flatnonzero(scene.required & ~truth.cut):
            others = np.delete(np.arange(len(truth)), index)
            gap = np.hypot(*(truth.yx_px[others] - truth.yx_px[index]).T) - truth.radius_px[others]
            reach = 1.5 * truth.radius_px[index]
            if truth.kind[index] == DEFECT_CLASSES.index("cluster") or (len(gap) and gap.min() < 2 * reach):
                continue
            y, x = np.mgrid[:128, :128]
            weight = np.where(np.hypot(*(np.stack([y, x]) - truth.yx_px[index][:, None, None])) < reach, change**2, 0)
            centre = np.array([(weight * y).sum(), (weight * x).sum()]) / weight.sum()
            assert np.hypot(*(centre - truth.yx_px[index])) < 0.35 * truth.radius_px[index] + 0.5
            extreme = change[weight > 0][np.argmax(np.abs(change[weight > 0]))]
            assert np.sign(extreme) == np.sign(truth.height_nm[index])
            assert truth.height_nm[index] == pytest.approx(extreme, rel=0.35, abs=0.003)
            seen = np.sqrt(weight.sum()) / scene.white_noise_nm
            assert 0.7 * seen < truth.detectability[index] <= seen * (1 + 1e-6)
            checked += 1
    assert checked > 60


def test_the_matched_filter_finds_the_reference_defect_at_the_stated_d_prime(rng):
    """Its response to noise alone and to the defect differ by d′ standard deviations."""
    pixel, wanted = 0.06, 12.0
    y, x = (np.mgrid[:41, :41] - 20) * pixel
    dip = -0.040 * np.exp(-(y**2 + x**2) / (2 * 0.20**2))
    sigma = white_noise_nm(wanted, pixel)
    noise = sigma * rng.standard_normal((4000, dip.size)) @ dip.ravel()
    assert np.square(dip).sum() / noise.std() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("level", list(NOISE_LEVELS))
def test_noise_levels_are_as_stated(level):
    low, high = NOISE_LEVELS[level]
    for seed in range(8):
        scene = simulate_surface(np.random.default_rng(seed), shape=(96, 96), noise=level)
        assert scene.noise == level
        assert low <= scene.detectability <= high
        assert scene.white_noise_nm == pytest.approx(white_noise_nm(scene.detectability, scene.pixel_size_nm))
        # Differences along a row: white noise is in them, line offsets are not, 1/f noise, hum and scars hardly.
        rest = np.diff(scene.image - scene.clean, axis=1)
        spread = 1.4826 * np.median(np.abs(rest)) / np.sqrt(2)
        assert 0.25 * scene.white_noise_nm < spread < 2.5 * scene.white_noise_nm


def test_a_scene_is_a_function_of_its_generator():
    for seed in range(4):
        first, second = (simulate_surface(np.random.default_rng(seed), shape=(64, 80)) for _ in range(2))
        assert first.image.shape == (64, 80)
        assert first.image.dtype == np.float32
        for name in ("image", "clean", "pristine", "steps", "terrace", "orientation_deg"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        np.testing.assert_array_equal(first.defects.yx_px, second.defects.yx_px)
        assert first.surface == second.surface
    assert not np.array_equal(first.image, simulate_surface(np.random.default_rng(99), shape=(64, 80)).image)


def test_borders_hold_defects_too_and_are_no_darker_than_the_rest():
    inside = outside = cut = 0
    for seed in range(60):
        scene = simulate_surface(np.random.default_rng(seed), shape=(96, 96))
        truth = scene.defects
        beyond = ~in_frame(truth.yx_px, (96, 96))
        reach = np.abs(truth.yx_px - 47.5).max(axis=1, initial=0) + truth.radius_px if len(truth) else np.empty(0)
        np.testing.assert_array_equal(truth.cut, reach > 48)
        assert truth.cut[beyond].all()
        assert not scene.required[beyond].any()
        lies = truth.yx_px[~beyond & ~truth.ghost]
        rim = np.any((lies < 16) | (lies > 79), axis=1)
        inside, outside, cut = inside + int((~rim).sum()), outside + int(rim.sum()), cut + int(truth.cut.sum())
    assert cut > 40
    # The rim of 16 pixels is five ninths of the image.
    assert outside / (inside + outside) == pytest.approx(5 / 9, abs=0.12)


def test_every_class_and_every_family_appears():
    counts, families = np.zeros(len(DEFECT_CLASSES), int), set()
    for seed in range(160):
        scene = simulate_surface(np.random.default_rng(seed), shape=(96, 96))
        counts += np.bincount(scene.defects.kind[~scene.defects.ghost], minlength=len(DEFECT_CLASSES))
        families.add(scene.family)
        assert np.isfinite(scene.image).all()
        assert set(scene.defects.names) <= set(FAMILIES[scene.family].defects)
    assert families == set(FAMILIES)
    assert (counts > 0.01 * counts.sum()).all(), dict(zip(DEFECT_CLASSES, counts, strict=True))


def test_without_defects_nothing_but_the_surface_is_seen():
    for seed in range(4):
        scene = simulate_surface(np.random.default_rng(seed), shape=(64, 64), defects=False)
        assert len(scene.defects) == 0
        assert scene.required.shape == (0,)
        np.testing.assert_array_equal(scene.clean, scene.pristine)


def test_a_double_tip_throws_ghosts_that_are_marked(monkeypatch):
    gap, shift = 0.02, (0.0, 1.0)
    monkeypatch.setattr(assembly, "draw_tip", lambda rng, spacing: Tip(0.2, 0.0, shift, gap))
    ghosts = 0
    for seed in range(12):
        scene = simulate_surface(np.random.default_rng(seed), shape=(128, 128), families=["cu100"], pixel_size_nm=0.1)
        truth = scene.defects
        for index in np.flatnonzero(truth.ghost):
            # What stands at p is seen by the second apex when the first is at p − shift.
            own = truth.yx_px[index] + np.array(shift) / 0.1
            near = np.hypot(*(truth.yx_px - own).T)
            listed = near[~truth.ghost].min(initial=np.inf) < 1e-6
            assert listed or not in_frame(own[None], (128, 128), margin_px=-2.0)[0]
            ghosts += 1
        assert not scene.required[truth.ghost].any()
    assert ghosts > 20


def test_what_is_refused(rng):
    with pytest.raises(ValueError, match="granite"):
        simulate_surface(rng, shape=(64, 64), families=["granite"])
    with pytest.raises(ValueError, match="expected some of"):
        simulate_surface(rng, shape=(64, 64), families=[])
    with pytest.raises(ValueError, match="loud"):
        simulate_surface(rng, shape=(64, 64), noise="loud")
    with pytest.raises(ValueError, match="-1"):
        simulate_surface(rng, shape=(64, 64), noise=-1.0)
    with pytest.raises(ValueError, match="16 pixels"):
        simulate_surface(rng, shape=(8, 64))
