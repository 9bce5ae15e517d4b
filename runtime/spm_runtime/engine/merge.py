"""`spm-infer merge`: one summary over the shards of a batch, if the batch is complete."""

from __future__ import annotations

import csv
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from spm_runtime.engine.console import Console
from spm_runtime.engine.shards import MANIFEST, Manifest, Shard, read_manifest, refuse_if_held
from spm_runtime.errors import ParameterError
from spm_runtime.results import Outcome, Report, file_sha256, printable, read_document, remove_partial_folders
from spm_runtime.results._outcome import Status

__all__ = ["merge_shards"]

_SUMMARY = "summary.csv"

#: So many troubles are named one by one.
NAMED = 20


@dataclass(frozen=True)
class _Piece:
    """A shard where it lies."""

    desk: Path
    manifest: Manifest

    @property
    def shard(self) -> Shard:
        return self.manifest.shard


def merge_shards(folders: Sequence[Path | str]) -> int:
    """Write ``summary.csv`` and ``index.html`` over all shards of a batch into the first folder.

    Nothing is analysed or moved: the results stay where they are, and rows of shards in other folders point there.

    Parameters
    ----------
    folders
        The folders of results that the shards were given, one or several; or the shards' own folders in them.

    Returns
    -------
    int
        How many images failed; one more when the summary could not be written.

    Raises
    ------
    ParameterError
        If the batch is not complete: a shard is missing, not finished, there twice, made with other settings or from other
        scans, or has changed since; the message names all that.
    OutputError
        If somebody works on the first folder.
    """
    places = [Path(folder) for folder in folders]
    pieces, troubles = _find(places)
    target = places[0].resolve().parent if (places[0] / MANIFEST).is_file() else places[0]
    troubles += _incomplete(pieces)
    if not troubles:
        troubles += [*_different(pieces), *_changed(pieces)]
    _refuse(places, troubles)
    refuse_if_held(target)
    console = Console()
    report = Report(target)
    counts: Counter[str] = Counter()
    known: set[str] = set()
    try:
        for piece in pieces:
            for outcomes in _outcomes(piece, target, known, troubles):
                report.add(outcomes)
                counts.update(outcome.status for outcome in outcomes)
        _refuse(places, troubles)
        for root in {piece.desk.parent for piece in pieces}:
            remove_partial_folders(root)  # what shards left that were killed
        written = console.write_report(report)
    finally:
        report.close()
    console.line(
        f"{len(pieces)} shards: {counts['done']} done, {counts['failed']} failed, {counts['skipped']} skipped: "
        f"{target / 'index.html'}"
    )
    return counts["failed"] + (not written)


def _find(places: Iterable[Path]) -> tuple[list[_Piece], list[str]]:
    """The shards that are there, by number, and what is the matter with folders that should be some."""
    pieces: list[_Piece] = []
    troubles: list[str] = []
    seen: set[Path] = set()
    for place in places:
        desks = [place] if (place / MANIFEST).is_file() else sorted(place.glob("shard-*-of-*"))
        if not desks:
            troubles.append(f"{place}: no shards there; name the folder that the shards were given with --out")
        for desk in desks:
            if desk.resolve() in seen:
                continue
            seen.add(desk.resolve())
            manifest = read_manifest(desk)
            if manifest is None:
                troubles.append(
                    f"{desk}: no {MANIFEST} that this version reads; give the shard's command again, or remove the folder"
                )
            else:
                pieces.append(_Piece(desk.resolve(), manifest))
    pieces.sort(key=lambda piece: (piece.shard.count, piece.shard.number))
    return pieces, troubles


def _incomplete(pieces: Sequence[_Piece]) -> Iterator[str]:
    """What is missing, there twice or not finished."""
    counts = sorted({piece.shard.count for piece in pieces})
    if len(counts) > 1:
        texts = " and of ".join(map(str, counts))
        yield f"there are shards of {texts}: batches that were divided differently; remove the folders of one of them"
        return
    by_number: dict[int, list[_Piece]] = {}
    for piece in pieces:
        by_number.setdefault(piece.shard.number, []).append(piece)
    for number in range(1, counts[0] + 1 if counts else 1):
        there = by_number.get(number, [])
        if not there:
            yield f"{Shard(number, counts[0]).title} is missing"
        if len(there) > 1:
            yield f"{there[0].shard.title} is there {len(there)} times: {', '.join(str(piece.desk) for piece in there)}"
        for piece in there:
            if not piece.manifest.finished:
                yield (
                    f"{piece.shard.title} is not finished (begun {piece.manifest.since}); wait for it, or give its command again "
                    "if it was stopped"
                )


