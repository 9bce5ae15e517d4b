import dataclasses

import numpy as np
import pytest

from spm_runtime.scan import Scan, mark_missing_rows, to_nm


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1e-9, "m", 1.0), (2.5, "nm", 2.5), (3.0, "n_m", 3.0), (1.0, "Å", 0.1), (1.0, "A", 0.1), (2.0, "~m", 2e3),
        (1.0, "µm", 1e3), (1.0, "\u03bcm", 1e3), (1.0, "um", 1e3), (5.0, "pm", 5e-3), (1.0, " nm ", 1.0),
        (1.0, "", None), (1.0, "V", None), (0.0, "nm", None), (-1.0, "nm", None), (float("nan"), "nm", None),
    ],
)  # fmt: skip
def test_lengths_in_the_units_found_in_the_wild(value, unit, expected):
    assert to_nm(value, unit) == (None if expected is None else pytest.approx(expected))


def test_a_scan_is_frozen_and_owns_its_pixels():
    pixels = np.arange(6.0).reshape(2, 3)
    scan = Scan(pixels)
    pixels[0, 0] = 99
    assert scan.image.dtype == np.float32
    assert scan.image[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        scan.image[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        scan.unit = "m"
    with pytest.raises(TypeError):
        scan.metadata["a"] = 1


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 5)])
def test_a_scan_is_one_image(shape):
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        Scan(np.zeros(shape))


@pytest.mark.parametrize("pixel", [(0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0)])
def test_a_pixel_has_a_size(pixel):
    with pytest.raises(ValueError, match="pixel size"):
        Scan(np.zeros((2, 2)), pixel_size_nm=pixel)


def test_positions_count_from_the_first_pixel_without_an_offset():
    scan = Scan(np.zeros((4, 6)), pixel_size_nm=(0.5, 0.25))
    assert scan.positions_nm(np.array([[2.0, 4.0]])) == pytest.approx(np.array([[1.0, 1.0]]))
    assert scan.size_nm == (2.0, 1.5)
    assert Scan(np.zeros((4, 6))).positions_nm(np.array([[2.0, 4.0]])) is None


def test_positions_in_the_scanners_frame():
    """The centre of the image lies at the offset; y points up; the angle turns counter-clockwise."""
    scan = Scan(np.zeros((5, 5)), pixel_size_nm=(1.0, 1.0), offset_nm=(10.0, 20.0), angle_deg=0.0)
    right_of_centre, above_centre = [2.0, 3.0], [1.0, 2.0]
    got = scan.positions_nm(np.array([[2.0, 2.0], right_of_centre, above_centre]))
    assert got == pytest.approx(np.array([[10.0, 20.0], [10.0, 21.0], [11.0, 20.0]]))
    turned = dataclasses.replace(scan, angle_deg=90.0).positions_nm(np.array([right_of_centre, above_centre]))
    unknown = dataclasses.replace(scan, angle_deg=None).positions_nm(np.array([right_of_centre]))
    assert unknown == pytest.approx(np.array([right_of_centre]))  # no angle, no frame: from the first pixel
    assert turned == pytest.approx(np.array([[11.0, 20.0], [10.0, 19.0]]))


def test_aborted_rows_are_missing():
    image = np.ones((10, 4), np.float32)
    image[7:] = 0
    marked, warnings = mark_missing_rows(image)
    assert np.isnan(marked[7:]).all()
    assert np.isfinite(marked[:7]).all()
    assert "30.0 %" in warnings[0]


def test_zero_rows_inside_and_images_of_zeros_are_data():
    image = np.ones((10, 4), np.float32)
    image[4:6] = 0
    assert mark_missing_rows(image)[1] == ()
    assert mark_missing_rows(np.zeros((10, 4), np.float32))[1] == ()


def test_nan_and_infinity_are_missing():
    image = np.ones((4, 4), np.float32)
    image[0, 0], image[3, 3] = np.nan, np.inf
    marked, warnings = mark_missing_rows(image)
    assert np.isnan(marked).sum() == 2
    assert warnings
