"""Trace and retrace: pairs with a known offset, and the two directions of real scans."""

import dataclasses

import numpy as np
import pytest
from gwyfile.objects import GwyContainer, GwyDataField
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, shift

from spm_runtime.errors import ScanError
from spm_runtime.pipelines.directions import confirmed, other_direction, shift_between
from spm_runtime.readers import read_scans
from spm_runtime.results import Defects
from spm_runtime.scan import Scan

SHAPE = (96, 128)


def surface(rng, shape=SHAPE):
    """A rough surface without noise."""
    return gaussian_filter(rng.normal(size=shape), 2.0) * 8


def pair(rng, offset, *, noise=0.3, image=None):
    """Two scan directions: what is at x of the first is at x + offset of the second; line offsets and noise of their own."""
    margin = 32
    image = surface(rng, (SHAPE[0], SHAPE[1] + 2 * margin)) if image is None else image
    moved = shift(image, (0, offset), order=5, mode="wrap")

    def measure(clean):
        lines = rng.normal(0, 2.0, (len(clean), 1))
        tilt = 0.02 * np.arange(SHAPE[1])
        return Scan(clean[:, margin:-margin] + lines + tilt + rng.normal(0, noise, SHAPE), pixel_size_nm=(0.1, 0.1))

    return measure(image), measure(moved)


def defects_at(yx, size=(6.0, 6.0)):
    yx = np.asarray(yx, float).reshape(-1, 2)
    n = len(yx)
    one = np.ones(n, np.float32)
    return Defects(
        yx,
        np.tile(size, (n, 1)),
        np.full(n, 20.0),
        np.zeros(n, np.int32),
        ("defect",),
        one,
        one,
        np.full(n, -1, np.int8),
    )


# ------------------------------------------------------------------------------------------- the offset


@pytest.mark.parametrize("offset", [-9.0, -4.5, -0.75, 0.0, 0.25, 3.0, 7.3])
def test_the_offset_of_a_rough_surface_is_found_to_a_part_of_a_pixel(rng, offset):
    scan, other = pair(rng, offset)
    assert shift_between(scan, other) == pytest.approx(offset, abs=0.3)
    assert shift_between(other, scan) == pytest.approx(-offset, abs=0.3)


def test_noise_as_strong_as_the_surface_costs_half_a_pixel_at_most(rng):
    scan, other = pair(rng, 4.0, noise=1.2)
    assert shift_between(scan, other) == pytest.approx(4.0, abs=0.5)


def test_a_lattice_is_moved_by_less_than_half_a_period(rng):
    x = np.arange(SHAPE[1] + 64)
    lattice = np.cos(2 * np.pi * x / 10)[None, :] * np.cos(2 * np.pi * np.arange(SHAPE[0]) / 12)[:, None]
    scan, other = pair(rng, 3.0, image=lattice)
    assert shift_between(scan, other) == pytest.approx(3.0, abs=0.3)


def test_missing_rows_and_columns_do_no_harm(rng):
    scan, other = pair(rng, -3.5)
    cut = [image.image.copy() for image in (scan, other)]
    cut[0][:10] = np.nan
    cut[1][60:] = np.nan
    cut[1][:, :5] = np.nan
    first, second = (dataclasses.replace(scan, image=image) for image in cut)
    assert shift_between(first, second) == pytest.approx(-3.5, abs=0.4)


def test_a_spike_and_a_scar_do_no_harm(rng):
    scan, other = pair(rng, 5.0)
    spoilt = scan.image.copy()
    spoilt[20, 30:90] += 500
    spoilt[50, 64] = 1e6
    assert shift_between(dataclasses.replace(scan, image=spoilt), other) == pytest.approx(5.0, abs=0.3)


def test_noise_has_no_offset(rng):
    pairs = [[Scan(rng.normal(size=SHAPE)) for _ in range(2)] for _ in range(20)]
    assert [shift_between(*two) for two in pairs] == [None] * 20


