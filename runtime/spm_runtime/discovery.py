"""Which files of the given paths are scans, and where the results of each go."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from spm_runtime.errors import ScanError, UnknownFormatError
from spm_runtime.readers import HEAD_BYTES, find_reader, readers
from spm_runtime.results import printable, read_document

__all__ = ["Job", "find_scans", "is_scan", "walk"]

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


@dataclass(frozen=True)
class Job:
    """One file to analyse.

    Parameters
    ----------
    path
        The file.
    name
        Its path within what was given, with forward slashes: its name for people and the folder of its results within
        the folder of all results.
    problem
        Why it cannot even be opened, where that is known already.
    """

    path: Path
    name: str
    problem: str = ""


def find_scans(
    paths: Iterable[Path | str], *, ignore: Path | None = None, on_skip: Callable[[Path], object] = lambda path: None
) -> Iterator[Job]:
    """All scans of files and folders, folders recursively, in the order given and sorted within a folder.

    A file that is named counts, whatever it holds: it is analysed or fails with a reason. In a folder the content
    decides, see `is_scan`. Hidden files and folders, and folders that hold results, are passed over.

    Parameters
    ----------
    paths
        Files and folders.
    ignore
        A folder to pass over, the one of the results.
    on_skip
        Called with every file of a folder that is no scan.

    Yields
    ------
    Job
        Each file once; no two with one folder of results, upper and lower case not told apart. A folder that cannot be
        listed gives a job with a `Job.problem`.
    """
    seen: set[Path] = set()
    taken: set[str] = set()
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
            if path != given and not is_scan(path):
                on_skip(path)
                continue
            yield Job(path, _free_name(resolved, relative, taken))
        yield from problems


def walk(
    folder: Path | str, *, ignore: Path | None = None, on_error: Callable[[OSError], object]
) -> Iterator[os.DirEntry[str]]:
    """All files below a folder that could be scans, sorted by name.

    Parameters
    ----------
    folder
        Where to begin.
    ignore
        A folder to pass over.
    on_error
        Called when a folder cannot be listed; its files are left out.

    Yields
    ------
    os.DirEntry
        Files, links to files included; hidden ones, those below hidden folders, linked folders and folders with a
        ``result.json`` of this program left out.
    """
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        on_error(error)
        return
    if any(entry.name == "result.json" for entry in entries) and read_document(Path(folder)) is not None:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder, is_file = entry.is_dir(follow_symlinks=False), entry.is_file()
        except OSError as error:  # a share that is just going away
            on_error(error)
            continue
        if is_file:
            yield entry
        elif is_folder and (ignore is None or Path(entry.path).resolve() != ignore.resolve()):
            yield from walk(entry.path, ignore=ignore, on_error=on_error)


def is_scan(path: Path) -> bool:
    """Whether a file found in a folder is to be analysed.

    The content decides. A file that no reader recognises still counts when it can be nothing but a damaged scan, so that
    it is reported rather than left out: its suffix belongs to scans alone, or it belongs to scans too and the file is
    empty or begins with nothing but zeros, as the wreck of a crashed program does. A file that cannot be opened counts.

    Parameters
    ----------
    path
        The file.
    """
    suffix = path.suffix.lower()
    declared = any(fnmatch.fnmatchcase(suffix, pattern) for pattern in _declared_suffixes())
    sidecar = suffix in SIDECAR_SUFFIXES
    if sidecar and not declared:
        return False
    try:
        find_reader(path)
    except UnknownFormatError:
        return declared and not sidecar and (suffix not in SHARED_SUFFIXES or _is_blank(path))
    except ScanError:
        return True
    return True


@cache
def _declared_suffixes() -> frozenset[str]:
    return frozenset(suffix for reader in readers() for suffix in reader.suffixes)


def _is_blank(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not any(file.read(HEAD_BYTES))
    except OSError:  # gone or locked since it was looked at: whoever reads it next says so
        return True


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
