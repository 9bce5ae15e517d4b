"""Simulated surfaces as files: what a microscope would save, and the truth beside it."""

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
from spm_training.simulate.surfaces.materials import FAMILIES
from spm_training.simulate.surfaces.scene import NOISE_LEVELS, SurfaceScene
from spm_training.simulate.surfaces.simulate import simulate_surface

__all__ = ["SurfacesOptions", "write_surfaces"]

#: Boxes of the preview: required, optional, ghosts of a double tip.
RED, YELLOW, BLUE = (255, 60, 60), (255, 200, 0), (80, 140, 255)


@dataclass(frozen=True)
class SurfacesOptions:
    """Which scenes are written.

    Parameters
    ----------
    count
        Number of scenes.
    shape
        ``(H, W)`` in pixels.
    families
        Names out of `spm_training.simulate.surfaces.FAMILIES`; all when empty.
    pixel_size_nm
        Side of a pixel; drawn by family when None.
    noise
        Name of a noise level; all of them and more when None.
    defects
        False for surfaces without point defects.
    seed
        Seed of the whole set; scene i depends on it and on i alone.
    """

    count: int = 4
    shape: tuple[int, int] = (256, 256)
    families: Sequence[str] = ()
    pixel_size_nm: float | None = None
    noise: str | None = None
    defects: bool = True
    seed: int = 0


def write_surfaces(
    options: SurfacesOptions, folder: Path, *, on_scene: Callable[[Path], object] | None = None
) -> list[Path]:
    """Write scenes of surfaces with point defects.

    Each is ``NAME.tif`` (float32 heights in nm, ImageJ calibration in nm), ``NAME.csv`` (one defect a row), ``NAME-steps.tif``
    (uint8, 255 at the edges of terraces), ``NAME-clean.tif`` (without noise) and ``NAME.png`` (levelled; required defects boxed
    red, optional ones yellow, ghosts of a double tip blue). ``manifest.json`` says how they were made.

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
    The TIFF files of the images.

    Raises
    ------
    ParameterError
        If the folder is not empty, or a family or a noise level is unknown.
    """
    unknown = sorted(set(options.families) - set(FAMILIES))
    if unknown:
        raise ParameterError(f"--family {', '.join(unknown)}: unknown; expected some of {', '.join(FAMILIES)}.")
    if options.noise is not None and options.noise not in NOISE_LEVELS:
        raise ParameterError(f"--noise {options.noise}: unknown; expected one of {', '.join(NOISE_LEVELS)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"--out {folder}: exists already; expected a new or empty folder. Choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    files, entries = [], []
    for index in range(options.count):
        scene = simulate_surface(
            np.random.default_rng(np.random.SeedSequence((options.seed, index))),
            shape=options.shape,
            families=options.families or None,
            pixel_size_nm=options.pixel_size_nm,
            noise=options.noise,
            defects=options.defects,
        )
        files.append(_write_scene(scene, folder / f"{index:04d}-{scene.family}-{scene.noise}"))
        entries.append(
            {
                "image": files[-1].name,
                "family": scene.family,
                "surface": scene.surface,
                "noise": scene.noise,
                "detectability": scene.detectability,
                "white_noise_nm": scene.white_noise_nm,
                "pixel_size_nm": scene.pixel_size_nm,
                "defects": len(scene.defects),
                "required": int(scene.required.sum()),
                "seed": [options.seed, index],
            }
        )
        if on_scene is not None:
            on_scene(files[-1])
    manifest = {"kind": "surfaces", "options": vars(options), "scenes": entries}
    write_atomically(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return files


def _write_scene(scene: SurfaceScene, stem: Path) -> Path:
    # ImageJ writes pixels per unit as the resolution and the unit in its own description.
    per_nm = 1 / scene.pixel_size_nm
    for name, image in (
        ("", scene.image),
        ("-clean", scene.clean),
        ("-steps", scene.steps.astype(np.uint8) * np.uint8(255)),
    ):
        tifffile.imwrite(
            stem.with_name(f"{stem.name}{name}.tif"),
            image,
            imagej=True,
            resolution=(per_nm, per_nm),
            resolutionunit="NONE",
            metadata={"unit": "nm"},
        )
    truth = scene.defects
    with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            (
                "y_px",
                "x_px",
                "class",
                "radius_px",
                "radius_nm",
                "height_nm",
                "detectability",
                "required",
                "cut",
                "ghost",
            )
        )
        for index, (name, required) in enumerate(zip(truth.names, scene.required, strict=True)):
            (y, x), radius = truth.yx_px[index], truth.radius_px[index]
            numbers = (f"{truth.height_nm[index]:.5f}", f"{truth.detectability[index]:.3f}")
            flags = (int(required), int(truth.cut[index]), int(truth.ghost[index]))
            sizes = (f"{radius:.3f}", f"{radius * scene.pixel_size_nm:.4f}")
            rows.writerow((f"{y:.3f}", f"{x:.3f}", name, *sizes, *numbers, *flags))
    _preview(scene).save(stem.with_suffix(".png"))
    return stem.with_suffix(".tif")


def _preview(scene: SurfaceScene) -> Image.Image:
    """The levelled image, enlarged where it is small, with a box around every defect."""
    zoom = max(1, 768 // max(scene.image.shape))
    grey = Image.fromarray(level_for_display(scene.image))
    picture = grey.resize((grey.width * zoom, grey.height * zoom), Image.Resampling.NEAREST).convert("RGB")
    draw = ImageDraw.Draw(picture)
    truth = scene.defects
    for (y, x), radius, required, ghost in zip(truth.yx_px, truth.radius_px, scene.required, truth.ghost, strict=True):
        # A pixel's centre is at an integer: half a pixel from the corner where drawing starts.
        centre_y, centre_x, half = (y + 0.5) * zoom, (x + 0.5) * zoom, max(radius, 1.5) * zoom
        box = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
        draw.rectangle(box, outline=RED if required else BLUE if ghost else YELLOW)
    return picture
