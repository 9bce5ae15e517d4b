"""Igor binary wave ``.ibw``, version 5: images of Asylum Research (Oxford Instruments) microscopes and of Igor Pro.

64 bytes of sizes, 320 bytes of wave header, the values, and after them the formula, the note, long units and the labels
of the dimensions. The values of an image count x fastest, then y **from the bottom to the top**, then the channel, whose
label (``HeightRetrace``) tells the scan direction; both directions are stored in the order of the surface. The note of
Asylum Research is text, ``Key: value`` per line. Sources: WaveMetrics, "Technical Note TN003, Igor Binary Format"; the
orientation, the units of Asylum's channels and the reading of its note are those of the public reader Gwyddion
(``igorfile.c``).

The step of the wave scaling is the distance of neighbouring pixels: Asylum writes size / (points - 1). ``XOffset`` and
``YOffset`` are taken as the centre of the image. Asylum does not say in which sense ``ScanAngle`` turns: it is taken as
counter-clockwise, with a warning where it is not zero.

Why not igor2: it runs the label of a channel and what is left of an earlier, longer label behind its end into one
(``PhaseRetracerace``), and it believes the sizes in the header.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import Probe, Reader, check_claim
from spm_runtime.readers._channels import direction_of
from spm_runtime.readers._raw import distinct_names, read_at
from spm_runtime.scan import Direction, Modality, Scan, mark_missing_rows, to_nm

__all__ = ["READER"]

VERSION = 5

#: Version, checksum, then the sizes of wave, formula, note, long data unit, long units and labels per dimension …
SIZES = "hh15i"
#: Of the wave header: points, type, name, dimensions, steps, starts, data unit, unit per dimension. The rest is Igor's own.
WAVE = "12xih10x32s8x4i4d4d4s16s"
SIZES_BYTES, WAVE_BYTES = 64, 320
VALUES_AT = SIZES_BYTES + WAVE_BYTES
LABEL = 32

#: No microscope records more channels or frames in one wave.
MAX_LAYERS = 4096

#: Headers of the earlier versions, which hold curves only; needed to name such a file.
EARLIER_HEADERS = {1: 8 + 110, 2: 16 + 110, 3: 20 + 110}

#: Types of values without the complex ones and texts.
TYPES = {
    0x02: "f4", 0x04: "f8", 0x08: "i1", 0x10: "i2", 0x20: "i4", 0x48: "u1", 0x50: "u2", 0x60: "u4",
}  # fmt: skip

#: Units of Asylum's channels, which the file does not give one by one. Source: Gwyddion, igorfile.c.
CHANNEL_UNITS = (
    (re.compile(r"height|z ?sensor|deflection|amplitude", re.IGNORECASE), "m"),
    (re.compile(r"phase", re.IGNORECASE), "deg"),
    (re.compile(r"current", re.IGNORECASE), "A"),
    (re.compile(r"frequency", re.IGNORECASE), "Hz"),
    (re.compile(r"userin|lateral|potential", re.IGNORECASE), "V"),
)
HEIGHT = re.compile(r"height|z ?sensor", re.IGNORECASE)


@dataclass(frozen=True)
class _Wave:
    """The header of a wave of images and the texts behind its values."""

    name: str
    layers: int
    rows: int
    columns: int
    dtype: str
    steps: tuple[float, float]
    lateral_units: tuple[str, str]
    unit: str
    labels: tuple[str, ...]
    note: Mapping[str, str]


def _sniff(probe: Probe) -> bool:
    for order in "<>":
        if len(probe.head) < 2:
            return False
        (version,) = struct.unpack_from(f"{order}h", probe.head)
        size = VALUES_AT if version == VERSION else EARLIER_HEADERS.get(version, 0)
        if 0 < size <= len(probe.head):
            # All 16-bit words of the headers add up to zero.
            words = np.frombuffer(probe.head, f"{order}u2", size // 2)
            if int(words.sum(dtype=np.int64)) & 0xFFFF == 0 and any(probe.head[2:size]):
                return True
    return False


def _read(path: Path) -> Iterator[Scan]:
    wave = _wave(path)
    unnamed: list[tuple[str, Direction | None]] = [(wave.name, None)] * wave.layers
    titles = [direction_of(label) for label in wave.labels] or unnamed
    frames = not wave.labels and wave.layers > 1
    names = [name for name, _ in titles] if frames else distinct_names(titles)
    order = sorted(
        range(wave.layers),
        key=lambda layer: (HEIGHT.search(names[layer]) is None, titles[layer][1] == "backward", layer),
    )
    for layer in order:
        yield _scan(path, wave, layer, names[layer], titles[layer][1], layer if frames else None)


def _wave(path: Path) -> _Wave:
    with path.open("rb") as file:
        mark = read_at(file, path, 0, 2, "the version")
        order = "<" if mark[0] else ">"
        (version,) = struct.unpack(f"{order}h", mark)
        if version != VERSION:
            raise _no_image(path, f"an Igor wave of version {version}, which holds a curve")
        raw = read_at(file, path, 0, VALUES_AT, "the header")
        _, _, wave_size, formula_size, note_size, *rest = struct.unpack_from(order + SIZES, raw)
        fields = struct.unpack_from(order + WAVE, raw, SIZES_BYTES)
        points, kind, name = fields[:3]
        shape = [side for side in fields[3:7] if side]
        steps = fields[7:11]
        unit, dimension_units = fields[15:17]
        sizes = [wave_size - WAVE_BYTES, formula_size, note_size, *rest[:9]]
        size = file.seek(0, 2)
        if min(sizes) < 0 or VALUES_AT + sum(sizes) > size:
            raise _lie(
                path, f"the header claims {VALUES_AT + sum(sizes)} bytes, the file has {size}", "a complete file"
            )
        texts_at = VALUES_AT + sizes[0] + formula_size
        note = read_at(file, path, texts_at, note_size, "the note")
        labels_at = texts_at + note_size + sum(rest[:5])
        labels = [
            _labels(read_at(file, path, labels_at + sum(rest[5 : 5 + d]), rest[5 + d], "the labels")) for d in range(4)
        ]
    if len(shape) not in {2, 3} or min(shape) < 1 or (len(shape) == 2 and any(labels[1])):
        raise _no_image(path, f"an Igor wave of {' x '.join(map(str, shape)) or 'no'} points")
    if kind not in TYPES:
        raise _no_image(path, f"an Igor wave with values of type {kind:#x} (complex numbers or texts)")
    columns, rows, layers = (*shape, 1)[:3]
    dtype = order + TYPES[kind]
    if points != columns * rows * layers or layers > MAX_LAYERS:
        raise _lie(
            path, f"{points} points", f"{columns} x {rows} x {layers}, the dimensions, and {MAX_LAYERS} layers at most"
        )
    check_claim(path, pixels=rows * columns, bytes_claimed=points * np.dtype(dtype).itemsize, bytes_there=sizes[0])
    named = labels[2][1 : 1 + layers]
    named += [""] * (layers - len(named))
    return _Wave(
        name=_text(name),
        layers=layers,
        rows=rows,
        columns=columns,
        dtype=dtype,
        steps=(steps[0], steps[1]),
        lateral_units=(_text(dimension_units[:4]), _text(dimension_units[4:8])),
        unit=_text(unit),
        labels=tuple(label or f"layer {index}" for index, label in enumerate(named)) if any(named) else (),
        note=_note(note),
    )


def _labels(raw: bytes) -> list[str]:
    """The label of a dimension as a whole, then of each of its elements."""
    return [_text(raw[at : at + LABEL]) for at in range(0, len(raw), LABEL)]


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("latin-1").strip()


def _note(raw: bytes) -> dict[str, str]:
    """The lines ``Key: value`` of Asylum's note; the first of a key that occurs twice."""
    entries: dict[str, str] = {}
    for line in re.split(r"[\r\n]+", raw.decode("latin-1")):
        key, colon, value = line.partition(":")
        if colon:
            entries.setdefault(key.strip(), value.strip())
    return entries


