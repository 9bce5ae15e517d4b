"""Omicron MATRIX: result and parameter files written here, byte by byte, read by the real package."""

import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, MissingExtraError, ScanError
from spm_runtime.readers import open_scan, read_scans

pytest.importorskip("access2thematrix")

MAGIC = b"ONTMATRX0101"
NAME = "session-20240101-101010--3_1.Z_mtrx"
CHAIN = "session-20240101-101010_0001.mtrx"


def text(value):
    return struct.pack("<L", len(value)) + value.encode("utf-16-le")


def typed(value):
    if isinstance(value, bool):
        return b"LOOB" + struct.pack("<L", value)
    if isinstance(value, int):
        return b"GNOL" + struct.pack("<l", value)
    if isinstance(value, float):
        return b"BUOD" + struct.pack("<d", value)
    return b"GRTS" + text(value)


def block(tag, body, *, stamped=True):
    """A block of a parameter file; its tag is written backwards, and most blocks carry a time of eight bytes."""
    return tag[::-1] + struct.pack("<L", len(body)) + (b"\0" * 8 if stamped else b"") + body


def parameters(scanner, *, channel="Z", unit="m", factor=2e11, offset=0.0, mentions=NAME, voltage=True, experiment=""):
    """A parameter file: experiment parameters, dictionary of channels, transfer functions, and the result files."""
    instances = {"XYScanner": scanner} | ({"GapVoltageControl": {"Voltage": (-1.5, "Volt")}} if voltage else {})
    body = b"\0" * 4 + struct.pack("<L", len(instances))
    for instance, properties in instances.items():
        body += text(instance) + struct.pack("<L", len(properties))
        for name, (value, value_unit) in properties.items():
            body += text(name) + text(value_unit) + b"\0" * 4 + typed(value)
    settings_ = block(b"EXPD", b"\0" * 4 + text(experiment)) + block(b"EEPA", body)
    body = b"\0" * 8 + struct.pack("<L", 0)
    body += struct.pack("<L", 1) + b"\0" * 4 + struct.pack("<L", 7) + b"\0" * 8 + text(channel) + text(unit)
    body += struct.pack("<L", 1) + b"\1" * 8 + b"\0" * 4 + struct.pack("<L", 7) + text("Default::" + channel)
    dictionary = block(b"DICT", body, stamped=False)
    body = b"\0" * 4 + struct.pack("<L", 7) + text("TFF_Linear1D") + text(unit) + struct.pack("<L", 2)
    body += text("Factor") + typed(factor) + text("Offset") + typed(offset)
    transfer = block(b"XFER", body, stamped=False)
    return MAGIC + settings_ + dictionary + transfer + block(b"BREF", b"\0" * 4 + text(mentions))


def result(raw, *, count=None):
    """A result file: one bricklet of samples in the order of measurement."""
    count = len(raw) if count is None else count
    description = b"\0" * 20 + struct.pack("<2i", count, count)
    body = b"CSED" + struct.pack("<L", len(description)) + description
    data = np.asarray(raw, dtype="<i4").tobytes()
    body += b"ATAD" + struct.pack("<L", len(data)) + data
    return MAGIC + b"TLKB" + struct.pack("<L", len(body) + 4) + struct.pack("<Q", 0) + b"\0" * 4 + body


def scanner(points=9, lines=6, *, x_retrace=False, y_retrace=False, angle=0.0):
    return {
        "Points": (points, ""), "Lines": (lines, ""), "Width": (18e-9, "Meter"), "Height": (6e-9, "Meter"),
        "X_Offset": (5e-9, "Meter"), "Y_Offset": (-7e-9, "Meter"), "Angle": (angle, "Degree"),
        "X_Retrace": (x_retrace, ""), "Y_Retrace": (y_retrace, ""),
    }  # fmt: skip


def measured(up, *, x_retrace=False, down=None):
    """Samples in the order of measurement: the first line at the bottom, every line forward and then backward."""
    order = []
    for picture, rows in ((up, slice(None, None, -1)), (down, slice(None))):
        for line in [] if picture is None else picture[rows]:
            order.append(line)
            if x_retrace:
                order.append(line[::-1])
    return np.concatenate(order)


