"""Simulated lattices as files: the noisy image, the clean one, and the sites."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from spm_runtime.errors import ParameterError
from spm_training.files import write_atomically
from spm_training.simulate.stm_lattices import (
    ADATOM,
    ATOM,
    LATTICES,
    NOISE_LEVELS,
    VACANCY,
    LatticeScene,
    simulate_lattice,
)

__all__ = ["LatticeOptions", "write_lattices"]

_STATES = {ATOM: "atom", VACANCY: "vacancy", ADATOM: "adatom"}


@dataclass(frozen=True)
class LatticeOptions:
    """Which images are written.

    Parameters
    ----------
    types
        Names out of `LATTICES`; all when empty.
    count
        Images of each.
    shape
        ``(H, W)`` in pixels.
    noise
        Name of a level in `NOISE_LEVELS`.
    vacancies, adatoms
        Shares of the sites.
    lattice_nm
        Length of the lattice unit; it gives the files their pixel size.
    seed
        Seed of the whole set; an image depends on it, its type and its index alone.
    """

    types: Sequence[str] = ()
    count: int = 4
    shape: tuple[int, int] = (256, 256)
    noise: str = "medium"
    vacancies: float = 0.0
    adatoms: float = 0.0
    lattice_nm: float = 0.4
    seed: int = 0


def write_lattices(
    options: LatticeOptions, folder: Path, *, on_scene: Callable[[Path], object] | None = None
) -> list[Path]:
    """Write images of lattices.

    Each is ``NAME.tif`` (float32, ImageJ calibration in nm), ``NAME-clean.tif`` (the same without noise), ``NAME.csv``
    (``y_px,x_px,brightness,state`` of every site: atom, vacancy or adatom) and ``NAME.png`` (noisy and clean side by side).
    ``manifest.json`` says how they were made.

    Parameters
    ----------
    options
        Which images.
    folder
        New or empty.
    on_scene
        Called after every image.

    Returns
    -------
    The noisy TIFF files.

    Raises
    ------
    ParameterError
        If the folder is not empty, or a name or a number is refused.
    """
    unknown = sorted(set(options.types) - set(LATTICES))
    if unknown:
        raise ParameterError(f"--type {', '.join(unknown)}: unknown; expected some of {', '.join(LATTICES)}.")
    if options.noise not in NOISE_LEVELS:
        raise ParameterError(f"--noise {options.noise}: unknown; expected one of {', '.join(NOISE_LEVELS)}.")
    if options.vacancies < 0 or options.adatoms < 0 or options.vacancies + options.adatoms > 1:
        raise ParameterError(
            f"--vacancies {options.vacancies:g}, --adatoms {options.adatoms:g}: expected shares that add up to at most 1."
        )
    if not 0 < options.lattice_nm < np.inf:
        raise ParameterError(f"--lattice-nm {options.lattice_nm:g}: expected a positive length.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"--out {folder}: exists already; expected a new or empty folder. Choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    files, entries = [], []
    for name in options.types or tuple(LATTICES):
        for index in range(options.count):
            seed = (options.seed, tuple(LATTICES).index(name), index)
            scene = simulate_lattice(
                np.random.default_rng(np.random.SeedSequence(seed)),
                name,
                shape=options.shape,
                noise=NOISE_LEVELS[options.noise],
                vacancies=options.vacancies,
                adatoms=options.adatoms,
            )
            pixel_size_nm = options.lattice_nm / scene.spread_px
            files.append(_write_scene(scene, folder, f"{name}-{index:04d}", pixel_size_nm))
            entries.append({"image": files[-1].name, **_entry(scene), "pixel_size_nm": pixel_size_nm, "seed": seed})
            if on_scene is not None:
                on_scene(files[-1])
    manifest = {"kind": "lattice", "options": vars(options), "scenes": entries}
    write_atomically(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return files


def _entry(scene: LatticeScene) -> dict[str, object]:
    counts = {f"{name}s" if name != "vacancy" else "vacancies": int((scene.state == state).sum())
              for state, name in _STATES.items()}  # fmt: skip
    return {
        "type": scene.name,
        "spread_px": scene.spread_px,
        "width_px": scene.width_px,
        "cut": asdict(scene.cut),
        "noise": asdict(scene.noise),
        "noise_rms": scene.noise_rms,
        **counts,
    }


def _write_scene(scene: LatticeScene, folder: Path, stem: str, pixel_size_nm: float) -> Path:
    for suffix, image in (("", scene.image), ("-clean", scene.clean)):
        # ImageJ writes pixels per unit as the resolution and the unit in its own description.
        tifffile.imwrite(
            folder / f"{stem}{suffix}.tif",
            image,
            imagej=True,
            resolution=(1 / pixel_size_nm, 1 / pixel_size_nm),
            resolutionunit="NONE",
            metadata={"unit": "nm"},
        )
    with (folder / f"{stem}.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("y_px", "x_px", "brightness", "state"))
        for (y, x), brightness, state in zip(scene.yx_px, scene.brightness, scene.state, strict=True):
            rows.writerow((f"{y:.4f}", f"{x:.4f}", f"{brightness:.5f}", _STATES[int(state)]))
    Image.fromarray(np.hstack([_grey(scene.image), _grey(scene.clean)])).save(folder / f"{stem}.png")
    return folder / f"{stem}.tif"


def _grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Black at 0, white a little above an atom in the plane: the same for every image, so that noise looks like noise."""
    return np.asarray(np.clip(image / 1.2, 0, 1) * 255, np.uint8)
