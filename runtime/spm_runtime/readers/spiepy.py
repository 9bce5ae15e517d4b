"""SPIEPy's ``.dat``: two 32-bit integers, rows and columns, and the heights as 64-bit floats in metres.

The format of the example images of the Python package SPIEPy (``spiepy.demo``), all numbers little-endian. It has no
mark by which it could be known, no lateral size and no other metadata, so it is asked for last and a file is only taken
when its size fits its shape to the byte and its heights are those of a surface.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.scan import Scan, mark_missing_rows

__all__ = ["READER"]

SHAPE = struct.Struct("<II")

#: Sides of an image in pixels that any STM has ever written.
MIN_SIDE, MAX_SIDE = 8, 2**14

#: Heights in metres: exactly zero, or between a thousandth of a picometre and a millimetre. Random bytes are not.
MIN_HEIGHT, MAX_HEIGHT = 1e-15, 1e-3


def _sniff(probe: Probe) -> bool:
    head = probe.head
    if len(head) < SHAPE.size + 8:
        return False
    rows, columns = SHAPE.unpack_from(head)
    if not (MIN_SIDE <= rows <= MAX_SIDE and MIN_SIDE <= columns <= MAX_SIDE):
        return False
    if probe.size != SHAPE.size + 8 * rows * columns:
        return False
    heights = np.abs(np.frombuffer(head, "<f8", (len(head) - SHAPE.size) // 8, SHAPE.size))
    measured = heights[heights != 0]
    return bool(measured.size and np.all((measured >= MIN_HEIGHT) & (measured <= MAX_HEIGHT)))


def _read(path: Path) -> Iterator[Scan]:
    data = path.read_bytes()
    rows, columns = SHAPE.unpack_from(data)
    check_claim(path, pixels=rows * columns, bytes_claimed=8 * rows * columns, bytes_there=len(data) - SHAPE.size)
    heights = np.frombuffer(data, "<f8", rows * columns, SHAPE.size).reshape(rows, columns)
    image, warnings = mark_missing_rows(heights.astype(np.float32))
    yield Scan(image=image, unit="m", modality="stm", channel="Z", path=path, warnings=warnings)


READER = Reader(name="SPIEPy", suffixes=(".dat",), sniff=_sniff, read=_read, rank=90)
