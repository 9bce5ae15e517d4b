"""Real scans whose defects people have annotated: for scoring only, no model of this project is trained or tuned on them.

Beside every scan lies a table of the same name with ``.defects.csv`` after it (``a.sxm.defects.csv``) with the columns
``y_px,x_px,radius_px`` and, where they are known, ``class`` and ``required`` (1 or 0; a defect that may be found but need not be
has 0). A table without rows says that there are none. A file ``.defects.json`` may lie there too, with any of
``pixel_size_nm`` (where the scan does not know its own), ``steps`` (polylines of ``[y, x]`` in pixels) and ``ignore`` (polygons
``{"yx_px": [[y, x], …], "reason": "…"}`` in which nothing is judged).

The folder ``annotations`` has such files for the three images of Si(111)-7×7 that the package SPIEPy ships; its own README tells
how they were made.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
from numpy.typing import NDArray
from skimage.measure import points_in_poly

import spm_runtime
from spm_runtime.demo import demo_scans
from spm_runtime.errors import ParameterError
from spm_runtime.scan import Scan

__all__ = ["DETAILS", "SUFFIX", "AnnotatedScan", "AnnotatedSet", "read_annotated_scans", "spiepy_set"]

#: What is added to the name of a scan for those of its table and of the further facts.
SUFFIX, DETAILS = ".defects.csv", ".defects.json"

#: Annotations of scans that others ship.
_FOLDER = Path(__file__).with_name("annotations")


@dataclass(frozen=True, eq=False)
class AnnotatedScan:
    """A real scan and what people see in it.

    Parameters
    ----------
    name
        Name of the file.
    scan
        As its reader gives it, with the pixel size of the annotation where that has one.
    yx_px, radius_px, required
        ``(N, 2)`` centres, ``(N,)`` radii, ``(N,)`` whether each must be found.
    steps
        A polyline ``(K, 2)`` of ``(y, x)`` in pixels for every step.
    ignore
        Polygons ``(K, 2)`` in which nothing is judged.
    size_is_told
        The pixel size is the annotation's: the file does not know it.
    """

    name: str
    scan: Scan
    yx_px: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    required: NDArray[np.bool_]
    steps: tuple[NDArray[np.float64], ...] = ()
    ignore: tuple[NDArray[np.float64], ...] = ()
    size_is_told: bool = False

    @cached_property
    def pixel_nm(self) -> NDArray[np.float64]:
        """Height and width of a pixel.

        Raises
        ------
        ParameterError
            If nobody knows them.
        """
        if self.scan.pixel_size_nm is None:
            raise ParameterError(
                f"{self.name}: no pixel size in the scan; expected a calibrated one, for the tolerance is in nm. Give "
                f'"pixel_size_nm" in {self.name}{DETAILS}.'
            )
        return np.array(self.scan.pixel_size_nm, np.float64)

    def ignored(self, yx_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """``(M,)`` which of ``(M, 2)`` positions lie where nothing is judged."""
        inside = np.zeros(len(yx_px), bool)
        for polygon in self.ignore:
            inside |= np.asarray(points_in_poly(yx_px, polygon), dtype=np.bool_)  # type: ignore[no-untyped-call]
        return inside

    def step_distance_nm(self, yx_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(M,)`` distances of ``(M, 2)`` positions from the nearest step; infinite where there is none."""
        nearest = np.full(len(yx_px), np.inf)
        for line in self.steps:
            start, along = line[:-1] * self.pixel_nm, np.diff(line, axis=0) * self.pixel_nm
            offset = yx_px[:, None] * self.pixel_nm - start
            part = np.clip((offset * along).sum(axis=2) / (along**2).sum(axis=1), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(offset - part[..., None] * along, axis=2).min(axis=1))
        return nearest

    @property
    def step_nm(self) -> float:
        """Length of all steps."""
        return float(sum(np.linalg.norm(np.diff(line, axis=0) * self.pixel_nm, axis=1).sum() for line in self.steps))


@dataclass(frozen=True, eq=False)
class AnnotatedSet:
    """Annotated scans that are scored together.

    Parameters
    ----------
    name
        Of the set, for files.
    heading, note
        What they are, in a few words and in a few sentences.
    scans
        The scans.
    """

    name: str
    heading: str
    note: str
    scans: Sequence[AnnotatedScan]

    @property
    def size_is_told(self) -> bool:
        """Whether the files of some do not know the size of their pixels."""
        return any(one.size_is_told for one in self.scans)


