"""Results of an earlier state of a scan that those of the present one do not replace: the last frames of a longer stack."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from spm_runtime.engine.discovery import files_of
from spm_runtime.results import read_document
from spm_runtime.results._document import DOCUMENT
from spm_runtime.results._files import patiently, sync_folder

__all__ = ["remove_superseded"]

_FRAME = re.compile(r"frame-\d{3,}")


def remove_superseded(out: Path, name: str, outputs: Collection[str]) -> None:
    """Remove the results of a scan whose images it no longer has, ``result.json`` first.

    Parameters
    ----------
    out
        Folder of all results.
    name
        The scan.
    outputs
        Where the results of all its images go, within `out`, with forward slashes.

    Raises
    ------
    OSError
        If a file may not be removed.

    Notes
    -----
    Only what a ``result.json`` lists goes which says that it is of this scan. Files that somebody has put beside it stay, and
    so does their folder.
    """
    place = out / name
    for folder in (place, *(below for below in place.glob("frame-*") if _FRAME.fullmatch(below.name))):
        if folder.relative_to(out).as_posix() in outputs:
            continue
        document = read_document(folder)
        scan = None if document is None else document.get("scan")
        if not isinstance(scan, dict) or scan.get("name") != name or (scan.get("frame") is None) != (folder == place):
            continue
        _remove(folder / DOCUMENT)
        sync_folder(folder)  # after a loss of power it must not stand there without its files
        for file in sorted(files_of(document)):
            if file == Path(file).name:  # never a path that leads out of the folder
                _remove(folder / file)
        with suppress(OSError):  # somebody else's files are there
            folder.rmdir()


def _remove(file: Path) -> None:
    patiently(partial(file.unlink, missing_ok=True), file)
