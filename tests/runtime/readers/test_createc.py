"""Createc .dat: files written here in the three kinds of the format, and the real ones."""

import itertools
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, ScanError, UnknownFormatError
from spm_runtime.readers import open_scan, read_scans

#: 20 bits, gain 10 and 96 Å/V: 20 V / 2**20 * 10 * 96 Å/V = 0.0018310546875 nm.
STEP_NM = 0.0018310546875
HEADER = {
    "DAC-Type": "20bit", "Titel / Titel": "Ångström", "GainX / GainX": 10, "GainY / GainY": 10, "GainZ / GainZ": 10,
    "Rotation / Rotation": "0.00", "Gainpreamp / GainPre 10^": 9, "Scanrotoffx / OffsetX": "-10000.0",
    "Scanrotoffy / OffsetY": "20000.0", "ScanYMode / ScanYMode": 1, "FBChannel": 0, "FBOff": 0, "PLLOn": 0,
    "CHMode / CHMode": 0, "Dacto[Å]xy": "0.00183", "Dacto[Å]z": "0.00037", "Delta X / Delta X [Dac]": 50,
    "Delta Y / Delta Y [Dac]": -25, "Length x[A]": "18.0", "Length y[A]": "4.0", "ZPiezoconst": " 19.20",
    "Xpiezoconst": " 96.00", "YPiezoconst": " 96.00", "Channelselectval / Channelselectval": 3,
}  # fmt: skip


def dat(images, kind="[Paramco32]", *, skip=(), header_bytes=16384, tail=1000, level=6, **changes):
    """A file of raw images as stored, ``(N, H, W)``; keys of ``changes`` are header keys, blanks written as ``_``."""
    values = np.asarray(images)
    count, rows, columns = values.shape
    header = {"Num.X / Num.X": columns, "Num.Y / Num.Y": rows, "Channels / Channels": count, **HEADER, "Channels": 99}
    header |= {next((key for key in header if key.split(" / ")[0] == name), name): v for name, v in changes.items()}
    lines = [kind] + [f"{key}={value}" for key, value in header.items() if key.split(" / ")[0] not in skip]
    text = "\r\n".join([*lines, "memo:0=no DATA here"]).encode("latin-1")
    head = text.ljust(header_bytes - 4, b"\0") + b"DATA"
    dtype = "<i2" if kind == "[Parameter]" else "<f4"
    samples = bytes(np.dtype(dtype).itemsize) + values.astype(dtype).tobytes() + bytes(tail)
    return head + (zlib.compress(samples, level) if kind == "[Paramco32]" else samples)


@pytest.fixture
def save(tmp_path):
    def write(data):
        path = tmp_path / "scan.dat"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def images(rng):
    """Four raw images that are not square; no sample is zero."""
    return rng.integers(1000, 9000, size=(4, 4, 9)).astype(np.float32)


@pytest.mark.parametrize("kind", ["[Parameter]", "[Paramet32]", "[Paramco32]"])
def test_channels_and_directions(save, images, kind):
    scans = list(read_scans(save(dat(images, kind))))
    assert [scan.label for scan in scans] == [
        "Topography forward", "Topography backward", "Current forward", "Current backward",
    ]  # fmt: skip
    scales = [STEP_NM / 5 * 1e-9] * 2 + [20 / 2**20 / 1e9] * 2
    for scan, index, scale in zip(scans, (0, 2, 1, 3), scales, strict=True):
        assert scan.image == pytest.approx(images[index] * scale, rel=1e-6)
        assert (scan.modality, scan.warnings) == ("stm", ())
    assert [scan.unit for scan in scans] == ["m", "m", "A", "A"]
    assert scans[0].metadata["titel"] == "Ångström"


def test_a_header_that_a_program_shortened(save, images):
    """The data begin behind DATA, not at byte 16384; the same word in a comment is none."""
    shortened = list(read_scans(save(dat(images, header_bytes=16270))))
    whole = list(read_scans(save(dat(images))))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(shortened, whole, strict=True))


