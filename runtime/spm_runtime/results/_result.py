"""What a pipeline returns: positions, maps and how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spm_runtime.scan import Scan

__all__ = ["Atoms", "Map", "ModelReference", "Result", "Task"]

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
class Map:
    """One map of a task with the size of the scan.

    Parameters
    ----------
    name
        File stem as in ``confidence`` → ``confidence.tif``.
    data
        ``(H, W)`` float32; NaN where the scan is missing.
    unit
        Physical unit of the values, ``""`` for a number without one.
    """

    name: str
    data: NDArray[np.float32]
    unit: str = ""


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

    @property
    def counts(self) -> dict[str, int]:
        """How many things were found, by kind."""
        return {} if self.atoms is None else {"atoms": len(self.atoms)}

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
