"""Gatan DigitalMicrograph DM3 and DM4, by RosettaSciIO (extra ``stem``).

A DM file is a tree of tags. RosettaSciIO follows every length in it; a damaged one makes it loop over 2⁶³ empty elements.
So the tree is walked once before, without reading the pixels, and refused where a length leaves the file.

Source: the description of the DM3 and DM4 formats by C. Boothroyd and G. Jefferis,
https://personal.ntu.edu.sg/cbb/info/dmformat/.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._images import check_frames
from spm_runtime.readers._rosettasciio import EXTRA, images, load
from spm_runtime.scan import Scan

__all__ = ["READER"]

NAME = "DigitalMicrograph"

#: Codes of the simple types: their size and whether they are integers.
SIMPLE = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "?", 9: "b", 10: "b", 11: "q", 12: "Q"}
STRUCT, STRING, ARRAY = 15, 18, 20

#: Bytes per pixel of the data types of an image, by DigitalMicrograph's number.
PIXEL_BYTES = {
    1: 2, 2: 4, 3: 8, 5: 8, 6: 1, 7: 4, 8: 4, 9: 1, 10: 2, 11: 4, 12: 8, 13: 16, 14: 1, 23: 4, 27: 8, 28: 16,
}  # fmt: skip
COLOURS = {8, 23}

#: The library reads other arrays element by element; none of DigitalMicrograph's is longer.
MAX_ELEMENTS = 2**22
#: The same for texts, whose time it takes the square.
MAX_TEXT = 2**16
MAX_DEPTH = 64


@dataclass
class _Image:
    """What the tags say of one image."""

    dimensions: list[int] = field(default_factory=list)
    data_type: int = 0
    stored: int = 0


def _sniff(probe: Probe) -> bool:
    head = probe.head
    if len(head) < 24:
        return False
    version, order = head[:4], head[8:12] if head[3] == 3 else head[12:16]
    return version in (b"\0\0\0\3", b"\0\0\0\4") and order in (b"\0\0\0\0", b"\0\0\0\1")


def _read(path: Path) -> Iterator[Scan]:
    with path.open("rb") as file:
        walk = _Walk(path, file)
        walk.file()
    pictures = [image for index, image in walk.images.items() if index not in walk.thumbnails]
    if not pictures:
        raise ScanError(path, f"a {NAME} file without an image", "an image", "Save the image, not only the layout.")
    for picture in pictures:
        _check_image(path, picture)
    # The library maps the pixels into memory, which it cannot do for pictures in colour.
    lazy = not any(picture.data_type in COLOURS for picture in pictures)
    signals = load("digitalmicrograph", path, NAME, lambda module: module.file_reader(str(path), lazy=lazy))
    yield from images(path, NAME, signals, big_endian=walk.big_endian)


def _check_image(path: Path, image: _Image) -> None:
    if image.data_type not in PIXEL_BYTES:
        raise ScanError(path, f"pixels of data type {image.data_type}", "real numbers", f"Convert it in {NAME}.")
    pixels = math.prod(image.dimensions)
    if not image.dimensions or min(image.dimensions) <= 0:
        raise CorruptScanError(
            path, f"an image of {image.dimensions} pixels", "positive lengths", "The file is damaged: copy it again."
        )
    size = math.prod(image.dimensions[:2])
    packed = image.data_type in (27, 28)  # half of a symmetric Fourier transform
    claimed = pixels * PIXEL_BYTES[image.data_type]
    check_claim(path, pixels=size, bytes_claimed=claimed // 2 if packed else claimed, bytes_there=image.stored)
    check_frames(path, pixels // size)


class _Walk:
    """Walks the tags of one file, reads the sizes of its images and believes nothing.

    Parameters
    ----------
    path
        The file, for messages.
    file
        The same, open.
    """

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        self.path = path
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self._order = "<"
        self._long = struct.Struct(">i")
        self.big_endian = False
        self.images: dict[int, _Image] = {}
        self.thumbnails: set[int] = set()

    def file(self) -> None:
        """Walk the whole file."""
        self._file.seek(0)
        version = self._unpack(struct.Struct(">i"))
        if version == 4:
            self._long = struct.Struct(">q")
        self._integer()  # the size, which programs leave wrong
        self.big_endian = not self._unpack(struct.Struct(">i"))
        self._order = ">" if self.big_endian else "<"
        self._skip(2)
        self._tags(self._integer(), ())

    def _tags(self, count: int, where: tuple[str, ...]) -> None:
        if len(where) > MAX_DEPTH:
            raise self._broken(f"tags nested more than {MAX_DEPTH} deep")
        groups = 0
        for _ in range(count):
            kind, length = self._read(">Bh")
            if length < 0:
                raise self._broken(f"a name of {length} letters")
            name = self._take(length).decode("latin-1").replace(".", "")
            if self._long.size == 8:
                self._skip(8)
            if kind == 20:
                if not name:
                    name, groups = f"TagGroup{groups}", groups + 1
                self._skip(2)
                self._tags(self._integer(), (*where, name))
            elif kind == 21:
                self._data(where, name)
            else:
                raise self._broken(f"a tag of kind {kind}")

    def _data(self, where: tuple[str, ...], name: str) -> None:
        if (mark := self._take(4)) != b"%%%%":
            raise self._broken(f"a tag that begins with {mark!r}")
        length = self._integer()
        if not 1 <= length <= MAX_ELEMENTS:
            raise self._broken(f"a description of {length} numbers")
        kind = self._integer()
        image = self._image(where)
        if length == 1 and kind in SIMPLE:
            value = self._unpack(struct.Struct(self._order + SIMPLE[kind]))
            self._keep(where, name, value, image)
        elif length == 2 and kind == STRING:
            self._skip(self._bounded(self._integer(), MAX_TEXT))
        elif kind == STRUCT and length > 3:
            self._skip(self._struct())
        elif kind == ARRAY and length >= 3:
            inner = self._integer()
            if inner in SIMPLE and length == 3:
                size = struct.calcsize(f"={SIMPLE[inner]}")
            elif inner == STRUCT and length > 3:
                size = self._struct()
            else:
                raise self._broken(f"an array of type {inner}")
            pixels = where[-1:] == ("ImageData",) and name == "Data"
            count = self._bounded(self._integer(), self._size if pixels else MAX_ELEMENTS)
            self._skip(size * count)
            if pixels and image is not None:
                image.stored = size * count
        else:
            raise self._broken(f"data of type {kind}")

    def _image(self, where: tuple[str, ...]) -> _Image | None:
        """The image whose tags stand here: ``ImageList/TagGroup<n>/ImageData/…``."""
        if len(where) < 3 or where[0] != "ImageList" or where[2] != "ImageData":
            return None
        digits = where[1].removeprefix("TagGroup")
        return self.images.setdefault(int(digits), _Image()) if digits.isdecimal() and len(digits) < 9 else None

    def _keep(self, where: tuple[str, ...], name: str, value: float, image: _Image | None) -> None:
        if image is not None and where[3:] == ("Dimensions",):
            image.dimensions.append(int(value))
        elif image is not None and where[3:] == () and name == "DataType":
            image.data_type = int(value)
        elif where[:1] == ("Thumbnails",) and name == "ImageIndex":
            self.thumbnails.add(int(value))

    def _struct(self) -> int:
        """Size in bytes of a record whose description follows."""
        self._integer()
        fields = self._bounded(self._integer(), MAX_ELEMENTS)
        size = 0
        for _ in range(fields):
            self._integer()
            kind = self._integer()
            if kind not in SIMPLE:
                raise self._broken(f"a field of type {kind}")
            size += struct.calcsize(f"={SIMPLE[kind]}")
        if size == 0:
            raise self._broken("a record without fields")
        return size

    def _bounded(self, number: int, most: int) -> int:
        if not 0 <= number <= most:
            raise self._broken(f"{number} elements")
        return number

    def _integer(self) -> int:
        return int(self._unpack(self._long))

    def _read(self, form: str) -> tuple[int, ...]:
        pattern = struct.Struct(form)
        return pattern.unpack(self._take(pattern.size))

    def _unpack(self, pattern: struct.Struct) -> float:
        value: float = pattern.unpack(self._take(pattern.size))[0]
        return value

    def _take(self, count: int) -> bytes:
        content = self._file.read(count)
        if len(content) < count:
            raise self._broken("the end of the file in the middle of a tag")
        return content

    def _skip(self, count: int) -> None:
        if self._file.seek(count, io.SEEK_CUR) > self._size:
            raise self._broken(f"a tag of {count} bytes that leaves the file")

    def _broken(self, seen: str) -> CorruptScanError:
        return CorruptScanError(
            self.path,
            f"{seen} (at byte {self._file.tell()} of {self._size})",
            f"the tags of a complete {NAME} file",
            "The file is truncated or damaged: save or copy it again.",
        )


READER = Reader(name=f"{NAME} DM3/DM4", suffixes=(".dm3", ".dm4"), sniff=_sniff, read=_read, extra=EXTRA)
