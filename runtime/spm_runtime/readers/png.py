"""PNG pictures: 1 to 16 bit grey, palette and colour.

A PNG says nothing about the size of a pixel: its only scale is that of the screen or the printer.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from spm_runtime.errors import CorruptScanError
from spm_runtime.readers._api import Probe, Reader
from spm_runtime.readers._images import as_image, check_compressed, layout, plain
from spm_runtime.scan import Scan

__all__ = ["READER"]

#: Signature and first chunk. Source: PNG specification (third edition), sections 5.2 and 11.2.1.
MAGIC = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">4x4sIIBB")
#: Samples per pixel for each colour type.
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith(MAGIC)


def _read(path: Path) -> Iterator[Scan]:
    depth = _check_header(path)
    try:
        # From memory: Pillow allocates the length that a chunk claims when it reads from a file.
        with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as picture:
            picture.load()  # raises when the data are cut
            metadata = plain(picture.info)
            if picture.mode == "P":
                picture_grey = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
            else:
                picture_grey = picture
            array = np.asarray(picture_grey)
    except Image.DecompressionBombError as error:
        raise CorruptScanError(path, str(error), "an image", "Save a smaller region as TIFF.") from error
    image, warnings = as_image(array)
    if depth == 16 and array.ndim == 3 and array.dtype.itemsize == 1:
        warnings += ("a picture of 16 bits per colour, read with 8",)
    yield Scan(image, path=path, metadata=metadata, warnings=warnings)


def _check_header(path: Path) -> int:
    """Bits per sample; refuses a size that the file cannot hold before Pillow allocates anything."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC) + HEADER.size)
    kind, width, height, depth, colour = HEADER.unpack_from(head, len(MAGIC))
    if kind != b"IHDR" or colour not in SAMPLES:
        raise CorruptScanError(path, f"a PNG that begins with {kind!r}", "its header (IHDR)", "Save the picture again.")
    stored = path.stat().st_size
    claimed = width * height * SAMPLES[colour] * max(depth // 8, 1)
    check_compressed(path, pixels=width * height, bytes_claimed=claimed, bytes_stored=stored)
    layout(path, (height, width))
    return int(depth)


READER = Reader(name="PNG", suffixes=(".png",), sniff=_sniff, read=_read)
