"""Which files of the given paths are scans, and where the results of each go."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from spm_runtime.engine.companions import is_log
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.staging import Head
from spm_runtime.readers import readers
from spm_runtime.results import printable, read_document

__all__ = ["files_of", "find_files", "is_scan", "may_be_scan", "walk"]

#: Notes and tables that lie beside scans; taken only where a reader declares the suffix and recognises the content.
SIDECAR_SUFFIXES = frozenset(
    {
        ".bak", ".bat", ".cfg", ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".lnk", ".log",
        ".m", ".md", ".ods", ".odt", ".pdf", ".ppt", ".pptx", ".py", ".rtf", ".sqlite", ".svg", ".toml", ".tsv", ".txt",
        ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip",
    }
)  # fmt: skip

#: Suffixes that scans share with other data (spectra, photographs, tables): unrecognised content is no damaged scan.
SHARED_SUFFIXES = frozenset(
    {".bin", ".bmp", ".dat", ".h5", ".hdf5", ".jpeg", ".jpg", ".map", ".npy", ".png", ".raw", ".tif", ".tiff"}
)


def find_files(
    paths: Iterable[Path | str], *, ignore: Path | None = None, on_skip: Callable[[Path], object] = lambda path: None
) -> Iterator[Job]:
    """All files that may be scans, folders recursively, in the order given and sorted within a folder; none is opened.

    Hidden files and folders, results, and notes that lie beside scans are passed over. Whether a file of a
    folder is a scan is for its content to say, see `is_scan`; one that is named counts, whatever it holds.

    Parameters
    ----------
    paths
        Files and folders.
    ignore
        A folder to pass over, the one of the results.
    on_skip
        Called with every file of a folder that by its name is no scan.

    Yields
    ------
    Job
        Each file once; no two with one folder of results, upper and lower case not told apart. A folder that cannot be
        listed gives a job with a `Job.problem`.
    """
    seen: set[Path] = set()
    taken: set[str] = set()
    ignore = None if ignore is None else ignore.resolve()
    for given in map(Path, paths):
        problems: list[Job] = []

        def report(error: OSError, given: Path = given, problems: list[Job] = problems) -> None:
            folder = Path(error.filename or given)
            reason = f"{folder}: cannot be listed ({error.strerror}); check the share and your permissions"
            problems.append(Job(folder, folder.name, reason))

        if given.is_dir():
            found = [(path, path.relative_to(given)) for path in map(Path, walk(given, ignore=ignore, on_error=report))]
        else:
            found = [(given, Path(given.name))]
        for path, relative in found:
            resolved = path.resolve()
            if resolved in seen:
                continue
            seen.add(resolved)
            if path == given or may_be_scan(path):
                yield Job(path, _free_name(resolved, relative, taken), named=path == given)
            else:
                on_skip(path)
        yield from problems


def walk(
    folder: Path | str, *, ignore: Path | None = None, on_error: Callable[[OSError], object], in_order: bool = True
) -> Iterator[os.DirEntry[str]]:
    """All files below a folder that could be scans.

    Parameters
    ----------
    folder
        Where to begin.
    ignore
        A folder to pass over, resolved.
    on_error
        Called when a folder cannot be listed; its files are left out.
    in_order
        Whether they come sorted by name; otherwise no folder is held in memory.

    Yields
    ------
    os.DirEntry
        Files, links to files included; hidden ones, those below hidden folders, linked folders, and files that a
        ``result.json`` of this program beside them lists left out.
    """
    # Not the whole folder: somebody may have copied results into the folder of the scans, which are not to be missed.
    results = files_of(read_document(Path(folder)))
    folders: list[str] = []
    try:
        with os.scandir(folder) as listing:
            entries: Iterable[os.DirEntry[str]] = sorted(listing, key=lambda entry: entry.name) if in_order else listing
            for entry in entries:
                if entry.name.startswith(".") or entry.name in results:
                    continue
                try:
                    is_file = _is_file(entry)
                except OSError as error:  # this one alone: the others are not to be missed for it
                    on_error(error)
                    continue
                if is_file:
                    yield entry
                elif entry.is_dir(follow_symlinks=False) and not (ignore and _is_same_folder(entry, ignore)):
                    if in_order:
                        yield from walk(entry.path, ignore=ignore, on_error=on_error)
                    else:
                        folders.append(entry.path)
    except OSError as error:  # it cannot be listed, or its share is just going away
        on_error(error)
    for below in folders:
        yield from walk(below, ignore=ignore, on_error=on_error, in_order=False)


def files_of(document: Mapping[str, Any] | None) -> set[str]:
    """Names of the files that a ``result.json`` lists; none of what only has its name."""
    if document is None:
        return set()
    tasks = document.get("tasks")
    blocks = [document, *(tasks.values() if isinstance(tasks, dict) else ())]
    lists = [block.get("files") for block in blocks if isinstance(block, Mapping)]
    return {name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)}


def may_be_scan(path: Path) -> bool:
    """Whether a file may be a scan as far as its name tells: notes and tables that lie beside scans are none."""
    suffix = path.suffix.lower()
    return suffix not in SIDECAR_SUFFIXES or _is_declared(suffix)


def is_scan(path: Path, head: Head) -> bool:
    """Whether a file found in a folder is to be analysed.

    The content decides. A file that no reader recognises still counts when it can be nothing but a damaged scan, so that
    it is reported rather than left out: its suffix belongs to scans alone, or it belongs to scans too and the file is
    empty or begins with nothing but zeros, as the wreck of a crashed program does.

    Parameters
    ----------
    path
        The file.
    head
        Its size and first bytes.

    Raises
    ------
    OSError
        If a reader wants to see more of the file and cannot.
    """
    if not may_be_scan(path) or is_log(path):
        return False
    if head.size and any(reader.sniff(head) for reader in readers()):
        return True
    suffix = path.suffix.lower()
    if not _is_declared(suffix) or suffix in SIDECAR_SUFFIXES:
        return False
    return suffix not in SHARED_SUFFIXES or not any(head.head)


def _is_declared(suffix: str) -> bool:
    return any(fnmatch.fnmatchcase(suffix, pattern) for pattern in _declared_suffixes())


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file; a link that leads in a circle or behind a closed door is none, and hides no other file."""
    try:
        return entry.is_file()
    except OSError:
        if entry.is_symlink():
            return False
        raise


def _is_same_folder(entry: os.DirEntry[str], folder: Path) -> bool:
    if entry.name.casefold() != folder.name.casefold():  # resolving every folder at every look would be slow on a share
        return False
    return Path(entry.path).resolve() == folder


@cache
def _declared_suffixes() -> frozenset[str]:
    return frozenset(suffix for reader in readers() for suffix in reader.suffixes)


def _free_name(resolved: Path, relative: Path, taken: set[str]) -> str:
    """A name that no other job has: the relative path, with as many parent folders before it as that takes."""
    depth = len(relative.parts)
    while True:
        parts = relative.parts if depth == len(relative.parts) else resolved.parts[-depth:]
        name = PurePosixPath(*map(printable, parts)).as_posix()
        if name.casefold() not in taken or depth >= len(resolved.parts) - 1:
            break
        depth += 1
    number = 2
    free = name
    while free.casefold() in taken:
        free, number = f"{name}~{number}", number + 1
    taken.add(free.casefold())
    return free
