"""Whether ``spm-train evaluate`` was given something to score, said before the first hour is spent."""

from __future__ import annotations

from pathlib import Path

from spm_runtime.errors import ParameterError

__all__ = ["check_real", "check_wanted"]


def check_real(folder: Path) -> None:
    """Refuse a folder of ``--real`` that is not there.

    Raises
    ------
    ParameterError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise ParameterError(f"--real {folder}: no such folder; expected one with scans. Name another.")


def check_wanted(images: int, real: Path | None, *, others: bool = False) -> None:
    """Refuse an evaluation of nothing.

    Parameters
    ----------
    images
        Number of simulated images.
    real
        Folder of real scans, or None.
    others
        Whether there are real scans beside those.

    Raises
    ------
    ParameterError
        If there is nothing to score, or no such folder.
    """
    if real is not None:
        check_real(real)
    elif not images and not others:
        raise ParameterError("--images 0: nothing to score. Name a number of images, or --real with a folder of scans.")
