"""A user's own scans as the networks meet them: read from a folder, on working pixels, split by image."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spm_runtime.engine.discovery import find_files, is_scan
from spm_runtime.engine.staging import look_at
from spm_runtime.errors import ParameterError, ScanError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.surface import SurfaceImage, nm_per_unit, on_working_pixels
from spm_runtime.readers import open_scan, read_scans
from spm_runtime.scan import Scan
from spm_runtime.terraces import find_terraces

__all__ = ["LEAST_IMAGES", "Collection", "LeftOut", "UserImage", "View", "read_collection"]

#: With fewer images nothing could be held out that says anything.
LEAST_IMAGES = 4
#: One image in so many is held out, one at least.
HELD_OUT_EVERY = 4
#: Images with fewer working pixels a side, or a smaller share of measured ones, show too little.
SMALLEST_PX, LEAST_MEASURED = 32, 0.5


@dataclass(frozen=True, eq=False)
class View:
    """One direction or frame of an image.

    Parameters
    ----------
    name
        For people.
    scan
        As the reader gives it.
    surface
        Heights in nm on the working pixels.
    levelled
        ``(H, W)`` float32 nm levelled terrace by terrace; NaN where missing.
    """

    name: str
    scan: Scan
    surface: SurfaceImage
    levelled: NDArray[np.float32]

    @property
    def pixel_size_nm(self) -> float:
        """Side of a working pixel."""
        if self.surface.pixel_size_nm is None:
            raise ValueError(f"{self.name}: a view without pixel size")
        return self.surface.pixel_size_nm


@dataclass(frozen=True, eq=False)
class UserImage:
    """A file: all of its directions and frames show one place, so they are never split.

    Parameters
    ----------
    path
        The file.
    sha256
        Of its content.
    views
        Its usable directions and frames.
    """

    path: Path
    sha256: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class LeftOut:
    """A file that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class Collection:
    """The scans of a folder.

    Parameters
    ----------
    training, held_out
        Images to learn from, and images that judge.
    left_out
        Files that look like scans and are of no use.
    """

    training: tuple[UserImage, ...]
    held_out: tuple[UserImage, ...]
    left_out: tuple[LeftOut, ...]

    def __len__(self) -> int:
        return len(self.training) + len(self.held_out)


def read_collection(folder: Path, package: ModelPackage) -> Collection:
    """Read all scans of a folder and split them.

    The channel is the one that the runtime opens; both of its directions and all frames are taken. Files are told apart by
    their content, and the split follows from it: the same files are held out whatever they are called.

    Parameters
    ----------
    folder
        Scans of one kind of surface, sub-folders included.
    package
        The model, which says what modality it is for.

    Raises
    ------
    ParameterError
        If the folder is missing, or has fewer usable images than `LEAST_IMAGES`.
    """
    if not folder.is_dir():
        raise ParameterError(f"--data {folder}: no such folder; expected one with scans. Check the path.")
    images: dict[str, UserImage] = {}
    left_out: list[LeftOut] = []
    for job in find_files([folder]):
        if job.problem:
            left_out.append(LeftOut(job.path, job.problem))
            continue
        try:
            if not is_scan(job.path, look_at(job.path)):
                continue
            found = _read(job.path, package)
            if found.sha256 in images:
                raise ScanError(
                    job.path, f"the same content as {images[found.sha256].path.name}", "another scan", "Delete one."
                )
            images[found.sha256] = found
        except (ScanError, OSError) as error:
            left_out.append(LeftOut(job.path, str(error)))
    if len(images) < LEAST_IMAGES:
        reasons = "".join(f"\n  {one.reason}" for one in left_out)
        raise ParameterError(
            f"--data {folder}: {len(images)} usable scans; expected {LEAST_IMAGES} or more of one kind of surface (one is held "
            f"out to judge). Add scans.{reasons}"
        )
    ordered = [images[digest] for digest in sorted(images)]
    held = max(len(ordered) // HELD_OUT_EVERY, 1)
    return Collection(tuple(ordered[held:]), tuple(ordered[:held]), tuple(left_out))


def views_of(images: Sequence[UserImage]) -> list[View]:
    """All views of images."""
    return [view for image in images for view in image.views]


def _read(path: Path, package: ModelPackage) -> UserImage:
    """A file with its usable views; raises a `ScanError` that says why there is none."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    views = tuple(_view(scan, package) for scan in _same_channel(path))
    return UserImage(path, sha256, views)


def _same_channel(path: Path) -> Iterator[Scan]:
    first = open_scan(path)
    for scan in read_scans(path):
        if scan.channel == first.channel and scan.shape == first.shape:
            yield scan


def _view(scan: Scan, package: ModelPackage) -> View:
    path = scan.path or Path(scan.label)
    if scan.modality not in (*package.modalities, "unknown"):
        raise ScanError(path, f"an image of {scan.modality.upper()}", _modalities(package), "Leave it out.")
    to_nm = nm_per_unit(scan.unit)
    if to_nm is None:
        raise ScanError(path, f"values in {scan.unit or 'no unit'}", "heights", "Save the topography.")
    if scan.pixel_size_nm is None:
        raise ScanError(path, "no pixel size", "a calibrated scan", "Save it in a format that keeps the calibration.")
    if scan.valid.mean() < LEAST_MEASURED:
        raise ScanError(path, f"{scan.valid.mean():.0%} of the image measured", "most of it", "Leave it out.")
    surface = on_working_pixels(scan.image, scan.pixel_size_nm, to_nm)
    rows, columns = surface.heights.shape
    if min(rows, columns) < SMALLEST_PX:
        raise ScanError(
            path, f"{rows} × {columns} working pixels", f"{SMALLEST_PX} a side or more", "Use larger scans."
        )
    surface = dataclasses.replace(surface, heights=surface.heights * np.float32(to_nm), nm_per_unit=1.0)
    there = np.where(surface.valid, surface.heights, np.float32(np.nan))
    levelled = find_terraces(there, surface.pixel_size_nm).levelled
    return View(f"{path.name} {scan.label}", scan, surface, levelled)


def _modalities(package: ModelPackage) -> str:
    return " or ".join(modality.upper() for modality in package.modalities)
