"""Scenes with bad tips as files: what a microscope would save, and the truth beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from spm_runtime.errors import ParameterError
from spm_training.files import write_atomically
from spm_training.simulate.tips.scene import (
    FAMILIES,
    SPLITS,
    SURFACES,
    Modality,
    Split,
    TipScene,
    scene_rng,
    simulate_tip_scene,
)

__all__ = ["TipOptions", "write_tips"]


@dataclass(frozen=True)
class TipOptions:
    """Which scenes are written.

    Parameters
    ----------
    count
        Number of scenes.
    shape
        ``(H, W)`` in pixels.
    modality
        ``afm`` or ``stm``.
    families, surfaces
        Names out of `spm_training.simulate.tips.scene.FAMILIES` and ``SURFACES[modality]``; all when empty.
    split
        ``train``, ``validation`` or ``test``: sets that share no surface.
    seed
        Seed of the sets; scene i depends on it, on the split and on i alone.
    """

    count: int = 4
    shape: tuple[int, int] = (256, 256)
    modality: str = "afm"
    families: Sequence[str] = ()
    surfaces: Sequence[str] = ()
    split: str = "test"
    seed: int = 0


def write_tips(options: TipOptions, folder: Path, *, on_scene: Callable[[Path], object] | None = None) -> list[Path]:
    """Write scenes with bad tips.

    Each is ``NAME.tif`` (the scan), ``NAME-clean.tif`` (the surface), ``NAME-tip.tif`` (heights of the tip; weights in the
    family ``convolution``), ``NAME-touched.tif`` (1 where the tip touched the surface), all calibrated in nm, and ``NAME.png``:
    scan, surface, touched pixels and tip side by side. ``manifest.json`` says how they were made.

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
    The TIFF files of the scans.

    Raises
    ------
    ParameterError
        If the folder is not empty or a name is unknown.
    """
    modality, split = _check(options, folder)
    folder.mkdir(parents=True, exist_ok=True)
    files, entries = [], []
    for index in range(options.count):
        scene = simulate_tip_scene(
            scene_rng(split, index, seed=options.seed),
            shape=options.shape,
            modality=modality,
            families=options.families or None,
            surfaces=options.surfaces or None,
        )
        stem = folder / f"{index:04d}-{scene.surface}-{scene.family}"
        files.append(_write_scene(scene, stem))
        entries.append(_entry(scene, files[-1].name, (options.seed, SPLITS.index(split), index)))
        if on_scene is not None:
            on_scene(files[-1])
    manifest = {"kind": "tips", "options": vars(options), "scenes": entries}
    write_atomically(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return files


def _check(options: TipOptions, folder: Path) -> tuple[Modality, Split]:
    """The options' modality and split, when all is well."""
    known: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (
        ("--modality", (options.modality,), tuple(SURFACES)),
        ("--split", (options.split,), SPLITS),
        ("--family", options.families, FAMILIES),
        ("--surface", options.surfaces, SURFACES.get(options.modality, ())),
    )
    for option, given, expected in known:
        unknown = sorted(set(given) - set(expected))
        if unknown:
            raise ParameterError(f"{option} {', '.join(unknown)}: unknown; expected some of {', '.join(expected)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"--out {folder}: exists already; expected a new or empty folder. Choose another.")
    return cast(Modality, options.modality), cast(Split, options.split)


def _entry(scene: TipScene, name: str, seed: tuple[int, int, int]) -> dict[str, object]:
    return {
        "image": name,
        "modality": scene.modality,
        "family": scene.family,
        "surface": scene.surface,
        "tip_kind": scene.tip_kind,
        "tip_scale_px": scene.tip_scale_px,
        "apex_yx_px": scene.apex_yx_px,
        "second_yx_px": scene.second_yx_px,
        "pixel_size_nm": scene.pixel_size_nm,
        "relief_nm": scene.relief_nm,
        "touched": float(scene.touched.mean()),
        "disturbance": asdict(scene.disturbance),
        "seed": seed,
    }


def _write_scene(scene: TipScene, stem: Path) -> Path:
    lowest = np.float32(-2 * scene.relief_nm)  # a file has no −inf; twice the relief below the apex nothing is touched
    tip = scene.tip if scene.family == "convolution" else np.maximum(scene.tip, lowest)
    image = stem.with_suffix(".tif")
    # ImageJ writes pixels per unit as the resolution and the unit in its own description.
    per_nm = 1 / scene.pixel_size_nm
    for path, heights in (
        (image, scene.image),
        (stem.with_name(stem.name + "-clean.tif"), scene.clean),
        (stem.with_name(stem.name + "-tip.tif"), tip),
        (stem.with_name(stem.name + "-touched.tif"), scene.touched.astype(np.float32)),
    ):
        tifffile.imwrite(
            path, heights, imagej=True, resolution=(per_nm, per_nm), resolutionunit="NONE", metadata={"unit": "nm"}
        )
    _preview(scene).save(stem.with_suffix(".png"))
    return image


def _preview(scene: TipScene) -> Image.Image:
    """Scan and surface on the same grey scale, the tip and where it touched."""
    low, high = np.percentile(scene.clean, (0.2, 99.8))
    bottom = -scene.relief_nm
    tip = scene.tip / scene.tip.max() * scene.relief_nm + bottom if scene.family == "convolution" else scene.tip
    panels = [
        _grey(scene.image, low, high),
        _grey(scene.clean, low, high),
        _grey(np.where(scene.touched, 1.0, 0.0), 0.0, 1.0),
        np.asarray(
            Image.fromarray(_grey(tip, bottom, 0.0)).resize((scene.clean.shape[0],) * 2, Image.Resampling.NEAREST)
        ),
    ]
    return Image.fromarray(np.hstack(panels))


def _grey(heights: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    scaled = np.clip((heights - low) / max(high - low, 1e-12), 0.0, 1.0)
    return np.asarray(np.rint(255 * scaled), np.uint8)
