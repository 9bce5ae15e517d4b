"""What a pipeline returns: positions, maps and how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spm_runtime.scan import Scan

__all__ = ["Atoms", "Defects", "Map", "ModelReference", "Result", "Task"]

Task = Literal["atoms", "defects", "restore", "denoise", "strain"]


@dataclass(frozen=True, eq=False)
class Atoms:
    """Atom positions, best score first; all arrays have the length N.

    Parameters
    ----------
    yx_px
        ``(N, 2)`` float64 positions in pixels of the scan, sub-pixel, pixel centres at integers.
    score
        ``(N,)`` float32 confidence in [0, 1].
    position_std_px
        ``(N,)`` float32 standard deviation of one coordinate in pixels, NaN where the fit did not converge.
    width_px
        ``(N,)`` float32 Gaussian σ of the column in pixels, NaN where the fit did not converge.
    intensity
        ``(N,)`` float32 fitted peak above the median of the surroundings, in the unit of the scan; NaN where the fit did not
        converge.
    sublattice
        ``(N,)`` int32 index of the sublattice, −1 where none was assigned.
    """

    yx_px: NDArray[np.float64]
    score: NDArray[np.float32]
    position_std_px: NDArray[np.float32]
    width_px: NDArray[np.float32]
    intensity: NDArray[np.float32]
    sublattice: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, eq=False)
class Defects:
    """Defects of a surface, best score first; all arrays have the length N.

    Parameters
    ----------
    yx_px
        ``(N, 2)`` float64 centres in pixels of the scan, pixel centres at integers.
    size_px
        ``(N, 2)`` float64 height and width of the box around each, in pixels of the scan.
    area_px
        ``(N,)`` float64 area of the defect itself, in pixels of the scan.
    kind
        ``(N,)`` int32 class, an index into `names`.
    names
        Names of the classes, those that were not found included.
    probability
        ``(N,)`` float32 probability of the class in [0, 1], given that there is a defect.
    score
        ``(N,)`` float32 confidence in [0, 1] that there is a defect at all, descending.
    confirmed
        ``(N,)`` int8: 1 where it was found in the other scan direction too, 0 where it was not, −1 where there is no other
        direction to ask.
    group
        ``(N,)`` int32 number from 1 of the group of defects that look alike, as a model sees it that was told no names; None
        where there is no such model.

    Raises
    ------
    ValueError
        If the arrays differ in length or a class has no name: a pipeline's mistake.
    """

    yx_px: NDArray[np.float64]
    size_px: NDArray[np.float64]
    area_px: NDArray[np.float64]
    kind: NDArray[np.int32]
    names: tuple[str, ...]
    probability: NDArray[np.float32]
    score: NDArray[np.float32]
    confirmed: NDArray[np.int8]
    group: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        count = len(self.score)
        shapes = {
            "yx_px": (count, 2),
            "size_px": (count, 2),
            "area_px": (count,),
            "kind": (count,),
            "probability": (count,),
            "score": (count,),
            "confirmed": (count,),
            **({} if self.group is None else {"group": (count,)}),
        }
        for name, shape in shapes.items():
            if np.shape(getattr(self, name)) != shape:
                raise ValueError(
                    f"{name} of {count} defects has the shape {shape}, got {np.shape(getattr(self, name))}"
                )
        if count and not (np.min(self.kind) >= 0 and np.max(self.kind) < len(self.names)):
            seen = sorted(set(np.asarray(self.kind).tolist()))
            raise ValueError(f"a class is an index into {len(self.names)} names, got {seen}")

    def __len__(self) -> int:
        return len(self.score)

    @property
    def classes(self) -> dict[str, int]:
        """How many there are of each class that was found, in the order of `names`."""
        counts = np.bincount(self.kind, minlength=len(self.names)) if len(self) else np.zeros(len(self.names), int)
        return {name: count for name, count in zip(self.names, counts.tolist(), strict=True) if count}


@dataclass(frozen=True, eq=False)
class Map:
    """One map of a task with the size of the scan.

    Parameters
    ----------
    name
        File stem as in ``confidence`` → ``confidence.tif``.
    data
        ``(H, W)``: floating point for what is measured, NaN where the scan is missing; bool for a mask; uint8 or uint16 for
        labels, 0 where there is none (missing pixels included), as ImageJ and Gwyddion take the background.
    unit
        Physical unit of the values, ``""`` for a number without one.
    labels
        What the values 0, 1, 2 … of a map of labels stand for, as ``("none", "vacancy", "adatom")``; else empty.
    """

    name: str
    data: NDArray[np.floating] | NDArray[np.bool_] | NDArray[np.uint8] | NDArray[np.uint16]
    unit: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelReference:
    """Which model made a result: name, version and sha256 of its weights."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Result:
    """What one task found on one scan.

    Parameters
    ----------
    scan
        The scan that was analysed.
    task
        The task.
    model
        The model that was used.
    provider
        Execution provider that really ran, as ``CPUExecutionProvider``.
    parameters
        Every model parameter with the value that was used.
    timings_s
        Seconds by stage, in order.
    atoms
        Positions, for the task ``atoms``.
    maps
        Maps in the size of the scan.
    quantities
        Numbers that describe the whole scan, with the unit in the name (``spacing_px``).
    warnings
        What a person should know before trusting this result; those of the scan not repeated.
    defects
        Boxes and classes, for the task ``defects``.
    tip
        The tip as the image of a sharp spike would show it, for the task ``restore``: a map of its own size, in pixels of
        the scan.
    instead_of
        The model that was asked for, where another one made the result because the scan is outside its range.
    """

    scan: Scan
    task: Task
    model: ModelReference
    provider: str
    parameters: Mapping[str, float | int | str | bool]
    timings_s: Mapping[str, float]
    atoms: Atoms | None = None
    maps: tuple[Map, ...] = ()
    quantities: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    defects: Defects | None = None
    tip: Map | None = None
    instead_of: ModelReference | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many things were found, by kind."""
        found = {"defects": self.defects, "atoms": self.atoms}
        return {kind: len(things) for kind, things in found.items() if things is not None}

    def save(self, folder: Path | str, *, gwy: bool = False) -> Path:
        """Write this result into a folder, as `spm_runtime.results.save_results` does for several tasks of a scan.

        Parameters
        ----------
        folder
            The folder; made when it is not there, and an earlier analysis in it is replaced.
        gwy
            Whether to write the scan and all maps into one Gwyddion file too.

        Returns
        -------
        Path
            ``result.json``, which exists only when everything else does.

        Raises
        ------
        OSError
            If the disk is full, or a file may not be written or replaced.
        """
        from spm_runtime.results._save import save_results  # it needs this module

        return save_results(self.scan, [self], folder, gwy=gwy)