@pytest.mark.parametrize("fill", [0.0, 3.0, np.nan])
def test_an_image_of_nothing_has_no_offset(rng, fill):
    scan, other = pair(rng, 1.0)
    empty = dataclasses.replace(other, image=np.full(SHAPE, fill, np.float32))
    assert shift_between(scan, empty) is None
    assert shift_between(empty, empty) is None


@pytest.mark.parametrize("shape", [(1, 1), (4, 200), (200, 4), (16, 16)])
def test_small_images_have_no_offset_or_a_small_one(rng, shape):
    image = rng.normal(size=shape)
    found = shift_between(Scan(image), Scan(image))
    assert found is None or found == 0.0


# ------------------------------------------------------------------------------------------- confirmation


def test_what_both_directions_have_is_confirmed():
    scan = Scan(np.zeros(SHAPE), pixel_size_nm=(0.1, 0.1))
    defects = defects_at([(20, 30), (50, 60), (80, 100)])
    other = defects_at([(20.5, 25.2), (80, 108)])  # the second lies 13 px from where the last one should be
    assert confirmed(defects, other, -5.0, scan).tolist() == [1, 0, 0]
    assert confirmed(defects, other, 8.0, scan).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("pixel_nm", "size_px", "reach_px"),
    [(0.1, 6, 6.0), (0.1, 30, 15.0), (2.0, 3, 2.0), (None, 6, 3.0), (None, 2, 2.0), (0.02, 6, 30.0)],
)
def test_how_far_apart_they_may_be(pixel_nm, size_px, reach_px):
    """0.6 nm, the radius or two pixels, whichever is the largest."""
    scan = Scan(np.zeros(SHAPE), pixel_size_nm=None if pixel_nm is None else (pixel_nm, pixel_nm))
    defects = defects_at([(48, 64)], size=(size_px, size_px))
    for away, answer in ((reach_px - 0.1, 1), (reach_px + 0.1, 0)):
        for step in ((away, 0), (0, -away), (0.6 * away, 0.8 * away)):
            assert confirmed(defects, defects_at([np.add((48, 66), step)]), 2.0, scan).tolist() == [answer]


def test_one_defect_confirms_one_and_the_nearest():
    scan = Scan(np.zeros(SHAPE), pixel_size_nm=(0.1, 0.1))
    defects = defects_at([(40, 40), (40, 43), (40, 46)])
    assert confirmed(defects, defects_at([(40, 43.5)]), 0.0, scan).tolist() == [0, 1, 0]
    assert confirmed(defects, defects_at([(40, 43.5), (40, 41.9)]), 0.0, scan).tolist() == [1, 1, 0]


def test_a_place_that_the_other_direction_has_not_is_no_answer():
    image = np.zeros(SHAPE, np.float32)
    image[:, 100:] = np.nan
    scan = Scan(image, pixel_size_nm=(0.1, 0.1))
    defects = defects_at([(20, 2), (20, 50), (20, 97)])
    assert confirmed(defects, defects_at([]), -5.0, scan).tolist() == [-1, 0, 0]
    assert confirmed(defects, defects_at([]), 5.0, scan).tolist() == [0, 0, -1]
    assert confirmed(defects, defects, None, scan).tolist() == [-1, -1, -1]
    assert confirmed(defects_at([]), defects, 0.0, scan).tolist() == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 95), st.floats(0, 127)), max_size=20), st.integers(0, 2**32 - 1))
def test_every_defect_confirms_itself_and_the_order_does_not_matter(places, seed):
    scan = Scan(np.zeros(SHAPE), pixel_size_nm=(0.1, 0.1))
    defects = defects_at(places)
    order = np.random.default_rng(seed).permutation(len(places))
    assert confirmed(defects, defects_at(defects.yx_px[order]), 0.0, scan).tolist() == [1] * len(places)


# ------------------------------------------------------------------------------------------- files


