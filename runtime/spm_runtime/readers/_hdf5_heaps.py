"""A check of the global heaps of an HDF5 file, where texts of variable length are kept.

The HDF5 library (2.0 and before) reads a heap object by object and never ends when one claims a length of zero, as all do
in a region that was lost and reads as zeros. So the heaps are walked here before the first text is asked for.

Source: HDF5 file format specification version 3.0, section III.E "Disk Format: Level 1E - Global Heap".
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from spm_runtime.errors import CorruptScanError

__all__ = ["check_heaps"]

#: Signature and version 1; three reserved bytes, which the library does not check, and the length of the collection follow.
COLLECTION = b"GCOL\x01"
LENGTH_AT = 8


def check_heaps(path: Path, length_bytes: int) -> None:
    """Refuse a file with a global heap that has an object without a length.

    Parameters
    ----------
    path
        The file.
    length_bytes
        Bytes that the file takes for a length (4 or 8).

    Raises
    ------
    CorruptScanError
        Naming the place.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begin = content.find(COLLECTION)
        while begin >= 0:
            _walk(path, content, begin, length_bytes)
            begin = content.find(COLLECTION, begin + len(COLLECTION))


def _walk(path: Path, content: mmap.mmap, begin: int, length_bytes: int) -> None:
    form = "<Q" if length_bytes == 8 else "<I"
    head = _aligned(LENGTH_AT + length_bytes)
    if begin + head > len(content):
        return
    (size,) = struct.unpack_from(form, content, begin + LENGTH_AT)
    end = begin + size
    if end > len(content):  # no heap, or one that the library refuses
        return
    at, least = begin + head, _aligned(8 + length_bytes)
    while at + least <= end:
        (index,) = struct.unpack_from("<H", content, at)
        (length,) = struct.unpack_from(form, content, at + 8)
        step = least + _aligned(length) if index else length  # object 0 is the space that is left, its header included
        if step < least or at + step > end:
            raise CorruptScanError(
                path,
                f"texts are damaged (an object of {length} bytes at byte {at})",
                "a complete HDF5 file",
                "The file is damaged: copy or save it again.",
            )
        at += step


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8
