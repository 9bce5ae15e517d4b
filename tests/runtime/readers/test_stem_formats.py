"""DM3, DM4, TIA and MRC files, written here by the layout of the formats."""

import struct
import subprocess
import sys

import numpy as np
import pytest

from spm_runtime import readers
from spm_runtime.errors import CorruptScanError, MissingExtraError, ScanError
from spm_runtime.readers import open_scan, read_scans

pytest.importorskip("rsciio")


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.fixture
def picture(rng):
    """Not square, and different at every corner."""
    return rng.integers(1, 1000, size=(12, 20)).astype(np.uint16)


# --- DigitalMicrograph -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["int16", "float32", "uint8", "int32", "int8", "uint16", "uint32", "float64"])
def test_dm_values_and_calibration(tmp_path, dm, rng, version, order, dtype):
    image = rng.integers(1, 120, size=(9, 14)).astype(dtype)
    writer = dm(version, order)
    path = write(tmp_path, "a.dm3", writer.images(writer.image(image, scales=(0.02, 0.03))))
    (scan,) = read_scans(path)
    np.testing.assert_array_equal(scan.image, image.astype(np.float32))
    assert scan.pixel_size_nm == pytest.approx((0.02, 0.03))
    assert (scan.modality, scan.channel, scan.frame, scan.warnings) == ("stem", "HAADF", None, ())


@pytest.mark.parametrize(
    ("scale", "unit", "expected"),
    [(2.0, "Å", 0.2), (0.5, "µm", 500.0), (1.0, "", None), (3.0, "pm", 0.003), (0.0, "nm", None), (2.0, "px", None)],
)
def test_dm_units(tmp_path, dm, picture, scale, unit, expected):
    path = write(tmp_path, "a.dm4", dm(4).images(dm(4).image(picture, scales=(scale,) * 2, units=(unit,) * 2)))
    size = open_scan(path).pixel_size_nm
    assert size is None if expected is None else size == pytest.approx((expected, expected))


def test_dm_stack_gives_frames(tmp_path, dm, rng):
    stack = rng.integers(1, 99, size=(3, 9, 14)).astype(np.int32)
    writer = dm()
    image = writer.image(stack, scales=(1.0, 0.1, 0.1), units=("s", "nm", "nm"))
    scans = list(read_scans(write(tmp_path, "a.dm3", writer.images(image))))
    assert [scan.frame for scan in scans] == [0, 1, 2]
    for scan, frame in zip(scans, stack, strict=True):
        np.testing.assert_array_equal(scan.image, frame.astype(np.float32))
        assert scan.pixel_size_nm == pytest.approx((0.1, 0.1))


def test_dm_several_images_have_distinct_names(tmp_path, dm, picture):
    writer = dm()
    content = writer.images(*(writer.image(picture + n) for n in range(3)), writer.image(picture[::-1], name="BF"))
    scans = list(read_scans(write(tmp_path, "a.dm3", content)))
    assert [scan.channel for scan in scans] == ["HAADF", "HAADF (2)", "HAADF (3)", "BF"]
    np.testing.assert_array_equal(open_scan(tmp_path / "a.dm3", channel="bf").image, picture[::-1].astype(np.float32))


def test_dm_colour_becomes_luminance(tmp_path, dm, rng):
    colours = rng.integers(0, 255, size=(9, 14, 4)).astype(np.uint8)  # blue, green, red, opacity
    writer = dm()
    pixels = colours.view(np.uint32)[..., 0]
    image = writer.image(pixels, scales=(1.0, 1.0), units=("", ""), data_type=23)
    scan = open_scan(write(tmp_path, "a.dm3", writer.images(image)))
    blue, green, red = (colours[..., index].astype(float) for index in range(3))
    np.testing.assert_allclose(scan.image, 0.299 * red + 0.587 * green + 0.114 * blue, rtol=1e-5)
    assert "colour" in scan.warnings[0]


@pytest.mark.parametrize(
    ("shape", "scales", "units"),
    [
        ((40,), (0.5,), ("eV",)),
        ((30, 9, 14), (0.5, 1.0, 1.0), ("eV", "nm", "nm")),
        ((9, 14), (0.1, 0.1), ("1/nm", "1/nm")),
        ((12, 40), (1.0, 0.5), ("nm", "eV")),
        ((12, 40), (1.0, 0.5), ("s", "s")),
    ],
)
def test_dm_what_is_no_image_is_refused(tmp_path, dm, shape, scales, units):
    writer = dm()
    image = writer.image(np.ones(shape, dtype=np.float32), scales=scales, units=units)
    with pytest.raises(ScanError, match=r"without an image of the sample.*float32"):
        open_scan(write(tmp_path, "a.dm3", writer.images(image)))


