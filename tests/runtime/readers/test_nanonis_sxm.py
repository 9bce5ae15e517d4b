"""Nanonis .sxm: files written here as the instrument writes them, and the real ones against another reader."""

import itertools
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import find_reader, open_scan, read_scans

#: What the instrument says of its Z controller: on, setpoint.
ON_CURRENT, OFF_CURRENT, ON_SHIFT = ("1", "5.000E-11 A"), ("0", "5.000E-11 A"), ("1", "-2.000E+0 Hz")
OSCILLATES = {"Oscillation Control>Phase controller on": "TRUE", "Oscillation Control>Amplitude controller on": "TRUE"}


def sxm(
    channels,
    *,
    scan_dir="down",
    order="MSBFIRST",
    scan_range=(2e-9, 1e-9),
    controller=ON_CURRENT,
    tags=(),
    skip=(),
    **more,
):
    """A file of pictures as seen on the surface: ``channels`` is a list of ``(name, unit, {direction: picture})``."""
    rows, columns = next(iter(channels[0][2].values())).shape
    table = ["\tChannel\tName\tUnit\tDirection\tCalibration\tOffset"]
    blocks = []
    for number, (name, unit, pictures) in enumerate(channels):
        direction = "both" if len(pictures) == 2 else next(iter(pictures))
        table.append(f"\t{number}\t{name}\t{unit}\t{direction}\t1.000E-9\t0.000E+0")
        for side in ("forward", "backward"):
            if side in pictures:
                stored = pictures[side][:, ::-1] if side == "backward" else pictures[side]
                stored = stored[::-1] if scan_dir == "up" else stored
                blocks.append(stored.astype(">f4" if order == "MSBFIRST" else "<f4").tobytes())
    header = {
        "NANONIS_VERSION": "2",
        "SCANIT_TYPE": f"              FLOAT            {order}",
        "SCAN_PIXELS": f"       {columns}       {rows}",
        "SCAN_RANGE": f"           {scan_range[0]:.6E}           {scan_range[1]:.6E}",
        "SCAN_OFFSET": "             1.000000E-7         -2.000000E-8",
        "SCAN_ANGLE": "            0.000E+0",
        "SCAN_DIR": scan_dir,
        "Z-CONTROLLER": "\tName\ton\tSetpoint\n\tlog Current\t" + "\t".join(controller),
        "COMMENT": "Si(111)\n:SCAN_DIR:\nsideways",
        **dict(tags),
        "DATA_INFO": "\n".join(table) + "\n",
        **more,
    }
    text = "".join(f":{tag}:\n{value}\n" for tag, value in header.items() if tag not in skip)
    return text.encode() + b":SCANIT_END:\n\n\n\x1a\x04" + b"".join(blocks)


def overlap(first, second):
    """Correlation of two images about their planes."""
    y, x = np.mgrid[: first.shape[0], : first.shape[1]]
    design = np.stack([y.ravel(), x.ravel(), np.ones(y.size)], axis=1)
    flat = []
    for image in (first, second):
        heights = image.astype(np.float64).ravel()
        flat.append(heights - design @ np.linalg.lstsq(design, heights, rcond=None)[0])
    return np.corrcoef(*flat)[0, 1]


