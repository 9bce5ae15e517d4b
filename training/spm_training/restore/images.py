"""The table of all images of all methods."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from spm_training.files import write_atomically
from spm_training.restore.evaluate import Scores
from spm_training.restore.score import ImageScore

__all__ = ["write_images"]

#: Columns of the table of images, and where they come from.
_COLUMNS: tuple[tuple[str, Callable[[ImageScore], object]], ...] = (
    ("modality", lambda score: score.modality),
    ("group", lambda score: score.group),
    ("surface", lambda score: score.surface),
    ("index", lambda score: score.index),
    ("psnr", lambda score: score.raw.psnr),
    ("ssim", lambda score: score.raw.ssim),
    ("vif", lambda score: score.raw.vif),
    ("psnr_registered", lambda score: score.registered.psnr),
    ("ssim_registered", lambda score: score.registered.ssim),
    ("vif_registered", lambda score: score.registered.vif),
    ("shift_y_px", lambda score: score.shift_yx_px[0]),
    ("shift_x_px", lambda score: score.shift_yx_px[1]),
    ("offset_share_of_range", lambda score: score.offset),
    ("change_over_noise", lambda score: score.change),
    ("error_over_error_before", lambda score: score.harm),
    ("certainty_auc", lambda score: None if score.certainty is None else score.certainty.auc),
    ("tip_error", lambda score: None if score.tip is None else score.tip.error),
    ("second_apex_px", lambda score: None if score.tip is None else score.tip.second_px),
    ("seconds", lambda score: score.seconds),
    ("restored_without_the_network", lambda score: int(score.instead)),
)


def write_images(folder: Path, scores: Mapping[str, Scores]) -> Path:
    """Write ``restore-images.csv``, a row for every image of every method, and give its path."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["method", *(name for name, _ in _COLUMNS)])
    for method, every in scores.items():
        for score in every:
            if score is not None:
                table.writerow([method, *(_cell(get(score)) for _, get in _COLUMNS)])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "restore-images.csv"
    write_atomically(file, text.getvalue().encode())
    return file


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else value
