"""``result.json``: what was done to a scan, by what, and what came out of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spm_runtime._version import __version__
from spm_runtime.results._files import printable
from spm_runtime.results._result import Result
from spm_runtime.scan import Scan

__all__ = [
    "DOCUMENT",
    "SCHEMA_VERSION",
    "build_document",
    "file_sha256",
    "parameters_sha256",
    "positions_frame",
    "read_document",
    "scan_block",
]

#: The file that exists only when everything else does.
DOCUMENT = "result.json"

#: Raised when a reader of an older document would misread a newer one.
SCHEMA_VERSION = 1


def file_sha256(path: Path) -> str:
    """SHA-256 of the content of a file, as hexadecimal digits; the file is opened for reading only."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parameters_sha256(parameters: Mapping[str, float | int | str | bool]) -> str:
    """SHA-256 of parameters, whatever their order: of their JSON with sorted names and no spaces."""
    text = json.dumps(dict(parameters), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def positions_frame(scan: Scan) -> Literal["scanner", "image"]:
    """The frame in which `Scan.positions_nm` gives positions.

    Parameters
    ----------
    scan
        The scan.

    Returns
    -------
    str
        ``scanner`` (x to the right, y **up**) where the file gives the offset and the angle; otherwise ``image``: from the
        centre of the first pixel, y **down**.
    """
    return "image" if scan.offset_nm is None or scan.angle_deg is None else "scanner"


def scan_block(scan: Scan, *, source_name: str, source_sha256: str | None) -> dict[str, Any]:
    """What ``result.json`` says of the scan.

    Parameters
    ----------
    scan
        The scan.
    source_name
        Name of the scan for people: its path within what was analysed.
    source_sha256
        SHA-256 of the content of its file, or None when it came from no file.

    Returns
    -------
    dict
        Plain values. No absolute path: results are copied from the instrument's computer to others.
    """
    return {
        "name": source_name,
        "file": None if scan.path is None else scan.path.name,
        "sha256": source_sha256,
        "shape": list(scan.shape),
        "pixel_size_nm": None if scan.pixel_size_nm is None else list(scan.pixel_size_nm),
        "offset_nm": None if scan.offset_nm is None else list(scan.offset_nm),
        "angle_deg": scan.angle_deg,
        "positions_frame": positions_frame(scan),
        "unit": scan.unit,
        "channel": scan.channel,
        "direction": scan.direction,
        "frame": scan.frame,
        "modality": scan.modality,
        "missing_fraction": float(np.mean(~scan.valid)),
        "warnings": list(scan.warnings),
    }


def build_document(
    scan: Mapping[str, Any],
    results: Sequence[Result],
    files: Mapping[str, Sequence[str]],
    extra: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The whole of ``result.json``.

    Parameters
    ----------
    scan
        From `scan_block`.
    results
        One per task.
    files
        Names of the files of each task, and under ``""`` those of the scan.
    extra
        Warnings of each task that arose while saving.

    Returns
    -------
    dict
        Plain values that the schema ``result.schema.json`` describes.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "adatom_version": __version__,
        "scan": dict(scan),
        "files": list(files.get("", ())),
        "tasks": {r.task: _task_block(r, files.get(r.task, ()), extra.get(r.task, ())) for r in results},
    }


def read_document(folder: Path) -> dict[str, Any] | None:
    """``result.json`` of a folder.

    Returns
    -------
    dict or None
        None when there is none that this version wrote whole: absent, cut off, or of another schema version.
    """
    try:
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        return None
    return document


def _task_block(result: Result, files: Sequence[str], extra: Sequence[str]) -> dict[str, Any]:
    return {
        "model": dataclasses.asdict(result.model),
        "instead_of": None if result.instead_of is None else dataclasses.asdict(result.instead_of),
        "provider": result.provider,
        "parameters": {name: _plain(value) for name, value in result.parameters.items()},
        "parameters_sha256": parameters_sha256(result.parameters),
        "timings_s": {stage: _plain(value) for stage, value in result.timings_s.items()},
        "counts": dict(result.counts),
        "classes": {} if result.defects is None else {printable(n): c for n, c in result.defects.classes.items()},
        "quantities": {name: _plain(value) for name, value in result.quantities.items()},
        "files": list(files),
        "labels": {layer.name: [printable(label) for label in layer.labels] for layer in result.maps if layer.labels},
        "warnings": [*result.warnings, *extra],
    }


def _plain(value: float | int | str | bool) -> float | int | str | bool | None:
    """A value that JSON has: neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
