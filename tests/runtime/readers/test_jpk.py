"""JPK images: TIFF files with the private tags of JPK, written here with tifffile."""

import math
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import find_reader, open_scan, read_scans

GRID = {0x8040: 1.1e-5, 0x8041: -4e-7, 0x8042: 9e-7, 0x8043: 5e-7, 0x8044: math.radians(20.0)}


def tags(values):
    """Extra tags of tifffile: texts, integers and doubles by their Python type."""
    kinds = {str: "s", int: "i", float: "d"}
    return [
        (code, kinds[type(value)], 0 if isinstance(value, str) else 1, value, True) for code, value in values.items()
    ]


def slots(*given, default):
    """``(name, unit, multiplier, offset)`` of each slot, the first one raw."""
    values = {0x8080: len(given) + 1, 0x8081: default, 0x8090: "raw", 0x80A3: "NullScaling"}
    for number, (name, unit, multiplier, offset) in enumerate(given, 1):
        base = 0x8090 + 0x30 * number
        values |= {
            base: name,
            base + 0x12: unit,
            base + 0x13: "LinearScaling",
            base + 0x14: multiplier,
            base + 0x15: offset,
        }
    return values


HEIGHT = {0x8050: "measuredHeight", 0x8051: 0, 0x8052: "Height (measured)"} | slots(
    ("absolute", "m", 1e-12, -3e-6), ("nominal", "m", 2e-12, 3e-6), default="nominal"
)


def write(folder, *channels, grid=None, byteorder=">", thumbnail_tags=None):
    """A file with a thumbnail and ``(raw, tags)`` of every channel."""
    path = folder / "scan.jpk"
    with tifffile.TiffWriter(path, byteorder=byteorder) as tiff:
        palette = np.zeros((3, 256), np.uint16)
        first = GRID | {0x8045: 0, 0x8004: "sample", 0x8052: "contact"} | (grid or {}) | (thumbnail_tags or {})
        tiff.write(np.zeros((4, 4), np.uint8), photometric="palette", colormap=palette, extratags=tags(first))
        for raw, values in channels:
            tiff.write(raw, photometric="minisblack", rowsperstrip=2, metadata=None, extratags=tags(values))
    return path


@pytest.fixture
def raw(rng):
    """Raw numbers as they are stored, not square."""
    return rng.integers(-(2**30), 2**30, size=(5, 9), dtype=np.int32)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_values_size_and_place(tmp_path, raw, byteorder):
    path = write(tmp_path, (raw, HEIGHT), byteorder=byteorder)
    assert find_reader(path).name == "JPK"
    scan = open_scan(path)
    np.testing.assert_allclose(scan.image, raw[::-1] * 2e-12 + 3e-6, rtol=1e-6)
    assert scan.unit == "m"
    assert scan.pixel_size_nm == pytest.approx((100.0, 100.0))
    assert scan.offset_nm == pytest.approx((-400.0, 11000.0))
    assert scan.angle_deg == pytest.approx(20.0)
    assert (scan.modality, scan.channel, scan.direction) == ("afm", "Height (measured)", "forward")
    assert scan.metadata["name"] == "sample"
    assert scan.warnings == ()


def test_a_reflected_grid_begins_at_the_top(tmp_path, raw):
    for where in ("grid", "channel"):
        reflect = {0x8045: 1}
        path = write(tmp_path, (raw, HEIGHT | (reflect if where == "channel" else {})), grid=reflect)
        np.testing.assert_allclose(open_scan(path).image, raw * 2e-12 + 3e-6, rtol=1e-6)


def test_unsigned_16_bit_of_older_programs(tmp_path, rng):
    raw = rng.integers(0, 2**16, size=(5, 9), dtype=np.uint16)
    np.testing.assert_allclose(open_scan(write(tmp_path, (raw, HEIGHT))).image, raw[::-1] * 2e-12 + 3e-6, rtol=1e-6)