def read_annotated_scans(folder: Path) -> list[AnnotatedScan]:
    """Read all scans of a folder that have a table.

    Raises
    ------
    ParameterError
        If the folder is missing or has no table, or a table cannot be read.
    ScanError
        If a scan cannot be read.
    """
    tables = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    if not tables:
        raise ParameterError(
            f"--real {folder}: no tables; expected a folder with scans and, beside each, SCAN{SUFFIX}. Name another folder."
        )
    return [_read(table, table.with_name(table.name.removesuffix(SUFFIX))) for table in tables]


def spiepy_set() -> AnnotatedSet:
    """The images that SPIEPy ships, with the annotation of this project.

    Raises
    ------
    AdatomError
        If SPIEPy is not installed, or ships other files.
    """
    scans = [_read(_FOLDER / f"{scan.name}{SUFFIX}", scan) for scan in demo_scans()]
    judged = np.concatenate([one.required[~one.ignored(one.yx_px)] for one in scans])
    must, may = int(judged.sum()), int((~judged).sum())
    return AnnotatedSet(
        "spiepy",
        "Real scans: Si(111)-7×7 from SPIEPy",
        "The three images of the package SPIEPy: missing adatoms and adsorbates, a step with atoms, and a step at low "
        f"magnification, of which only the step is judged. Annotated by eye before any finder was looked at: {must} defects must "
        f"be found, {may} more, of which nobody can be sure, may be. Nothing was trained or tuned on these images. The files do "
        "not know the size of their pixels; it follows from the cell of the reconstruction, and the finders are told.",
        scans,
    )


class _Area(pydantic.BaseModel, extra="forbid", allow_inf_nan=False):
    reason: str = ""
    yx_px: Annotated[list[tuple[float, float]], pydantic.Field(min_length=3)]


class _Details(pydantic.BaseModel, extra="forbid", allow_inf_nan=False):
    """The optional file beside a table."""

    pixel_size_nm: pydantic.PositiveFloat | None = None
    steps: list[Annotated[list[tuple[float, float]], pydantic.Field(min_length=2)]] = []
    ignore: list[_Area] = []


def _read(table: Path, file: Path) -> AnnotatedScan:
    if not file.is_file():
        raise ParameterError(
            f"{table}: its scan {file.name} is not there; expected it beside the table. Copy it there."
        )
    numbers = _rows(table)
    details = _details(table.with_name(file.name + DETAILS))
    scan = spm_runtime.open(file)
    told = details.pixel_size_nm is not None and scan.pixel_size_nm is None
    if details.pixel_size_nm is not None:
        scan = replace(scan, pixel_size_nm=(details.pixel_size_nm, details.pixel_size_nm))
    one = AnnotatedScan(
        name=file.name,
        scan=scan,
        yx_px=numbers[:, :2],
        radius_px=numbers[:, 2],
        required=numbers[:, 3] != 0,
        steps=tuple(np.array(line, np.float64) for line in details.steps),
        ignore=tuple(np.array(area.yx_px, np.float64) for area in details.ignore),
        size_is_told=told,
    )
    _ = one.pixel_nm  # a scan without is refused here, not after an hour
    return one


def _rows(table: Path) -> NDArray[np.float64]:
    """``(N, 4)`` y, x and radius in pixels, and 1 where the defect must be found."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        wanted = {"y_px", "x_px", "radius_px"}
        if not wanted <= set(rows.fieldnames or ()):
            raise ParameterError(
                f"{table}: columns {rows.fieldnames}; expected {', '.join(sorted(wanted))}. Name them so."
            )
        try:
            values = [
                (float(row["y_px"]), float(row["x_px"]), float(row["radius_px"]), int(row.get("required") or 1))
                for row in rows
            ]
        except (TypeError, ValueError) as error:
            raise ParameterError(f"{table}: line {rows.line_num}: {error}; expected numbers. Mend the line.") from error
    return np.array(values, np.float64).reshape(-1, 4)


def _details(file: Path) -> _Details:
    if not file.is_file():
        return _Details()
    try:
        return _Details.model_validate_json(file.read_text(encoding="utf-8"))
    except pydantic.ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors())
        raise ParameterError(
            f"{file}: {reasons}. Expected JSON with any of pixel_size_nm, steps and ignore. Correct the file."
        ) from error
