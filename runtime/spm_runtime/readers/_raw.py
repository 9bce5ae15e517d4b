"""What the readers of instrument formats share: reading within the file, raw integers to values, distinct names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import CorruptScanError
from spm_runtime.scan import Direction, mark_missing_rows

__all__ = ["base_unit", "distinct_names", "read_at", "text_header", "to_values"]

#: SI prefixes that instruments put before a unit; NanoScope writes ``~`` for micro.
PREFIXES = {"k": 1e3, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "~": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}

#: Units that take a prefix. A metre after ``m`` would be ``mm``; ``m`` alone is the metre.
BASES = ("m", "V", "A", "N", "Hz", "W", "C", "S")


def text_header(file: BinaryIO, path: Path, *, end: bytes, longest: int) -> bytes:
    """Read the text before a mark that ends the header.

    Parameters
    ----------
    file, path
        The open file, at its beginning, and its path for the message.
    end
        The mark; not part of what is returned.
    longest
        Bytes in which the mark must come.

    Raises
    ------
    CorruptScanError
        If it does not.
    """
    raw = file.read(longest)
    head, mark, _ = raw.partition(end)
    if not mark:
        raise CorruptScanError(
            path,
            f"no {end.decode()!r} in the first {len(raw)} bytes",
            "a complete header",
            "The file is truncated or still being written: wait until it is saved, or copy it again.",
        )
    return head


def read_at(file: BinaryIO, path: Path, offset: int, count: int, what: str) -> bytes:
    """Read some bytes, never more than the file holds.

    Parameters
    ----------
    file
        The open file.
    path
        Its path, for the message.
    offset, count
        Where the bytes begin and how many there are, as a header claims it.
    what
        What they are, for the message.

    Raises
    ------
    CorruptScanError
        If they reach beyond the end of the file.
    """
    size = file.seek(0, 2)
    if offset < 0 or count < 0 or offset + count > size:
        raise CorruptScanError(
            path,
            f"{what} is claimed at bytes {offset} to {offset + count}, and the file has {size}",
            "a complete file",
            "The file is damaged, truncated or still being written: wait until it is saved, or copy it again.",
        )
    file.seek(offset)
    return file.read(count)


def to_values(raw: NDArray[Any], scale: float, offset: float = 0.0) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Raw samples as physical values; rows that an aborted scan never measured become NaN.

    The fill of unmeasured rows is the raw zero, so it is looked for before the offset is added.

    Parameters
    ----------
    raw
        ``(H, W)`` samples as stored.
    scale, offset
        ``value = raw * scale + offset``.

    Returns
    -------
    image
        ``(H, W)`` float32.
    warnings
        Says how many pixels are missing, or nothing.
    """
    marked, warnings = mark_missing_rows(raw.astype(np.float32))
    values = raw.astype(np.float64) * scale + offset
    values[np.isnan(marked)] = np.nan
    return values.astype(np.float32), warnings


def base_unit(unit: str) -> tuple[float, str]:
    """Split the SI prefix off a unit.

    Parameters
    ----------
    unit
        As an instrument wrote it: ``nm``, ``pA``, ``~m``, ``º`` …

    Returns
    -------
    factor
        What a value is multiplied by.
    unit
        The unit without its prefix; ``deg`` for the degree signs; any other unit as it is.
    """
    unit = unit.strip()
    if unit in {"º", "°"}:
        return 1.0, "deg"
    if unit[:1] in PREFIXES and unit[1:] in BASES:
        return PREFIXES[unit[0]], unit[1:]
    return 1.0, unit


def distinct_names(labels: Sequence[tuple[str, Direction | None]]) -> list[str]:
    """Names of channels, a number added where the same name occurs again in the same direction.

    Parameters
    ----------
    labels
        Name and direction of each channel.

    Returns
    -------
    list of str
        One name per channel: with its direction it can be asked for.
    """
    count: Counter[tuple[str, Direction | None]] = Counter()
    names = []
    for name, direction in labels:
        count[name, direction] += 1
        again = count[name, direction]
        names.append(name if again == 1 else f"{name} ({again})")
    return names