def test_dm_missing_rows(tmp_path, dm, picture):
    picture[-3:] = 0
    scan = open_scan(write(tmp_path, "a.dm3", dm().images(dm().image(picture))))
    assert np.isnan(scan.image[-3:]).all()
    assert np.isfinite(scan.image[:-3]).all()
    assert "25.0 %" in scan.warnings[0]


def hostile_dm(dm):
    """Files that make a parser that believes lengths loop, or allocate, without end."""
    writer, empty = dm(4), struct.pack(">q", 2**62)
    records = b"%%%%" + struct.pack(">5q", 4, 20, 15, 0, 0) + empty  # 2⁶² records without fields
    text = b"%%%%" + struct.pack(">3q", 2, 18, 2**40)
    texts = b"%%%%" + struct.pack(">5q", 4, 20, 18, 0, 2**62)
    arrays = b"%%%%" + struct.pack(">6q", 5, 20, 20, 3, 0, 2**62)
    backwards = b"%%%%" + struct.pack(">4q", 3, 20, 5, -8)
    for tags in (records, text, texts, arrays, backwards):
        yield writer.file([("Broken", tags), *writer_images(writer)])
    nested = [("", 1)]
    for _ in range(200):
        nested = [("", nested)]
    yield writer.file([("ImageList", nested)])


def writer_images(writer):
    return [("ImageList", [("", writer.image(np.ones((9, 14), dtype=np.uint16)))])]


def test_dm_lying_lengths_are_refused(tmp_path, dm):
    for content in hostile_dm(dm):
        with pytest.raises(CorruptScanError, match="at byte"):
            open_scan(write(tmp_path, "a.dm4", content))


@pytest.mark.parametrize("shape", [(2**31 - 1, 2**31 - 1), (40, 14), (9, 15), (0, 14)])
def test_dm_lying_dimensions_are_refused(tmp_path, dm, shape):
    writer = dm(4)
    image = writer.image(np.ones((9, 14), dtype=np.uint16), shape=shape)
    with pytest.raises(CorruptScanError, match=r"claims|positive"):
        open_scan(write(tmp_path, "a.dm4", writer.images(image)))


# --- TIA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0x210, 0x220])
@pytest.mark.parametrize("name", ["scan_1.ser", "scan.data"])
def test_ser_values_and_calibration(tmp_path, ser, picture, version, name):
    scan = open_scan(write(tmp_path, name, ser(picture[None], version=version)))
    np.testing.assert_array_equal(scan.image, picture.astype(np.float32))
    assert scan.pixel_size_nm == pytest.approx((0.04, 0.02))
    assert (scan.modality, scan.frame, scan.warnings) == ("stem", None, ())


def test_ser_stack_gives_frames_and_ends_where_it_was_stopped(tmp_path, ser, rng):
    stack = rng.integers(1, 99, size=(3, 9, 14)).astype(np.float32)
    for content in (ser(stack), ser(stack, total=5), ser(stack, total=6, grid=[2, 3])):
        scans = list(read_scans(write(tmp_path, "a_1.ser", content)))
        assert [scan.frame for scan in scans] == [0, 1, 2]
        for scan, frame in zip(scans, stack, strict=True):
            np.testing.assert_array_equal(scan.image, frame)


def test_ser_spectra_are_refused(tmp_path, ser, picture):
    with pytest.raises(ScanError, match="a series of spectra"):
        open_scan(write(tmp_path, "a_1.ser", ser(picture[None], data_type=0x4120)))


@pytest.mark.parametrize(
    ("at", "form", "value", "words"),
    [
        (18, "<I", 2**31, "images of"),  # valid images
        (26, "<I", 2**30, "dimensions"),
        (30, "<I", 2**31, "claims"),  # length of the dimension
        (22, "<I", 2**31, "claims"),  # where the offsets are
        (54, "<I", 2**30, "letters"),  # length of a text
    ],
)
def test_ser_lying_header_is_refused(tmp_path, ser, picture, at, form, value, words):
    content = bytearray(ser(picture[None]))
    struct.pack_into(form, content, at, value)
    with pytest.raises(CorruptScanError, match=words):
        open_scan(write(tmp_path, "a_1.ser", bytes(content)))


