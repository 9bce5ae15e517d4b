"""RHK .sm4: files written here by the layout of the format, and the positions of the spectra in a real one."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import open_scan, read_scans

HEADER = struct.Struct("<HHIIIiiIIIIIIiifffffffffffIIII64x")
PAGE_SIZE = 180


def text(value):
    return struct.pack("<H", len(value)) + value.encode("utf-16-le")


def strings(label, x_unit="m", y_unit="m", z_unit="m"):
    words = [label, "", "", "", "C:\\scan.sm4", "08/13/21", "19:08:26", x_unit, y_unit, z_unit, "", label, "", "0005"]
    return b"".join(text(word) for word in words), len(words)


def page_blob(at, page):
    """Header, texts and data of one page that begins at byte ``at``: ``(bytes, header offset, data offset, data size)``."""
    raw = np.asarray(page["raw"], dtype="<i4")
    rows, columns = page.get("shape", raw.shape)
    words, count = strings(page.get("label", "Topography"), **page.get("units", {}))
    header = HEADER.pack(
        PAGE_SIZE, count, page.get("page_type", 1), 0, page.get("line_type", 0), 0, 0, columns, rows, 0,
        page.get("scan_type", 0), 0, raw.nbytes, 0, 0, page.get("x_scale", -1e-10), page.get("y_scale", -2e-10),
        page.get("z_scale", 1e-12), 0.0, page.get("x_offset", 0.0), page.get("y_offset", 0.0), page.get("z_offset", 0.0),
        1e-3, 0.5, page.get("current", 1e-10), page.get("angle", 0.0), 0, 0, 0, 2,
    )  # fmt: skip
    words_at = at + PAGE_SIZE + 2 * 12
    data_at = words_at + len(words)
    objects = struct.pack("<6I", 10, words_at, len(words), 0, 0, 0)
    return header + objects + words + raw.tobytes(), at, data_at, page.get("data_size", raw.nbytes)


def sm4(pages, *, index_count=None):
    """A whole file: file header, page index, pages."""
    index_at = 58 + 12
    entries_at = index_at + 16 + 12
    at = entries_at + len(pages) * (32 + 2 * 12)
    entries, blobs = b"", b""
    for page in pages:
        blob, header_at, data_at, data_size = page_blob(at, page)
        entries += struct.pack("<16x4I", page.get("data_type", 0), 0, 2, 6)
        entries += struct.pack("<6I", 3, header_at, PAGE_SIZE, 4, data_at, data_size)
        blobs += blob
        at += len(blob)
    signature = "STiMage 005.004 1".ljust(18, "\0").encode("utf-16-le")
    header = struct.pack("<H36s5I", 56, signature, len(pages), 1, 12, 0, 0) + struct.pack("<3I", 1, index_at, 16)
    index = struct.pack("<4I", len(pages) if index_count is None else index_count, 1, 0, 0)
    index += struct.pack("<3I", 2, entries_at, 32)
    return header + index + entries + blobs


def write(folder, pages, **options):
    path = folder / "scan.sm4"
    path.write_bytes(sm4(pages, **options))
    return path


@pytest.fixture
def surface(rng):
    """Raw numbers as they should appear on the screen, not square."""
    return rng.integers(-(2**30), 2**30, size=(5, 7), dtype=np.int32)


def test_values_size_and_place(tmp_path, surface):
    page = {
        "raw": surface[:, ::-1],
        "z_scale": -3e-12,
        "z_offset": 4e-9,
        "x_offset": 5e-9,
        "y_offset": -6e-9,
        "angle": 10.0,
    }
    scan = open_scan(write(tmp_path, [page]))
    np.testing.assert_allclose(scan.image, surface * -3e-12 + 4e-9, rtol=1e-6)
    assert scan.unit == "m"
    assert scan.pixel_size_nm == pytest.approx((0.2, 0.1))
    assert scan.offset_nm == pytest.approx((-6.0, 5.0))
    assert scan.angle_deg == 10.0
    assert (scan.modality, scan.channel, scan.direction) == ("stm", "Topography", "forward")
    assert scan.metadata["bias_V"] == 0.5
    assert scan.metadata["date"] == "08/13/21"
    assert scan.warnings == ()


@pytest.mark.parametrize("x_sign", [-1, 1])
@pytest.mark.parametrize("y_sign", [-1, 1])
@pytest.mark.parametrize("scan_type", [0, 1])
def test_every_storage_order_gives_the_same_picture(tmp_path, surface, x_sign, y_sign, scan_type):
    raw = surface[::-y_sign, ::x_sign]
    page = {"raw": raw, "x_scale": x_sign * 1e-10, "y_scale": y_sign * 2e-10, "z_scale": 1.0, "scan_type": scan_type}
    scan = open_scan(write(tmp_path, [page]))
    np.testing.assert_array_equal(scan.image, surface.astype(np.float32))
    assert scan.direction == ("forward", "backward")[scan_type]
    assert scan.pixel_size_nm == pytest.approx((0.2, 0.1))


def test_topography_forward_comes_first_and_names_are_distinct(tmp_path, surface):
    current = {"raw": surface, "label": "Current", "page_type": 2, "units": {"z_unit": "A"}}
    height = {"raw": surface, "label": "Topography", "page_type": 1}
    pages = [current | {"scan_type": 1}, current, height | {"scan_type": 1}, height, height]
    scans = list(read_scans(write(tmp_path, pages)))
    assert [scan.label for scan in scans] == [
        "Topography forward", "Topography (2) forward", "Topography backward", "Current forward", "Current backward",
    ]  # fmt: skip
    assert {scan.unit for scan in scans} == {"m", "A"}
    assert {scan.modality for scan in scans} == {"stm"}


def test_spectra_are_skipped_with_a_warning(tmp_path, surface):
    spectra = {"raw": surface, "data_type": 1, "label": "Current"}
    scan = open_scan(write(tmp_path, [spectra, {"raw": surface}, spectra]))
    assert scan.warnings == ("pages of spectroscopy that are not read: 2",)
    with pytest.raises(ScanError, match="no image"):
        open_scan(write(tmp_path, [spectra]))


def test_aborted_scan(tmp_path, surface):
    """The fill is the raw zero, whatever the offset of the values."""
    raw = surface.copy()
    raw[3:] = 0
    scan = open_scan(write(tmp_path, [{"raw": raw, "z_offset": 1e-9}]))
    assert np.isnan(scan.image[3:]).all()
    assert np.isfinite(scan.image[:3]).all()
    assert "aborted" in scan.warnings[0]


@pytest.mark.parametrize("unit", ["", "V", "1/m"])
def test_without_a_length_there_is_no_calibration(tmp_path, surface, unit):
    scan = open_scan(write(tmp_path, [{"raw": surface, "units": {"x_unit": unit, "y_unit": unit}}]))
    assert (scan.pixel_size_nm, scan.offset_nm, scan.angle_deg) == (None, None, None)


def test_modality(tmp_path, surface):
    afm = {"raw": surface, "page_type": 27, "current": 0.0}
    assert open_scan(write(tmp_path, [afm])).modality == "afm"
    assert open_scan(write(tmp_path, [afm | {"page_type": 3}])).modality == "unknown"


@pytest.mark.parametrize(
    ("page", "match"),
    [
        ({"shape": (2**16, 2**16)}, "pixels"),
        ({"shape": (4000, 4000)}, "bytes of data"),
        ({"shape": (0, 7)}, "0 pixels"),
        ({"data_size": 12}, "bytes of data"),
    ],
)
def test_lying_page_headers(tmp_path, surface, page, match):
    with pytest.raises(CorruptScanError, match=match):
        open_scan(write(tmp_path, [{"raw": surface} | page]))


def test_lying_counts(tmp_path, surface):
    with pytest.raises(CorruptScanError, match="4000000000 pages"):
        open_scan(write(tmp_path, [{"raw": surface}], index_count=4_000_000_000))
    content = bytearray(sm4([{"raw": surface}]))
    struct.pack_into("<I", content, 42, 4_000_000_000)  # objects of the file header
    path = tmp_path / "objects.sm4"
    path.write_bytes(content)
    with pytest.raises(CorruptScanError, match="objects"):
        open_scan(path)


def test_every_truncation_is_an_error(tmp_path, surface):
    content = sm4([{"raw": surface}, {"raw": surface, "data_type": 1}])
    end = len(sm4([{"raw": surface}])) + 32 + 24  # the second page's data are never asked for
    path = tmp_path / "cut.sm4"
    for size in range(26, end, 7):
        path.write_bytes(content[:size])
        with pytest.raises(CorruptScanError):
            list(read_scans(path))


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 600), value=st.integers(0, 2**32 - 1))
def test_damaged_bytes_raise_nothing_but_scan_errors(tmp_path_factory, at, value):
    content = bytearray(sm4([{"raw": np.arange(35).reshape(5, 7)}, {"raw": np.ones((2, 2)), "data_type": 1}]))
    struct.pack_into("<I", content, min(at, len(content) - 4), value)
    path = tmp_path_factory.mktemp("sm4") / "damaged.sm4"
    path.write_bytes(content)
    try:
        scans = list(read_scans(path))
    except ScanError:
        return
    assert all(scan.image.size <= len(content) for scan in scans)


def test_offset_angle_and_orientation_of_a_real_file(real_data):
    """A grid of 32 × 32 spectra was taken over the image; the file stores where the tip was at each of them.

    The spectra were taken at every eighth pixel of every eighth row, from the first pixel that was scanned (top right).
    """
    path = real_data / "stm" / "dI-dV_9K_ABC6_2020_07_02_08_50_47_967.sm4"
    content = path.read_bytes()
    entry = 122  # page index array, after the file header and the page index header
    for _ in range(6):
        entry += 32 + 12 * struct.unpack_from("<I", content, entry + 24)[0]
    header_at = struct.unpack_from("<3I", content, entry + 32)[1]
    count = HEADER.unpack_from(content, header_at)[-1]
    objects = [struct.unpack_from("<3I", content, header_at + PAGE_SIZE + 12 * k) for k in range(count)]
    drift_at = next(at for kind, at, _ in objects if kind == 8)
    tip = np.frombuffer(content, "<f4", 32 * 32 * 7, drift_at).reshape(32, 32, 7)[..., 1:3].astype(float) * 1e9

    scan = open_scan(path)
    rows, columns = np.mgrid[0:32, 0:32] * 8 + 4
    there = scan.positions_nm(np.stack([rows, 255 - columns], axis=-1).reshape(-1, 2))
    np.testing.assert_allclose(there[:, ::-1], tip.reshape(-1, 2), atol=2e-5)