@pytest.fixture
def save(tmp_path):
    def write(data, name="scan.sxm"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def picture(rng):
    return rng.normal(size=(6, 9)).astype(np.float32) * 1e-10


@pytest.mark.parametrize("scan_dir", ["up", "down"])
@pytest.mark.parametrize("order", ["MSBFIRST", "LSBFIRST"])
def test_every_image_is_as_seen_on_the_surface(save, rng, scan_dir, order):
    """A picture that is not square, forward and backward, scanned upwards and downwards."""
    pictures = {(c, d): rng.normal(size=(6, 9)).astype(np.float32) for c in "ZC" for d in ("forward", "backward")}
    channels = [
        ("Current", "A", {d: pictures["C", d] for d in ("forward", "backward")}),
        ("Z", "m", {d: pictures["Z", d] for d in ("forward", "backward")}),
    ]
    scans = list(read_scans(save(sxm(channels, scan_dir=scan_dir, order=order))))
    assert [(s.channel, s.direction) for s in scans] == [
        ("Z", "forward"), ("Z", "backward"), ("Current", "forward"), ("Current", "backward"),
    ]  # fmt: skip
    for scan in scans:
        assert np.array_equal(scan.image, pictures[scan.channel[0], scan.direction])
    assert [scan.unit for scan in scans] == ["m", "m", "A", "A"]
    assert {scan.modality for scan in scans} == {"stm"}
    assert all(scan.warnings == () for scan in scans)


def test_geometry(save, picture):
    scan = open_scan(save(sxm([("Z", "m", {"forward": picture})], scan_range=(1.8e-9, 0.6e-9))))
    assert scan.pixel_size_nm == pytest.approx((0.1, 0.2))
    assert scan.offset_nm == pytest.approx((-20.0, 100.0))
    assert scan.metadata["COMMENT"].startswith("Si(111)")
    # The centre of the image is at the offset of the frame.
    assert scan.positions_nm(np.array([[2.5, 4.0]])) == pytest.approx(np.array([[-20.0, 100.0]]))


def test_a_positive_angle_of_nanonis_is_clockwise(save, picture):
    """With 90 degrees clockwise the right edge of the picture points down in the scanner's frame."""
    path = save(sxm([("Z", "m", {"forward": picture})], scan_range=(9e-9, 6e-9), tags={"SCAN_ANGLE": "  9.000E+1"}))
    scan = open_scan(path)
    assert scan.angle_deg == -90.0
    right_of_centre = scan.positions_nm(np.array([[2.5, 5.0]]))
    assert right_of_centre == pytest.approx(np.array([[-21.0, 100.0]]))


@pytest.mark.parametrize("text", ["0.000E+0", "-0.000E+0"])
def test_no_angle_is_plain_zero(save, picture, text):
    scan = open_scan(save(sxm([("Z", "m", {"forward": picture})], SCAN_ANGLE=text)))
    assert str(scan.angle_deg) == "0.0"


@pytest.mark.parametrize("tag", ["SCAN_RANGE", "SCAN_OFFSET", "SCAN_ANGLE"])
def test_geometry_that_the_file_does_not_give(save, picture, tag):
    scan = open_scan(save(sxm([("Z", "m", {"forward": picture})], skip=(tag,))))
    seen = {"SCAN_RANGE": scan.pixel_size_nm, "SCAN_OFFSET": scan.offset_nm, "SCAN_ANGLE": scan.angle_deg}
    assert [key for key, value in seen.items() if value is None] == [tag]


@pytest.mark.parametrize(("scan_dir", "missing"), [("down", slice(4, 6)), ("up", slice(0, 2))])
def test_an_aborted_scan(save, picture, scan_dir, missing):
    """What was not measured is at the bottom, or at the top of a scan upwards."""
    picture[missing] = np.nan
    scan = open_scan(save(sxm([("Z", "m", {"forward": picture})], scan_dir=scan_dir)))
    assert np.array_equal(np.isnan(scan.image), np.isnan(picture))
    assert "33.3 %" in scan.warnings[0]


def test_one_direction_and_equal_names(save, rng):
    a, b, c = rng.normal(size=(3, 4, 5)).astype(np.float32)
    channels = [("Z", "m", {"backward": a}), ("X", "V", {"forward": b}), ("X", "V", {"forward": c})]
    scans = list(read_scans(save(sxm(channels))))
    assert [scan.label for scan in scans] == ["Z backward", "X forward", "X (2) forward"]
    assert all(np.array_equal(scan.image, image) for scan, image in zip(scans, (a, b, c), strict=True))


def test_any_suffix(save, picture):
    assert find_reader(save(sxm([("Z", "m", {"forward": picture})]), "SCAN.SXM")).name == "Nanonis SXM"


def both(image):
    return {"forward": image, "backward": image}


def tilted(shape=(6, 9)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (1e-11 * x + 2e-11 * y - 2e-8).astype(np.float32)


@pytest.mark.parametrize("heights", [np.full((6, 9), -2.1e-8, np.float32), tilted()], ids=["constant", "plane"])
@pytest.mark.parametrize(("tags", "first"), [(OSCILLATES, "Frequency_Shift"), ({}, "Current")])
def test_at_constant_height_the_channel_with_the_image_comes_first(save, picture, heights, tags, first):
    channels = [
        ("Z", "m", both(heights)), ("LIX_1_omega", "A", both(picture)), ("Current", "A", both(picture)),
        ("Frequency_Shift", "Hz", both(picture)),
    ]  # fmt: skip
    scans = list(read_scans(save(sxm(channels, controller=OFF_CURRENT, tags=tags))))
    assert [scan.label for scan in scans[:3]] == [f"{first} forward", f"{first} backward", "Z forward"]
    assert len(scans) == 8
    assert all("constant-height" in scan.warnings[0] for scan in scans[:2])
    assert not any(scan.warnings for scan in scans[2:])


def test_a_real_topography_stays_first(save, picture):
    """A slope with the controller on is a surface; corrugation with the controller off as well."""
    for heights, controller in ((tilted(), ON_CURRENT), (tilted() + picture, OFF_CURRENT)):
        channels = [("Current", "A", both(picture)), ("Z", "m", both(heights))]
        scan = open_scan(save(sxm(channels, controller=controller)))
        assert (scan.channel, scan.warnings) == ("Z", ())


@pytest.mark.parametrize(
    ("controller", "tags", "expected"),
    [
        (ON_CURRENT, {}, "stm stm stm"), (ON_CURRENT, OSCILLATES, "stm stm stm"), (ON_SHIFT, OSCILLATES, "afm afm afm"),
        (OFF_CURRENT, OSCILLATES, "afm stm afm"), (OFF_CURRENT, {}, "stm stm stm"),
    ],
)  # fmt: skip
def test_modality_is_what_the_tip_was_held_by(save, picture, controller, tags, expected):
    """A tuning fork alone makes no AFM; at constant height a map of the current is STM, of the frequency AFM."""
    channels = [("Z", "m", both(picture)), ("Current", "A", both(picture)), ("Frequency_Shift", "Hz", both(picture))]
    path = save(sxm(channels, controller=controller, tags=tags))
    seen = {scan.channel: scan.modality for scan in read_scans(path)}
    assert " ".join(seen[name] for name in ("Z", "Current", "Frequency_Shift")) == expected


def test_a_file_that_says_nothing_of_its_feedback(save, picture):
    unknown = sxm([("Z", "m", both(picture))], skip=("Z-CONTROLLER",))
    assert open_scan(save(unknown)).modality == "unknown"
    stm = sxm([("Z", "m", both(picture)), ("Current", "A", both(picture))], skip=("Z-CONTROLLER",))
    assert open_scan(save(stm)).modality == "stm"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"skip": ("DATA_INFO",)}, "DATA_INFO"), ({"skip": ("SCAN_PIXELS",)}, "SCAN_PIXELS"),
        ({"skip": ("SCANIT_TYPE",)}, "SCANIT_TYPE"), ({"SCANIT_TYPE": "INT16 MSBFIRST"}, "INT16"),
        ({"SCAN_DIR": "sideways"}, "sideways"), ({"SCAN_RANGE": "wide high"}, "wide"),
        ({"SCAN_PIXELS": "-6 -9"}, "-6"), ({"SCAN_PIXELS": "0 9"}, "0 9"), ({"SCAN_PIXELS": "nan 9"}, "nan"),
        ({"SCAN_PIXELS": "1e300 9"}, "1e300"), ({"SCAN_PIXELS": "100000 100000"}, "10000000000 pixels"),
        ({"SCAN_PIXELS": "16000 16000"}, "1024000000 bytes"), ({"DATA_INFO": "\tName\tUnit\tDirection\n"}, "DATA_INFO"),
        ({"DATA_INFO": "\tName\tUnit\tDirection\n\tZ\tm\tsideways\n"}, "sideways"),
    ],
)  # fmt: skip
def test_damaged_headers(save, picture, change, match):
    """Each is refused by name and without reserving what it claims."""
    path = save(sxm([("Z", "m", {"forward": picture})], **change))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptScanError, match=re.escape(match)):
            open_scan(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_file_cut_anywhere_is_refused(save, picture):
    data = sxm([("Z", "m", {"forward": picture})])
    for length in (*range(20, len(data), 7), len(data) - 1):
        with pytest.raises(CorruptScanError):
            open_scan(save(data[:length]))


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 700), byte=st.integers(0, 255))
def test_a_wrong_byte_gives_a_scan_or_a_scan_error(tmp_path_factory, at, byte):
    data = bytearray(sxm([("Z", "m", {"forward": np.ones((6, 9), np.float32)})]))
    data[at % len(data)] = byte
    path = tmp_path_factory.mktemp("sxm") / "scan.sxm"
    path.write_bytes(data)
    try:
        assert list(read_scans(path))
    except ScanError as error:
        assert error.path == path  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("name", ["Image_671", "STM_nanonis_generic_4_5", "Si_7x7_012", "probeflow_nanonis"])
