"""Files beside a scan that belong to it: when they come or change later, the scan is another one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from spm_runtime.engine.jobs import Stamp
from spm_runtime.readers import readers
from spm_runtime.readers._api import Companions

__all__ = ["Beside", "companions", "content_digest", "is_log"]

#: A log larger than this is not looked into: any change of it counts. MATRIX files beyond it are refused by their reader.
LOG_BYTES = 2**26


@cache
def _rules() -> tuple[Companions, ...]:
    return tuple(reader.companions for reader in readers() if reader.companions is not None)


def _key(pattern: str, name: str) -> str | None:
    match = re.fullmatch(pattern, name, re.IGNORECASE)
    return None if match is None else match["key"].casefold()


def is_log(path: Path) -> bool:
    """Whether a file is by its name a log beside scans, and never a scan itself."""
    return any(rule.mention is not None and _key(rule.beside, path.name) is not None for rule in _rules())


def companions(path: Path) -> list[Path]:
    """The companions of a scan that are there, by name.

    Raises
    ------
    OSError
        If the folder of a scan that may have some cannot be listed.
    """
    found: set[Path] = set()
    for rule in _rules():
        key = _key(rule.scan, path.name)
        if key is not None:
            found |= {path.with_name(name) for name in os.listdir(path.parent) if _key(rule.beside, name) == key}  # noqa: PTH208
    return sorted(found)


def content_digest(path: Path, own_sha256: str, beside: Iterable[Path]) -> str:
    """SHA-256 of a scan and of what its companions say of it; that of the scan alone when it has none.

    Parameters
    ----------
    path
        The scan.
    own_sha256
        Of its own file.
    beside
        Its companions, by name.

    Returns
    -------
    str
        SHA-256 of the lines of the single ones, the scan's own first.
    """
    digests = [own_sha256]
    for companion in beside:
        content = companion.read_bytes()
        end = _end_of_mention(content, path.name, companion.name)
        digests.append(hashlib.sha256(content if end is None else content[:end]).hexdigest())
        if end is not None:
            break
    return own_sha256 if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()


def _end_of_mention(content: bytes, scan: str, companion: str) -> int | None:
    """Where a log ends for a scan; None when all of the file counts."""
    for rule in _rules():
        if rule.mention is not None and _key(rule.beside, companion) is not None and len(content) <= LOG_BYTES:
            mark = rule.mention(scan)
            start = content.find(mark)
            if start >= 0:
                return start + len(mark)
    return None


@dataclass
class _Log:
    """What is known of one state of a log: where it ends for every scan, None where it says nothing of it."""

    stamp: Stamp
    ends: dict[bytes, int | None] = field(default_factory=dict)


class Beside:
    """The state of the companions of scans, at one look at a folder after another.

    Listings serve all scans of a folder, and a log is read once after every change of it: a session of thousands of scans on a
    share costs few calls. Of earlier looks it keeps a few bytes for every scan that has a log.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._there: Mapping[tuple[int, str], list[tuple[Path, Stamp]]] = {}
        self._contents: dict[Path, bytes] = {}
        self._logs: dict[Path, _Log] = {}
        self._earlier: dict[Path, _Log] = {}

    def begin(self) -> None:
        """A new look begins: nothing is known of the folders any more, nor of logs that the last one did not see."""
        self._folder, self._there, self._contents = None, {}, {}
        self._earlier, self._logs = self._logs, {}

    def state(self, path: Path) -> str:
        """A few letters that change when the companions of a scan do; nothing when it has none.

        Raises
        ------
        OSError
            If its folder cannot be listed.
        """
        words: list[str] = []
        for number, rule in enumerate(_rules()):
            key = _key(rule.scan, path.name)
            if key is None:
                continue
            self._list(path.parent)
            for companion, stamp in self._there.get((number, key), ()):
                end = None if rule.mention is None else self._end(path, companion, stamp)
                if end is not None:
                    words.append(f"{companion.name} {end}")
                    break
                words.append(f"{companion.name} {stamp.size} {stamp.mtime_ns}")
        text = "\n".join(words).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=8).hexdigest() if words else ""

    def _list(self, folder: Path) -> None:
        if folder == self._folder:
            return
        there: dict[tuple[int, str], list[tuple[Path, Stamp]]] = {}
        for name in sorted(os.listdir(folder)):  # noqa: PTH208
            for number, rule in enumerate(_rules()):
                key = _key(rule.beside, name)
                if key is not None:
                    companion = folder / name
                    there.setdefault((number, key), []).append((companion, Stamp.of(companion.stat())))
        self._folder, self._there, self._contents = folder, there, {}

    def _end(self, path: Path, log: Path, stamp: Stamp) -> int | None:
        known = self._logs.get(log) or self._earlier.get(log)
        if known is None or known.stamp != stamp:
            known = _Log(stamp)
        self._logs[log] = known
        scan = hashlib.blake2b(os.fsencode(path.name), digest_size=8).digest()
        if scan not in known.ends:
            if log not in self._contents:
                self._contents[log] = log.read_bytes() if stamp.size <= LOG_BYTES else b""
            known.ends[scan] = _end_of_mention(self._contents[log], path.name, log.name)
        return known.ends[scan]
