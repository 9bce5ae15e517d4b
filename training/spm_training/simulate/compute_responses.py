"""Make ``responses.npz``: single-atom dark-field responses by multislice with abTEM.

Run as ``python -m spm_training.simulate.compute_responses``; it needs the extra ``simulate`` and some minutes on one core.
abTEM is described by Madsen and Susi, Open Research Europe 1 (2021) 24; the potentials are those of Lobato and Van Dyck,
Acta Cryst. A70 (2014) 636.

The image of one atom is band-limited: its spatial frequencies end at twice the probe's aperture, 2α/λ. So few probe positions
say all, and splines through them fill the fine table. A probe without astigmatism is scanned along a radius, one with astigmatism
over a quadrant. The shape hardly depends on the element and on the sampling of the potential (below 1 % of the peak); it is
calculated for a few elements. The height is calculated for every element at finer sampling; it is good to about 2 %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.interpolate import CubicSpline, RectBivariateSpline

from spm_runtime.errors import AdatomError
from spm_training.files import replacing
from spm_training.simulate.responses import ELEMENTS, RESPONSES_PATH, Optics

__all__ = ["OPTICS", "SHAPE_ELEMENTS", "main", "single_atom", "wavelength_nm"]

_HAADF, _MAADF = (60.0, 200.0), (40.0, 150.0)

#: Probes of today's microscopes: corrected ones at 60 to 300 kV, in focus and out of it, and one without a corrector at its best
#: aperture (4λ/C₃)^¼ and defocus √(C₃λ) (Kirkland, Advanced Computing in Electron Microscopy, 2nd ed. 2010, chapter 3).
OPTICS: tuple[Optics, ...] = (
    Optics("60 kV 30 mrad, focused, HAADF", 60, 30, 0, 0, *_HAADF),
    Optics("60 kV 32 mrad, underfocused, HAADF", 60, 32, 4, 0, *_HAADF),
    Optics("60 kV 30 mrad, overfocused, MAADF", 60, 30, -5, 0, *_MAADF),
    Optics("60 kV 30 mrad, astigmatic, HAADF", 60, 30, 1.5, 2.5, *_HAADF),
    Optics("80 kV 25 mrad, focused, HAADF", 80, 25, 0, 0, *_HAADF),
    Optics("80 kV 25 mrad, underfocused, MAADF", 80, 25, 6, 0, *_MAADF),
    Optics("80 kV 24 mrad, astigmatic, HAADF", 80, 24, -3, 3.5, *_HAADF),
    Optics("100 kV 30 mrad, focused, HAADF", 100, 30, 0, 0, *_HAADF),
    Optics("100 kV 35 mrad, overfocused, HAADF", 100, 35, -3, 0, *_HAADF),
    Optics("100 kV 30 mrad, crossed astigmatism, HAADF", 100, 30, 0, 2, *_HAADF),
    Optics("200 kV 25 mrad, focused, HAADF", 200, 25, 0, 0, *_HAADF),
    Optics("200 kV 21 mrad, underfocused, HAADF", 200, 21, 6, 0, *_HAADF),
    Optics("200 kV 22 mrad, astigmatic, HAADF", 200, 22, 3, 4, *_HAADF),
    Optics("200 kV 10 mrad, uncorrected, HAADF", 200, 10, 50, 0, *_HAADF, 1.0),
    Optics("300 kV 25 mrad, focused, HAADF", 300, 25, 0, 0, *_HAADF),
    Optics("300 kV 21 mrad, underfocused, HAADF", 300, 21, 6, 0, *_HAADF),
)

#: Grid of the tables in nm, and of the radial profiles (linear between their points: the error is below 0.1 % of the peak).
STEP_NM, PROFILE_STEP_NM = 0.0075, 0.0025

#: The tables end at this radius, 52 steps; from the second radius on they are faded out.
RADIUS_NM, FADE_FROM_NM = 0.39, 0.33

#: The shape of a response changes little and smoothly with the atomic number: it is calculated for these, linear between them.
SHAPE_ELEMENTS: tuple[str, ...] = ("C", "Fe", "Sn", "Au")

#: Side of the periodic cell around the atom.
CELL_NM = 1.2

#: Sampling of the potential over the coarsest that reaches the outer angle (abTEM keeps two thirds of the band): for the shape
#: and for the height.
_COARSE, _FINE = 0.85, 0.6


def wavelength_nm(energy_kev: float) -> float:
    """Relativistic wavelength of an electron in nm: ``hc / √(E (E + 2 m c²))``."""
    return 1.23984198 / float(np.sqrt(energy_kev * (energy_kev + 2 * 510.99895)))


def single_atom(
    element: str, optics: Optics, xy_nm: NDArray[np.float64], *, fineness: float, atom_at: float = 0.25
) -> NDArray[np.float64]:
    """Multislice signal of one atom, the whole potential in one slice.

    Parameters
    ----------
    element
        Symbol.
    optics
        Probe and detector.
    xy_nm
        ``(N, 2)`` positions of the probe relative to the atom in nm.
    fineness
        Sampling over the coarsest that reaches the outer angle of the detector, below 1.
    atom_at
        Where the atom lies between two samples of the potential, 0 to 1.

    Returns
    -------
    numpy.ndarray
        ``(N,)`` fraction of the probe on the detector.
    """
    abtem, ase = _import_abtem()
    sampling = fineness * wavelength_nm(optics.energy_kev) / (3e-3 * optics.outer_mrad)
    count = next_fast_len(int(np.ceil(CELL_NM / sampling)))
    middle = (count // 2 + atom_at) * CELL_NM / count
    angstrom = 10.0
    atom = ase.Atoms(
        element,
        positions=[(middle * angstrom, middle * angstrom, 1.0)],
        cell=[CELL_NM * angstrom] * 2 + [2.0],
        pbc=True,
    )
    potential = abtem.Potential(
        atom, gpts=(count, count), slice_thickness=2.0, parametrization="lobato", projection="infinite"
    )
    probe = abtem.Probe(
        energy=optics.energy_kev * 1e3,
        semiangle_cutoff=optics.semiangle_mrad,
        defocus=optics.defocus_nm * angstrom,
        C12=optics.astigmatism_nm * angstrom,
        phi12=0.0,
        Cs=optics.spherical_aberration_mm * 1e7,
    )
    probe.grid.match(potential)
    measured = probe.scan(
        potential,
        scan=abtem.CustomScan((xy_nm + middle) * angstrom),
        detectors=abtem.AnnularDetector(inner=optics.inner_mrad, outer=optics.outer_mrad),
    )
    return np.asarray(measured.compute(progress_bar=False).array, dtype=np.float64)


def main(arguments: Sequence[str] | None = None) -> None:
    """Calculate all tables and write them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--out", type=Path, default=RESPONSES_PATH, help="the file to write (default: the shipped cache)"
    )
    out = parser.parse_args(arguments).out
    begin = time.perf_counter()
    peak = np.empty((len(OPTICS), len(ELEMENTS)), dtype=np.float32)
    profiles: list[NDArray[np.float64]] = []
    quadrants: list[NDArray[np.float64]] = []
    for row, optics in enumerate(OPTICS):
        scan, kept = (_scan_radius, profiles) if optics.astigmatism_nm == 0 else (_scan_quadrant, quadrants)
        shapes, brightest = scan(optics)
        kept.append(shapes)
        peak[row] = [_height(element, optics, brightest) for element in ELEMENTS]
        print(f"{optics.name}: {time.perf_counter() - begin:.0f} s", flush=True)  # noqa: T201 - a script's progress
    with replacing(out) as file:
        np.savez_compressed(
            file,
            elements=np.array(ELEMENTS),
            atomic_numbers=np.array([_atomic_number(element) for element in ELEMENTS]),
            shape_atomic_numbers=np.array([_atomic_number(element) for element in SHAPE_ELEMENTS]),
            optics=np.array(json.dumps([asdict(optics) for optics in OPTICS])),
            step_nm=STEP_NM,
            profile_step_nm=PROFILE_STEP_NM,
            peak=peak,
            profiles=np.array(profiles, dtype=np.float16),
            quadrants=np.array(quadrants, dtype=np.float16),
        )


