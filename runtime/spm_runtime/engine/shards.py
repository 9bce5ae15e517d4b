"""`spm-infer run --shard I/N`: a part of a batch, as one task of a Slurm array does it.

All tasks may be given the same folder of results. The results of a scan lie where they always lie, and every scan belongs to
one shard; lock, summary and ledger are the shard's own, so that tasks on different computers never write to the same file.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self, Unpack

from spm_runtime._version import __version__
from spm_runtime.engine.batch import BatchOptions, run_batch
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.ledger import LEDGER, Ledger
from spm_runtime.engine.service import MakePool, Service, make_output
from spm_runtime.engine.settings import Settings, check_settings, fingerprint
from spm_runtime.engine.state import holder, state_folder
from spm_runtime.engine.worker import Duty
from spm_runtime.engine.workers import Pool, Workers
from spm_runtime.errors import OutputError, ParameterError
from spm_runtime.results import Outcome, file_sha256, printable, write_atomically

__all__ = ["MANIFEST", "Manifest", "Part", "Shard", "read_manifest", "run_shard"]

#: The file in a shard's own folder that says what the shard is, and that it is finished.
MANIFEST = "shard.json"

MANIFEST_VERSION = 1

_SUMMARY = "summary.csv"

#: So many looks at a lock tell somebody who holds it from others who look.
LOOKS = 10

#: The rows of the summary that a scan of each of these states has.
_STATUS = {"done": "done", "skipped": "skipped", "failed": "failed", "quarantined": "failed"}


@dataclass(frozen=True, order=True)
class Shard:
    """A part of a batch, counted from 1.

    Parameters
    ----------
    number
        Which, from 1 to `count`.
    count
        How many there are.

    Raises
    ------
    ParameterError
        If there is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ParameterError(
                f"--shard {self.number}/{self.count}: shards are counted from 1 to N; in Slurm write --array=1-N, and N itself "
                "after the slash"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard of a text such as ``3/16``.

        Raises
        ------
        ParameterError
            If it is not such a text, or there is no such part.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.strip().isdecimal() and count.strip().isdecimal()):
            raise ParameterError(f"--shard {text}: expected I/N, as 3/16 for the third of sixteen parts")
        return cls(int(number), int(count))

    @property
    def title(self) -> str:
        """Name for people."""
        return f"shard {self.number} of {self.count}"

    @property
    def folder(self) -> str:
        """Name of the shard's own folder within the folder of results."""
        return f"shard-{self.number:04d}-of-{self.count:04d}"

    def holds(self, name: str) -> bool:
        """Whether a scan of this name is in this part."""
        return part_of(name, self.count) == self.number


@dataclass(frozen=True)
class Part:
    """What was seen of one part of a batch: how many files, and a digest of their names."""

    files: int
    names_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a shard says of itself.

    Parameters
    ----------
    shard
        Which it is.
    finished
        Whether every scan of it has come to its end.
    since
        When that was, or when it was begun.
    settings
        What its results depend on besides the scans.
    parts
        What it saw of every part of the batch, itself included.
    summary_sha256
        Of its ``summary.csv``.
    """

    shard: Shard
    finished: bool
    since: str
    settings: dict[str, Any]
    parts: tuple[Part, ...]
    summary_sha256: str = ""


def part_of(name: str, count: int) -> int:
    """The part of a batch, from 1 to `count`, that a scan belongs to: by its name alone, whatever other scans there are."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count + 1


def run_shard(
    paths: Iterable[Path | str],
    out: Path | str,
    settings: Settings,
    shard: Shard,
    *,
    make_pool: MakePool = Workers,
    **options: Unpack[BatchOptions],
) -> int:
    """Analyse one part of a batch; `spm_runtime.engine.merge.merge_shards` joins the parts.

    Results go to ``out / <path of the scan>`` as they always do; summary, lock and ``shard.json`` to a folder of the shard
    within `out`.

    Parameters
    ----------
    paths
        Files and folders of the whole batch: the same for every shard.
    out
        Folder of the results; mostly the same for every shard.
    settings, make_pool, **options
        As for `spm_runtime.engine.batch.run_batch`.
    shard
        Which part.

    Returns
    -------
    int
        As `spm_runtime.engine.batch.run_batch`.

    Raises
    ------
    AdatomError
        As `spm_runtime.engine.batch.run_batch`; `OutputError` also if this very shard is at work already, or a run that is not
        a shard works on the same results.
    """
    check_settings(settings)
    out, given = Path(out), [Path(path) for path in paths]
    make_output(out)
    refuse_if_held(out)
    desk = out / shard.folder
    names: list[str] = []
    manifest = Manifest(shard, finished=False, since=_now(), settings=_facts(settings), parts=())

    def choose(jobs: Sequence[Job]) -> list[Job]:
        nonlocal manifest
        there = _outside(jobs, given, out)
        manifest = dataclasses.replace(manifest, parts=_parts(there, shard.count))
        # A folder that cannot be listed may hold scans of every part.
        mine = [job for job in there if job.problem or shard.holds(job.name)]
        names.extend(job.name for job in mine if not job.problem)
        _refuse_to_replace_files(mine, out)
        return mine

    def begin(*, duty: Duty, **rest: Any) -> Pool:
        # Only now it is certain that nobody else works on this shard.
        _write_manifest(desk, manifest)
        return make_pool(duty=_Elsewhere(out, duty.settings, duty.skip_done, duty.warm, duty.analyse), **rest)

    failed = run_batch(given, desk, settings, choose=choose, make_pool=begin, **options)
    if _is_finished(desk, names, options.get("service", Service())):
        digest = file_sha256(desk / _SUMMARY)
        _write_manifest(desk, dataclasses.replace(manifest, finished=True, since=_now(), summary_sha256=digest))
    return failed


