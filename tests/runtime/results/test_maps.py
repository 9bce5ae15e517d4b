import numpy as np
import pytest
import tifffile
from gwyfile.objects import GwyContainer
from gwyfile.util import get_datafields
from PIL import Image

from spm_runtime.readers import open_scan
from spm_runtime.results import Map
from spm_runtime.results._maps import si_unit, write_gwy, write_tiff


@pytest.fixture
def layer(rng):
    data = rng.normal(size=(48, 64)).astype(np.float32)
    data[:3] = np.nan
    return Map("height", data, "m")


def test_tiff_keeps_values_nan_and_size(tmp_path, make_scan, layer):
    write_tiff(tmp_path / "a.tif", make_scan(), layer)
    back = tifffile.imread(tmp_path / "a.tif")
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, layer.data)


def test_tiff_is_calibrated_for_imagej(tmp_path, make_scan, layer):
    write_tiff(tmp_path / "a.tif", make_scan(), layer)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.imagej_metadata["unit"] == "nm"
        tags = file.pages[0].tags
        for name, pixels_per_nm in (("XResolution", 1 / 0.03), ("YResolution", 1 / 0.02)):
            numerator, denominator = tags[name].value
            assert numerator / denominator == pytest.approx(pixels_per_nm, rel=1e-6)


def test_rosettasciio_reads_scale_and_unit(tmp_path, make_scan, layer):
    reader = pytest.importorskip("rsciio.tiff").file_reader
    write_tiff(tmp_path / "a.tif", make_scan(), layer)
    (signal,) = reader(str(tmp_path / "a.tif"))
    axes = [(axis["size"], axis["units"]) for axis in signal["axes"]]
    assert axes == [(48, "nm"), (64, "nm")]
    assert [axis["scale"] for axis in signal["axes"]] == pytest.approx([0.02, 0.03], rel=1e-6)
    assert signal["metadata"]["Signal"]["quantity"] == "m"
    np.testing.assert_array_equal(signal["data"], layer.data)


def test_our_own_reader_reads_it_back(tmp_path, make_scan, layer):
    write_tiff(tmp_path / "a.tif", make_scan(), layer)
    scan = open_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.image, layer.data)
    assert scan.pixel_size_nm == pytest.approx((0.02, 0.03), rel=1e-6)


def test_uncalibrated_tiff_claims_nothing(tmp_path, make_scan, layer):
    write_tiff(tmp_path / "a.tif", make_scan(pixel_size_nm=None), layer)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert "unit" not in file.imagej_metadata
    assert open_scan(tmp_path / "a.tif").pixel_size_nm is None


def test_a_unit_with_letters_that_tiff_lacks_does_not_fail(tmp_path, make_scan, layer):
    write_tiff(tmp_path / "a.tif", make_scan(), Map("x", layer.data, "Å/√Hz"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), layer.data)


@pytest.fixture
def labels(rng):
    names = ("none", "vacancy", "=adatom", "Fe–O")
    return Map("class_map", rng.integers(0, len(names), (48, 64)).astype(np.uint8), labels=names)


def test_labels_keep_their_numbers_in_every_program(tmp_path, make_scan, labels):
    write_tiff(tmp_path / "a.tif", make_scan(), labels)
    back = tifffile.imread(tmp_path / "a.tif")
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels.data)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.tif")), labels.data)
    (signal,) = pytest.importorskip("rsciio.tiff").file_reader(str(tmp_path / "a.tif"))
    assert signal["data"].dtype == np.uint8
    np.testing.assert_array_equal(signal["data"], labels.data)
    assert [axis["scale"] for axis in signal["axes"]] == pytest.approx([0.02, 0.03], rel=1e-6)


def test_imagej_is_told_what_labels_stand_for(tmp_path, make_scan, labels):
    write_tiff(tmp_path / "a.tif", make_scan(), labels)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.imagej_metadata["Info"].splitlines() == ["0 = none", "1 = vacancy", "2 = =adatom", "3 = Fe–O"]
        assert file.imagej_metadata["unit"] == "nm"