@pytest.fixture
def both(tmp_path, rng):
    """A Gwyddion file with two directions of one channel and one of another."""
    container = GwyContainer()
    images = [rng.normal(size=(24, 32)) for _ in range(3)]
    for index, title in enumerate(("Z (Forward)", "Current (Forward)", "Z (Backward)")):
        container[f"/{index}/data"] = GwyDataField(images[index], xreal=3.2e-9, yreal=2.4e-9)
        container[f"/{index}/data/title"] = title
    with (tmp_path / "a.gwy").open("wb") as file:
        container.tofile(file)
    return tmp_path / "a.gwy", images


def test_the_other_direction_of_the_same_channel(both):
    path, images = both
    forward, current, backward = read_scans(path)
    np.testing.assert_array_equal(other_direction(forward).image, images[2].astype(np.float32))
    np.testing.assert_array_equal(other_direction(backward).image, images[0].astype(np.float32))
    assert other_direction(current) is None
    own = dataclasses.replace(forward, pixel_size_nm=(0.5, 0.5))
    assert other_direction(own).pixel_size_nm == (0.5, 0.5)  # as a user has set it


def test_without_a_file_or_a_direction_there_is_no_other(both):
    path, _ = both
    forward = next(read_scans(path))
    assert other_direction(dataclasses.replace(forward, path=None)) is None
    assert other_direction(dataclasses.replace(forward, direction=None)) is None
    path.unlink()
    with pytest.raises(ScanError):
        other_direction(forward)


@pytest.mark.parametrize(
    ("name", "offset_px"),
    [
        ("A151216.123306-02602.sxm", -0.9), ("Image_671.sxm", -3.6), ("STM_nanonis_generic_4_5.sxm", -6.0),
        ("Si_7x7_012.sxm", -2.0), ("Si_7x7_028.sxm", -2.6), ("dI-dV_9K_ABC6_2020_07_02_08_50_47_967.sm4", -2.0),
        ("probeflow_createc_afm.dat", -6.4), ("probeflow_createc_scan_11nm.dat", -12.9),
        ("probeflow_createc_terrace.dat", -5.8), ("probeflow_nanonis.sxm", -5.4),
        ("topo_ABC_Graphite-Sample5_9K_2021_08_13_19_11_10_065.sm4", -8.4),
    ],
)  # fmt: skip
def test_real_scans_of_three_makers_lag_by_pixels(real_data, name, offset_px):
    """Offsets as read off the pictures, to a pixel or so; then the images must agree better than before."""
    path = real_data / "stm" / name
    if not path.is_file():
        pytest.skip(f"{name} is not there")
    scan = next(read_scans(path))
    other = other_direction(scan)
    assert (scan.direction, other.direction) == ("forward", "backward")
    assert (other.channel, other.shape, other.unit) == (scan.channel, scan.shape, scan.unit)
    found = shift_between(scan, other)
    assert found == pytest.approx(offset_px, abs=0.6)
    assert shift_between(other, scan) == pytest.approx(-found, abs=0.3)
    rows = [image - np.nanmedian(image, axis=1, keepdims=True) for image in (scan.image, other.image)]
    moved = shift(np.nan_to_num(rows[1]), (0, -found), order=1, mode="nearest")
    middle = np.s_[:, 16:-16]
    before, after = (
        np.corrcoef(np.nan_to_num(rows[0])[middle].ravel(), image[middle].ravel())[0, 1]
        for image in (np.nan_to_num(rows[1]), moved)
    )
    assert after >= before


@pytest.mark.parametrize("name", ["spiepy_image_with_defects.dat", "spiepy_image_with_step_edge_and_atoms.dat"])
def test_real_scans_of_one_direction_have_no_other(real_data, name):
    path = real_data / "stm" / name
    if not path.is_file():
        pytest.skip(f"{name} is not there")
    assert other_direction(next(read_scans(path))) is None
