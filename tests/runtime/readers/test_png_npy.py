"""PNG pictures and NumPy arrays."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import open_scan, read_scans


@pytest.fixture
def picture(rng):
    return rng.integers(0, 255, size=(20, 33)).astype(np.uint8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with_size(width, height, depth=8, colour=0, data=b""):
    """A PNG whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# --- PNG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_grey_values_are_kept(tmp_path, picture, dtype):
    image = picture.astype(dtype) * (257 if dtype is np.uint16 else 1)
    Image.fromarray(image).save(tmp_path / "a.png", dpi=(300, 300))
    (scan,) = read_scans(tmp_path / "a.png")
    np.testing.assert_array_equal(scan.image, image.astype(np.float32))
    assert (scan.pixel_size_nm, scan.modality, scan.warnings) == (None, "unknown", ())


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_png_colour_becomes_luminance(tmp_path, rng, mode):
    colours = rng.integers(0, 255, size=(20, 33, len(mode))).astype(np.uint8)
    Image.fromarray(colours, mode).save(tmp_path / "a.png")
    scan = open_scan(tmp_path / "a.png")
    np.testing.assert_allclose(scan.image, colours[..., :3] @ np.array([0.299, 0.587, 0.114]), rtol=1e-5)
    assert "colour picture" in scan.warnings[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_grey_in_every_mode(tmp_path, picture, mode):
    image = np.where(picture > 128, 255, 0).astype(np.uint8) if mode == "1" else picture
    Image.fromarray(image).convert(mode).save(tmp_path / "a.png")
    scan = open_scan(tmp_path / "a.png")
    np.testing.assert_array_equal(scan.image / scan.image.max() * image.max(), image)


def test_png_of_16_bit_colour_says_so(tmp_path, rng):
    colours = rng.integers(0, 65535, size=(20, 33, 3)).astype(">u2")
    data = b"".join(b"\0" + row.tobytes() for row in colours)
    (tmp_path / "a.png").write_bytes(png_with_size(33, 20, depth=16, colour=2, data=data))
    assert "read with 8" in open_scan(tmp_path / "a.png").warnings[-1]


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 2**31 - 1), (30000, 30000), (0, 10), (12000, 12000)])
def test_png_bomb_is_refused_before_it_is_decoded(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png_with_size(width, height))
    with pytest.raises(CorruptScanError, match="claims"):
        open_scan(tmp_path / "a.png")


def test_png_large_and_full_is_refused(tmp_path):
    """Enough bytes for the size that is claimed, and more pixels than Pillow decodes."""
    content = png_with_size(16000, 16000)[:-12] + bytes(3_000_000)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(CorruptScanError, match="pixels"):
        open_scan(tmp_path / "a.png")


def test_png_cut_short_is_refused(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptScanError):
        open_scan(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "gif"])
def test_other_pictures_are_no_scans(tmp_path, picture, suffix):
    Image.fromarray(picture).save(tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{suffix}").rename(tmp_path / "a.png")
    with pytest.raises(ScanError, match="no known format"):
        open_scan(tmp_path / "a.png")


# --- NumPy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i2", ">u2", "<u4", "<i8", "<f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_values_are_kept(tmp_path, picture, dtype, order):
    array = np.asarray(picture.astype(np.int8).astype(dtype), order=order)
    np.save(tmp_path / "a.npy", array)
    (scan,) = read_scans(tmp_path / "a.npy")
    np.testing.assert_array_equal(scan.image, array.astype(np.float32))
    assert (scan.pixel_size_nm, scan.modality, scan.frame, scan.warnings) == (None, "unknown", None, ())


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions(tmp_path, picture, version):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, picture, version=version)
    np.testing.assert_array_equal(open_scan(tmp_path / "a.npy").image, picture)


def test_npy_stack_gives_frames(tmp_path, rng):
    stack = rng.normal(size=(5, 9, 14)).astype(np.float32)
    np.save(tmp_path / "a.npy", stack)
    scans = list(read_scans(tmp_path / "a.npy"))
    assert [scan.frame for scan in scans] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(np.stack([scan.image for scan in scans]), stack)


def test_npy_stack_of_one_and_colours(tmp_path, picture):
    np.save(tmp_path / "a.npy", picture[None])
    assert [scan.frame for scan in read_scans(tmp_path / "a.npy")] == [0]
    np.save(tmp_path / "a.npy", picture[..., None])
    np.testing.assert_array_equal(open_scan(tmp_path / "a.npy").image, picture)
    np.save(tmp_path / "a.npy", np.stack([picture, picture, picture], axis=-1))
    np.testing.assert_array_equal(open_scan(tmp_path / "a.npy").image, picture)


def test_npy_missing_pixels(tmp_path, rng):
    image = rng.normal(size=(10, 20))
    image[0, :5] = np.nan
    image[-3:] = 0
    np.save(tmp_path / "a.npy", image)
    scan = open_scan(tmp_path / "a.npy")
    assert int((~scan.valid).sum()) == 5
    assert "2.5 %" in scan.warnings[0]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((465, 2)), r"shape \(465, 2\), which is not an image"),
        (np.ones((7, 200)), "which is not an image"),
        (np.ones(1000), "which is not an image"),
        (np.ones((2, 3, 20, 20)), "which is not an image"),
        (np.float64(3), "which is not an image"),
        (np.ones((20, 20), complex), "complex values"),
        (np.zeros((20, 20), [("a", "f4"), ("b", "i2")]), "values of type"),
        (np.full((20, 20), "text"), "values of type"),
        (np.zeros((20, 20), "M8[s]"), "values of type"),
        (np.ones((0, 20)), "positive lengths"),
        (np.ones((70000, 8, 8), np.uint8), "a stack of 70000 frames"),
    ],
)
def test_npy_what_is_no_image_is_refused(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ScanError, match=words):
        open_scan(tmp_path / "a.npy")


def test_npy_never_unpickles(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[print, print]] * 8, dtype=object), allow_pickle=True)
    with pytest.raises(ScanError, match="values of type object"):
        open_scan(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "shape", ["(20, 34)", "(2**31, 2**31)", "(1000000000, 20, 33)", "(-20, 33)", "(99999999, 99999999)"]
)
def test_npy_lying_header_is_refused(tmp_path, picture, shape):
    file = io.BytesIO()
    np.save(file, picture)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (tmp_path / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + picture.tobytes()
    )
    with pytest.raises(ScanError):
        open_scan(tmp_path / "a.npy")