def test_many_labels_take_16_bit(tmp_path, make_scan):
    many = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    write_tiff(tmp_path / "a.tif", make_scan(), Map("terraces", many))
    back = tifffile.imread(tmp_path / "a.tif")
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, many)


def test_a_mask_is_a_binary_image(tmp_path, make_scan, rng):
    mask = rng.random((48, 64)) < 0.3
    write_tiff(tmp_path / "a.tif", make_scan(), Map("mask", mask))
    back = tifffile.imread(tmp_path / "a.tif")
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, np.where(mask, 255, 0))
    scan = open_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.image > 0, mask)
    assert scan.pixel_size_nm == pytest.approx((0.02, 0.03), rel=1e-6)
    write_gwy(tmp_path / "a.gwy", make_scan(), [Map("mask", mask)])
    fields = get_datafields(GwyContainer.fromfile(str(tmp_path / "a.gwy")))
    np.testing.assert_array_equal(fields["mask"].data, mask.astype(float))


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.complex64])
def test_a_map_of_another_type_is_refused(tmp_path, make_scan, kind):
    with pytest.raises(ValueError, match="expected floating point"):
        write_tiff(tmp_path / "a.tif", make_scan(), Map("x", np.zeros((48, 64), kind)))
    assert not (tmp_path / "a.tif").exists()


def test_gwy_keeps_labels(tmp_path, make_scan, labels):
    write_gwy(tmp_path / "a.gwy", make_scan(), [labels])
    file = GwyContainer.fromfile(str(tmp_path / "a.gwy"))
    np.testing.assert_array_equal(get_datafields(file)["class_map"].data, labels.data)
    assert "/1/mask" not in file


def test_gwy_holds_everything_in_si_units(tmp_path, make_scan, layer):
    scan = make_scan(unit="nm")
    write_gwy(tmp_path / "a.gwy", scan, [layer, Map("confidence", np.ones(scan.shape, np.float32))])
    file = GwyContainer.fromfile(str(tmp_path / "a.gwy"))
    fields = get_datafields(file)
    assert list(fields) == ["Z", "height", "confidence"]
    for field in fields.values():
        assert (field.yreal, field.xreal) == pytest.approx((48 * 0.02e-9, 64 * 0.03e-9))
        assert field.si_unit_xy.unitstr == "m"
    np.testing.assert_allclose(fields["Z"].data, scan.image * 1e-9, rtol=1e-6)
    assert fields["Z"].si_unit_z.unitstr == fields["height"].si_unit_z.unitstr == "m"
    assert fields["confidence"].si_unit_z.unitstr == ""
    assert np.isfinite(fields["height"].data).all()  # Gwyddion would compute with NaN
    np.testing.assert_array_equal(file["/1/mask"].data, np.isnan(layer.data))
    assert "/0/mask" not in file


def test_an_uncalibrated_gwy_counts_pixels(tmp_path, make_scan):
    write_gwy(tmp_path / "a.gwy", make_scan(pixel_size_nm=None, channel=""), [])
    ((title, field),) = get_datafields(GwyContainer.fromfile(str(tmp_path / "a.gwy"))).items()
    assert (title, field.yreal, field.xreal, field.si_unit_xy.unitstr) == ("image", 48, 64, "")


@pytest.mark.parametrize(
    ("unit", "factor", "symbol"),
    [
        ("m", 1, "m"), ("nm", 1e-9, "m"), ("Å", 1e-10, "m"), ("n_m", 1e-9, "m"), ("A", 1, "A"), ("pA", 1e-12, "A"),
        ("mV", 1e-3, "V"), ("kHz", 1e3, "Hz"), ("µV", 1e-6, "V"), ("deg", 1, "deg"), ("", 1, ""),
    ],
)  # fmt: skip
def test_si_units(unit, factor, symbol):
    assert si_unit(unit) == (pytest.approx(factor), symbol)
