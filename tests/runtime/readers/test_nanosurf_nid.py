"""Nanosurf .nid: files written here in the layout that NSFopen reads."""

import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, MissingExtraError, ScanError
from spm_runtime.readers import open_scan, read_scans

pytest.importorskip("NSFopen")

IMAGING = (
    "[DataSet\\Parameters\\Imaging]\r\nScanRange=V[9e-07,5e-07,0]*[m,m,m]\r\nScanTime=V[0.7,0.7,0]*[s,s,s]\r\n"
    "ScanOffset=V[1.25e-06,-1.5e-07,0]*[m,m,m]\r\nScanRotation=V[-1.9,-0,45]*[°,°,°]\r\n\r\n"
)


def nid(blocks, *, info="", imaging=IMAGING, encoding="utf-8", dataset="", tail=b""):
    """A whole file; ``blocks`` are ``(raw, lines of its section that differ)``, stored from the bottom to the top."""
    groups = list(dict.fromkeys(changes.get("Frame", "Scan forward") for _, changes in blocks))
    head = f"[DataSet]\r\nVersion=2\r\nGroupCount={len(groups)}\r\n"
    sections, data = "", b""
    for group, frame in enumerate(groups):
        head += f"Gr{group}-Name={frame}\r\nGr{group}-ID=0\r\nGr{group}-Count=16\r\n"
        members = [block for block in blocks if block[1].get("Frame", "Scan forward") == frame]
        for channel, (raw, changes) in enumerate(members, 1):
            head += f"Gr{group}-Ch{channel}=DataSet-{group}:{channel}\r\n"
            values = {
                "Version": 2, "Points": raw.shape[1], "Lines": raw.shape[0], "Frame": frame, "Dim0Name": "X*", "Dim0Unit": "m",
                "Dim0Range": 9e-07, "Dim0Min": 0, "Dim1Unit": "m", "Dim1Range": 5e-07, "Dim1Min": 0,
                "Dim2Name": "Topography", "Dim2Unit": "m", "Dim2Range": 2.032e-05, "Dim2Min": -1.016e-05,
                "SaveMode": "Binary", "SaveBits": 8 * raw.dtype.itemsize, "SaveSign": "Signed", "SaveOrder": "Intel",
            } | changes  # fmt: skip
            sections += f"[DataSet-{group}:{channel}]\r\n"
            sections += "".join(f"{key}={value}\r\n" for key, value in values.items() if value is not None) + "\r\n"
            data += raw[::-1].tobytes()
    head += dataset + f"\r\n[DataSet-Info]\r\n-- Scan --=--------\r\n{info}\r\n" + imaging + sections
    return (head + "\r\n\r\n\r\n#!").encode(encoding) + data + tail


def write(folder, *args, **options):
    path = folder / "scan.nid"
    path.write_bytes(nid(*args, **options))
    return path


@pytest.fixture
def raw(rng):
    """Raw numbers as they should appear on the screen, not square."""
    return rng.integers(-(2**15), 2**15, size=(5, 9)).astype("<i2")


def heights(raw, bits=16):
    return (raw / 2**bits + 0.5) * 2.032e-05 - 1.016e-05


def test_values_size_and_place(tmp_path, raw):
    scan = open_scan(write(tmp_path, [(raw, {})]))
    np.testing.assert_allclose(scan.image, heights(raw), rtol=1e-6, atol=1e-13)
    assert scan.unit == "m"
    assert scan.pixel_size_nm == pytest.approx((100.0, 100.0))
    assert scan.offset_nm == pytest.approx((-150.0, 1250.0))
    assert scan.angle_deg == 45.0
    assert (scan.modality, scan.channel, scan.direction) == ("afm", "Topography", "forward")
    assert scan.metadata["SaveBits"] == "16"
    assert scan.warnings == ()


def test_32_bits(tmp_path, rng):
    raw = rng.integers(-(2**31), 2**31, size=(5, 9)).astype("<i4")
    scan = open_scan(write(tmp_path, [(raw, {})]))
    np.testing.assert_allclose(scan.image, heights(raw, 32), rtol=1e-6, atol=1e-13)