def test_the_gain_of_the_height_amplifier_counts(save, images):
    low, high = (open_scan(save(dat(images, GainZ=gain))).image for gain in (3, 10))
    assert low == pytest.approx(0.3 * high)


def test_calibration_without_piezo_constants(save, images):
    """Dacto[A] is in nanometres, for a gain of 10, and rounded."""
    path = save(dat(images, skip=("ZPiezoconst", "Xpiezoconst", "YPiezoconst"), GainZ=5))
    scan = open_scan(path)
    assert scan.image == pytest.approx(images[0] * 0.00037e-9 / 2, rel=1e-6)
    assert scan.offset_nm == pytest.approx((20000 * 0.00183 - 0.2, 10000 * 0.00183))


def test_no_calibration_of_heights(save, images):
    scan = open_scan(save(dat(images, skip=("ZPiezoconst", "Dacto[Å]z"))))
    assert np.array_equal(scan.image, images[0])
    assert scan.unit == ""
    assert "no calibration of Z" in scan.warnings[0]


def test_pixel_size(save, images):
    """The lengths of the header; else the steps, whose signs are those of the scan."""
    assert open_scan(save(dat(images))).pixel_size_nm == pytest.approx((0.1, 0.2))
    scan = open_scan(save(dat(images, skip=("Length x[A]", "Length y[A]"))))
    assert scan.pixel_size_nm == pytest.approx((25 * STEP_NM, 50 * STEP_NM))
    none = dat(images, skip=("Length x[A]", "Length y[A]", "Delta X", "Delta Y"))
    scan = open_scan(save(none))
    assert (scan.pixel_size_nm, scan.offset_nm) == (None, None)


@pytest.mark.parametrize("degrees", [0, 30, -90])
def test_the_offset_is_the_middle_of_the_upper_edge(save, images, degrees):
    """It stays where it is when the frame is turned about it, counter-clockwise."""
    scan = open_scan(save(dat(images, Rotation=degrees)))
    assert scan.angle_deg == degrees
    middle_of_upper_edge = np.array([[-0.5, 4.0]])
    expected = np.array([[20000 * STEP_NM, 10000 * STEP_NM]])
    assert scan.positions_nm(middle_of_upper_edge) == pytest.approx(expected)
    right = scan.positions_nm(np.array([[-0.5, 5.0]])) - expected
    turn = np.deg2rad(degrees)
    assert right == pytest.approx(0.2 * np.array([[np.sin(turn), np.cos(turn)]]))


def test_another_centre_of_rotation_is_not_guessed(save, images):
    assert open_scan(save(dat(images, Scancentermode=1))).offset_nm is None


@pytest.mark.parametrize("missing", [slice(2, 4), slice(0, 2)], ids=["down", "up"])
def test_an_aborted_scan(save, images, missing):
    images[:, missing] = 0
    for scan in read_scans(save(dat(images))):
        assert np.isnan(scan.image[missing]).all()
        assert np.isfinite(scan.image).sum() == 18
        assert "50.0 %" in scan.warnings[0]


def test_a_scan_that_was_aborted_at_once(save, rng):
    """Little measured, much zero: it shrinks as no whole scan does and is none the less a scan."""
    images = np.zeros((2, 512, 512), np.float32)
    images[:, 0] = rng.normal(size=512) + 100
    scan = open_scan(save(dat(images, level=9, Channelselectval=1)))
    assert np.isfinite(scan.image).sum() == 512


def test_sine_scans_are_announced(save, images):
    assert "sine" in open_scan(save(dat(images, ScanmodeSine=1))).warnings[0]


