"""Real images that people have annotated, read with the rules by which a finder may fairly be scored on them.

They are for scoring only: no model of this project is trained or tuned on them. The folder is laid out as the sources are:
``Au_NP_Atom_Lattice.hdf5`` and ``Cropped_PTO-SRO_Aligned.hspy`` with its ``…_atom_positions1.npy`` (both of the TEMUL toolkit),
``HPAI_Pt_NC`` (github HPAI-BSC/AtomDetection_ACSTEM) and ``Sjeon1`` (github Sjeon1/HAADF_Atom_Detection), each with pairs of a
TIFF and a CSV. All sources give ``x, y``; that it is so, and not flipped, was checked on overlays.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.spatial import Delaunay, cKDTree

from spm_runtime.errors import ParameterError
from spm_training.metrics import Counts, match

__all__ = ["SINGLE_ATOM_TOLERANCE_PX", "AnnotatedImage", "read_annotated"]

#: Tolerance for hand-clicked single atoms in 512² images of 15 nm (0.17 nm). The data set's own evaluation accepts two boxes of
#: 21 px whose intersection over union exceeds 0.5; the displacements it accepts cover 4 (147 − 294 ln 1.5) = 111 px²: a disc of
#: radius 5.95 px. Source: HPAI-BSC/AtomDetection_ACSTEM, ``evaluation.py``. The pixels of the other set are not stated; the same
#: radius is taken there.
SINGLE_ATOM_TOLERANCE_PX = 6.0

#: Tolerance of a lattice in units of its spacing, as for simulated images.
LATTICE_TOLERANCE = 0.25

#: How far from an annotation a found position is judged at all, in spacings, where an image is annotated in part.
JUDGED_SPACINGS = 0.5

_AU = "Au_NP_Atom_Lattice.hdf5"
_PTO = "Cropped_PTO-SRO_Aligned.hspy"
_PTO_POSITIONS = "Cropped_PTO-SRO_Aligned_atom_positions1.npy"

#: Names of images whose annotation cannot be trusted, and why. Decided on image and annotation alone.
_DOUBTFUL = {
    "Ptporph12": "in the band-passed image its marks stand 0.5 standard deviations high on average, those of the other images "
    "2.4 to 5.5, and no shift, rotation or mirror of most of them does better"
}


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """A real image, where its atoms are, and what of it may be judged.

    Parameters
    ----------
    group
        Name of the set.
    name
        Name of the image.
    image
        ``(H, W)`` float32 as the microscope saved it.
    yx_px
        ``(N, 2)`` float64 annotated positions.
    tolerance_px
        Largest distance of a found from an annotated position that it answers.
    region
        What may be judged: ``image``, the whole of it; ``hull``, the convex hull of the annotation and half a spacing around
        it; ``sites``, half a spacing around every annotated position (other sublattices are not annotated).
    spacing_px
        Median distance of the annotated positions to their nearest neighbour.
    doubt
        Why the annotation cannot be trusted; empty where it can.
    """

    group: str
    name: str
    image: NDArray[np.float32]
    yx_px: NDArray[np.float64]
    tolerance_px: float
    region: str
    spacing_px: float
    doubt: str = ""

    @property
    def rule(self) -> str:
        """In words, what is judged."""
        return {
            "image": f"whole image, within {self.tolerance_px:.1f} px",
            "hull": f"inside the annotated area and half a spacing around it, within {self.tolerance_px:.1f} px",
            "sites": f"one sublattice: what lies beyond half a spacing of its sites is not judged, within "
            f"{self.tolerance_px:.1f} px",
        }[self.region]

    def judged(self, yx_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which ``(M, 2)`` found positions may be called wrong, as ``(M,)``."""
        found = np.asarray(yx_px, np.float64).reshape(-1, 2)
        if self.region == "image" or not len(found):
            return np.ones(len(found), bool)
        near = np.asarray(cKDTree(self.yx_px).query(found)[0] <= JUDGED_SPACINGS * self.spacing_px)
        return near if self.region == "sites" else near | _in_hull(found, self.yx_px, JUDGED_SPACINGS * self.spacing_px)

    def score(self, yx_px: NDArray[np.float64]) -> Counts:
        """Match found with annotated positions; what is left of the found ones is wrong where it may be judged."""
        found = np.asarray(yx_px, np.float64).reshape(-1, 2)
        pairs = match(found, self.yx_px, self.tolerance_px)
        judged = self.judged(found)
        judged[pairs.found] = False
        return Counts(len(pairs), int(judged.sum()), len(self.yx_px) - len(pairs), float(np.sum(pairs.distance_px**2)))