def _scan(path: Path, wave: _Wave, layer: int, name: str, direction: Direction | None, frame: int | None) -> Scan:
    size = wave.rows * wave.columns * np.dtype(wave.dtype).itemsize
    with path.open("rb") as file:
        data = read_at(file, path, VALUES_AT + layer * size, size, f"the image {name!r}")
    image = np.frombuffer(data, wave.dtype).reshape(wave.rows, wave.columns)[::-1]
    image, warnings = mark_missing_rows(image.astype(np.float32))
    angle = _number(wave.note, "ScanAngle")
    if angle:
        warnings = (
            *warnings,
            f"the scan angle of {angle:g} degrees is taken as counter-clockwise: the file does not say",
        )
    centre = (_number(wave.note, "YOffset"), _number(wave.note, "XOffset"))
    return Scan(
        image=image,
        unit=_unit(wave, name),
        pixel_size_nm=_pixel_size_nm(wave),
        offset_nm=(centre[0] * 1e9, centre[1] * 1e9) if centre[0] is not None and centre[1] is not None else None,
        angle_deg=angle,
        modality=_modality(wave.note),
        channel=name,
        direction=direction,
        frame=frame,
        path=path,
        metadata=wave.note,
        warnings=warnings,
    )


def _number(note: Mapping[str, str], key: str) -> float | None:
    try:
        value = float(note[key])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _pixel_size_nm(wave: _Wave) -> tuple[float, float] | None:
    """The steps of the wave; of a wave without lateral units the sizes that Asylum's note gives."""
    x, y = (to_nm(abs(step), unit) for step, unit in zip(wave.steps, wave.lateral_units, strict=True))
    if x and y:
        return y, x
    width, height = (to_nm(_number(wave.note, key) or 0.0, "m") for key in ("FastScanSize", "SlowScanSize"))
    if width and height and min(wave.rows, wave.columns) > 1:
        return height / (wave.rows - 1), width / (wave.columns - 1)
    return None


def _unit(wave: _Wave, name: str) -> str:
    """Unit of a channel: the note's word for it, or the usual one of Asylum; of any other wave the wave's."""
    if not wave.labels:
        return wave.unit
    stated = wave.note.get(f"{name}Unit")
    return stated or next((unit for pattern, unit in CHANNEL_UNITS if pattern.search(name)), "")


def _modality(note: Mapping[str, str]) -> Modality:
    mode = note.get("ImagingMode")
    if mode is None:
        return "unknown"
    return "stm" if "STM" in mode else "afm"


def _no_image(path: Path, seen: str) -> ScanError:
    return ScanError(path, seen, "an image", "Curves cannot be analysed: open the image that was saved with them.")


def _lie(path: Path, seen: str, expected: str) -> CorruptScanError:
    return CorruptScanError(path, seen, expected, "The file is damaged or truncated: save or copy it again.")


READER = Reader(name="Igor binary wave", suffixes=(".ibw",), sniff=_sniff, read=_read)