def refuse_if_held(out: Path) -> None:
    """Refuse to work beside a run or a watch that has a folder of results for itself.

    Raises
    ------
    OutputError
        If there is one.
    """
    who: dict[str, Any] = {}
    for _ in range(LOOKS):
        there = holder(out)
        if there is None:
            return
        who = there
        # Whoever asks holds the lock for an instant, and the tasks of an array begin together.
        time.sleep(random.uniform(0.02, 0.15))
    raise OutputError(
        f"--out {out}: process {who.get('pid', 'unknown')} on {who.get('host', 'an unknown computer')} works on these "
        "results, and not as a shard; stop it first, or choose another folder"
    )


def read_manifest(desk: Path) -> Manifest | None:
    """What the shard of a folder says of itself; None when it says nothing that this version understands."""
    try:
        facts = json.loads((desk / MANIFEST).read_text(encoding="utf-8"))
        if facts["version"] != MANIFEST_VERSION:
            return None
        return Manifest(
            Shard(int(facts["shard"]), int(facts["of"])),
            finished=bool(facts["finished"]),
            since=str(facts["since"]),
            settings=dict(facts["settings"]),
            parts=tuple(Part(int(part["files"]), str(part["names_sha256"])) for part in facts["parts"]),
            summary_sha256=str(facts["summary_sha256"]),
        )
    except (OSError, ValueError, KeyError, TypeError, ParameterError):
        return None


@dataclass(frozen=True)
class _Elsewhere(Duty):
    """A duty whose results lie in the folder above the one of the summary."""

    def do(
        self,
        job: Job,
        staging: Path | None = None,
        on_read: Callable[[str], object] = lambda sha256: None,
        on_image: Callable[[], object] = lambda: None,
    ) -> list[Outcome]:
        """Do one job in this process; the outcomes name the folders of their results as the summary sees them."""
        outcomes = super().do(job, staging, on_read, on_image)
        return [dataclasses.replace(outcome, output=f"../{outcome.output}") for outcome in outcomes]


def _outside(jobs: Sequence[Job], given: Sequence[Path], out: Path) -> list[Job]:
    """The jobs without files that a folder of results holds which lies inside a folder of scans."""
    place = out.resolve()
    if not any(path.resolve() in place.parents for path in given):
        return list(jobs)
    return [job for job in jobs if job.named or not job.path.resolve().is_relative_to(place)]


def _refuse_to_replace_files(jobs: Iterable[Job], out: Path) -> None:
    for job in jobs:
        if (out / job.name).is_file():
            raise ParameterError(
                f"--out {printable(str(out))}: the results of {printable(str(job.path))} would go to a folder "
                f"{printable(str(out / job.name))}, and that is a file; choose another folder with --out, it may lie inside"
            )


def _parts(jobs: Iterable[Job], count: int) -> tuple[Part, ...]:
    names: list[list[str]] = [[] for _ in range(count)]
    for job in jobs:
        if not job.problem:
            names[part_of(job.name, count) - 1].append(job.name)
    return tuple(
        Part(len(part), hashlib.sha256("\n".join(sorted(part)).encode("utf-8", "surrogateescape")).hexdigest())
        for part in names
    )


def _facts(settings: Settings) -> dict[str, Any]:
    """What results depend on, for people to compare, with its digest."""
    return {
        "fingerprint": fingerprint(settings),
        "adatom": __version__,
        "--task": list(settings.tasks),
        "--channel": settings.channel,
        "--pixel-size-nm": settings.pixel_size_nm,
        "--param": dict(settings.params),
        "--gwy": settings.gwy,
        "models": {task: dataclasses.asdict(settings.method(task).reference) for task in settings.possible_tasks},
    }


def _is_finished(desk: Path, names: Iterable[str], service: Service) -> bool:
    """Whether every scan has come to its end, and the summary says so."""
    with Ledger(state_folder(desk, service.state) / LEDGER, create=False) as ledger:
        states = {entry.name: entry.state for entry in ledger.entries("state != 'gone'")}
    said: dict[str, set[str]] = {}
    if not (desk / _SUMMARY).is_file():
        return False
    with (desk / _SUMMARY).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            said.setdefault(row["scan"], set()).add(row["status"])
    for name in names:
        state = states.get(name, "gone")
        if state in {"waiting", "working"}:
            return False
        if state in _STATUS and _STATUS[state] not in said.get(printable(name), ()):
            return False  # the table could not be written
    return True


def _write_manifest(desk: Path, manifest: Manifest) -> None:
    facts = {
        "version": MANIFEST_VERSION,
        "shard": manifest.shard.number,
        "of": manifest.shard.count,
        "finished": manifest.finished,
        "since": manifest.since,
        "settings": manifest.settings,
        "summary_sha256": manifest.summary_sha256,
        "parts": [dataclasses.asdict(part) for part in manifest.parts],
    }
    try:
        write_atomically(desk / MANIFEST, (json.dumps(facts, indent=1) + "\n").encode("utf-8"))
    except OSError as error:
        raise OutputError(
            f"{desk / MANIFEST}: cannot be written ({error.strerror or error}); make sure that the disk has room and that you "
            "may write there, then give the same command again"
        ) from error


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
