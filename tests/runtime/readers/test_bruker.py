"""Bruker NanoScope files, written here as the programs of several versions write them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import open_scan, read_scans

DATA_AT = 4096
Z_SCALE = "V [Sens. Zscan] (0.006713765 V/LSB) 440.0000 V"


def image_list(raw, at, **changes):
    """One image list and its data, stored from the bottom to the top."""
    rows, columns = raw.shape
    width = raw.dtype.itemsize
    lines = {
        "Data offset": at,
        "Data length": raw.nbytes,
        "Bytes/pixel": width,
        "Data type": "AFM",
        "Samps/line": columns,
        "Number of lines": rows,
        "Aspect ratio": "1:1",
        "Scan size": "15 15 ~m",
        "Line direction": "Trace",
        "@2:Image Data": 'S [Height] "Height"',
        "@2:Z scale": Z_SCALE,
    } | {key.replace("_", " "): value for key, value in changes.items()}
    text = "\\*Ciao image list\r\n" + "".join(
        f"\\{key}: {value}\r\n" for key, value in lines.items() if value is not None
    )
    return text, raw[::-1].tobytes()


def nanoscope(raws, *, version="0x05310001", scan=None, images=None):
    """A whole file; ``scan`` and ``images`` change or remove (None) lines of the header."""
    header = (
        f"\\*File list\r\n\\Version: {version}\r\n\\Date: 12:34:38 PM Tue Jul 30 2019\r\n\\Data length: {DATA_AT}\r\n"
    )
    header += "\\*Scanner list\r\n\\@Sens. Zscan: V 15.00000 nm/V\r\n\\@Sens. Current: V 10.00000 nA/V\r\n"
    lines = {
        "Scan size": "15000 nm", "X offset": "-120 nm", "Y offset": "1.5 um", "Rotate Ang.": "30",
        "@MicroscopeList": 'S [TMMode] "Tapping"', "@Sens. Amplitude": "V 1.000000 ", "@Sens. Bias": "V 1000.000 mV/V",
    } | (scan or {})  # fmt: skip
    header += "\\*Ciao scan list\r\n" + "".join(f"\\{key}: {value}\r\n" for key, value in lines.items())
    data = b""
    for raw, changes in zip(raws, images or [{}] * len(raws), strict=True):
        text, block = image_list(raw, DATA_AT + len(data), **changes)
        header += text
        data += block
    header += "\\*File list end\r\n\x1a"
    assert len(header) <= DATA_AT
    return header.encode("latin-1").ljust(DATA_AT, b"\0") + data


def write(folder, *args, **options):
    path = folder / "scan.003"
    path.write_bytes(nanoscope(*args, **options))
    return path


@pytest.fixture
def raw(rng):
    """Raw numbers as they should appear on the screen, not square."""
    return rng.integers(-(2**15), 2**15, size=(6, 9)).astype("<i2")


def test_values_size_and_place(tmp_path, raw):
    scan = open_scan(write(tmp_path, [raw]))
    np.testing.assert_allclose(scan.image, raw / 65536 * 440 * 15e-9, rtol=1e-6)
    assert scan.unit == "m"
    assert scan.pixel_size_nm == pytest.approx((15000 / 6, 15000 / 9))
    assert scan.offset_nm == pytest.approx((1500.0, -120.0))
    assert scan.angle_deg == 30.0
    assert (scan.modality, scan.channel, scan.direction) == ("afm", "Height", "forward")
    assert scan.metadata["file list.version"] == "0x05310001"
    assert scan.warnings == ()


@pytest.mark.parametrize(
    ("version", "kind", "bytes_pixel"),
    [("0x05310001", "<i2", 2), ("0x08150300", "<i4", 4), ("0x09200000", "<i4", 4), ("0x09300201", "<i4", 2)],
)
def test_widths_of_the_versions(tmp_path, rng, version, kind, bytes_pixel):
    """Bytes/pixel sets the scale; since 9.2 a sample takes four bytes in any case."""
    raw = rng.integers(-(2**15), 2**15, size=(6, 9)).astype(kind) * (1 if bytes_pixel == 2 else 2**16)
    path = write(tmp_path, [raw], version=version, images=[{"Bytes/pixel": bytes_pixel}])
    expected = raw.astype(float) / 256**bytes_pixel * 440 * 15e-9
    np.testing.assert_allclose(open_scan(path).image, expected, rtol=1e-6)


def test_a_version_decides_where_the_length_does_not(tmp_path, rng):
    """Data longer than the image: the version says how wide a sample is."""
    raw = rng.integers(-9, 9, size=(6, 9)).astype("<i4")
    content = nanoscope([raw], version="0x09400000", images=[{"Bytes/pixel": 2, "Data length": raw.nbytes + 36}])
    path = tmp_path / "scan.spm"
    path.write_bytes(content + b"\0" * 36)
    np.testing.assert_allclose(open_scan(path).image, raw / 65536 * 440 * 15e-9, rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "factor", "unit"),
    [
        ("V [Sens. Current] (0.0003 V/LSB) 10.00000 V", 10 * 10e-9, "A"),
        ("V [Sens. Amplitude] (0.0003 V/LSB) 20.00000 V", 20.0, "V"),
        ("V [Sens. Bias] (0.0003 V/LSB) 2.000000 V", 2.0, "V"),
        ("V (0.005493164 º/LSB) 360.0000 º", 360.0, "deg"),
        ("V [] (0.005493164 º/LSB) 180.0000 deg", 180.0, "deg"),
        ("V (0.1525879 mV/LSB) 500.0000 mV", 0.5, "V"),
        ("V ( 0.00001 log(Arb)/LSB) 4.832452 log(Arb)", 4.832452, "log(Arb)"),
        ("V 1e-3 V", 1e-3, "V"),
    ],
)
def test_scales_and_units(tmp_path, raw, scale, factor, unit):
    scan = open_scan(write(tmp_path, [raw], images=[{"@2:Z scale": scale, "@2:Image Data": 'S [Any] "Any Signal"'}]))
    np.testing.assert_allclose(scan.image, raw / 65536 * factor, rtol=1e-6)
    assert scan.unit == unit
    assert scan.channel == "Any Signal"
    assert scan.warnings == ()


def test_old_z_scale(tmp_path, raw):
    """Version 4.2 and before: the full scale with its unit, without group numbers."""
    change = {"@2:Z scale": None, "@2:Image Data": None, "Z scale": "49.5 nm (16383)", "Image data": "Height"}
    scan = open_scan(write(tmp_path, [raw], version="0x04220000", images=[change]))
    np.testing.assert_allclose(scan.image, raw / 65536 * 49.5e-9, rtol=1e-6)
    assert (scan.unit, scan.channel) == ("m", "Height")


def test_unknown_scales_are_said(tmp_path, raw):
    scan = open_scan(write(tmp_path, [raw], images=[{"@2:Z scale": "V [Sens. Lost] (1 V/LSB) 20.0 V"}]))
    np.testing.assert_allclose(scan.image, raw / 65536 * 20.0, rtol=1e-6)
    assert scan.unit == "V"
    assert "Sens. Lost" in scan.warnings[0]
    scan = open_scan(write(tmp_path, [raw], images=[{"@2:Z scale": None}]))
    np.testing.assert_array_equal(scan.image, raw.astype(np.float32))
    assert (scan.unit, len(scan.warnings)) == ("", 1)


def test_directions_and_order(tmp_path, raw):
    """Height forward first; both directions are stored in the order of the surface."""
    changes = [
        {"@2:Image Data": 'S [Phase] "Phase"', "@2:Z scale": "V (0.005 º/LSB) 360.0 º"},
        {"Line direction": "Retrace"},
        {},
        {"@2:Image Data": None, "@3:Image Data": 'S [Height] "Height"'},
    ]
    scans = list(read_scans(write(tmp_path, [raw] * 4, images=changes)))
    assert [scan.label for scan in scans] == [
        "Height forward",
        "Height (2) forward",
        "Height backward",
        "Phase forward",
    ]
    np.testing.assert_array_equal(scans[0].image, scans[2].image)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("15 15 ~m", (2500.0, 15000 / 9)),
        ("900 600 nm", (100.0, 100.0)),
        ("0.9 um", (150.0, 100.0)),
        ("1e-6 1e-6 m", (1000 / 6, 1000 / 9)),
        ("0 0 nm", None),
        ("unknown", None),
    ],
)
def test_scan_sizes(tmp_path, raw, size, expected):
    scan = open_scan(write(tmp_path, [raw], images=[{"Scan size": size}]))
    assert scan.pixel_size_nm == (None if expected is None else pytest.approx(expected))


def test_strips(tmp_path, rng):
    """The header of a 2:1 strip gives the square frame; its pixels are square."""
    raw = rng.integers(-9, 9, size=(8, 16)).astype("<i2")
    scan = open_scan(write(tmp_path, [raw], scan={"Aspect ratio": "2:1"}, images=[{"Aspect ratio": "2:1"}]))
    assert scan.pixel_size_nm == pytest.approx((15000 / 16, 15000 / 16))
    assert "aspect ratio 2:1" in scan.warnings[0]
    # a part of a square frame: its lines keep the pitch of the frame
    part = open_scan(write(tmp_path, [raw], scan={"Lines": "20"}, images=[{"Aspect ratio": "2.5:1"}]))
    assert part.pixel_size_nm == pytest.approx((15000 / 20, 15000 / 16))


def test_sizes_of_the_scan_list(tmp_path, rng):
    """Files of version 5.30 exist whose image lists give bogus numbers of samples; the length of the data tells."""
    raw = rng.integers(-9, 9, size=(8, 16)).astype("<i2")
    image = {"Samps/line": 4, "Number of lines": 4, "Scan size": "4 4 nm"}
    scan = open_scan(write(tmp_path, [raw], scan={"Samps/line": "16", "Lines": "8"}, images=[image]))
    np.testing.assert_allclose(scan.image, raw / 65536 * 440 * 15e-9, rtol=1e-6)
    assert scan.pixel_size_nm == pytest.approx((1.0, 1.0))


def test_aborted_scan(tmp_path, raw):
    raw[:3] = 0
    scan = open_scan(write(tmp_path, [raw]))
    assert np.isnan(scan.image[:3]).all()
    assert np.isfinite(scan.image[3:]).all()
    assert "aborted" in scan.warnings[0]


def test_stm(tmp_path, raw):
    assert open_scan(write(tmp_path, [raw], scan={"@MicroscopeList": 'S [STMMode] "STM"'})).modality == "stm"


def test_without_an_image(tmp_path):
    with pytest.raises(ScanError, match="without an image"):
        open_scan(write(tmp_path, []))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"Number of lines": 10**9, "Samps/line": 10**9}, "pixels"),
        ({"Number of lines": 5000}, "bytes of data"),
        ({"Number of lines": 0}, "0 pixels"),
        ({"Number of lines": None}, "number of lines"),
        ({"Number of lines": "-6"}, "number of lines"),
        ({"Samps/line": "9" * 30}, "samps/line"),
        ({"Data offset": 10**12}, "bytes of data"),
        ({"Data length": 10**15, "Number of lines": 10**7}, "bytes of data"),
        ({"Data length": "many"}, "data length"),
        ({"Bytes/pixel": "two"}, "failed"),
        ({"Bytes/pixel": 10**9}, "failed"),
    ],
)
def test_lying_headers(tmp_path, raw, change, match):
    with pytest.raises(CorruptScanError, match=match):
        open_scan(write(tmp_path, [raw], images=[change]))


def test_every_truncation_is_an_error(tmp_path, raw):
    content = nanoscope([raw, raw])
    path = tmp_path / "cut.spm"
    for size in (*range(12, DATA_AT, 111), *range(DATA_AT, len(content), 10)):
        path.write_bytes(content[:size])
        with pytest.raises(CorruptScanError):
            list(read_scans(path))


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 1600), text=st.text("\\*@:[]()0159 \r\nVe-./~", max_size=12))
def test_damaged_headers_raise_nothing_but_scan_errors(tmp_path_factory, at, text):
    content = bytearray(nanoscope([np.arange(54, dtype="<i2").reshape(6, 9)]))
    content[at : at + len(text)] = text.encode()
    path = tmp_path_factory.mktemp("bruker") / "damaged.spm"
    path.write_bytes(content)
    try:
        scans = list(read_scans(path))
    except ScanError:
        return
    assert all(scan.image.size <= len(content) for scan in scans)
