"""The table of all images of all denoisers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from spm_training.denoise.evaluate import LatticeScore
from spm_training.files import write_atomically

__all__ = ["write_images"]

#: Columns of the table of images, and where they come from.
_COLUMNS: tuple[tuple[str, Callable[[LatticeScore], object]], ...] = (
    ("lattice", lambda score: score.lattice),
    ("noise", lambda score: score.noise),
    ("index", lambda score: score.index),
    ("mse_before", lambda score: score.before.mse),
    ("psnr_db_before", lambda score: score.before.psnr_db),
    ("ssim_before", lambda score: score.before.ssim),
    ("mse", lambda score: score.after.mse),
    ("psnr_db", lambda score: score.after.psnr_db),
    ("ssim", lambda score: score.after.ssim),
    ("vacancy_contrast", lambda score: score.vacancy),
    ("adatom_contrast", lambda score: score.adatom),
    ("seconds", lambda score: score.seconds),
)


def write_images(folder: Path, scores: Mapping[str, Sequence[LatticeScore]]) -> Path:
    """Write ``denoise-images.csv``, a row for every image of every method, and give its path."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["method", *(name for name, _ in _COLUMNS)])
    for method, every in scores.items():
        table.writerows([method, *(_cell(get(score)) for _, get in _COLUMNS)] for score in every)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "denoise-images.csv"
    write_atomically(file, text.getvalue().encode())
    return file


def _cell(value: object) -> object:
    """A number that is none is an empty cell."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return value
