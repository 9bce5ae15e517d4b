"""What one analysed scan leaves on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np

from spm_runtime.results._document import DOCUMENT, build_document, file_sha256, read_document, scan_block
from spm_runtime.results._files import encoded, partial_folder, patiently, sync_file, sync_folder
from spm_runtime.results._maps import stored, write_gwy, write_tiff
from spm_runtime.results._overlay import draw_overlay
from spm_runtime.results._result import Map, Result
from spm_runtime.results._tables import atoms_csv, atoms_xyz, defects_csv
from spm_runtime.scan import Scan

__all__ = ["OVERLAY", "save_results"]

#: What a person looks at first.
OVERLAY = "overlay.png"


def save_results(
    scan: Scan,
    results: Sequence[Result],
    folder: Path | str,
    *,
    gwy: bool = False,
    source_sha256: str | None = None,
    source_name: str | None = None,
    workspace: Path | None = None,
) -> Path:
    """Write everything that was found on one scan into one folder.

    The files are written into a hidden folder on the same disk, ``result.json`` last, flushed, and that folder is renamed. Where
    there is a folder already, ``result.json`` is removed from it first and the files are moved into it one by one,
    ``result.json`` last; files that the earlier one listed and this one lacks are removed. Either way, whoever sees
    ``result.json`` sees all of it, and a folder holds one analysis.

    Parameters
    ----------
    scan
        The scan.
    results
        What was found, one `Result` per task.
    folder
        The folder; made when it is not there.
    gwy
        Whether to write the scan and all maps into one Gwyddion file too.
    source_sha256
        SHA-256 of the scan's file; taken from ``scan.path`` when None and the file is there.
    source_name
        Name of the scan for people; the name of its file when None.
    workspace
        Where the hidden folder is made, on the same disk as `folder`; in `folder` itself when None, and then the files are
        always moved one by one.

    Returns
    -------
    Path
        ``result.json``.

    Raises
    ------
    ValueError
        If there are no results, two of one task, atoms or defects of two tasks, two maps of one name, or a map of another
        size or of a type that has no file: a pipeline's mistake.
    OSError
        If the disk is full, or a file may not be written or replaced: on Windows, one that another program has open for
        longer than two seconds.
    """
    folder = Path(folder)
    _check(scan, results)
    if source_sha256 is None and scan.path is not None and scan.path.is_file():
        source_sha256 = file_sha256(scan.path)
    file_name = "scan" if scan.path is None else scan.path.name
    name = source_name or file_name
    with partial_folder(workspace or folder) as partial:
        files, extra = _write_tasks(partial, scan, results)
        title = name if scan.frame is None else f"{name}, frame {scan.frame}"
        # Level 2 comes out as small as higher ones for such pictures, and much faster.
        draw_overlay(scan, results, title).save(partial / OVERLAY, compress_level=2)
        files[""] = [OVERLAY]
        if gwy:
            files[""].append(f"{file_name}.gwy")
            write_gwy(partial / f"{file_name}.gwy", scan, _layers(results))
        block = scan_block(scan, source_name=name, source_sha256=source_sha256)
        document = build_document(block, results, files, extra)
        (partial / DOCUMENT).write_bytes(encoded(json.dumps(document, indent=2, allow_nan=False) + "\n"))
        _publish(partial, folder, [name for names in files.values() for name in names])
    return folder / DOCUMENT


def _check(scan: Scan, results: Sequence[Result]) -> None:
    tasks = [result.task for result in results]
    maps = [layer for result in results for layer in result.maps]
    names = [layer.name for layer in _layers(results)]
    if not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"one result per task, at least one, got the tasks {tasks}")
    kinds = [kind for result in results for kind in result.counts]
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"atoms and defects from one task at most, got {kinds} from {tasks}")
    if len(set(names)) != len(names):
        raise ValueError(f"maps of one scan have different names, got {names}")
    for layer in maps:
        if np.shape(layer.data) != scan.shape:
            raise ValueError(f"map {layer.name!r} has the shape {np.shape(layer.data)}, the scan has {scan.shape}")
    for layer in _layers(results):
        stored(layer)


def _layers(results: Sequence[Result]) -> list[Map]:
    """Everything that is a map, the tip last."""
    maps = [layer for result in results for layer in result.maps]
    return [*maps, *(result.tip for result in results if result.tip is not None)]


def _write_tasks(
    partial: Path, scan: Scan, results: Sequence[Result]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Write tables and maps; the names of the files and the warnings that arose, by task."""
    files: dict[str, list[str]] = {}
    extra: dict[str, list[str]] = {}
    for result in results:
        names = files.setdefault(result.task, [])
        if result.atoms is not None:
            (partial / "atoms.csv").write_bytes(atoms_csv(scan, result.atoms).encode("ascii"))
            names.append("atoms.csv")
            xyz = atoms_xyz(scan, result.atoms)
            if xyz is None:
                extra[result.task] = [
                    "atoms.xyz is not written and nm are empty: the file gives no pixel size; set it with --pixel-size-nm"
                ]
            else:
                (partial / "atoms.xyz").write_bytes(xyz.encode("ascii"))
                names.append("atoms.xyz")
        if result.defects is not None:
            (partial / "defects.csv").write_bytes(encoded(defects_csv(scan, result.defects)))
            names.append("defects.csv")
            if scan.pixel_size_nm is None:
                extra.setdefault(result.task, []).append(
                    "the nm of defects.csv are empty: the file gives no pixel size; set it with --pixel-size-nm"
                )
        for layer in _layers([result]):
            write_tiff(partial / f"{layer.name}.tif", scan, layer)
            names.append(f"{layer.name}.tif")
    return files, extra


def _publish(
    partial: Path, folder: Path, names: Sequence[str], *, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Move everything into its place, ``result.json`` last; a file that another program holds is waited for."""
    for name in (*names, DOCUMENT):
        patiently(bind(sync_file, partial / name), partial / name, sleep=sleep)
    if not folder.exists():
        sync_folder(partial)
        folder.parent.mkdir(parents=True, exist_ok=True)
        patiently(bind(partial.rename, folder), folder, sleep=sleep)
        sync_folder(folder.parent)
        return
    stale = _listed(read_document(folder)) - set(names)
    for name in (DOCUMENT, *sorted(stale)):
        patiently(bind((folder / name).unlink, missing_ok=True), folder / name, sleep=sleep)
    sync_folder(folder)  # first of all: after a loss of power it must not stand beside files of the new analysis
    for name in names:
        patiently(bind((partial / name).replace, folder / name), folder / name, sleep=sleep)
    sync_folder(folder)
    patiently(bind((partial / DOCUMENT).replace, folder / DOCUMENT), folder / DOCUMENT, sleep=sleep)
    sync_folder(folder)


def _listed(document: dict[str, Any] | None) -> set[str]:
    """Files that an earlier ``result.json`` lists; never a path that leads out of the folder."""
    if document is None:
        return set()
    blocks = [document, *document.get("tasks", {}).values()]
    names = {str(name) for block in blocks for name in block.get("files", ())}
    return {name for name in names if name == Path(name).name and name not in {"", ".", ".."}}