def _scan_radius(optics: Optics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radial profiles ``(S, R)`` of `SHAPE_ELEMENTS` at `PROFILE_STEP_NM`, 1 at the peak of the middle one, and where that is."""
    radii = _positions(optics, oversampling=2.0)
    xy = np.column_stack([radii, 0 * radii])
    signals = np.array([single_atom(element, optics, xy, fineness=_COARSE) for element in SHAPE_ELEMENTS])
    both = CubicSpline(
        np.concatenate([-radii[:0:-1], radii]), np.concatenate([signals[:, :0:-1], signals], axis=1), axis=1
    )
    distance = np.arange(round(RADIUS_NM / PROFILE_STEP_NM) + 1) * PROFILE_STEP_NM
    best = int(np.argmax(signals[len(signals) // 2]))
    return _fade(both(distance), distance) / signals[:, best, None], xy[best : best + 1]


def _scan_quadrant(optics: Optics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Quadrants ``(S, y, x)`` of `SHAPE_ELEMENTS` at `STEP_NM`, 1 at the peak of the middle one, and where that is."""
    line = _positions(optics, oversampling=1.4)
    xy = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    signals = np.array([single_atom(element, optics, xy, fineness=_COARSE) for element in SHAPE_ELEMENTS])
    best = int(np.argmax(signals[len(signals) // 2]))
    axis = np.arange(round(RADIUS_NM / STEP_NM) + 1) * STEP_NM
    distance = np.hypot(axis[:, None], axis[None, :])
    both = np.concatenate([-line[:0:-1], line])
    shapes = []
    for signal in signals:
        quadrant = signal.reshape(line.size, line.size) / signal[best]
        whole = np.concatenate([quadrant[:0:-1], quadrant])
        whole = np.concatenate([whole[:, :0:-1], whole], axis=1)
        shapes.append(_fade(RectBivariateSpline(both, both, whole)(axis, axis), distance))
    return np.array(shapes), xy[best : best + 1]


def _positions(optics: Optics, *, oversampling: float) -> NDArray[np.float64]:
    """Distances from the atom, closer than half the finest period 2α/λ of the response, to a little beyond the table."""
    step = wavelength_nm(optics.energy_kev) / (4e-3 * optics.semiangle_mrad) / oversampling
    count = int(np.ceil(RADIUS_NM / step)) + 3
    return np.linspace(0, (count - 1) * step, count)


def _height(element: str, optics: Optics, xy_nm: NDArray[np.float64]) -> float:
    """Signal at one position, finely sampled."""
    return float(single_atom(element, optics, xy_nm, fineness=_FINE)[0])


def _fade(signal: NDArray[np.floating], distance_nm: NDArray[np.floating]) -> NDArray[np.float64]:
    """Bring the response to zero between `FADE_FROM_NM` and `RADIUS_NM`."""
    rim = np.clip((distance_nm - FADE_FROM_NM) / (RADIUS_NM - FADE_FROM_NM), 0, 1)
    return np.asarray(np.maximum(signal, 0) * (0.5 + 0.5 * np.cos(np.pi * rim)), dtype=np.float64)


def _atomic_number(element: str) -> int:
    """Of a symbol."""
    _, ase = _import_abtem()
    return int(ase.Atom(element).number)


def _import_abtem() -> tuple[Any, Any]:
    """The two packages of the extra ``simulate``, which nothing else needs."""
    try:
        import abtem
        import ase
    except ImportError as missing:
        raise AdatomError(
            f"{missing}: calculating the responses needs abTEM; install it with: pip install 'adatom[simulate]'"
        ) from missing
    # Measuring the best transform of each new size takes longer than the few transforms that follow.
    abtem.config.set({"fftw.planning_effort": "FFTW_ESTIMATE"})
    return abtem, ase


if __name__ == "__main__":
    main()
