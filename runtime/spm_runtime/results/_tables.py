"""Atoms as a table and as an extended XYZ file; defects as a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spm_runtime.results._document import positions_frame
from spm_runtime.results._files import printable
from spm_runtime.results._result import Atoms, Defects
from spm_runtime.scan import Scan

__all__ = ["ATOM_COLUMNS", "DEFECT_COLUMNS", "atoms_csv", "atoms_xyz", "defects_csv"]

#: The columns of ``atoms.csv``, in order.
ATOM_COLUMNS = ("y_px", "x_px", "y_nm", "x_nm", "score", "position_std_px", "width_px", "intensity", "sublattice")

#: The columns of ``defects.csv``, in order.
DEFECT_COLUMNS = (
    "y_px", "x_px", "h_px", "w_px", "area_px", "class", "probability", "y_nm", "x_nm", "area_nm2", "score", "confirmed",
    "group",
)  # fmt: skip

#: What stands under ``confirmed``.
CONFIRMED = {1: "yes", 0: "no", -1: ""}

#: A spreadsheet takes a cell that begins like this for a formula and may run it.
#: Source: OWASP, "CSV Injection".
FORMULA_SIGNS = ("=", "+", "-", "@")

ANGSTROM_PER_NM = 10.0


def atoms_csv(scan: Scan, atoms: Atoms) -> str:
    """``atoms.csv``: one row per atom, best score first.

    Parameters
    ----------
    scan
        The scan that the atoms were found in.
    atoms
        The atoms.

    Returns
    -------
    str
        Comma-separated, with a header; positions to 1e-4 px and 1e-6 nm. A cell is empty where there is no value: the
        nm of an uncalibrated scan, a fit that did not converge (NaN), no sublattice (−1).
    """
    yx_nm = _positions_nm(scan, atoms.yx_px)
    columns = (
        _cells(atoms.yx_px[:, 0], ".4f"),
        _cells(atoms.yx_px[:, 1], ".4f"),
        _cells(yx_nm[:, 0], ".6f"),
        _cells(yx_nm[:, 1], ".6f"),
        _cells(atoms.score, ".6g"),
        _cells(atoms.position_std_px, ".5g"),
        _cells(atoms.width_px, ".5g"),
        _cells(atoms.intensity, ".7g"),
        ["" if index < 0 else str(index) for index in atoms.sublattice.tolist()],
    )
    return _table(ATOM_COLUMNS, columns)


def defects_csv(scan: Scan, defects: Defects) -> str:
    """``defects.csv``: one row per defect, best score first.

    Parameters
    ----------
    scan
        The scan that the defects were found in.
    defects
        The defects.

    Returns
    -------
    str
        Comma-separated, with a header; centres to 1e-4 px and 1e-6 nm, in the frame of ``atoms.csv``; boxes in pixels. A cell
        is empty where there is no value: the nm of an uncalibrated scan, no other scan direction that could confirm it, no
        group. A class whose name a spreadsheet would take for a formula has an apostrophe before it.
    """
    yx_nm = _positions_nm(scan, defects.yx_px)
    pixel_nm2 = math.nan if scan.pixel_size_nm is None else math.prod(scan.pixel_size_nm)
    names = [_text(name) for name in defects.names]
    columns = (
        _cells(defects.yx_px[:, 0], ".4f"),
        _cells(defects.yx_px[:, 1], ".4f"),
        _cells(defects.size_px[:, 0], ".4f"),
        _cells(defects.size_px[:, 1], ".4f"),
        _cells(defects.area_px, ".6g"),
        [names[kind] for kind in defects.kind.tolist()],
        _cells(defects.probability, ".6g"),
        _cells(yx_nm[:, 0], ".6f"),
        _cells(yx_nm[:, 1], ".6f"),
        _cells(defects.area_px * pixel_nm2, ".6g"),
        _cells(defects.score, ".6g"),
        [CONFIRMED[found] for found in defects.confirmed.tolist()],
        [""] * len(defects) if defects.group is None else [str(group) for group in defects.group.tolist()],
    )
    return _table(DEFECT_COLUMNS, columns)


def atoms_xyz(scan: Scan, atoms: Atoms) -> str | None:
    """``atoms.xyz``: extended XYZ in ångström, seen from above (x to the right, y up), z = 0.

    In the scanner's frame where the file gives it, as the nm columns of ``atoms.csv``. Otherwise the y axis of the picture,
    which points down, is turned up: a chiral lattice must not come out mirrored. The cell is the frame of the scan, not
    periodic; the element is unknown (``X``).

    Parameters
    ----------
    scan
        The scan that the atoms were found in.
    atoms
        The atoms.

    Returns
    -------
    str or None
        None when the scan is not calibrated: its ångström are not known.
    """
    height, width = scan.shape
    top_left, bottom_left, bottom_right = (-0.5, -0.5), (height - 0.5, -0.5), (height - 0.5, width - 0.5)
    corners = _upwards(scan, np.array([top_left, bottom_left, bottom_right]))
    yx = _upwards(scan, atoms.yx_px)
    if corners is None or yx is None:
        return None
    origin = corners[1]
    right, up = corners[2] - origin, corners[0] - origin
    lattice = f"{right[1]:.5f} {right[0]:.5f} 0 {up[1]:.5f} {up[0]:.5f} 0 0 0 1"
    comment = (
        f'Lattice="{lattice}" Origin="{origin[1]:.5f} {origin[0]:.5f} 0" '
        'Properties=species:S:1:pos:R:3:score:R:1:sublattice:I:1 pbc="F F F"'
    )
    rows = zip(yx.tolist(), atoms.score.tolist(), atoms.sublattice.tolist(), strict=True)
    lines = [f"X {x:.5f} {y:.5f} 0 {score:.6g} {index}" for (y, x), score, index in rows]
    return "\n".join([str(len(atoms)), comment, *lines]) + "\n"


def _upwards(scan: Scan, yx_px: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Positions in ångström with y up, ``(N, 2)``; None without calibration."""
    yx_nm = scan.positions_nm(yx_px)
    if yx_nm is None:
        return None
    if scan.pixel_size_nm is not None and positions_frame(scan) == "image":
        last_row_nm = (scan.shape[0] - 1) * scan.pixel_size_nm[0]
        yx_nm = np.stack([last_row_nm - yx_nm[:, 0], yx_nm[:, 1]], axis=1)
    return yx_nm * ANGSTROM_PER_NM


def _positions_nm(scan: Scan, yx_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, 2)`` positions in nanometres, NaN without calibration."""
    yx_nm = scan.positions_nm(yx_px)
    return np.full((len(yx_px), 2), np.nan) if yx_nm is None else yx_nm


def _table(header: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _text(words: str) -> str:
    """Words on one line that no spreadsheet computes."""
    plain = printable(words).strip()
    return f"'{plain}" if plain.startswith(FORMULA_SIGNS) else plain


def _cells(values: NDArray[np.floating], form: str) -> list[str]:
    return [format(value, form) if math.isfinite(value) else "" for value in values.tolist()]
