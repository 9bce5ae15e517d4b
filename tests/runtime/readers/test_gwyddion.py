"""Gwyddion .gwy: containers that the library gwyfile writes, damaged ones, and real ones."""

import struct
import tracemalloc

import gwyfile
import numpy as np
import pytest
from gwyfile.objects import GwyContainer, GwyDataField, GwyObject
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import open_scan, read_scans


def field(image, size=(4e-9, 9e-9), offset=(0.0, 0.0), unit_xy="m", unit_z="m"):
    """A data field; ``size`` and ``offset`` are ``(y, x)``."""
    return GwyDataField(
        image, xreal=size[1], yreal=size[0], xoff=offset[1], yoff=offset[0], si_unit_xy=unit_xy, si_unit_z=unit_z
    )


@pytest.fixture
def save(tmp_path):
    def write(components):
        path = tmp_path / "scan.gwy"
        if isinstance(components, bytes):
            path.write_bytes(components)
        else:
            GwyContainer(components).tofile(str(path))
        return path

    return write


@pytest.fixture
def picture(rng):
    """Not square, and different at every corner."""
    return rng.normal(size=(4, 9)) * 1e-10


def test_round_trip_of_all_channels(save, rng):
    pictures = rng.normal(size=(3, 4, 9))
    path = save({
        "/0/data": field(pictures[0], unit_z="A"), "/0/data/title": "Current (Forward)", "/0/mask": field(pictures[0]),
        "/3/data": field(pictures[1]), "/3/data/title": "Z (Backward)", "/3/meta": GwyContainer({"Bias": "1 V"}),
        "/11/data": field(pictures[2]), "/11/data/title": "Z (Forward)", "/filename": "scan.sxm", "/0/data/visible": True,
    })  # fmt: skip
    scans = list(read_scans(path))
    assert [scan.label for scan in scans] == ["Z forward", "Z backward", "Current forward"]
    for scan, image in zip(scans, pictures[::-1], strict=True):
        assert np.array_equal(scan.image, image.astype(np.float32))
        assert scan.pixel_size_nm == pytest.approx((1.0, 1.0))
        assert scan.modality == "stm"
        assert scan.warnings == ()
    assert [scan.unit for scan in scans] == ["m", "m", "A"]
    assert dict(scans[1].metadata) == {"Bias": "1 V"}


@pytest.mark.parametrize(
    ("unit", "expected"), [("m", (2e9, 1e9)), ("nm", (2.0, 1.0)), ("Å", (0.2, 0.1)), ("", None), ("px", None)]
)
def test_pixels_that_are_not_square_in_any_unit(save, picture, unit, expected):
    scan = open_scan(save({"/0/data": field(picture, size=(8.0, 9.0), unit_xy=unit)}))
    assert scan.pixel_size_nm == (None if expected is None else pytest.approx(expected))


def test_a_container_without_units(save, picture):
    scan = open_scan(save({"/0/data": GwyDataField(picture)}))
    assert (scan.pixel_size_nm, scan.offset_nm, scan.unit, scan.channel) == (None, None, "", "channel 0")


def test_the_offset_is_that_of_the_centre(save, picture):
    """Import modules write the centre minus half the size; both zero says nothing."""
    scan = open_scan(save({"/0/data": field(picture, size=(4e-9, 9e-9), offset=(18e-9, -34.5e-9))}))
    assert scan.offset_nm == pytest.approx((20.0, -30.0))
    assert open_scan(save({"/0/data": field(picture)})).offset_nm is None


@pytest.mark.parametrize(
    ("title", "channel", "direction"),
    [
        ("HeightRetrace", "Height", "backward"), ("HeightTrace", "Height", "forward"), ("Z [bwd]", "Z", "backward"),
        ("Topography", "Topography", None), ("Forward", "Forward", None), ("Trace elements", "Trace elements", None),
        ("Z - Fwd", "Z", "forward"), ("  ", "channel 0", None),
    ],
)  # fmt: skip
def test_titles(save, picture, title, channel, direction):
    scan = open_scan(save({"/0/data": field(picture), "/0/data/title": title}))
    assert (scan.channel, scan.direction) == (channel, direction)


def test_equal_titles_get_numbers(save, picture):
    components = {f"/{n}/data": field(picture) for n in range(3)} | {f"/{n}/data/title": "Z" for n in range(3)}
    assert [scan.channel for scan in read_scans(save(components))] == ["Z", "Z (2)", "Z (3)"]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ({"Height": "m", "AmplitudeRetrace": "m"}, "afm"), ({"Z": "m", "Current": "A"}, "stm"), ({"Z": "m"}, "unknown"),
        ({"Z": "m", "Current": "A", "Frequency_Shift": "Hz"}, "unknown"),
    ],
)  # fmt: skip
def test_modality(save, picture, channels, expected):
    components = {}
    for n, (title, unit) in enumerate(channels.items()):
        components |= {f"/{n}/data": field(picture, unit_z=unit), f"/{n}/data/title": title}
    assert open_scan(save(components)).modality == expected