@pytest.mark.parametrize(
    ("count", "changes", "expected"),
    [
        (1, {"Channelselectval": 1}, ["Topography forward"]),
        (4, {"Channelselectval": 0b10000011}, ["image 0", "image 1", "image 2", "image 3"]),
        (3, {"Channelselectval": 0b10000011}, ["Topography forward", "Current forward", "Frequency shift forward"]),
        (2, {"Channelselectval": 1 | 1 << 40},
         ["Topography forward", "channel 40 forward"]),
        (4, {"Channelselectval": 0, "Chan(1,2,4)": 2},
         ["Topography forward", "Topography backward", "Current forward", "Current backward"]),
        (4, {"Channelselectval": 0, "Chan(1,2,4)": 4},
         ["Topography forward", "Current forward", "ADC1 forward", "ADC2 forward"]),
    ],
)  # fmt: skip
def test_which_image_is_which_channel(save, rng, count, changes, expected):
    images = rng.normal(size=(count, 4, 9)) + 50
    assert [scan.label for scan in read_scans(save(dat(images, **changes)))] == expected


AFM = {"Channelselectval": 0b10000011, "PLLOn": 1}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"FBChannel": 0, **AFM}, "stm stm stm"), ({"FBChannel": 4, **AFM}, "afm afm afm"),
        ({"FBChannel": 4, **AFM, "PLLOn": 0}, "unknown unknown unknown"), ({"CHMode": 1, **AFM}, "afm stm afm"),
        ({"CHMode": 1, **AFM, "PLLOn": 0}, "stm stm stm"), ({"FBOff": 1, **AFM}, "afm stm afm"),
    ],
)  # fmt: skip
def test_modality_is_what_the_tip_was_held_by(save, rng, changes, expected):
    path = save(dat(rng.normal(size=(6, 4, 9)) * 100, **changes))
    seen = {scan.channel: scan.modality for scan in read_scans(path)}
    assert " ".join(seen[name] for name in ("Topography", "Current", "Frequency shift")) == expected


@pytest.mark.parametrize(("pll", "first"), [(1, "Frequency shift"), (0, "Current")])
def test_at_constant_height_the_channel_with_the_image_comes_first(save, rng, pll, first):
    images = rng.normal(size=(6, 4, 9)) * 100
    y, x = np.mgrid[:4, :9]
    images[0] = images[3] = 100.0 * y - 50.0 * x + 7000
    scans = list(read_scans(save(dat(images, CHMode=1, Channelselectval=0b10000011, PLLOn=pll))))
    assert [scan.label for scan in scans[:3]] == [f"{first} forward", f"{first} backward", "Topography forward"]
    assert all("constant-height" in scan.warnings[0] for scan in scans[:2])
    assert not any(scan.warnings for scan in scans[2:])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (dat(np.ones((2, 4, 9)), **{"Num.X": 0}), "'0' for Num.X"), (dat(np.ones((2, 4, 9)), **{"Num.Y": -4}), "'-4'"),
        (dat(np.ones((2, 4, 9)), **{"Num.X": "999999999", "Num.Y": "999999999"}), "pixels"),
        (dat(np.ones((2, 4, 9)), **{"Num.X": 16000, "Num.Y": 16000}), "2048000004 bytes"),
        (dat(np.ones((2, 4, 9)), "[Paramet32]", **{"Num.X": 16000, "Num.Y": 16000}), "2048000004 bytes"),
        (dat(np.ones((2, 4, 9)), Channels=10**6), "1000000.*from 1 to 256"),
        (dat(np.ones((2, 4, 9)), tail=0, **{"Num.Y": 5}), "364"),
        (dat(np.ones((2, 4, 9)))[:16384], "no compressed samples"), (dat(np.ones((2, 4, 9)))[:16384] + b"x\x9cxx", "292 bytes"),
        (dat(np.ones((2, 4, 9)), skip=("Num.X",)), "''"),
    ],
    ids=range(10),
)  # fmt: skip
def test_lying_headers(save, data, match):
    """Each is refused without reserving what it claims."""
    path = save(data)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptScanError, match=match):
            open_scan(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_unpacked(save):
    """A stream of a hundred kilobytes that would unpack to a hundred megabytes, as the header says too."""
    data = dat(np.ones((1, 1, 1)), tail=100_000_000, Channelselectval=1, **{"Num.X": 5000, "Num.Y": 5000})
    assert len(data) < 200_000
    path = save(data)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptScanError, match="100000004 bytes"):
            open_scan(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["[Parameter]", "[Paramet32]", "[Paramco32]"])
