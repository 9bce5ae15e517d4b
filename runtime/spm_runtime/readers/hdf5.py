"""HDF5: Velox and Berkeley EMD, HyperSpy, and files with images that follow no convention.

Only what is in the file itself is read: external links, external storage and virtual data sets, which name other files,
are refused. Stacks are read frame by frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._hdf5_layouts import Picture, berkeley, datasets, generic, hyperspy, velox
from spm_runtime.readers._images import (
    MIN_SIDE,
    as_image,
    check_compressed,
    check_frames,
    check_numbers,
    mark_infinite,
    unique_names,
)
from spm_runtime.scan import Scan, mark_missing_rows

__all__ = ["READER"]

#: Source: HDF5 file format specification, section II.A. The signature may follow a user block (MATLAB writes one).
MAGIC = b"\x89HDF\r\n\x1a\n"
STARTS = (0, 512, 1024, 2048)


def _sniff(probe: Probe) -> bool:
    return any(probe.head[start : start + len(MAGIC)] == MAGIC for start in STARTS)


def _read(path: Path) -> Iterator[Scan]:
    size = path.stat().st_size
    # Without a lock: the program that writes the file may still have it open, and network shares know none.
    with h5py.File(path, "r", locking=False) as file:
        found = datasets(file, path)
        pictures = _pictures(file, found)
        stored = [picture for picture in pictures if _check(path, picture, size)]
        if not stored:
            raise ScanError(
                path,
                f"an HDF5 file with {len(found)} data sets, none of them an image with pixels in it",
                f"a data set of real numbers with at least {MIN_SIDE} rows and columns",
                "Open the file that has the image; spectra, diffraction patterns and positions are not analysed.",
            )
        names = unique_names(picture.channel for picture in stored)
        for picture, name in zip(stored, names, strict=True):
            yield from _scans(path, picture, name)


def _pictures(file: h5py.File, found: list[h5py.Dataset]) -> list[Picture]:
    for pictures in (velox(file), hyperspy(file), berkeley(file, found)):
        if pictures is not None:
            return pictures
    return generic(found)


def _scans(path: Path, picture: Picture, channel: str) -> Iterator[Scan]:
    shape, axes = picture.dataset.shape, picture.axes
    colours = _has_colours(picture)
    others = [index for index in range(len(shape)) if index not in axes and not colours]
    count = math.prod(shape[index] for index in others)
    for frame in range(count):
        array = _frame(picture, others, frame)
        image, warnings = as_image(array)
        mark = mark_missing_rows if picture.modality == "stem" else mark_infinite
        image, missing = mark(image)
        yield Scan(
            image,
            pixel_size_nm=picture.pixel_size_nm,
            modality=picture.modality,
            channel=channel,
            frame=frame if count > 1 else None,
            path=path,
            metadata=picture.metadata,
            warnings=warnings + missing,
        )


def _frame(picture: Picture, others: list[int], frame: int) -> NDArray[np.generic]:
    """One frame, y before x."""
    shape = picture.dataset.shape
    index: list[slice | int] = [slice(None)] * len(shape)
    position = np.unravel_index(frame, [shape[axis] for axis in others]) if others else ()
    for axis, at in zip(others, position, strict=True):
        index[axis] = int(at)
    array: NDArray[np.generic] = picture.dataset[tuple(index)]
    return array.swapaxes(0, 1) if picture.axes[0] > picture.axes[1] else array


def _has_colours(picture: Picture) -> bool:
    shape = picture.dataset.shape
    return picture.modality == "unknown" and len(shape) == 3 and picture.axes == (0, 1)


def _check(path: Path, picture: Picture, size: int) -> bool:
    """Refuse a data set that claims more than the file holds; False where nothing was ever written to it."""
    dataset = picture.dataset
    name = str(dataset.name)
    check_numbers(path, dataset.dtype)
    if dataset.external or dataset.is_virtual:
        raise ScanError(
            path,
            f"a data set {name} whose pixels are in another file",
            "pixels in the file itself",
            "Copy the data into one file.",
        )
    stored = dataset.id.get_storage_size()
    if stored == 0:
        return False
    shape, item = dataset.shape, dataset.dtype.itemsize
    height, width = (shape[axis] for axis in picture.axes)
    if min(height, width) < MIN_SIDE:
        return False
    claimed = math.prod(shape) * item
    if stored > size:
        raise CorruptScanError(
            path,
            f"the data set {name} is said to take {stored} bytes in a file of {size}",
            "a complete file",
            "The file is truncated or damaged: wait until it is saved, or copy it again.",
        )
    check_frames(path, math.prod(shape) // (height * width))
    if dataset.chunks is None:
        check_claim(path, pixels=height * width, bytes_claimed=claimed, bytes_there=stored)
    # A chunk is decompressed whole, and may be larger than the image.
    chunk = math.prod(dataset.chunks or (1,)) * item
    check_compressed(path, pixels=height * width, bytes_claimed=max(claimed, chunk), bytes_stored=stored)
    return True


READER = Reader(name="HDF5 (EMD, HyperSpy)", suffixes=(".emd", ".hspy", ".h5", ".hdf5"), sniff=_sniff, read=_read)