def test_directions_order_and_names(tmp_path, raw):
    """Topography forward first; both directions are stored in the order of the surface."""
    phase = {"Dim2Name": "Phase", "Dim2Unit": "°", "Dim2Range": 360, "Dim2Min": -180}
    current = {"Dim2Name": "Tip current", "Dim2Unit": "nA", "Dim2Range": 20, "Dim2Min": -10}
    back = {"Frame": "Scan backward"}
    blocks = [(raw, phase), (raw, {}), (raw, {}), (raw, current), (raw, back), (raw, {"Frame": "2nd scan forward"})]
    scans = list(read_scans(write(tmp_path, blocks)))
    assert [scan.label for scan in scans] == [
        "Topography forward", "Topography (2) forward", "Topography (3) forward", "Topography backward", "Phase forward",
        "Tip current forward",
    ]  # fmt: skip
    np.testing.assert_array_equal(scans[0].image, scans[3].image)
    assert [scan.unit for scan in scans[4:]] == ["deg", "A"]
    np.testing.assert_allclose(scans[4].image, raw / 65536 * 360, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(scans[5].image, raw / 65536 * 20e-9, rtol=1e-6, atol=1e-16)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_place_in_older_files(tmp_path, raw, encoding):
    info = "X-Pos=1.3µm\r\nY-Pos=-166nm\r\nRotation=-45 °\r\nOp. mode=STM\r\n"
    scan = open_scan(write(tmp_path, [(raw, {})], info=info, imaging="", encoding=encoding))
    assert scan.offset_nm == pytest.approx((-166.0, 1300.0))
    assert scan.angle_deg == -45.0
    assert scan.modality == "stm"
    nothing = open_scan(write(tmp_path, [(raw, {})], imaging=""))
    assert (nothing.offset_nm, nothing.angle_deg) == (None, None)


def test_without_a_length_there_is_no_calibration(tmp_path, raw):
    assert open_scan(write(tmp_path, [(raw, {"Dim0Unit": "V"})])).pixel_size_nm is None


def test_aborted_scan(tmp_path, raw):
    raw[:2] = 0
    scan = open_scan(write(tmp_path, [(raw, {})]))
    assert np.isnan(scan.image[:2]).all()
    assert np.isfinite(scan.image[2:]).all()
    assert "aborted" in scan.warnings[0]


def test_spectra_only(tmp_path, raw):
    with pytest.raises(ScanError, match="without an image"):
        open_scan(write(tmp_path, [(raw, {"Frame": "Spec forward"})]))


def test_the_package_is_imported_for_a_file_only(tmp_path, raw, monkeypatch):
    path = write(tmp_path, [(raw, {})])
    for name in [name for name in sys.modules if name.partition(".")[0] == "NSFopen"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.import_module("spm_runtime.readers.nanosurf_nid")
    assert "NSFopen" not in sys.modules
    monkeypatch.setitem(sys.modules, "NSFopen", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*adatom\[nanosurf\]"):
        open_scan(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"Points": 10**6, "Lines": 10**6}, "pixels"),
        ({"Points": 4000}, "bytes of data"),
        ({"Points": 10**11}, "Points"),
        ({"Points": -9}, "Points"),
        ({"Lines": None}, "Lines"),
        ({"Lines": "many"}, "Lines"),
        ({"Lines": 0}, "0 pixels|without an image"),
        ({"Lines": 4}, "describes"),
        ({"Dim2Range": None}, "Dim2Range"),
        ({"Dim2Range": "wide"}, "wide"),
        ({"Dim2Name": None}, "Dim2Name"),
    ],
)
def test_lying_sections(tmp_path, raw, change, match):
    with pytest.raises(ScanError, match=match):
        open_scan(write(tmp_path, [(raw, change)]))


@pytest.mark.parametrize(
    "change",
    [{"SaveBits": 8}, {"SaveBits": 64}, {"SaveSign": "Unsigned"}, {"SaveOrder": "Motorola"}, {"SaveMode": "Text"}],
)
def test_layouts_that_the_package_would_misread(tmp_path, raw, change):
    with pytest.raises(ScanError):
        open_scan(write(tmp_path, [(raw, change)]))


def test_mixed_widths_would_be_misread(tmp_path, raw):
    with pytest.raises(ScanError, match=r"\[16, 32\] bits"):
        open_scan(write(tmp_path, [(raw, {}), (raw.astype("<i4"), {"Dim2Name": "Phase"})]))


def test_appended_bytes_would_shift_the_picture(tmp_path, raw):
    with pytest.raises(CorruptScanError, match="after the last image"):
        open_scan(write(tmp_path, [(raw, {})], tail=b"\0\0"))


@pytest.mark.parametrize("line", ["GroupCount=4000000000", "Gr0-Count=4000000000", "GroupCount=x"])
def test_lying_counts(tmp_path, raw, line):
    """The package would loop as often as the header says."""
    with pytest.raises(CorruptScanError, match="Count"):
        open_scan(write(tmp_path, [(raw, {})], dataset=f"{line}\r\n"))


def test_every_truncation_is_an_error(tmp_path, raw):
    content = nid([(raw, {}), (raw, {"Frame": "Scan backward"})])
    path = tmp_path / "cut.nid"
    for size in range(9, len(content), 61):
        path.write_bytes(content[:size])
        with pytest.raises(CorruptScanError):
            list(read_scans(path))


@settings(max_examples=80, deadline=None)
@given(at=st.integers(0, 1300), text=st.text("[]=*#!\r\n0159eV-.,", max_size=10))
def test_damaged_headers_raise_nothing_but_scan_errors(tmp_path_factory, at, text):
    content = bytearray(nid([(np.arange(45, dtype="<i2").reshape(5, 9), {})]))
    content[at : at + len(text)] = text.encode()
    path = tmp_path_factory.mktemp("nid") / "damaged.nid"
    path.write_bytes(content)
    try:
        scans = list(read_scans(path))
    except ScanError:
        return
    assert all(scan.image.size <= len(content) for scan in scans)
