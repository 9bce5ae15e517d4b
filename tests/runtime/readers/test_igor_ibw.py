"""Igor binary waves: files written here after WaveMetrics' Technical Note 003, and the real ones against igor2."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, ScanError, UnknownFormatError
from spm_runtime.readers import open_scan, read_scans

TYPES = {
    "float32": 2,
    "float64": 4,
    "int8": 8,
    "int16": 0x10,
    "int32": 0x20,
    "uint8": 0x48,
    "uint16": 0x50,
    "uint32": 0x60,
}
NOTE = {
    "ScanSize": "9e-06", "FastScanSize": "9e-06", "SlowScanSize": "4e-06", "XOffset": "-3e-06", "YOffset": "1.5e-06",
    "ScanAngle": "0", "ImagingMode": "AC Mode", "Mixed:up": "1",
}  # fmt: skip


def checked(headers, order):
    """The headers with the checksum that makes the sum of all 16-bit words zero."""
    words = np.frombuffer(headers, f"{order}u2")
    return headers[:2] + struct.pack(f"{order}H", -int(words.sum(dtype=np.int64)) & 0xFFFF) + headers[4:]


def ibw(pictures, *, labels=(), note=NOTE, order="<", steps=(1e-9, 2e-9), unit="m", lateral="m", version=5, **claims):
    """A wave of pictures as seen, ``(N, H, W)`` or ``(H, W)``; ``steps`` is ``(y, x)``. Labels that are shorter keep the
    rest of the longest one behind their end, as Asylum's do."""
    values = np.asarray(pictures)
    shape = values.shape[::-1]
    stored = values[..., ::-1, :] if values.ndim > 1 else values
    data = stored.astype(values.dtype.newbyteorder(order)).tobytes()
    text = "\r".join(f"{key}: {value}" for key, value in note.items()).encode("latin-1")
    junk = max(labels, key=len, default="").encode()
    fields = [b""] + [label.encode() + b"\0" + junk[len(label) + 1 :] for label in labels]
    names = b"".join(field.ljust(32, b"\0") for field in fields) if labels else b""
    sizes = {"wave": 320 + len(data), "formula": 0, "note": len(text), "label": len(names)} | claims
    layer_labels = (0, 0, sizes["label"], 0) if values.ndim == 3 else (0, sizes["label"], 0, 0)
    head = struct.pack(
        f"{order}hh15i",
        version,
        0,
        sizes["wave"],
        sizes["formula"],
        sizes["note"],
        0,
        0,
        0,
        0,
        0,
        *layer_labels,
        0,
        0,
        0,
    )
    dimensions = (*claims.get("shape", shape), 0, 0, 0)[:4]
    head += struct.pack(
        f"{order}12xih10x32s8x4i4d4d4s16s152x",
        claims.get("points", values.size), claims.get("kind", TYPES[values.dtype.name]), b"Image0001", *dimensions,
        steps[1], steps[0], 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, unit.encode(),
        lateral.encode().ljust(4, b"\0") + lateral.encode(),
    )  # fmt: skip
    return checked(head, order) + data + text + names


@pytest.fixture
def save(tmp_path):
    def write(data):
        path = tmp_path / "scan.ibw"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def pictures(rng):
    """Not square, and different at every corner."""
    return rng.normal(size=(4, 4, 9)).astype(np.float32)


LABELS = ("DeflectionTrace", "HeightRetrace", "HeightTrace", "PhaseRetrace")


@pytest.mark.parametrize("order", ["<", ">"])
def test_channels_of_an_asylum_image(save, pictures, order):
    scans = list(read_scans(save(ibw(pictures, labels=LABELS, order=order))))
    assert [scan.label for scan in scans] == [
        "Height forward", "Height backward", "Deflection forward", "Phase backward",
    ]  # fmt: skip
    for scan, index in zip(scans, (2, 1, 0, 3), strict=True):
        assert np.array_equal(scan.image, pictures[index])
        assert scan.pixel_size_nm == pytest.approx((1.0, 2.0))
        assert scan.offset_nm == pytest.approx((1500.0, -3000.0))
        assert (scan.angle_deg, scan.modality, scan.warnings) == (0.0, "afm", ())
    assert [scan.unit for scan in scans] == ["m", "m", "m", "deg"]
    assert scans[0].metadata["ImagingMode"] == "AC Mode"


@pytest.mark.parametrize("dtype", TYPES)
def test_types_of_values(save, rng, dtype):
    values = rng.integers(1, 100, size=(4, 9)).astype(dtype)
    assert np.array_equal(open_scan(save(ibw(values))).image, values.astype(np.float32))


def test_a_wave_of_igor_itself(save, pictures):
    """Without labels the layers are frames; without a note nothing is known of the microscope."""
    scans = list(read_scans(save(ibw(pictures, note={}, unit="A", lateral="nm", steps=(0.5, 0.25)))))
    assert [scan.label for scan in scans] == [f"Image0001 frame {n}" for n in range(4)]
    assert all(np.array_equal(scan.image, picture) for scan, picture in zip(scans, pictures, strict=True))
    first = scans[0]
    assert (first.pixel_size_nm, first.offset_nm, first.angle_deg) == ((0.5, 0.25), None, None)
    assert (first.unit, first.modality) == ("A", "unknown")
    (single,) = read_scans(save(ibw(pictures[0], note={}, lateral="")))
    assert (single.label, single.pixel_size_nm) == ("Image0001", None)


