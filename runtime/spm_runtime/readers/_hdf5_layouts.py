"""Where the images are in an HDF5 file: Velox, Berkeley (NCEM) EMD, HyperSpy, and files that follow no convention.

Each function looks for its own layout and returns the images in it, or None where the file has another layout.
`spm_runtime.readers.hdf5` checks and reads them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spm_runtime.errors import ScanError
from spm_runtime.readers._hdf5_heaps import check_heaps
from spm_runtime.readers._images import FREE_BYTES, MAX_FRAMES, MIN_SIDE, is_reciprocal, pixel_pair_nm, plain
from spm_runtime.scan import Modality

__all__ = ["Picture", "berkeley", "datasets", "generic", "hyperspy", "velox"]

#: More objects than any microscope's file has.
MAX_OBJECTS = 200_000

#: Longer metadata of one image are not read.
MAX_JSON = 2**22


@dataclass(frozen=True)
class Picture:
    """One data set with images.

    Parameters
    ----------
    dataset
        The data set, not yet read.
    channel
        Its name for people.
    axes
        Which axes of the data set are ``(y, x)``; the others count frames.
    pixel_size_nm
        ``(y, x)`` in nanometres, or None.
    modality
        ``stem`` or ``unknown``.
    metadata
        Plain values.
    """

    dataset: h5py.Dataset
    channel: str
    axes: tuple[int, int] = (0, 1)
    pixel_size_nm: tuple[float, float] | None = None
    modality: Modality = "stem"
    metadata: Mapping[str, object] = field(default_factory=dict)


def datasets(file: h5py.File, path: Path) -> list[h5py.Dataset]:
    """Every data set of the file itself; soft and external links are not followed.

    Raises
    ------
    ScanError
        If there are more than `MAX_OBJECTS` objects.
    """
    found: list[h5py.Dataset] = []
    count = 0

    def visit(_: str, item: object) -> bool | None:
        nonlocal count
        count += 1
        if isinstance(item, h5py.Dataset):
            found.append(item)
        return True if count > MAX_OBJECTS else None

    if file.visititems(visit):
        raise ScanError(path, f"more than {MAX_OBJECTS} objects", "an HDF5 file with images", "Save the images alone.")
    return found


def velox(file: h5py.File) -> list[Picture] | None:
    """Thermo Fisher Velox: ``/Data/Image/<id>/Data`` is ``(y, x, frame)``, ``Metadata`` is JSON, one column per frame.

    Diffraction patterns and Fourier transforms are left out. Images of the HAADF detector come first.
    """
    images = _group(file, "Data/Image")
    if images is None:
        return None
    pictures = []
    for key in images:
        group = _group(images, key)
        dataset = None if group is None else _dataset(group, "Data")
        if group is None or dataset is None or dataset.ndim not in (2, 3) or dataset.dtype.kind not in "iuf":
            continue
        metadata = _velox_metadata(group)
        binary = _mapping(metadata, "BinaryResult")
        units = [str(binary.get(name, "")) for name in ("PixelUnitY", "PixelUnitX")]
        if any(is_reciprocal(unit) for unit in units):
            continue
        size = _mapping(binary, "PixelSize")
        pixel = pixel_pair_nm((_float(size.get("height")), units[0]), (_float(size.get("width")), units[1]))
        name = str(binary.get("Detector", "")) or _velox_detector(file, f"{images.name}/{key}")
        instrument = plain({**_mapping(metadata, "Instrument"), **_mapping(metadata, "Scan")})
        pictures.append(Picture(dataset, name or key, pixel_size_nm=pixel, metadata=instrument))
    return sorted(pictures, key=lambda picture: not picture.channel.upper().startswith("HAADF"))


def _velox_metadata(group: h5py.Group) -> Mapping[str, object]:
    dataset = _small(group, "Metadata")
    if dataset is None or dataset.dtype != np.uint8 or dataset.ndim != 2 or not 0 < dataset.shape[0] <= MAX_JSON:
        return {}
    if dataset.shape[1] == 0:
        return {}
    text = dataset[:, 0].tobytes().partition(b"\0")[0]
    content = json.loads(text) if text.strip() else {}
    return content if isinstance(content, dict) else {}


def _velox_detector(file: h5py.File, path: str) -> str:
    """The detector that Velox's list of operations names for an image, where the image itself does not."""
    operations = _group(file, "Operations/StemInputOperation")
    if operations is None:
        return ""
    _check_texts(file)
    for key in operations:
        dataset = _small(operations, key)
        if dataset is None or dataset.size != 1:
            continue
        value = dataset[()]
        value = value.ravel()[0] if isinstance(value, np.ndarray) else value
        text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
        operation = json.loads(text.rstrip("\0")) if text.lstrip().startswith("{") else {}
        if isinstance(operation, dict) and operation.get("dataPath") == path:
            return str(operation.get("detector", ""))
    return ""


