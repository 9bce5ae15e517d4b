"""What became of one image of a batch or a watched folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Outcome", "Status"]

Status = Literal["done", "failed", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What became of one image. Plain values only: it crosses process borders.

    Parameters
    ----------
    name
        The scan's path within what was analysed, with forward slashes.
    output
        Where its results are, or would be, within the folder of results, with forward slashes.
    status
        ``done``; ``failed``, with the reason; ``skipped`` when there is nothing to do for such a scan, with the reason.
    frame
        Index in a stack, None for a single image or a file that could not be read.
    reason
        Why it failed or was skipped, for a person.
    error
        Class name of the error, as ``CorruptScanError``.
    traceback
        Of an exception that nobody foresaw; else empty.
    seconds
        From opening the file (for later frames: from the end of the frame before) to the last file written.
    document
        Its ``result.json`` when done, else empty.
    reused
        Whether the result was there already.
    may_pass
        Whether it failed for what has nothing to do with the scan and may be over later: the disk is full or away, or
        another program has a file of the results open.
    """

    name: str
    output: str
    status: Status
    frame: int | None = None
    reason: str = ""
    error: str = ""
    traceback: str = ""
    seconds: float = 0.0
    document: Mapping[str, Any] = field(default_factory=dict)
    reused: bool = False
    may_pass: bool = False

    @property
    def title(self) -> str:
        """Name and frame."""
        return self.name if self.frame is None else f"{self.name}, frame {self.frame}"

    @property
    def counts(self) -> dict[str, int]:
        """How many things were found, by kind."""
        counts: dict[str, int] = {}
        for task in self._tasks.values():
            counts.update(task["counts"])
        return counts

    @property
    def classes(self) -> dict[str, int]:
        """How many defects of each class that was found."""
        # A result of a version before there were classes has none.
        return {name: count for task in self._tasks.values() for name, count in task.get("classes", {}).items()}

    @property
    def quantities(self) -> dict[str, float]:
        """Numbers that describe the whole image, undefined ones left out."""
        quantities: dict[str, float] = {}
        for task in self._tasks.values():
            quantities.update({name: value for name, value in task["quantities"].items() if value is not None})
        return quantities

    @property
    def warnings(self) -> list[str]:
        """Of the scan and of every task."""
        if not self.document:
            return []
        return [
            *self.document["scan"]["warnings"],
            *(text for task in self._tasks.values() for text in task["warnings"]),
        ]

    @property
    def models(self) -> list[str]:
        """``name@version`` of every model used."""
        return _once(f"{task['model']['name']}@{task['model']['version']}" for task in self._tasks.values())

    @property
    def providers(self) -> list[str]:
        """Execution providers that ran."""
        return _once(task["provider"] for task in self._tasks.values())

    @property
    def _tasks(self) -> Mapping[str, Any]:
        tasks: Mapping[str, Any] = self.document.get("tasks", {})
        return tasks


def _once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
