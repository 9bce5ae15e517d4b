"""NumPy's own files (.npy): one array, an image or a stack.

Source: NumPy Enhancement Proposal 1, the .npy format.
"""

from __future__ import annotations

import io
import math
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spm_runtime.errors import CorruptScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._images import as_image, check_numbers, layout, mark_infinite
from spm_runtime.scan import Scan

__all__ = ["READER"]

MAGIC = np.lib.format.MAGIC_PREFIX

#: More than the header of a plain array takes.
MAX_HEADER = 2**16


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith(MAGIC)


def _read(path: Path) -> Iterator[Scan]:
    count = _check_header(path)
    # A map of the file: nothing is allocated, and a stack is read frame by frame.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    for frame in (None,) if count is None else range(count):
        image, warnings = as_image(np.asarray(array if frame is None else array[frame]))
        image, missing = mark_infinite(image)
        yield Scan(image, frame=frame, path=path, warnings=warnings + missing)


def _check_header(path: Path) -> int | None:
    """The number of frames (None for a single image), after a check of the header against the size of the file."""
    with path.open("rb") as whole:
        # Only the beginning: a header that claims 4 GB would be allocated before it is found to be short.
        file = io.BytesIO(whole.read(MAX_HEADER))
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, _, dtype = read(file)
        except tokenize.TokenError as error:  # NumPy's parser of the header lets it pass
            raise CorruptScanError(
                path, f"a header that ends too early ({error.args[0]})", "a whole header", "Save the image again."
            ) from error
        start = file.tell()
    check_numbers(path, dtype)
    if any(length <= 0 for length in shape):
        raise CorruptScanError(path, f"an array of shape {shape}", "positive lengths", "Save the image again.")
    count, height, width = layout(path, shape)
    check_claim(
        path,
        pixels=height * width,
        bytes_claimed=math.prod(shape) * dtype.itemsize,
        bytes_there=path.stat().st_size - start,
    )
    return count


READER = Reader(name="NumPy array", suffixes=(".npy",), sniff=_sniff, read=_read)