def test_real_scans_against_nanonispy2(real_data, name):
    """The same numbers as another reader, whose backward images are still mirrored."""
    read = pytest.importorskip("nanonispy2").read
    path = real_data / f"stm/{name}.sxm"
    signals = read.Scan(str(path)).signals
    scans = list(read_scans(path))
    assert {scan.channel for scan in scans} == set(signals)
    for scan in scans:
        raw = signals[scan.channel][scan.direction]
        assert np.array_equal(scan.image, raw if scan.direction == "forward" else raw[:, ::-1])


@pytest.mark.parametrize(
    ("name", "least"),
    [("Image_671", 0.9), ("STM_nanonis_generic_4_5", 0.9), ("Si_7x7_012", 0.9), ("Si_7x7_028", 0.4),
     ("probeflow_nanonis", 0.85), ("A151216.123306-02602", 0.9)],
)  # fmt: skip
def test_forward_and_backward_of_real_scans_show_the_same_surface(real_data, name, least):
    """They overlay as read, and not when one of them is mirrored."""
    forward, backward = itertools.islice(read_scans(real_data / f"stm/{name}.sxm"), 2)
    assert (forward.direction, backward.direction) == ("forward", "backward")
    assert overlap(forward.image, backward.image) > least
    assert overlap(forward.image, backward.image[:, ::-1]) < 0.6
