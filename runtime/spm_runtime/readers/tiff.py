"""TIFF, BigTIFF and ImageJ stacks: every page is a frame.

Pages are read one by one and never through the file names that OME-XML may contain. Whose pixel sizes are understood
stands in `spm_runtime.readers._tiff_calibration`.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._images import (
    as_image,
    check_compressed,
    check_frames,
    check_numbers,
    layout,
    mark_infinite,
    plain,
)
from spm_runtime.readers._tiff_calibration import calibration
from spm_runtime.scan import Scan

__all__ = ["READER"]

#: Byte order and version 42 (TIFF 6.0, section 2) or 43 (BigTIFF).
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: Tags that are kept as metadata, by the name that tifffile gives them.
KEPT_TAGS = ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer")

#: Bits per sample that lie in a file as they lie in memory.
WHOLE_BITS = {8, 16, 32, 64}

#: What the values mean where a viewer shows them otherwise.
PHOTOMETRIC_NOTES: dict[int, str] = {
    tifffile.PHOTOMETRIC.MINISWHITE: "stored with zero as white: bright columns are dark in these values",
    tifffile.PHOTOMETRIC.PALETTE: "drawn with a palette: the values are the numbers behind its colours",
}

# Its remarks on odd tags go to stderr otherwise; what a user must know becomes a warning of the scan or an error.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class _Page:
    """One page and the images in it."""

    index: int
    page: tifffile.TiffPage
    images: int


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith(MAGIC)


def _read(path: Path) -> Iterator[Scan]:
    with tifffile.TiffFile(path, _multifile=False) as tif:
        pages = _pages(path, tif)
        if len(pages) == 1 and pages[0].images == 1 and (count := _hidden_frames(tif, pages[0].page)) > 1:
            yield from _read_hidden(path, tif, pages[0].page, count)
            return
        total = sum(page.images for page in pages)
        check_frames(path, total)
        frame = 0
        for page in pages:
            for array, notes in _split(page, _decode(path, tif, page)):
                image, warnings = as_image(array)
                yield _scan(path, tif, page.page, image, frame if total > 1 else None, notes + warnings)
                frame += 1


def _scan(
    path: Path,
    tif: tifffile.TiffFile,
    page: tifffile.TiffPage,
    image: NDArray[np.float32],
    frame: int | None,
    warnings: tuple[str, ...],
) -> Scan:
    image, missing = mark_infinite(image)
    pixel_size, modality, source = calibration(tif, page)
    metadata = plain({name: page.tags[name].value for name in KEPT_TAGS if name in page.tags})
    if source:
        metadata["calibration"] = source
    return Scan(
        image,
        pixel_size_nm=pixel_size,
        modality=modality,
        frame=frame,
        path=path,
        metadata=metadata,
        warnings=warnings + missing,
    )


def _pages(path: Path, tif: tifffile.TiffFile) -> list[_Page]:
    """The pages that are images of their own, each checked against the size of the file; no thumbnails or masks."""
    pages: list[_Page] = []
    thumbnails: list[_Page] = []
    offsets: set[int] = set()
    for index, page in enumerate(entry.aspage() for entry in tif.pages):
        if page.offset in offsets:
            raise CorruptScanError(
                path,
                f"pages in a circle (page {index} is an earlier one)",
                "a list of pages that ends",
                "The file is damaged: save or copy it again.",
            )
        offsets.add(page.offset)
        check_frames(path, len(offsets))
        _check_page(path, tif, page)
        (thumbnails if page.is_reduced or page.is_mask else pages).append(_Page(index, page, _images_in(path, page)))
    if (pages or thumbnails) and (offset := _next_offset(tif, page)) != 0:
        raise CorruptScanError(
            path,
            f"page {len(offsets) - 1} names a next page at byte {offset} of {tif.filehandle.size}, which cannot be read",
            "all pages",
            "The file is truncated or still being written: wait until it is saved, or copy it again.",
        )
    return pages or thumbnails


def _next_offset(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Where the page after this one begins; 0 after the last one. The library ends silently at a broken one."""
    form, file = tif.tiff, tif.filehandle
    file.seek(page.offset)
    (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(page.offset + form.tagnosize + tags * form.tagsize)
    (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return int(offset)


def _check_page(path: Path, tif: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    """Refuse a page that claims more than the file holds."""
    if page.dtype is None:
        raise ScanError(
            path,
            f"pixels of {page.bitspersample} bits in sample format {page.sampleformat}",
            "8, 16, 32 or 64 bit numbers",
            "Save the image as a 16-bit or 32-bit TIFF.",
        )
    check_numbers(path, page.dtype)
    size = tif.filehandle.size
    spans = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    stored = sum(max(min(offset + count, size) - offset, 0) for offset, count in spans)
    pixels = int(page.imagewidth) * int(page.imagelength)
    claimed = math.prod(page.shape) * page.dtype.itemsize
    # A tile may be larger than the image, and is allocated whole.
    largest = max(claimed, math.prod(page.chunks) * page.dtype.itemsize)
    if page.is_contiguous:  # written in one piece; the lengths of its strips do not matter
        check_claim(path, pixels=pixels, bytes_claimed=claimed, bytes_there=size - page.dataoffsets[0])
        return
    if page.compression == 1 and page.bitspersample in WHOLE_BITS:
        check_claim(path, pixels=pixels, bytes_claimed=claimed, bytes_there=stored)
    check_compressed(path, pixels=pixels, bytes_claimed=largest, bytes_stored=stored)
    there = sum(1 for offset, count in spans if count > 0 and offset + count <= size)
    expected = math.prod(page.chunked)
    if there < expected:  # the library would fill the rest with zeros
        raise CorruptScanError(
            path,
            f"{there} strips or tiles of {expected}",
            "all of them",
            "The file is truncated or damaged: wait until it is saved, or copy it again.",
        )


def _images_in(path: Path, page: tifffile.TiffPage) -> int:
    """How many images one page holds."""
    axes, shape = page.axes, page.shape
    layout(path, (int(page.imagelength), int(page.imagewidth)))
    if axes == "YX":
        return 1
    if axes == "YXS":
        return 1 if _is_colour(page) or shape[-1] - len(page.extrasamples) == 1 else int(shape[-1])
    if axes == "SYX":
        return 1 if _is_colour(page) else int(shape[0])
    if axes == "ZYX":
        return int(shape[0])
    raise ScanError(
        path,
        f"a page with the axes {axes} and the shape {shape}",
        "images",
        "Save the images as a stack with one page each.",
    )


def _is_colour(page: tifffile.TiffPage) -> bool:
    """Whether the samples are colours of one picture.

    Three planes one after the other are colours only in 8 bit: programs that save a stack of three frames mark them as
    RGB by mistake.
    """
    if page.photometric != tifffile.PHOTOMETRIC.RGB:
        return False
    return page.axes == "YXS" or page.dtype == np.uint8


def _split(page: _Page, array: NDArray[Any]) -> Iterator[tuple[NDArray[Any], tuple[str, ...]]]:
    """The images of one decoded page, colours last, each with what is to be said about it."""
    axes = page.page.axes
    notes: tuple[str, ...] = ()
    if (note := PHOTOMETRIC_NOTES.get(page.page.photometric)) is not None:
        notes = (note,)
    if page.images == 1:
        colour = _is_colour(page.page)
        if axes == "SYX":
            array = np.moveaxis(array, 0, -1)
        yield (array if array.ndim == 2 or colour else array[..., 0]), notes
        return
    if axes == "SYX" and page.page.photometric == tifffile.PHOTOMETRIC.RGB:
        notes += ("planes that are marked as colours (RGB) are taken as frames",)
    for index in range(page.images):
        yield (array[..., index] if axes == "YXS" else array[index]), notes


def _decode(path: Path, tif: tifffile.TiffFile, page: _Page) -> NDArray[Any]:
    """Pixels of a page; by Pillow where tifffile lacks the codec (LZW, JPEG)."""
    if page.page.compression in tifffile.TIFF.DECOMPRESSORS and page.page.predictor in tifffile.TIFF.UNPREDICTORS:
        return np.asarray(page.page.asarray(maxworkers=1))
    try:
        with Image.open(path, formats=["TIFF"]) as picture:
            picture.seek(page.index)
            array = np.asarray(picture)
    except Image.DecompressionBombError as error:
        raise CorruptScanError(path, str(error), "an image", "Save it without compression.") from error
    except OSError as error:
        raise ScanError(
            path,
            f"compression {page.page.compression} that cannot be decoded ({error})",
            "no compression, Deflate, LZW, PackBits or Zstandard",
            "Save it without compression; a damaged file fails in the same way.",
        ) from error
    if array.shape != page.page.shape or array.dtype.itemsize != np.dtype(page.page.dtype).itemsize:
        raise ScanError(
            path,
            f"compression {page.page.compression} of {page.page.dtype} pixels, which came out as {array.dtype}",
            "an image that is decoded as it was saved",
            "Save it without compression.",
        )
    return array


def _hidden_frames(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Frames of a stack that has one page only: ImageJ above 4 GB, and tifffile's ``truncate``.

    The pixels follow each other, and the description says how many there are.
    """
    if page.axes != "YX" or not page.is_final:
        return 1
    if tif.is_imagej:
        count = (tif.imagej_metadata or {}).get("images", 1)
        return count if isinstance(count, int) else 1
    if tif.is_shaped and page.shaped_description:
        shape = tifffile.tifffile.shaped_description_metadata(page.shaped_description).get("shape", ())
        if len(shape) > 2 and tuple(shape[-2:]) == page.shape and all(isinstance(n, int) and n > 0 for n in shape):
            return math.prod(shape[:-2])
    return 1


def _read_hidden(path: Path, tif: tifffile.TiffFile, page: tifffile.TiffPage, count: int) -> Iterator[Scan]:
    check_frames(path, count)
    start = page.dataoffsets[0]
    pixels = math.prod(page.shape)
    check_claim(
        path,
        pixels=pixels,
        bytes_claimed=count * page.nbytes,
        bytes_there=tif.filehandle.size - start,
    )
    dtype = np.dtype(page.dtype).newbyteorder(tif.byteorder)
    for frame in range(count):
        tif.filehandle.seek(start + frame * page.nbytes)
        array = tif.filehandle.read_array(dtype, pixels).reshape(page.shape)
        yield _scan(path, tif, page, array.astype(np.float32), frame, ())


READER = Reader(name="TIFF", suffixes=(".tif", ".tiff"), sniff=_sniff, read=_read)