def write(folder, data, settings_, *, name=NAME, chain=CHAIN, **options):
    path = folder / name
    path.write_bytes(result(data))
    if chain is not None:
        (folder / chain).write_bytes(parameters(settings_, **options))
    return path


@pytest.fixture
def raw(rng):
    """Raw numbers as they should appear on the screen, not square."""
    return rng.integers(-(2**20), 2**20, size=(6, 9))


def test_values_size_and_place(tmp_path, raw):
    scan = open_scan(write(tmp_path, measured(raw), scanner(angle=30.0), offset=12.0))
    np.testing.assert_allclose(scan.image, (raw - 12) / 2e11, rtol=1e-6)
    assert scan.unit == "m"
    assert scan.pixel_size_nm == pytest.approx((1.0, 2.0))
    assert scan.offset_nm == pytest.approx((-7.0, 5.0))
    assert scan.angle_deg == 30.0
    assert (scan.modality, scan.channel, scan.direction) == ("stm", "Z", "forward")
    assert scan.metadata["GapVoltageControl.Voltage [Volt]"] == -1.5
    assert scan.warnings == ()


def test_all_four_traces_show_the_same_surface(tmp_path, raw):
    data = measured(raw, x_retrace=True, down=raw)
    scans = list(read_scans(write(tmp_path, data, scanner(x_retrace=True, y_retrace=True))))
    assert [scan.label for scan in scans] == ["Z forward", "Z backward", "Z down forward", "Z down backward"]
    assert [scan.metadata["trace"] for scan in scans] == ["forward/up", "backward/up", "forward/down", "backward/down"]
    for scan in scans:
        np.testing.assert_allclose(scan.image, raw / 2e11, rtol=1e-6)
        assert scan.offset_nm == pytest.approx((-7.0, 5.0))


def test_units_take_no_prefix(tmp_path, raw):
    name = NAME.replace("Z_mtrx", "I_mtrx")
    scan = open_scan(
        write(tmp_path, measured(raw), scanner(), name=name, channel="I", unit="nA", factor=1.0, mentions=name)
    )
    np.testing.assert_allclose(scan.image, raw * 1e-9, rtol=1e-6)
    assert (scan.channel, scan.unit) == ("I", "A")


def test_aborted_scan_keeps_its_place(tmp_path, raw):
    """Four of six lines were measured, from the bottom: the image is shorter and its centre lower."""
    scan = open_scan(write(tmp_path, measured(raw[2:]), scanner()))
    np.testing.assert_allclose(scan.image, raw[2:] / 2e11, rtol=1e-6)
    assert scan.pixel_size_nm == pytest.approx((1.0, 2.0))
    assert scan.offset_nm == pytest.approx((-8.0, 5.0))
    assert "4 of 6 lines" in scan.warnings[0]


def test_aborted_down_frame_keeps_its_place(tmp_path, raw):
    """The down frame begins at the top."""
    path = write(tmp_path, measured(raw, down=raw[:4]), scanner(y_retrace=True))
    up, down = read_scans(path)
    assert up.warnings == ()
    np.testing.assert_allclose(down.image, raw[:4] / 2e11, rtol=1e-6)
    assert down.offset_nm == pytest.approx((-6.0, 5.0))
    assert "4 of 6 lines" in down.warnings[0]


def test_modality(tmp_path, raw):
    assert open_scan(write(tmp_path, measured(raw), scanner(), voltage=False)).modality == "unknown"
    name = NAME.replace("Z_mtrx", "Df_mtrx")
    path = write(tmp_path, measured(raw), scanner(), name=name, channel="Df", unit="Hz", mentions=name)
    assert open_scan(path).modality == "afm"
    for experiment, modality in (("STM_Basic", "stm"), ("AFM_NonContact", "afm"), ("STM_AFM_QPlus", "stm")):
        assert open_scan(write(tmp_path, measured(raw), scanner(), experiment=experiment)).modality == modality


def test_without_the_parameter_file(tmp_path, raw):
    with pytest.raises(ScanError, match=r"session-20240101-101010_0001\.mtrx.*same folder"):
        open_scan(write(tmp_path, measured(raw), scanner(), chain=None))


