"""Simulated scenes as files: what a microscope would save, and the truth beside it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from spm_runtime.errors import ParameterError
from spm_runtime.levelling import level_for_display
from spm_training.files import write_atomically
from spm_training.simulate.columns import FAMILIES, Scene, simulate_columns

__all__ = ["ColumnsOptions", "write_columns"]


@dataclass(frozen=True)
class ColumnsOptions:
    """Which scenes are written.

    Parameters
    ----------
    count
        Number of scenes.
    shape
        ``(H, W)`` in pixels.
    families
        Names out of `spm_training.simulate.columns.FAMILIES`; all when empty.
    spacing_px
        Range of the spacing.
    detectability
        Range of d′.
    spacing_nm
        Length of the mean nearest-neighbour spacing; it gives the files their pixel size.
    seed
        Seed of the whole set; scene i depends on it and on i alone.
    """

    count: int = 4
    shape: tuple[int, int] = (256, 256)
    families: Sequence[str] = ()
    spacing_px: tuple[float, float] = (4.0, 30.0)
    detectability: tuple[float, float] = (3.5, 60.0)
    spacing_nm: float = 0.28
    seed: int = 0


def write_columns(
    options: ColumnsOptions, folder: Path, *, on_scene: Callable[[Path], object] | None = None
) -> list[Path]:
    """Write scenes of atom columns.

    Each is ``NAME.tif`` (float32, ImageJ calibration in nm), ``NAME.csv`` (``y_px,x_px,required,sublattice``) and ``NAME.png``
    (levelled, required columns as red rings, others blue). Columns up to half a spacing outside the image are listed, as not
    required. ``manifest.json`` says how they were made.

    Parameters
    ----------
    options
        Which scenes.
    folder
        New or empty.
    on_scene
        Called after every scene.

    Returns
    -------
    The TIFF files.

    Raises
    ------
    ParameterError
        If the folder is not empty or a family is unknown.
    """
    unknown = sorted(set(options.families) - set(FAMILIES))
    if unknown:
        raise ParameterError(f"--family {', '.join(unknown)}: unknown; expected some of {', '.join(FAMILIES)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"--out {folder}: exists already; expected a new or empty folder. Choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    files, entries = [], []
    for index in range(options.count):
        rng = np.random.default_rng(np.random.SeedSequence((options.seed, index)))
        scene = simulate_columns(
            rng,
            shape=options.shape,
            families=options.families or None,
            spacing_px=options.spacing_px,
            detectability=options.detectability,
        )
        stem = folder / f"{index:04d}-{scene.family}-{scene.noise}"
        pixel_size_nm = options.spacing_nm / scene.spacing_px
        files.append(_write_scene(scene, stem, pixel_size_nm))
        entries.append(
            {
                "image": files[-1].name,
                "family": scene.family,
                "contrast": scene.contrast,
                "noise": scene.noise,
                "detectability": scene.detectability,
                "spacing_px": scene.spacing_px,
                "width_px": scene.width_px,
                "pixel_size_nm": pixel_size_nm,
                "columns": len(scene.yx_px),
                "required": int(scene.required.sum()),
                "seed": [options.seed, index],
            }
        )
        if on_scene is not None:
            on_scene(files[-1])
    manifest = {"kind": "columns", "options": vars(options), "scenes": entries}
    write_atomically(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return files


def _write_scene(scene: Scene, stem: Path, pixel_size_nm: float) -> Path:
    image = stem.with_suffix(".tif")
    # ImageJ writes pixels per unit as the resolution and the unit in its own description.
    per_nm = 1 / pixel_size_nm
    tifffile.imwrite(
        image, scene.image, imagej=True, resolution=(per_nm, per_nm), resolutionunit="NONE", metadata={"unit": "nm"}
    )
    with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("y_px", "x_px", "required", "sublattice"))
        for (y, x), required, site in zip(scene.yx_px, scene.required, scene.sublattice, strict=True):
            rows.writerow((f"{y:.4f}", f"{x:.4f}", int(required), int(site)))
    _preview(scene).save(stem.with_suffix(".png"))
    return image


def _preview(scene: Scene) -> Image.Image:
    """The levelled image, enlarged where it is small, with a ring at every column."""
    zoom = max(1, 768 // max(scene.image.shape))
    grey = Image.fromarray(level_for_display(scene.image))
    picture = grey.resize((grey.width * zoom, grey.height * zoom), Image.Resampling.NEAREST).convert("RGB")
    draw = ImageDraw.Draw(picture)
    radius = max(0.2 * scene.spacing_px * zoom, 1.5)
    for (y, x), required in zip(scene.yx_px, scene.required, strict=True):
        # A pixel's centre is at an integer: half a pixel from the corner where drawing starts.
        centre_y, centre_x = (y + 0.5) * zoom, (x + 0.5) * zoom
        box = (centre_x - radius, centre_y - radius, centre_x + radius, centre_y + radius)
        draw.ellipse(box, outline=(255, 60, 60) if required else (80, 140, 255))
    return picture
