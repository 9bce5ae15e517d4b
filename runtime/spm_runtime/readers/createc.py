"""Createc ``.dat``: images of a Createc STM/AFM controller.

A text header (``[Parameter]``, ``[Paramet32]`` or ``[Paramco32]``, then ``Key / Other name=value``) that ends with
``DATA`` at byte 16384, and the samples: 16-bit integers, 32-bit floats, or such floats compressed by zlib. The first
sample is unused. Then come the forward images of the selected channels and, when there are twice as many images, the
backward ones; both are stored in the order of the surface, row 0 at the top, also of a scan from the bottom upwards. Rows
that an aborted scan did not reach are zero. Sources: the public readers Gwyddion (``createc.c``), py_createc, NVB and
ProbeFlow; which image is which channel follows the bits of ``Channelselectval`` as users of py_createc list them.

Calibration. A step of the converter is 20 V / 2**bits at its output, times the gain of the high-voltage amplifier, times
the piezo constant in Å/V. For the lateral steps that gives ``Length x[A]`` of the header to all its digits. It is used for
the heights too, since ``Dacto[A]z`` is rounded to two digits, is in nanometres whatever its name says, and stands for a
gain of 10: without the gain the terraces of a scan taken with a gain of 3 come out 6.5 Å high, with it 1.95 Å. The current is
20 V / 2**bits over the gain of the preamplifier (the mean of a scan is then its setpoint) and keeps its sign; the frequency
shift is stored in Hz (likewise). Other channels are counts of their converters and have no unit here.

``Scanrotoffx / OffsetX`` and ``…y`` are the middle of the upper edge in steps, x counted to the left and y upwards, and
``Rotation`` turns counter-clockwise about that point: so py_createc's map draws the images, which it also uses to steer
the tip. Where the header asks for another centre of rotation, the offset is not given.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import CorruptScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._channels import carries_no_image
from spm_runtime.readers._raw import distinct_names, to_values
from spm_runtime.scan import Direction, Modality, Scan, to_nm

__all__ = ["READER"]

OLD, PLAIN, COMPRESSED = b"[Parameter]", b"[Paramet32]", b"[Paramco32]"
HEADER_BYTES = 16384
DATA = b"DATA"

#: Full range of the converters in volts. Source: Gwyddion, createc.c.
RANGE_V = 20.0

#: Gain for which ``Dacto[A]xy`` and ``Dacto[A]z`` are written.
REFERENCE_GAIN = 10.0

#: What the compressed samples may unpack to: this much, or this many times their size. Measured images hardly shrink, and
#: of a scan that was aborted at once the first bound has room for ten channels of 1024 x 1024.
MAX_UNPACKED, MAX_RATIO = 2**26, 100

#: No controller stores more images in one file.
MAX_IMAGES = 256

TOPOGRAPHY, CURRENT, FREQUENCY_SHIFT = "Topography", "Current", "Frequency shift"

#: Bit of ``Channelselectval`` -> name.
CHANNELS = {
    0: TOPOGRAPHY, 1: CURRENT, 2: "ADC1", 3: "ADC2", 4: "ADC3", 5: "Lock-in X", 6: "Lock-in X 2f",
    7: FREQUENCY_SHIFT, 8: "Damping", 9: "Amplitude", 10: "Bias feedback", 11: "Aux1", 12: "Aux2", 15: "ADC4",
    16: "ADC5", 17: "ADC6", 18: "ADC7", 20: "Potential voltage", 21: "Potential current", 30: "Aux3", 31: "Aux4",
    32: "Lock-in Y", 33: "Lock-in Y 2f",
}  # fmt: skip


@dataclass(frozen=True)
class _Plane:
    """One stored image and how its samples become values."""

    name: str
    direction: Direction | None
    index: int
    scale: float
    unit: str


@dataclass(frozen=True)
class _File:
    """Header and samples of a file; ``samples`` is ``(images, rows, columns)``."""

    path: Path
    header: Mapping[str, str]
    bits: int
    samples: NDArray[Any]

    def number(self, key: str) -> float | None:
        """The value of a key; None where the header does not have it or the value is no number."""
        try:
            value = float(self.header[key.casefold()])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) else None

    def step_nm(self, axis: str) -> float | None:
        """Nanometres per step of the converter that drives the piezo of an axis."""
        gain, angstrom_per_volt = self.number(f"Gain{axis}"), self.number(f"{axis}Piezoconst")
        if gain and angstrom_per_volt:
            return RANGE_V / float(2**self.bits) * gain * angstrom_per_volt * 0.1
        rounded_nm = self.number("Dacto[A]z" if axis == "Z" else "Dacto[A]xy")
        return rounded_nm * gain / REFERENCE_GAIN if rounded_nm and gain else None

    @property
    def held(self) -> bool:
        """Whether the feedback was off (constant height)."""
        return self.number("CHMode") == 1 or self.number("FBOff") == 1

    @property
    def oscillates(self) -> bool:
        return self.number("PLLOn") == 1 or self.number("PLLExternOn") == 1


def _sniff(probe: Probe) -> bool:
    return probe.head.startswith((OLD, PLAIN, COMPRESSED))


def _read(path: Path) -> Iterator[Scan]:
    file = _file(path)
    planes = sorted(_planes(file), key=lambda plane: (plane.name != TOPOGRAPHY, plane.index))
    notes: dict[str, str] = {}
    first = planes[0]
    if first.name == TOPOGRAPHY:
        other = _image_channel(planes, file)
        heights, _ = to_values(file.samples[first.index], first.scale)
        if other is not None and carries_no_image(heights, held=file.held and first.unit == "m"):
            planes.sort(key=lambda plane: (plane.name != other, plane.index))
            notes[other] = f"constant-height scan: the topography carries no image, so {other!r} is taken first"
    for plane in planes:
        image, warnings = to_values(file.samples[plane.index], plane.scale)
        note = (notes[plane.name],) if plane.name in notes else ()
        yield _scan(file, plane, image, (*note, *_reservations(file, plane), *warnings))


def _file(path: Path) -> _File:
    raw = path.read_bytes()
    header = _header(raw[:HEADER_BYTES])
    kind = raw[: len(OLD)]
    columns, rows = (_integer(header, key, path, 10**9) for key in ("Num.X", "Num.Y"))
    images = _integer(header, "Channels", path, MAX_IMAGES)
    dtype = np.dtype("<i2" if kind == OLD else "<f4")
    wanted = (images * rows * columns + 1) * dtype.itemsize
    begin = _data_begin(raw, kind, path)
    stored = len(raw) - begin
    possible = max(MAX_UNPACKED, MAX_RATIO * stored) if kind == COMPRESSED else stored
    check_claim(path, pixels=rows * columns, bytes_claimed=wanted, bytes_there=possible)
    data = raw[begin : begin + wanted]
    if kind == COMPRESSED:
        data = zlib.decompressobj().decompress(raw[begin:], wanted)
    check_claim(path, pixels=rows * columns, bytes_claimed=wanted, bytes_there=len(data))
    samples = np.frombuffer(data, dtype, images * rows * columns, dtype.itemsize).reshape(images, rows, columns)
    bits = re.match(r"\d{1,2}", header.get("dac-type", ""))
    return _File(path, header, int(bits[0]) if bits is not None else 16 if kind == OLD else 20, samples)


def _header(raw: bytes) -> dict[str, str]:
    """The lines ``Key / Other name=value``, both names in lower case; the first of a name that occurs twice."""
    header: dict[str, str] = {}
    for line in raw.decode("latin-1").splitlines():
        names, equals, value = line.partition("=")
        if equals:
            for name in names.split(" / "):
                header.setdefault(name.strip().casefold().replace("å", "a"), value.strip(" \0"))
    header.pop("", None)
    return header


def _integer(header: Mapping[str, str], key: str, path: Path, at_most: int) -> int:
    text = header.get(key.casefold(), "")
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= at_most:
        raise CorruptScanError(
            path,
            f"the header says {text!r} for {key}",
            f"a whole number from 1 to {at_most}",
            "The header is damaged: save or copy the scan again.",
        )
    return int(text)


def _data_begin(raw: bytes, kind: bytes, path: Path) -> int:
    """The first byte of the samples; compressed ones begin earlier where a program shortened the header."""
    if kind != COMPRESSED:
        return HEADER_BYTES
    for end in [*(found.end() for found in re.finditer(DATA, raw[:HEADER_BYTES])), HEADER_BYTES]:
        # The two bytes of a zlib header: method 8 (deflate), and a multiple of 31.
        mark = int.from_bytes(raw[end : end + 2], "big")
        if mark >> 8 & 0xF == 8 and mark % 31 == 0:
            return end
    raise CorruptScanError(
        path,
        "no compressed samples behind the header",
        "the word DATA and a zlib stream",
        "The file is truncated or still being written: wait until it is saved, or copy it again.",
    )


def _planes(file: _File) -> list[_Plane]:
    """The stored images in the order of storage."""
    count = len(file.samples)
    select = int(file.number("Channelselectval") or 0)
    names = [CHANNELS.get(bit, f"channel {bit}") for bit in range(64) if select >> bit & 1]
    if count not in {len(names), 2 * len(names)}:
        # Before channels could be selected they were the first one, two or four of the list.
        selected = int(file.number("Chan(1,2,4)") or 0)
        names = [CHANNELS[bit] for bit in range(4)][:selected] if selected in {1, 2, 4} else []
    directions: tuple[Direction | None, ...] = ("forward", "backward")
    if count not in {len(names), 2 * len(names)}:
        names, directions = [f"image {index}" for index in range(count)], (None,)
    titles = [(name, direction) for direction in directions for name in names][:count]
    planes = []
    for index, (name, (_, direction)) in enumerate(zip(distinct_names(titles), titles, strict=True)):
        scale, unit = _calibration(file, name)
        planes.append(_Plane(name, direction, index, scale, unit))
    return planes


def _calibration(file: _File, name: str) -> tuple[float, str]:
    """Value of one count and its unit; (1, "") for a channel that the header does not calibrate."""
    if name == TOPOGRAPHY:
        step = file.step_nm("Z")
        return (step * 1e-9, "m") if step is not None else (1.0, "")
    if name == CURRENT:
        power = file.number("Gainpreamp")
        return (
            (RANGE_V / float(2**file.bits) / 10.0**power, "A") if power is not None and abs(power) < 20 else (1.0, "")
        )
    return 1.0, "Hz" if name == FREQUENCY_SHIFT else ""


def _image_channel(planes: list[_Plane], file: _File) -> str | None:
    """The channel that carries the image of a constant-height scan, or None when there is none."""
    there = {plane.name for plane in planes}
    wanted = (FREQUENCY_SHIFT, CURRENT) if file.oscillates else (CURRENT, FREQUENCY_SHIFT)
    return next((name for name in wanted if name in there), None)


def _scan(file: _File, plane: _Plane, image: NDArray[np.float32], warnings: tuple[str, ...]) -> Scan:
    size = _size_nm(file)
    return Scan(
        image=image,
        unit=plane.unit,
        pixel_size_nm=(size[0] / image.shape[0], size[1] / image.shape[1]) if size is not None else None,
        offset_nm=_offset_nm(file, size[0]) if size is not None else None,
        angle_deg=file.number("Rotation"),
        modality=_modality(file, plane),
        channel=plane.name,
        direction=plane.direction,
        path=file.path,
        metadata=file.header,
        warnings=warnings,
    )


def _size_nm(file: _File) -> tuple[float, float] | None:
    """Height and width of the whole frame in nanometres, or None."""
    sides = []
    for axis, count in zip("YX", file.samples.shape[1:], strict=True):
        length, delta, step = file.number(f"Length {axis}[A]"), file.number(f"Delta {axis}"), file.step_nm(axis)
        nm = to_nm(length, "A") if length is not None else None
        if nm is None and delta is not None and step is not None:
            nm = to_nm(count * abs(delta * step), "nm")
        if nm is None:
            return None
        sides.append(nm)
    return sides[0], sides[1]


def _offset_nm(file: _File, height_nm: float) -> tuple[float, float] | None:
    """The centre of the image, half its height below the middle of its upper edge."""
    x, y, step_x, step_y = (
        file.number("Scanrotoffx"), file.number("Scanrotoffy"), file.step_nm("X"), file.step_nm("Y"),
    )  # fmt: skip
    if x is None or y is None or step_x is None or step_y is None or file.number("Scancentermode"):
        return None
    angle = math.radians(file.number("Rotation") or 0.0)
    return y * step_y - math.cos(angle) * height_nm / 2, math.sin(angle) * height_nm / 2 - x * step_x


def _modality(file: _File, plane: _Plane) -> Modality:
    """What kind of microscope made the image.

    What the tip was held by decides: the current (channel 0 of the feedback) is STM also with a tuning fork. At constant
    height it is the channel: a map of the current is STM, any other map AFM where the sensor oscillates.
    """
    feedback = file.number("FBChannel")
    if not file.held and feedback:
        return "afm" if file.oscillates else "unknown"
    return "afm" if file.held and file.oscillates and plane.name != CURRENT else "stm"


def _reservations(file: _File, plane: _Plane) -> tuple[str, ...]:
    """What a person should know about the geometry and calibration of an image."""
    notes = []
    if file.number("ScanmodeSine"):
        notes.append("sine scan: the columns are not equally spaced, so lengths along a line are wrong")
    if plane.name == TOPOGRAPHY and not plane.unit:
        notes.append("the header gives no calibration of Z: the heights are counts of the converter")
    return tuple(notes)


READER = Reader(name="Createc", suffixes=(".dat",), sniff=_sniff, read=_read)