def test_a_renamed_file(tmp_path, raw):
    with pytest.raises(ScanError, match="Rename"):
        open_scan(write(tmp_path, measured(raw), scanner(), name="copy.Z_mtrx"))
    other = "session-20240101-101010--9_9.Z_mtrx"
    with pytest.raises(ScanError, match="does not mention"):
        open_scan(write(tmp_path, measured(raw), scanner(), name=other))


def test_the_parameter_file_itself(tmp_path, raw):
    write(tmp_path, measured(raw), scanner())
    with pytest.raises(ScanError, match="holds no image"):
        open_scan(tmp_path / CHAIN)


def test_a_chain_of_two_parameter_files(tmp_path, raw):
    """A long session has several; the result file is mentioned in the second."""
    path = write(tmp_path, measured(raw), scanner(), mentions="another--1_1.Z_mtrx")
    second = MAGIC + block(b"BREF", b"\0" * 4 + text(NAME))
    (tmp_path / CHAIN.replace("_0001", "_0002")).write_bytes(second)
    np.testing.assert_allclose(open_scan(path).image, raw / 2e11, rtol=1e-6)


def test_huge_files_are_refused_before_they_are_read(tmp_path, raw, monkeypatch):
    monkeypatch.setattr("spm_runtime.readers.omicron_mtrx.MAX_BYTES", 100)
    with pytest.raises(ScanError, match="at most 100 bytes"):
        open_scan(write(tmp_path, measured(raw), scanner()))


@pytest.mark.parametrize(
    "changes",
    [
        {"Points": (2**31 - 1, "")},
        {"Points": (0, "")},
        {"Points": (-9, "")},
        {"Lines": (-6, "")},
        {"Points": ("nine", "")},
        {"Width": ("wide", "Meter")},
    ],
)
def test_lying_parameters(tmp_path, raw, changes):
    with pytest.raises(CorruptScanError):
        open_scan(write(tmp_path, measured(raw), scanner() | changes))


def test_lying_count_of_samples(tmp_path, raw):
    path = write(tmp_path, measured(raw), scanner())
    path.write_bytes(result(measured(raw), count=2**31 - 1))
    with pytest.raises(CorruptScanError):
        open_scan(path)


def test_truncations_are_errors(tmp_path, raw):
    path = write(tmp_path, measured(raw), scanner())
    for target in (path, tmp_path / CHAIN):
        content = target.read_bytes()
        for size in range(20, len(content) - 1, 37):
            target.write_bytes(content[:size])
            with pytest.raises(ScanError):
                list(read_scans(path))
        target.write_bytes(content)
    assert open_scan(path).shape == (6, 9)


@settings(max_examples=80, deadline=None)
@given(place=st.floats(0, 1), value=st.integers(0, 2**32 - 1), chain=st.booleans())
def test_damaged_bytes_raise_nothing_but_scan_errors(tmp_path_factory, place, value, chain):
    folder = tmp_path_factory.mktemp("mtrx")
    path = write(folder, np.arange(54), scanner())
    target = folder / CHAIN if chain else path
    content = bytearray(target.read_bytes())
    struct.pack_into("<I", content, 16 + int(place * (len(content) - 20)), value)
    target.write_bytes(content)
    try:
        scans = list(read_scans(path))
    except ScanError:
        return
    assert all(scan.image.size <= 54 for scan in scans)


def test_curves_are_no_images(tmp_path, raw, monkeypatch):
    class Curve:
        object_type = "curve"

        def open(self, name):
            return {0: "trace"}, "opened"

    path = write(tmp_path, measured(raw), scanner())
    monkeypatch.setitem(sys.modules, "access2thematrix", SimpleNamespace(MtrxData=Curve))
    with pytest.raises(ScanError, match="a curve"):
        open_scan(path)


def test_the_package_may_be_missing(tmp_path, raw, monkeypatch):
    path = write(tmp_path, measured(raw), scanner())
    monkeypatch.setitem(sys.modules, "access2thematrix", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*adatom\[omicron\]"):
        open_scan(path)