def test_ser_lying_image_size_is_refused(tmp_path, ser, picture):
    content = ser(picture[None])
    size = struct.pack("<HII", 2, 20, 12)
    for width, height in ((2**31, 2**31), (2**16, 2**14), (20, 13)):
        with pytest.raises(CorruptScanError, match="claims"):
            open_scan(write(tmp_path, "a_1.ser", content.replace(size, struct.pack("<HII", 2, width, height))))


def test_emi_leads_to_its_series(tmp_path, ser, picture):
    emi = write(tmp_path, "survey.emi", b"JK\x00\x02" + bytes(200))
    with pytest.raises(ScanError, match=r"no survey_1\.ser beside it"):
        open_scan(emi)
    write(tmp_path, "survey_1.ser", ser(picture[None]))
    scan = open_scan(emi)
    np.testing.assert_array_equal(scan.image, picture.astype(np.float32))
    assert scan.path == tmp_path / "survey_1.ser"
    write(tmp_path, "survey_2.ser", ser(picture[None, ::-1]))
    write(tmp_path, "other_1.ser", ser(picture[None, ::-1]))
    assert [scan.channel for scan in read_scans(emi)] == ["series 1", "series 2"]


# --- MRC -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "float32", "uint16", "float16"])
@pytest.mark.parametrize("big", [False, True])
def test_mrc_values_and_calibration(tmp_path, mrc, rng, dtype, big):
    low = 0 if dtype.startswith("u") else -100
    image = rng.integers(low, 120, size=(1, 9, 14)).astype(dtype)
    scan = open_scan(write(tmp_path, "movie.mrc", mrc(image, big=big, extended=256)))
    np.testing.assert_array_equal(scan.image, image[0].astype(np.float32))
    assert scan.pixel_size_nm == pytest.approx((0.02, 0.03))
    assert (scan.modality, scan.frame, scan.warnings) == ("stem", None, ())


def test_mrc_stack_gives_frames(tmp_path, mrc, rng):
    stack = rng.normal(size=(3, 9, 14)).astype(np.float32)
    scans = list(read_scans(write(tmp_path, "a.mrcs", mrc(stack))))
    assert [scan.frame for scan in scans] == [0, 1, 2]
    for scan, frame in zip(scans, stack, strict=True):
        np.testing.assert_array_equal(scan.image, frame)


def test_mrc_unknown_pixel_size(tmp_path, mrc, picture):
    assert open_scan(write(tmp_path, "a.mrc", mrc(picture[None], (0.0, 0.0)))).pixel_size_nm is None
    scan = open_scan(write(tmp_path, "a.mrc", mrc(picture[None], (1.0, 1.0))))
    assert scan.pixel_size_nm == pytest.approx((0.1, 0.1))
    assert "exactly 1 Å" in scan.warnings[0]


@pytest.mark.parametrize(
    ("at", "value", "error", "words"),
    [
        (0, 2**30, CorruptScanError, "claims"),
        (4, -5, CorruptScanError, "positive"),
        (8, 2, CorruptScanError, "claims"),
        (12, 4, ScanError, "mode 4"),
        (92, 2**30, CorruptScanError, "claims"),
        (92, -(2**30), CorruptScanError, "positive"),
    ],
)
def test_mrc_lying_header_is_refused(tmp_path, mrc, picture, at, value, error, words):
    content = bytearray(mrc(picture[None]))
    struct.pack_into("<i", content, at, value)
    with pytest.raises(error, match=words):
        open_scan(write(tmp_path, "a.mrc", bytes(content)))


# --- the extra -------------------------------------------------------------------------------------------------------


def test_missing_extra_names_the_install_line(tmp_path, dm, ser, mrc, picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "rsciio", None)
    for module in [name for name in sys.modules if name.startswith("rsciio.")]:
        monkeypatch.setitem(sys.modules, module, None)
    contents = {"a.dm3": dm().images(dm().image(picture)), "a.ser": ser(picture[None]), "a.mrc": mrc(picture[None])}
    for name, content in contents.items():
        with pytest.raises(MissingExtraError, match=r'pip install "adatom\[stem\]"'):
            open_scan(write(tmp_path, name, content))


def test_the_library_is_imported_with_the_first_file_only():
    code = (
        f"import sys, {readers.__name__} as r; r.readers(); sys.exit('rsciio' in sys.modules or 'dask' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