def test_the_note_gives_the_size_where_the_wave_does_not(save, pictures):
    """As Asylum's own scaling: the size is from the first to the last pixel."""
    scan = open_scan(save(ibw(pictures, labels=LABELS, lateral="")))
    assert scan.pixel_size_nm == pytest.approx((4000 / 3, 9000 / 8))


def test_the_sense_of_an_angle_is_not_known(save, pictures):
    scan = open_scan(save(ibw(pictures, labels=LABELS, note=NOTE | {"ScanAngle": "90"})))
    assert scan.angle_deg == 90.0
    assert "counter-clockwise" in scan.warnings[0]


@pytest.mark.parametrize(("mode", "expected"), [("STM Mode", "stm"), ("Contact", "afm"), ("PFM Mode", "afm")])
def test_modality(save, pictures, mode, expected):
    assert open_scan(save(ibw(pictures, labels=LABELS, note={"ImagingMode": mode}))).modality == expected


def test_the_note_knows_a_unit_better(save, pictures):
    note = NOTE | {"PhaseUnit": "rad"}
    units = {scan.channel: scan.unit for scan in read_scans(save(ibw(pictures, labels=LABELS, note=note)))}
    assert units == {"Height": "m", "Deflection": "m", "Phase": "rad"}


def test_an_image_that_was_stopped(save, pictures):
    pictures[:, :2] = np.nan
    scan = open_scan(save(ibw(pictures, labels=LABELS)))
    assert np.isnan(scan.image[:2]).all()
    assert "50.0 %" in scan.warnings[0]


def test_equal_and_missing_labels(save, pictures):
    scans = read_scans(save(ibw(pictures, labels=("AmpTrace", "AmpTrace"))))
    assert [scan.label for scan in scans] == ["Amp forward", "Amp (2) forward", "layer 2", "layer 3"]


@pytest.mark.parametrize(
    "data",
    [
        ibw(np.ones(50, np.float32)), ibw(np.ones((3, 50), np.float32), labels=("Raw", "Defl", "ZSnsr")),
        ibw(np.ones((2, 3, 4, 5), np.float32)), ibw(np.ones((4, 9), np.float32), kind=3),
        ibw(np.ones((4, 9), np.float32), kind=0), checked(struct.pack("<hhi", 2, 0, 1) + bytes(118), "<"),
    ],
    ids=["curve", "force curve", "volume", "complex", "text", "version 2"],
)  # fmt: skip
def test_what_is_no_image(save, data):
    with pytest.raises(ScanError, match="an Igor wave") as caught:
        open_scan(save(data))
    assert type(caught.value) is ScanError


ONE = np.ones((4, 9), np.float32)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (ibw(ONE, shape=(2**31 - 1, 2**31 - 1)), "36 points"), (ibw(ONE, shape=(40000, 50000), points=2 * 10**9), "pixels"),
        (ibw(ONE, shape=(16000, 16000), points=256 * 10**6), "1024000000 bytes"), (ibw(ONE, wave=2**31 - 1), "claims"),
        (ibw(ONE, note={}, formula=2**31 - 1), "claims"), (ibw(ONE, wave=100), "claims"), (ibw(ONE, formula=-7), "claims"),
        (ibw(np.ones((4097, 1, 1), np.int8)), "4096 layers"),
    ],
    ids=range(8),
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


def test_a_file_cut_anywhere_is_refused(save, pictures):
    data = ibw(pictures, labels=LABELS)
    for length in (*range(384, len(data), 11), len(data) - 1):
        with pytest.raises(CorruptScanError):
            open_scan(save(data[:length]))


def test_the_checksum_makes_the_format(save):
    """Two bytes are a weak mark: zeros and a wrong sum are another format."""
    wrong = bytearray(ibw(ONE))
    wrong[100] ^= 1
    for data in (bytes(wrong), bytes(1000), b"\5", b"\5\0" + bytes(1000)):
        with pytest.raises(UnknownFormatError):
            open_scan(save(data))


@settings(max_examples=60, deadline=None)
@given(at=st.integers(4, 383), byte=st.integers(0, 255))
def test_a_wrong_byte_gives_a_scan_or_a_scan_error(tmp_path_factory, at, byte):
    """With a checksum that fits, so that the reader sees the damage."""
    data = bytearray(ibw(ONE))
    data[at], data[2:4] = byte, b"\0\0"
    path = tmp_path_factory.mktemp("ibw") / "scan.ibw"
    path.write_bytes(checked(bytes(data[:384]), "<") + data[384:])
    try:
        assert list(read_scans(path))
    except ScanError as error:
        assert error.path == path  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("name", ["ImageStack_BTFO_DSO", "P0089OP0027"])
def test_real_images_against_igor2(real_data, name):
    """The same numbers as another reader, turned from (x, y from the bottom) into a picture."""
    binarywave = pytest.importorskip("igor2.binarywave")
    path = real_data / f"afm/IgorIBWReader_{name}.ibw"
    waves = binarywave.load(str(path))["wave"]["wData"]
    scans = list(read_scans(path))
    assert len(scans) == waves.shape[2]
    for index, scan in enumerate(scans):
        assert np.array_equal(scan.image, waves[:, :, index].T[::-1])
    assert [scan.channel for scan in scans][:4] == ["Height", "Amplitude", "Deflection", "Phase"]