def hyperspy(file: h5py.File) -> list[Picture] | None:
    """HyperSpy: ``/Experiments/<name>/data`` with ``axis-0`` … in the order of the array."""
    experiments = _group(file, "Experiments")
    if experiments is None:
        return None
    _check_texts(file)
    pictures = []
    for name in experiments:
        group = _group(experiments, name)
        dataset = None if group is None else _dataset(group, "data")
        if group is None or dataset is None or dataset.dtype.kind not in "biuf":
            continue
        axes = [_attributes(group, f"axis-{index}") for index in range(dataset.ndim)]
        signal = [index for index, axis in enumerate(axes) if not axis.get("navigate", index < dataset.ndim - 2)]
        units = [_unit(axis.get("units")) for axis in axes]
        if len(signal) != 2 or any(is_reciprocal(units[index]) for index in signal):
            continue
        steps = [(_float(axis.get("scale")), unit) for axis, unit in zip(axes, units, strict=True)]
        general = _attributes(group, "metadata/General")
        pictures.append(
            Picture(
                dataset,
                str(general.get("title") or name),
                axes=(signal[0], signal[1]),
                pixel_size_nm=pixel_pair_nm(steps[signal[0]], steps[signal[1]]),
                metadata=plain({**general, **_attributes(group, "metadata/Acquisition_instrument/TEM")}),
            )
        )
    return pictures


def berkeley(file: h5py.File, found: Sequence[h5py.Dataset]) -> list[Picture] | None:
    """Berkeley (NCEM) EMD: a group with the attribute ``emd_group_type`` 1, its data set, and ``dim1`` … for its axes.

    Axes that are called x and y are taken by name, since programs write them in either order; otherwise the last two
    axes are y and x.
    """
    pictures = []
    known = False
    for dataset in found:
        group = dataset.parent
        if dataset.dtype.kind not in "biuf" or dataset.ndim < 2 or "emd_group_type" not in group.attrs:
            continue
        dims = [dim for index in range(dataset.ndim) if (dim := _small(group, f"dim{index + 1}")) is not None]
        if len(dims) != dataset.ndim:
            continue
        if not known:
            _check_texts(file)
        known = True
        names = [_unit(dim.attrs.get("name")).casefold() for dim in dims]
        units = [_unit(dim.attrs.get("units")) for dim in dims]
        y, x = dataset.ndim - 2, dataset.ndim - 1
        if names.count("x") == 1 and names.count("y") == 1:
            y, x = names.index("y"), names.index("x")
        if is_reciprocal(units[y]) or is_reciprocal(units[x]):
            continue
        pixel = pixel_pair_nm((_step(dims[y]), units[y]), (_step(dims[x]), units[x]))
        channel = str(group.name).rpartition("/")[2]
        pictures.append(Picture(dataset, channel, axes=(y, x), pixel_size_nm=pixel))
    return pictures if known else None


def generic(found: Sequence[h5py.Dataset]) -> list[Picture]:
    """Files of no convention: every data set that is shaped like an image or a stack of them, without a pixel size.

    Atomap keeps copies of the image beside the positions that were found in it: these are results, not images. MATLAB
    writes its arrays transposed, which its attributes tell.
    """
    pictures = []
    for dataset in found:
        shape = dataset.shape
        if shape is None or len(shape) not in (2, 3) or dataset.dtype.kind not in "iuf" or 0 in shape:
            continue
        colours = len(shape) == 3 and shape[2] in (1, 3, 4)
        sides = shape[:2] if colours else shape[-2:]
        too_long = len(shape) == 3 and not colours and shape[0] > MAX_FRAMES
        if min(sides) < MIN_SIDE or too_long or "atom_positions" in dataset.parent:
            continue
        axes = (0, 1) if colours else (len(shape) - 2, len(shape) - 1)
        if "MATLAB_class" in dataset.attrs:
            axes = axes[::-1]
        pictures.append(Picture(dataset, str(dataset.name).strip("/"), axes=axes, modality="unknown"))
    return pictures


def _check_texts(file: h5py.File) -> None:
    """Before the first text of a file is read: the library never ends in a damaged heap."""
    check_heaps(Path(file.filename), file.id.get_create_plist().get_sizes()[1])


def _group(parent: h5py.Group, name: str) -> h5py.Group | None:
    item = _own(parent, name)
    return item if isinstance(item, h5py.Group) else None


def _dataset(parent: h5py.Group, name: str) -> h5py.Dataset | None:
    item = _own(parent, name)
    return item if isinstance(item, h5py.Dataset) else None


def _small(parent: h5py.Group, name: str) -> h5py.Dataset | None:
    """A data set of metadata; None where reading a value of it would open another file or allocate a huge chunk."""
    dataset = _dataset(parent, name)
    if dataset is None or dataset.external or dataset.is_virtual:
        return None
    return dataset if math.prod(dataset.chunks or (1,)) * dataset.dtype.itemsize <= FREE_BYTES else None


def _own(parent: h5py.Group, name: str) -> object:
    """An object of this file; None where the name is missing or is a link to elsewhere."""
    item: Any = parent
    for part in name.split("/"):
        if not isinstance(item, h5py.Group) or not isinstance(item.get(part, getlink=True), h5py.HardLink):
            return None
        item = item[part]
    return item


def _attributes(group: h5py.Group, name: str) -> dict[str, object]:
    inner = _group(group, name)
    return {} if inner is None else dict(inner.attrs)


def _mapping(parent: Mapping[str, object], name: str) -> dict[str, object]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _step(dimension: h5py.Dataset) -> float:
    """Step of an axis that is stored as a vector of positions, or as its first two."""
    if dimension.ndim != 1 or dimension.size < 2 or dimension.dtype.kind not in "iuf":
        return 0.0
    return abs(float(dimension[1]) - float(dimension[0]))


def _float(value: object) -> float:
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (int, float, str)):
        return 0.0
    number = float(value)
    return number if math.isfinite(number) else 0.0


def _unit(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return value if isinstance(value, str) else ""