def test_directions_order_and_names(tmp_path, raw):
    force = {0x8050: "vDeflection", 0x8051: 0, 0x8052: "Vertical Deflection"} | slots(
        ("volts", "V", 1e-9, 0.0), ("force", "nN", 1e-3, 2.0), default="force"
    )
    height = HEIGHT | {0x8050: "height", 0x8052: "Height"}
    path = write(tmp_path, (raw, force), (raw, height), (raw, HEIGHT | {0x8051: 1}), (raw, HEIGHT), (raw, HEIGHT))
    scans = list(read_scans(path))
    assert [scan.label for scan in scans] == [
        "Height (measured) forward", "Height (measured) (2) forward", "Height (measured) backward", "Height forward",
        "Vertical Deflection forward",
    ]  # fmt: skip
    np.testing.assert_array_equal(scans[0].image, scans[2].image)  # no mirroring
    assert scans[-1].unit == "N"
    np.testing.assert_allclose(scans[-1].image, raw[::-1] * 1e-12 + 2e-9, rtol=1e-6)


def test_a_raw_default_slot_is_said(tmp_path, raw):
    scan = open_scan(write(tmp_path, (raw, HEIGHT | {0x8081: "raw"})))
    np.testing.assert_array_equal(scan.image, raw[::-1].astype(np.float32))
    assert scan.unit == ""
    assert "raw" in scan.warnings[0]


def test_aborted_scan(tmp_path, raw):
    raw[2:] = 0
    scan = open_scan(write(tmp_path, (raw, HEIGHT)))
    assert np.isnan(scan.image[:3]).all()
    assert np.isfinite(scan.image[3:]).all()


def test_an_ordinary_tiff_is_left_to_another_reader(tmp_path, raw):
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, raw)
    assert find_reader(path).name != "JPK"


def test_without_a_channel(tmp_path):
    with pytest.raises(ScanError, match="without a channel"):
        open_scan(write(tmp_path))


def test_compressed_pages_are_refused(tmp_path, raw):
    path = write(tmp_path, (raw, HEIGHT))
    patch(path, 259, 8)
    with pytest.raises(ScanError, match="compressed"):
        open_scan(path)


def patch(path, code, value):
    """Change the value of a tag of the last page."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[-1].tags[code].overwrite(value)


@pytest.mark.parametrize(("code", "value"), [(256, 2**20), (257, 2**31), (256, 0), (257, 5000)])
def test_lying_sizes(tmp_path, raw, code, value):
    path = write(tmp_path, (raw, HEIGHT))
    patch(path, code, value)
    with pytest.raises(CorruptScanError):
        open_scan(path)


def test_a_circle_of_pages_ends(tmp_path, raw):
    path = write(tmp_path, (raw, HEIGHT))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1]
        first = tiff.pages[0].offset
        link = page.offset + 2 + 12 * len(page.tags)
    struct.pack_into(">I", content, link, first)
    path.write_bytes(content)
    try:
        count = sum(1 for _ in read_scans(path))
    except CorruptScanError:
        return
    assert count <= 1024


def test_every_truncation_is_an_error(tmp_path, raw):
    path = write(tmp_path, (raw, HEIGHT))
    content = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].offset + 2 + 12 * len(tiff.pages[0].tags)
    cut = tmp_path / "cut.jpk"
    for size in range(start, len(content), 23):
        cut.write_bytes(content[:size])
        with pytest.raises(ScanError):
            list(read_scans(cut))


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), value=st.integers(0, 2**32 - 1))
def test_damaged_bytes_raise_nothing_but_scan_errors(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("jpk")
    path = write(folder, (np.arange(45, dtype=np.int32).reshape(5, 9), HEIGHT))
    content = bytearray(path.read_bytes())
    struct.pack_into(">I", content, 8 + int(place * (len(content) - 12)), value)
    path.write_bytes(content)
    try:
        scans = list(read_scans(path))
    except ScanError:
        return
    assert all(scan.image.size <= len(content) for scan in scans)
