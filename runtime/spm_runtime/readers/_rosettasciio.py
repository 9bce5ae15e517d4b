"""What the readers that stand on RosettaSciIO (the extra ``stem``) share.

RosettaSciIO takes seconds to import and believes the headers that it reads. So each reader checks the sizes in the header
first, then imports the library, and takes images out of what it returns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers._api import import_extra
from spm_runtime.readers._images import (
    MIN_SIDE,
    as_image,
    check_frames,
    is_reciprocal,
    pixel_pair_nm,
    plain,
    unique_names,
)
from spm_runtime.scan import Scan, mark_missing_rows, to_nm

__all__ = ["EXTRA", "images", "load"]

EXTRA = "stem"

Signal = Mapping[str, Any]


def load(plugin: str, path: Path, format_name: str, read: Callable[[ModuleType], Sequence[Signal]]) -> Sequence[Signal]:
    """Import a plugin of RosettaSciIO and read a file with it.

    Parameters
    ----------
    plugin
        Name of the plugin, as ``digitalmicrograph``.
    path
        The file, for messages.
    format_name
        Name of the format for people.
    read
        Calls the plugin's ``file_reader``.

    Returns
    -------
    list of dict
        One per signal, with ``data`` (a NumPy or Dask array), ``axes`` and ``metadata``.

    Raises
    ------
    MissingExtraError
        If RosettaSciIO is not installed.
    CorruptScanError
        If it refuses the file.
    """
    module = import_extra(f"rsciio.{plugin}", extra=EXTRA, path=path, format_name=format_name)
    exceptions = import_extra("rsciio.exceptions", extra=EXTRA, path=path, format_name=format_name)
    logging.getLogger("rsciio").setLevel(logging.CRITICAL)  # its remarks go to stderr otherwise
    refusals = (
        exceptions.DM3DataTypeError,
        exceptions.DM3FileVersionError,
        exceptions.DM3TagError,
        exceptions.DM3TagIDError,
        exceptions.DM3TagTypeError,
        exceptions.MountainsMapFileError,
    )
    try:
        return read(module)
    except refusals as error:
        raise CorruptScanError(
            path,
            f"a tag that is none of {format_name} ({type(error).__name__}: {error})",
            "a complete file",
            "The file is damaged: save or copy it again.",
        ) from error


def images(
    path: Path, format_name: str, signals: Sequence[Signal], *, frames: int | None = None, big_endian: bool = False
) -> Iterator[Scan]:
    """The images among the signals of a file, stacks frame by frame.

    Parameters
    ----------
    path
        The file.
    format_name
        Name of the format for people.
    signals
        What `load` returned.
    frames
        Give at most so many frames of a stack: the rest was never measured.
    big_endian
        Whether the pixels begin with the highest byte, which the library does not heed.

    Yields
    ------
    Scan

    Raises
    ------
    ScanError
        If no signal is an image: spectra, diffraction patterns, Fourier transforms.
    """
    chosen = [signal for signal in signals if _is_image(signal)]
    if not chosen:
        seen = ", ".join(f"{signal['data'].dtype} {tuple(signal['data'].shape)}" for signal in signals) or "nothing"
        raise ScanError(
            path,
            f"a {format_name} file without an image of the sample (it has {seen})",
            "an image in real space",
            "Open the image that goes with it; spectra, diffraction patterns and Fourier transforms are not analysed.",
        )
    names = unique_names(str(_general(signal).get("title", "")) for signal in chosen)
    for signal, name in zip(chosen, names, strict=True):
        yield from _scans(path, signal, name, frames, big_endian)


def _scans(path: Path, signal: Signal, name: str, frames: int | None, big_endian: bool) -> Iterator[Scan]:
    data, axes = signal["data"], signal["axes"]
    stack = data.shape[:-2]
    count = int(np.prod(stack, dtype=np.int64))
    check_frames(path, count)
    y, x = ((abs(float(axis["scale"])), str(axis["units"] or "")) for axis in axes[-2:])
    for frame in range(count if frames is None else min(count, frames)):
        pixels = _pixels(data[np.unravel_index(frame, stack)] if stack else data, big_endian)
        image, warnings = as_image(pixels)
        image, missing = mark_missing_rows(image)
        yield Scan(
            image,
            pixel_size_nm=pixel_pair_nm(y, x),
            modality="stem",
            channel=name,
            frame=frame if count > 1 else None,
            path=path,
            metadata=plain(_general(signal)),
            warnings=warnings + missing,
        )


def _pixels(part: Any, big_endian: bool) -> NDArray[Any]:
    """The pixels of a NumPy or a Dask array, colours last."""
    array = np.asarray(part.compute(scheduler="synchronous") if hasattr(part, "compute") else part)
    if array.dtype.names is not None:
        return np.stack([array[name] for name in "RGB"], axis=-1)
    return array.view(array.dtype.newbyteorder(">")) if big_endian else array


def _is_image(signal: Signal) -> bool:
    """Whether the last two axes span the sample and none is an energy."""
    data, axes = signal["data"], signal["axes"]
    if data.ndim < 2 or len(axes) != data.ndim or min(data.shape[-2:]) < MIN_SIDE:
        return False
    if data.dtype.names is None and data.dtype.kind not in "biuf":
        return False
    units = [str(axis["units"] or "").strip() for axis in axes]
    if any("ev" in unit.casefold() or is_reciprocal(unit) for unit in units):
        return False
    return all(not unit or unit == "px" or to_nm(1.0, unit) is not None for unit in units[-2:])


def _general(signal: Signal) -> Mapping[str, Any]:
    general = signal["metadata"].get("General", {})
    return general if isinstance(general, Mapping) else {}
