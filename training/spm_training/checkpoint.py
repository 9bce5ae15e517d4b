"""Checkpoints: written whole or not at all, read without executing anything.

``last.pt`` holds the whole state of a training, ``best.pt`` the weights of the best validation alone. Both carry the
format's number, so that a later version can tell what it reads.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spm_runtime.errors import ModelError
from spm_training.files import replacing

__all__ = ["FORMAT", "load_checkpoint", "save_checkpoint"]

#: Number of the checkpoint format.
FORMAT = 1


def save_checkpoint(path: Path, state: Mapping[str, object]) -> None:
    """Save a state of tensors, numbers, strings and containers of them, atomically."""
    with replacing(path) as file:
        torch.save({"format": FORMAT, **state}, file)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain containers is accepted from the file.

    Raises
    ------
    ModelError
        If the file is missing, damaged or of another format.
    """
    if not path.is_file():
        raise ModelError(f"{path}: not found; expected a checkpoint. Give a run folder that `spm-train fit` wrote.")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = (str(error).splitlines() or ["no message"])[0]
        raise ModelError(
            f"{path}: cannot be read ({reason}); expected a checkpoint. Train again or use another."
        ) from error
    seen = state.get("format") if isinstance(state, dict) else None
    if seen != FORMAT:
        raise ModelError(
            f"{path}: checkpoint format {seen}; expected {FORMAT}. Use the version of Adatom that wrote it."
        )
    return dict(state)