def test_missing_rows(save, picture):
    picture[2:] = np.nan
    scan = open_scan(save({"/0/data": field(picture)}))
    assert np.isnan(scan.image[2:]).all()
    assert "50.0 %" in scan.warnings[0]


def test_a_container_without_images(save):
    with pytest.raises(ScanError, match="without a data field") as caught:
        open_scan(save({"/filename": "curves.gwy"}))
    assert type(caught.value) is ScanError


def test_an_old_container_is_named_with_its_remedy(save):
    with pytest.raises(ScanError, match=r"scan\.gwy: .*GWYO.*Open it in Gwyddion and save it again") as caught:
        open_scan(save(b"GWYOGwyContainer\0\4\0\0\0abcd"))
    assert type(caught.value) is ScanError


def test_a_file_cut_anywhere_is_refused(save, picture):
    path = save({"/0/data": field(picture), "/0/data/title": "Z", "/0/meta": GwyContainer({"Bias": "1 V"})})
    data = path.read_bytes()
    for length in range(len(b"GWYPGwy"), len(data)):
        with pytest.raises(CorruptScanError):
            open_scan(save(data[:length]))


def component(name, code, value):
    return name.encode() + b"\0" + code.encode() + value


def wrapped(body, kind=b"GwyContainer"):
    return kind + b"\0" + struct.pack("<I", len(body)) + body


def lying(xres=9, yres=4, count=36):
    """A container whose data field is 4 x 9 and claims otherwise."""
    parts = [component("xres", "i", struct.pack("<i", xres)), component("yres", "i", struct.pack("<i", yres))]
    parts.append(component("data", "D", struct.pack("<I", count) + bytes(8 * 36)))
    return b"GWYP" + wrapped(component("/0/data", "o", wrapped(b"".join(parts), b"GwyDataField")))


def nested(depth):
    body = b""
    for _ in range(depth):
        body = component("a", "o", wrapped(body))
    return b"GWYP" + wrapped(body)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (lying(xres=2**31 - 1, yres=2**31 - 1), "pixels"), (lying(xres=16000, yres=16000), "2048000000 bytes"),
        (lying(xres=-9, yres=-4), "-9"), (lying(xres=0), "0"), (lying(count=2**32 - 1), "claimed"),
        (b"GWYP" + wrapped(component("a", "S", struct.pack("<I", 2**32 - 1) + b"x\0")), "claimed"),
        (b"GWYP" + wrapped(component("a", "O", struct.pack("<I", 2**32 - 1))), "claimed"),
        (b"GWYP" + wrapped(component("a", "?", b"")), "unknown type"),
        (b"GWYP" + wrapped(component("a", "s", b"no end")), "without an end"), (nested(5000), "nested"),
    ],
    ids=range(10),
)  # fmt: skip
def test_lying_containers(save, data, match):
    """Each is refused without reserving what it claims."""
    path = save(data)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptScanError, match=match):
            open_scan(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_every_type_of_component_is_passed_over(save, picture):
    """What is no image does not hide the image behind it."""
    extra = GwyContainer({
        "/a/long": 2**40, "/a/int": 7, "/a/double": 0.5, "/a/no": False, "/a/char": "x",
        "/a/ints": np.arange(3, dtype=np.int32), "/a/longs": np.arange(3, dtype=np.int64),
        "/a/texts": ["one", "two"], "/a/objects": [GwyObject("GwyThing", {"x": 1})], "/1/data": field(picture),
    }, typecodes={"/a/texts": "S", "/a/objects": "O"})  # fmt: skip
    path = save({})
    extra.tofile(str(path))
    assert np.array_equal(open_scan(path).image, picture.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_wrong_byte_gives_a_scan_or_a_scan_error(tmp_path_factory, at, byte):
    path = tmp_path_factory.mktemp("gwy") / "scan.gwy"
    GwyContainer({"/0/data": field(np.ones((3, 5))), "/0/data/title": "Z"}).tofile(str(path))
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    try:
        assert list(read_scans(path))
    except ScanError as error:
        assert error.path == path  # noqa: PT017 - both outcomes are right


def test_a_real_container_against_gwyfile(real_data):
    path = real_data / "afm/PTO_110_Virgin0001.gwy"
    fields = gwyfile.util.get_datafields(gwyfile.load(str(path)))
    scans = list(read_scans(path))
    assert {f"{scan.channel}Retrace" for scan in scans} == set(fields)
    for scan in scans:
        assert np.array_equal(scan.image, fields[f"{scan.channel}Retrace"].data.astype(np.float32))


def test_the_real_old_container(real_data):
    with pytest.raises(ScanError, match=r"GwiddionReader_chip\.gwy: .*GWYO.*save it again"):
        open_scan(real_data / "afm/GwiddionReader_chip.gwy")
