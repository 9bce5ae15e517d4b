"""TIFF files as many programs write them."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import open_scan, read_scans


@pytest.fixture
def picture(rng):
    return rng.integers(0, 250, size=(20, 33)).astype(np.uint8)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options", [{}, {"bigtiff": True}, {"tile": (16, 16)}, {"rowsperstrip": 3}, {"compression": "zlib"}]
)
def test_values_are_kept(tmp_path, picture, dtype, byteorder, options):
    image = picture.astype(dtype) - (100 if np.dtype(dtype).kind in "if" else 0)
    tifffile.imwrite(tmp_path / "a.tif", image.astype(dtype), byteorder=byteorder, **options)
    (scan,) = read_scans(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.image, image.astype(np.float32))
    assert (scan.pixel_size_nm, scan.modality, scan.frame, scan.warnings) == (None, "unknown", None, ())


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_pillow_files_of_16_bits(tmp_path, picture, compression):
    image = picture.astype(np.uint16) * 200
    Image.fromarray(image).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(open_scan(tmp_path / "a.tif").image, image.astype(np.float32))


def test_lzw_stack(tmp_path, picture):
    pages = [Image.fromarray(picture), Image.fromarray(picture[::-1])]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    first, second = read_scans(tmp_path / "a.tif")
    np.testing.assert_array_equal(first.image, picture)
    np.testing.assert_array_equal(second.image, picture[::-1])


# --- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "nm"),
    [("nm", 1), ("micron", 1e3), ("um", 1e3), ("\\u00B5m", 1e3), ("\\u00C5", 0.1), ("angstrom", 0.1), ("pm", 1e-3)],
)
def test_imagej_unit(tmp_path, picture, unit, nm):
    tifffile.imwrite(tmp_path / "a.tif", picture, imagej=True, resolution=(50, 40), metadata={"unit": unit})
    scan = open_scan(tmp_path / "a.tif")
    assert scan.pixel_size_nm == pytest.approx((nm / 40, nm / 50))
    assert scan.metadata["calibration"] == "ImageJ"


@pytest.mark.parametrize("unit", ["inch", "cm", "pixel", "", None])
def test_imagej_without_a_length(tmp_path, picture, unit):
    metadata = {} if unit is None else {"unit": unit}
    tifffile.imwrite(tmp_path / "a.tif", picture, imagej=True, resolution=(72, 72), metadata=metadata)
    assert open_scan(tmp_path / "a.tif").pixel_size_nm is None


@pytest.mark.parametrize(
    ("unit", "density", "expected"),
    [
        ("INCH", 72, None),
        ("INCH", 300, None),
        ("INCH", 2400, None),
        ("CENTIMETER", 118.11, None),
        ("CENTIMETER", 5e8, 0.02),
        ("NONE", 1, None),
        ("NONE", 5e8, None),
        ("INCH", 2.54e8, 0.1),
    ],
)
def test_print_resolution_is_no_pixel_size(tmp_path, picture, unit, density, expected):
    tifffile.imwrite(tmp_path / "a.tif", picture, resolution=(density, density), resolutionunit=unit)
    size = open_scan(tmp_path / "a.tif").pixel_size_nm
    assert size is None if expected is None else size == pytest.approx((expected, expected), rel=1e-3)


@pytest.mark.parametrize(
    ("unit", "step", "expected"),
    [("nm", 0.02, 0.02), ("µm", 0.5, 500), ("Å", 3.0, 0.3), ("", 1.0, None), ("1/nm", 0.1, None)],
)
def test_digital_micrograph_tags(tmp_path, picture, unit, step, expected):
    latin = unit.encode("latin-1")
    tags = [(65003, "s", 0, latin, False), (65004, "s", 0, latin, False), (65009, "d", 1, step, False)]
    tifffile.imwrite(tmp_path / "a.tif", picture, extratags=[*tags, (65010, "d", 1, 2 * step, False)])
    scan = open_scan(tmp_path / "a.tif")
    assert scan.modality == "stem"
    size = scan.pixel_size_nm
    assert size is None if expected is None else size == pytest.approx((2 * expected, expected))


def test_what_rosettasciio_writes(tmp_path, picture):
    tiff = pytest.importorskip("rsciio.tiff")
    axes = [
        {"name": name, "scale": scale, "offset": 0.0, "units": "nm", "size": size, "navigate": False}
        for name, scale, size in (("y", 0.03, 20), ("x", 0.02, 33))
    ]
    tiff.file_writer(str(tmp_path / "a.tif"), {"data": picture, "axes": axes, "metadata": {}})
    scan = open_scan(tmp_path / "a.tif")
    assert scan.pixel_size_nm == pytest.approx((0.03, 0.02))
    np.testing.assert_array_equal(scan.image, picture)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.4, "PhysicalSizeYUnit": "nm"},
            (0.4, 0.5),
        ),
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.4}, (400, 500)),
        ({}, None),
    ],
)
def test_ome_xml(tmp_path, picture, values, expected):
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.stack([picture, picture[::-1]]), ome=True, metadata={"axes": "ZYX", **values}
    )
    first, second = read_scans(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(second.image, picture[::-1])
    for scan in (first, second):
        assert scan.pixel_size_nm is None if expected is None else scan.pixel_size_nm == pytest.approx(expected)


def test_ome_xml_opens_no_other_file(tmp_path, picture):
    tifffile.imwrite(tmp_path / "secret.tif", picture)
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image ID="Image:0"><Pixels '
        'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="33" SizeY="20" SizeC="1" SizeZ="2" SizeT="1">'
        '<TiffData FirstZ="1" IFD="0"><UUID FileName="secret.tif">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "a.tif", picture[::-1], description=xml, metadata=None)
    (scan,) = read_scans(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.image, picture[::-1])


def test_fei_pixel_size(tmp_path, picture):
    text = b"[Scan]\r\nPixelWidth=2.5e-9\r\nPixelHeight=2.0e-9\r\n\0"
    tifffile.imwrite(tmp_path / "a.tif", picture, extratags=[(34682, "s", 0, text, False)])
    assert open_scan(tmp_path / "a.tif").pixel_size_nm == pytest.approx((2.0, 2.5))


def test_zeiss_pixel_size(tmp_path, picture):
    text = b"0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 4.5 nm\r\n\0"
    tifffile.imwrite(tmp_path / "a.tif", picture, extratags=[(34118, "s", 0, text, False)])
    assert open_scan(tmp_path / "a.tif").pixel_size_nm == pytest.approx((4.5, 4.5))


# --- stacks, series, colours -----------------------------------------------------------------------------------------


STACKS = [{"imagej": True}, {}, {"truncate": True}, {"compression": "zlib"}, {"bigtiff": True}]


@pytest.mark.parametrize("options", STACKS)
@pytest.mark.parametrize("count", [3, 4, 5])
def test_stack_gives_frames(tmp_path, rng, options, count):
    stack = rng.integers(0, 60000, size=(count, 20, 33)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **options)
    scans = list(read_scans(tmp_path / "a.tif"))
    assert [scan.frame for scan in scans] == list(range(count))
    for scan, frame in zip(scans, stack, strict=True):
        np.testing.assert_array_equal(scan.image, frame.astype(np.float32))
    np.testing.assert_array_equal(open_scan(tmp_path / "a.tif", frame=2).image, stack[2].astype(np.float32))


def test_three_frames_that_are_marked_as_colours(tmp_path, rng):
    stack = rng.integers(0, 60000, size=(3, 20, 33)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="rgb", planarconfig="separate")
    scans = list(read_scans(tmp_path / "a.tif"))
    np.testing.assert_array_equal(np.stack([scan.image for scan in scans]), stack.astype(np.float32))
    assert "taken as frames" in scans[0].warnings[0]


def test_imagej_stack_in_one_page(tmp_path, rng):
    stack = rng.integers(0, 255, size=(6, 20, 33)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", stack, imagej=True, truncate=True, resolution=(20, 20), metadata={"unit": "nm"}
    )
    scans = list(read_scans(tmp_path / "a.tif"))
    np.testing.assert_array_equal(np.stack([scan.image for scan in scans]), stack)
    assert {scan.pixel_size_nm for scan in scans} == {(0.05, 0.05)}


def test_series_of_different_size(tmp_path, picture):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(picture)
        tif.write(picture[:9, :12].astype(np.float32))
        tif.write(picture[:8, :8], subfiletype=1)  # a thumbnail
    first, second = read_scans(tmp_path / "a.tif")
    assert (first.shape, first.frame, second.shape, second.frame) == ((20, 33), 0, (9, 12), 1)


def test_colour_becomes_luminance(tmp_path, rng):
    rgb = rng.integers(0, 255, size=(20, 33, 3)).astype(np.uint8)
    expected = rgb @ np.array([0.299, 0.587, 0.114])
    for index, options in enumerate([{}, {"planarconfig": "separate"}, {"compression": "zlib"}, {"tile": (16, 16)}]):
        array = np.moveaxis(rgb, -1, 0) if "planarconfig" in options else rgb
        tifffile.imwrite(tmp_path / f"{index}.tif", array, photometric="rgb", **options)
        (scan,) = read_scans(tmp_path / f"{index}.tif")
        np.testing.assert_allclose(scan.image, expected, rtol=1e-5)
        assert "colour picture" in scan.warnings[0]


def test_grey_in_colour_keeps_its_values(tmp_path, picture):
    image = picture.astype(np.uint16) * 255 + 3
    rgba = np.stack([image, image, image, np.full_like(image, 65535)], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    scan = open_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.image, image.astype(np.float32))
    assert "grey picture stored in colour" in scan.warnings[0]


def test_inverted_grey_is_kept_and_told(tmp_path, picture):
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="miniswhite")
    scan = open_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.image, picture)
    assert "zero as white" in scan.warnings[0]


def test_a_palette_is_left_out_and_told(tmp_path, picture):
    colours = np.stack([np.arange(256)[::-1] * 257] * 3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="palette", colormap=colours)
    scan = open_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.image, picture)
    assert "the numbers behind its colours" in scan.warnings[0]


def test_volume_gives_frames(tmp_path, rng):
    volume = rng.integers(0, 255, size=(5, 32, 48)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", volume, volumetric=True, tile=(1, 16, 16), photometric="minisblack")
    np.testing.assert_array_equal(np.stack([scan.image for scan in read_scans(tmp_path / "a.tif")]), volume)


def test_missing_pixels(tmp_path, rng):
    image = rng.normal(size=(20, 33)).astype(np.float32)
    image[:2] = np.nan
    image[5, 5] = np.inf
    image[-4:] = 0
    tifffile.imwrite(tmp_path / "a.tif", image)
    scan = open_scan(tmp_path / "a.tif")
    assert int((~scan.valid).sum()) == 67
    assert (scan.image[-4:] == 0).all()  # black is a value in a TIFF
    assert "10.2 %" in scan.warnings[0]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_is_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 33), dtype))
    with pytest.raises(ScanError, match="complex values"):
        open_scan(tmp_path / "a.tif")


def test_narrow_is_refused(tmp_path, picture):
    tifffile.imwrite(tmp_path / "a.tif", picture[:, :7])
    with pytest.raises(ScanError, match="not an image"):
        open_scan(tmp_path / "a.tif")


def patch(path, changes, *, compression=None):
    """A TIFF of 16 × 16 pixels whose tags are replaced after it was written."""
    tifffile.imwrite(path, np.ones((16, 16), np.uint16), compression=compression, metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        for code, value in changes.items():
            tag = tif.pages.first.tags[code]
            struct.pack_into("<I" if tag.dtype == 4 else "<H", content, tag.valueoffset, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "changes",
    [{"ImageWidth": 17}, {"ImageLength": 2**20}, {"ImageWidth": 2**31, "ImageLength": 2**31}, {"StripOffsets": 2**31}],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_lying_size_is_refused(tmp_path, changes, compression):
    with pytest.raises(CorruptScanError):
        open_scan(patch(tmp_path / "a.tif", changes, compression=compression))


def test_circle_of_pages_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for _ in range(150):
            tif.write(np.ones((8, 8), np.uint8), contiguous=False, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        offsets = [page.aspage().offset for page in tif.pages]
        after = tif.pages[149].aspage().tags
        at = offsets[149] + 2 + 12 * len(after)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    assert struct.unpack_from("<I", content, at) == (0,)
    struct.pack_into("<I", content, at, offsets[120])
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(CorruptScanError, match="circle"):
        open_scan(tmp_path / "a.tif")


def test_a_stack_longer_than_the_file_is_refused(tmp_path, rng):
    stack = rng.integers(0, 255, size=(6, 20, 33)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, truncate=True)
    content = (tmp_path / "a.tif").read_bytes()
    for lie in (b"images=9", b"images=7"):
        (tmp_path / "a.tif").write_bytes(content.replace(b"images=6", lie))
        with pytest.raises(CorruptScanError, match="claims"):
            open_scan(tmp_path / "a.tif")


def test_an_unknown_compression_names_the_way_out(tmp_path, picture):
    tifffile.imwrite(tmp_path / "a.tif", picture, compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tif:
        tif.pages.first.tags["Compression"].overwrite(34712)  # JPEG 2000
    with pytest.raises(ScanError, match="Save it without compression"):
        open_scan(tmp_path / "a.tif")


def test_a_damaged_strip_is_refused(tmp_path, picture):
    tifffile.imwrite(tmp_path / "a.tif", picture, compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        at = tif.pages.first.aspage().dataoffsets[0]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[at : at + 4] = zlib.compress(b"")[:2] + b"\xff\xff"
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(CorruptScanError):
        open_scan(tmp_path / "a.tif")