def read_annotated(folder: Path) -> list[AnnotatedImage]:
    """Read every annotated image of a folder that is laid out as the module says.

    Raises
    ------
    ParameterError
        If the folder, or one of its files, is missing or cannot be read.
    """
    if not folder.is_dir():
        raise ParameterError(
            f"--real {folder}: no such folder; expected the annotated images ({_AU}, {_PTO}, HPAI_Pt_NC, Sjeon1). "
            "Name the folder that has them, or leave --real out."
        )
    try:
        images = [_gold(folder), _perovskite(folder), *_pairs(folder / "HPAI_Pt_NC"), *_pairs(folder / "Sjeon1")]
    except (OSError, KeyError, ValueError) as error:
        raise ParameterError(
            f"--real {folder}: cannot read the annotated images ({error}); expected {_AU}, {_PTO}, HPAI_Pt_NC and Sjeon1 as "
            "their sources give them. Fetch them again."
        ) from error
    return images


def _gold(folder: Path) -> AnnotatedImage:
    """Gold nanoparticle, annotated where its columns are clear."""
    with h5py.File(folder / _AU) as file:
        image, xy = np.asarray(file["image_data0"]), np.asarray(file["_sublattice/atom_positions"])
    return _lattice("Au nanoparticle", folder / _AU, image, xy, "hull")


def _perovskite(folder: Path) -> AnnotatedImage:
    """PbTiO₃ between SrRuO₃: the A sites of most of the image."""
    with h5py.File(folder / _PTO) as file:
        image = np.asarray(file["Experiments/HAADF/data"])
    return _lattice("PTO-SRO", folder / _PTO, image, np.load(folder / _PTO_POSITIONS, allow_pickle=False), "sites")


def _lattice(
    group: str, file: Path, image: NDArray[np.float64], xy: NDArray[np.float64], region: str
) -> AnnotatedImage:
    yx = np.ascontiguousarray(xy[:, ::-1], dtype=np.float64)
    spacing = _spacing_px(yx)
    values = np.asarray(image, np.float32)
    return AnnotatedImage(group, file.stem, values, yx, LATTICE_TOLERANCE * spacing, region, spacing)


def _pairs(folder: Path) -> list[AnnotatedImage]:
    """Single atoms: TIFFs with a CSV of the same name, or with ``NNN_Results.csv`` where their name begins with NNN."""
    files = sorted(folder.glob("*.tif"))
    if not files:
        raise FileNotFoundError(f"no .tif in {folder}")
    images = []
    for file in files:
        own = file.with_suffix(".csv")
        yx = _marks(own if own.is_file() else folder / f"{file.name.split('_')[0]}_Results.csv")
        image = np.asarray(tifffile.imread(file), np.float32)
        inside = np.all((yx >= -0.5) & (yx < np.asarray(image.shape) - 0.5), axis=1)
        if not inside.all():
            raise ValueError(f"{file}: {int((~inside).sum())} annotated positions lie outside the image")
        doubt = _DOUBTFUL.get(file.stem, "")
        group = {"HPAI_Pt_NC": "Pt on N-C", "Sjeon1": "Re-bpy"}.get(folder.name, folder.name)
        images.append(
            AnnotatedImage(
                "Pt-porphyrin (doubtful)" if doubt else group,
                file.stem,
                image,
                yx,
                SINGLE_ATOM_TOLERANCE_PX,
                "image",
                _spacing_px(yx),
                doubt,
            )
        )
    return images


def _marks(file: Path) -> NDArray[np.float64]:
    """Positions of a CSV with columns X and Y, whatever stands before them; rows may be blank."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows: list[Sequence[str]] = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    header = [cell.strip().upper() for cell in rows[0]]
    x, y = header.index("X"), header.index("Y")
    return np.array([[float(row[y]), float(row[x])] for row in rows[1:]]).reshape(-1, 2)


def _spacing_px(yx_px: NDArray[np.float64]) -> float:
    return float(np.median(cKDTree(yx_px).query(yx_px, k=2)[0][:, 1]))


def _in_hull(points: NDArray[np.float64], of: NDArray[np.float64], margin_px: float) -> NDArray[np.bool_]:
    """Which points lie in the convex hull of others, widened by a margin (corners of a 16-gon around each)."""
    angle = np.arange(16) * np.pi / 8
    ring = margin_px * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return np.asarray(Delaunay((of[:, None] + ring).reshape(-1, 2)).find_simplex(points) >= 0)