def test_a_file_cut_anywhere_is_refused(save, images, kind):
    data = dat(images, kind, tail=0)
    for length in (20, 400, 5000, 16383, 16384, 16386, *range(16390, len(data), 13), len(data) - 8):
        with pytest.raises(CorruptScanError):
            open_scan(save(data[:length]))


def test_spectra_are_another_format(save, images):
    with pytest.raises(UnknownFormatError):
        open_scan(save(dat(images, "[ParVERT32]")))


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 900), byte=st.integers(0, 255))
def test_a_wrong_byte_gives_a_scan_or_a_scan_error(tmp_path_factory, at, byte):
    data = bytearray(dat(np.arange(1, 73).reshape(2, 4, 9)))
    data[at % len(data)] = byte
    path = tmp_path_factory.mktemp("createc") / "scan.dat"
    path.write_bytes(data)
    try:
        assert list(read_scans(path))
    except ScanError as error:
        assert error.path == path  # noqa: PT017 - both outcomes are right


def flat(image):
    """About the least-squares plane."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    design = np.stack([y.ravel(), x.ravel(), np.ones(y.size)], axis=1)
    heights = image.astype(np.float64).ravel()
    return heights - design @ np.linalg.lstsq(design, heights, rcond=None)[0]


@pytest.mark.parametrize(("name", "least"), [("afm", 0.9), ("scan_11nm", 0.7), ("terrace", 0.85)])
def test_forward_and_backward_of_real_scans_show_the_same_surface(real_data, name, least):
    """Stored in the order of the surface, with the first sample unused: else the first column is of the line before."""
    forward, backward = itertools.islice(read_scans(real_data / f"stm/probeflow_createc_{name}.dat"), 2)
    there, back, mirrored = (flat(image) for image in (forward.image, backward.image, backward.image[:, ::-1]))
    assert np.corrcoef(there, back)[0, 1] > max(least, np.corrcoef(there, mirrored)[0, 1])
    jump = np.median(np.abs(np.diff(forward.image, axis=1)), axis=0)
    assert jump[0] < 8 * np.median(jump)


@pytest.mark.parametrize(("name", "setpoint"), [("scan_11nm", -300e-12), ("terrace", 88.4e-12)])
def test_the_current_of_real_scans_is_their_setpoint(real_data, name, setpoint):
    """To the offset of the preamplifier; the sign is that of the bias voltage."""
    scan = open_scan(real_data / f"stm/probeflow_createc_{name}.dat", channel="Current", direction="backward")
    assert float(np.median(scan.image)) == pytest.approx(setpoint, rel=0.05)


def test_the_frequency_shift_of_a_real_scan_is_its_setpoint(real_data):
    scan = open_scan(real_data / "stm/probeflow_createc_afm.dat", channel="Frequency shift")
    assert (float(np.mean(scan.image)), scan.unit) == (pytest.approx(-7.0, abs=0.01), "Hz")


def test_the_terraces_of_a_real_scan_are_one_atom_high(real_data):
    """Between the steps the surface is a plane; the gain of the amplifier is 3, and the steps are 0.2 nm."""
    image = open_scan(real_data / "stm/probeflow_createc_terrace.dat").image.astype(np.float64) * 1e9
    slope = np.median(np.diff(image, axis=1))
    row = image[100:110].mean(axis=0) - slope * np.arange(image.shape[1])
    # A step is where the height over eight pixels changes by far more than the noise.
    change = [part.max() for part in np.array_split(row[8:] - row[:-8], 16)]
    heights = [step for step in change if step > 0.1]
    assert len(heights) == 6
    assert all(0.18 < step < 0.21 for step in heights)