def _different(pieces: Sequence[_Piece]) -> Iterator[str]:
    """Shards that were made with other settings than the first one, or from other scans than the rest."""
    first = pieces[0]
    for piece in pieces[1:]:
        here, there = piece.manifest.settings, first.manifest.settings
        if here.get("fingerprint") == there.get("fingerprint"):
            continue
        names = [name for name in there if name != "fingerprint" and here.get(name) != there[name]]
        words = (f"{name} {_short(here.get(name))} against {_short(there[name])}" for name in names)
        yield (
            f"{piece.shard.title} was made with other settings or models than {first.shard.title}"
            f"{': ' if names else ''}{'; '.join(words)}"
        )
    for piece in pieces:
        own = piece.manifest.parts[piece.shard.number - 1]
        for other in pieces:
            seen = other.manifest.parts[piece.shard.number - 1]
            # One that was begun later may see more; then the first does not know all of its own scans.
            if seen.files > own.files or (seen.files == own.files and seen != own):
                yield (
                    f"{piece.shard.title} found {own.files} files of its own, {other.shard.title} found {seen.files} for it: "
                    "files came or went in between, or they were given other paths; give the commands of both again (what is "
                    "done is not done twice)"
                )
                break


def _changed(pieces: Sequence[_Piece]) -> Iterator[str]:
    """Shards whose summary is not the one that they wrote."""
    for piece in pieces:
        table = piece.desk / _SUMMARY
        if not table.is_file():
            yield f"{piece.shard.title}: {table} is not there; copy all of the folder, or give the shard's command again"
        elif file_sha256(table) != piece.manifest.summary_sha256:
            yield f"{piece.shard.title}: {table} has changed since it was finished; give the shard's command again"


def _outcomes(piece: _Piece, target: Path, known: set[str], troubles: list[str]) -> Iterator[list[Outcome]]:
    """The outcomes of a shard, those of one file together."""
    with (piece.desk / _SUMMARY).open(encoding="utf-8", newline="") as file:
        for name, rows in itertools.groupby(csv.DictReader(file), key=lambda row: row["scan"]):
            if name in known:  # a folder that could not be listed is said by every shard
                continue
            known.add(name)
            outcomes = [_outcome(piece, row, target, troubles) for row in rows]
            yield [outcome for outcome in outcomes if outcome is not None]


def _outcome(piece: _Piece, row: Mapping[str, str], target: Path, troubles: list[str]) -> Outcome | None:
    folder = Path(os.path.normpath(piece.desk / row["folder"]))
    document = read_document(folder) if row["status"] == "done" else None
    if row["status"] == "done" and (document is None or (document["scan"]["sha256"] or "") != row["sha256"]):
        seen = "is missing" if document is None else "is of another content by now"
        troubles.append(f"{piece.shard.title}: the result {folder} {seen}; give the shard's command again")
        return None
    try:
        output = Path(os.path.relpath(folder, target.resolve())).as_posix()
    except ValueError:  # on Windows, another drive
        troubles.append(f"{folder} is on another drive than {target}; copy all shards to one drive")
        return None
    return Outcome(
        row["scan"],
        output,
        cast("Status", row["status"]),
        frame=int(row["frame"]) if row["frame"] else None,
        reason=row["reason"],
        seconds=float(row["seconds"] or 0.0),
        document=document or {},
    )


def _refuse(places: Sequence[Path], troubles: Sequence[str]) -> None:
    if not troubles:
        return
    lines = [f"  {trouble}" for trouble in troubles[:NAMED]]
    if len(troubles) > NAMED:
        lines.append(f"  and {len(troubles) - NAMED} more")
    title = " ".join(printable(str(place)) for place in places)
    raise ParameterError("\n".join([f"{title}: not a complete batch, so nothing was joined:", *lines]))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
