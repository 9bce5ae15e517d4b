"""Small whole files of formats for which no library writes them, for the tests of readers."""

import struct

import numpy as np
import pytest


class Dm:
    """A DigitalMicrograph file of version 3 or 4, tag by tag."""

    def __init__(self, version=3, order="<") -> None:
        self.version, self.order = version, order
        self.long = ">i" if version == 3 else ">q"

    def file(self, tags):
        body = self.group(tags)
        head = struct.pack(">i", self.version) + struct.pack(self.long, len(body))
        return head + struct.pack(">i", self.order == "<") + body + bytes(8)

    def group(self, tags):
        return struct.pack(">BB", 1, 0) + struct.pack(self.long, len(tags)) + b"".join(self.tag(*tag) for tag in tags)

    def tag(self, name, value):
        kind, body = (20, self.group(value)) if isinstance(value, list) else (21, self.data(value))
        size = struct.pack(">q", len(body)) if self.version == 4 else b""
        return struct.pack(">Bh", kind, len(name)) + name.encode() + size + body

    def data(self, value):
        if isinstance(value, bytes):  # made by hand
            return value
        if isinstance(value, str):
            text = value.encode("utf-16-le" if self.order == "<" else "utf-16-be")
            return self.info(20, 4, len(value)) + text
        if isinstance(value, float):
            return self.info(7) + struct.pack(self.order + "d", value)
        if isinstance(value, int):
            return self.info(5) + struct.pack(self.order + "I", value)
        codes = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "i1": 9, "u1": 10}
        array = np.asarray(value)
        code = codes[array.dtype.str[1:]]
        return self.info(20, code, array.size) + array.astype(array.dtype.newbyteorder(self.order)).tobytes()

    def info(self, *numbers):
        return b"%%%%" + struct.pack(f">{len(numbers) + 1}{self.long[1]}", len(numbers), *numbers)

    def image(self, array, scales=(0.02, 0.02), units=("nm", "nm"), name="HAADF", data_type=None, shape=None, tags=()):
        """The tags of one image; ``scales`` and ``units`` in the order of the array."""
        shape = array.shape if shape is None else shape
        types = {"int16": 1, "float32": 2, "uint8": 6, "int32": 7, "int8": 9, "uint16": 10, "uint32": 11, "float64": 12}
        axes = [("", [("Origin", 0.0), ("Scale", s), ("Units", u)]) for s, u in zip(scales, units, strict=True)][::-1]
        bright = [("Origin", 0.0), ("Scale", 1.0), ("Units", "")]
        data = [
            ("Calibrations", [("Brightness", bright), ("Dimension", axes)]),
            ("Data", array.ravel()),
            ("DataType", types[array.dtype.name] if data_type is None else data_type),
            ("Dimensions", [("", int(length)) for length in shape[::-1]]),
            ("PixelDepth", array.itemsize),
        ]
        return [("ImageData", data), ("ImageTags", list(tags)), ("Name", name)]

    def images(self, *images):
        return self.file([("ImageList", [("", image) for image in images])])


def make_ser(frames, scale=2e-11, *, version=0x210, total=None, data_type=0x4122, grid=None):
    """A TIA series: ``(N, H, W)``, stored with the last row first."""
    types = {"uint8": 1, "uint16": 2, "uint32": 3, "int8": 4, "int16": 5, "int32": 6, "float32": 7, "float64": 8}
    kind = types[frames.dtype.name]
    total = len(frames) if total is None else total
    wide = "Q" if version >= 0x220 else "I"
    grid = [total] if grid is None else grid
    dimensions = b"".join(
        struct.pack("<IddI", length, 0.0, 1.0, 0) + struct.pack("<I4sI", 4, b"Time", 0) for length in grid
    )
    head = struct.pack("<2sHHIIII", b"II", 0x197, version, data_type, 0x4152, total, len(frames))
    start = len(head) + struct.calcsize("<" + wide) + 4 + len(dimensions)
    first = start + 2 * total * struct.calcsize("<" + wide)
    elements, offsets, tags = b"", [], []
    for frame in frames:
        offsets.append(first + len(elements))
        height, width = frame.shape
        calibration = struct.pack("<ddIddI", 0.0, scale, 0, 0.0, 2 * scale, 0)
        elements += (
            calibration
            + struct.pack("<HII", kind, width, height)
            + frame[::-1].astype("<" + frame.dtype.str[1:]).tobytes()
        )
        tags.append(first + len(elements))
        elements += struct.pack("<HHI", 0x4152, 0, 1_600_000_000)
    pad = [0] * (total - len(frames))
    table = struct.pack(f"<{2 * total}{wide}", *offsets, *pad, *tags, *pad)
    return head + struct.pack("<" + wide, start) + struct.pack("<I", len(grid)) + dimensions + table + elements


def make_mrc(frames, pixel_angstrom=(0.2, 0.3), *, big=False, extended=0, mode=None):
    """An MRC file: ``(N, H, W)``; the pixel size is ``(y, x)``."""
    modes = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}
    order = ">" if big else "<"
    sections, height, width = frames.shape
    head = bytearray(1024)
    mode = modes[frames.dtype.name] if mode is None else mode
    struct.pack_into(f"{order}4i", head, 0, width, height, sections, mode)
    struct.pack_into(f"{order}3i", head, 28, width, height, sections)
    y, x = pixel_angstrom
    struct.pack_into(f"{order}3f", head, 40, width * x, height * y, sections * 1.0)
    struct.pack_into(f"{order}3i", head, 64, 1, 2, 3)
    struct.pack_into(f"{order}3f", head, 76, float(frames.min()), float(frames.max()), float(frames.mean()))
    struct.pack_into(f"{order}i", head, 92, extended)
    head[208:216] = b"MAP " + (b"\x11\x11\0\0" if big else b"\x44\x44\0\0")
    return bytes(head) + bytes(extended) + frames.astype(frames.dtype.newbyteorder(order)).tobytes()


@pytest.fixture
def dm():
    """The writer of DigitalMicrograph files."""
    return Dm


@pytest.fixture
def ser():
    """The writer of TIA series."""
    return make_ser


@pytest.fixture
def mrc():
    """The writer of MRC files."""
    return make_mrc
