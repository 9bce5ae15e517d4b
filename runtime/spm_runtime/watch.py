"""`spm-infer watch`: every new scan of a folder, analysed once it is complete."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType

import click

from spm_runtime import pipelines
from spm_runtime.batch import (
    REPORT_EVERY_S,
    Analyse,
    Outcome,
    Settings,
    check_settings,
    make_output,
    process,
    say,
    write_report,
)
from spm_runtime.discovery import Job, is_scan, walk
from spm_runtime.errors import CannotOpenError, ParameterError
from spm_runtime.results import Report, printable
from spm_runtime.workers import Workers

__all__ = ["Stamp", "settled", "watch"]

#: Errors of a file that may only be incomplete, and that of one that is locked by the program that writes it. Any other
#: error of a file is a fact that waiting does not change.
MAYBE_INCOMPLETE = frozenset({"CorruptScanError", "UnknownFormatError"})
LOCKED = "CannotOpenError"

#: Seconds until a scan is tried again whose results could not be written; twice as many after every further attempt.
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 300.0


@dataclass(frozen=True)
class Stamp:
    """What tells one state of a file from another without reading it."""

    size: int
    mtime_ns: int


def watch(
    folder: Path | str,
    out: Path | str,
    settings: Settings,
    *,
    once: bool = False,
    since: datetime | None = None,
    poll_s: float = 1.0,
    give_up_s: float = 600.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] | None = None,
    analyse: Analyse = pipelines.analyse,
) -> int:
    """Analyse every scan of a folder, sub-folders included, as it is completed.

    A file is taken when its size and time of change are the same in two looks and it reads whole. One that does not read
    whole is tried again when it changes, and reported as failed when it has not changed for `give_up_s`. One whose results
    cannot be written (the disk is full or away, a file is open in another program) is reported as failed and tried again
    until they can, less and less often. Scans whose result is there already, for the same content, model and parameters,
    are not analysed again.

    Parameters
    ----------
    folder
        The folder to watch. When it vanishes later, as a share does, that is said once and it is waited for.
    out
        Folder of the results; it may lie inside `folder`.
    settings
        What the user asks for.
    once
        Whether to end when every scan that is there has been dealt with; nothing is waited for then.
    since
        Files last changed before this moment are left alone.
    poll_s
        Seconds between two looks.
    give_up_s
        How long a file that cannot be read whole is given to change.
    clock, sleep
        In place of the system's, for tests.
    analyse
        In place of `spm_runtime.pipelines.analyse`.

    Returns
    -------
    int
        How many images failed. Ctrl-C or SIGTERM ends the watch after the scans in hand; a second one at once.

    Raises
    ------
    ModelError, ParameterError
        Before anything is watched, if no scan could be analysed or the folder is not there.
    OutputError
        Before anything is watched, if `out` cannot be made.
    CannotOpenError
        With `once`, if a folder cannot be listed.
    """
    check_settings(settings)
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise ParameterError(
            f"{folder}: no such folder; name a folder that exists, and check that its share is mounted"
        )
    if out.resolve() == folder.resolve():
        raise ParameterError(f"--out {out}: the watched folder itself; choose another one, it may lie inside")
    make_output(out)
    work = partial(process, out=out, settings=settings, analyse=analyse, skip_done=True)
    queue = _Queue(folder, give_up_s, clock, once)
    stop = threading.Event()
    pause = partial(sleep or stop.wait, poll_s)
    looks = settled(folder, ignore=out, since=since, once=once, wait=pause, tell=_tell)
    with _stopped_by_signals(stop), Workers(work, settings.jobs) as workers:
        _follow(looks, queue, workers, Report(out), stop)
    return queue.failed


def _follow(
    looks: Iterable[Mapping[Path, Stamp]], queue: _Queue, workers: Workers, report: Report, stop: threading.Event
) -> None:
    """Analyse what each look brings, until there are no more looks or it is time to stop."""
    write_report(report)
    for ready in looks:
        jobs = queue.jobs(ready)
        for outcomes in workers.run(jobs, stop=stop.is_set):
            final = queue.settle(outcomes)
            report.add(final)
            for outcome in final:
                if not outcome.reused:
                    say(outcome)
            write_report(report, at_most_every_s=REPORT_EVERY_S)
        write_report(report, at_most_every_s=0.0 if jobs else REPORT_EVERY_S)
        if stop.is_set():
            return


def _tell(text: str) -> None:
    click.secho(text, fg="yellow", err=True)


def settled(
    folder: Path,
    *,
    ignore: Path | None = None,
    since: datetime | None = None,
    once: bool = False,
    wait: Callable[[], object],
    tell: Callable[[str], object],
) -> Iterator[Mapping[Path, Stamp]]:
    """Look at a folder again and again.

    Polling, because the notices that operating systems give miss what other computers write to a share.

    Parameters
    ----------
    folder
        The folder, sub-folders included.
    ignore
        A sub-folder to pass over.
    since
        Files last changed before this moment are left out.
    once
        Whether to end after the first look at which nothing had changed.
    wait
        Called between two looks.
    tell
        Called with a sentence when a folder vanishes or cannot be listed, and when it is back.

    Yields
    ------
    mapping
        At every look but the first: the files whose stamp is that of the look before.

    Raises
    ------
    CannotOpenError
        With `once`, if a folder cannot be listed: not everything that is there would have been dealt with.
    """
    before: dict[Path, Stamp] | None = None
    troubles: set[str] = set()
    while True:
        now, lost = _look(folder, ignore, since)
        for place in lost.keys() - troubles:
            if once:
                raise CannotOpenError(
                    place, f"cannot be listed ({lost[place]})", "a readable folder", "Check the share and your rights."
                )
            tell(f"{printable(place)}: cannot be listed ({lost[place]}); waiting for it")
        for place in troubles - lost.keys():
            tell(f"{printable(place)}: is back")
        troubles = set(lost)
        if str(folder) in lost:
            now = before or {}  # nothing is known of it: neither new nor gone
        if before is not None:
            yield {path: stamp for path, stamp in now.items() if before.get(path) == stamp}
            if once and now == before:
                return
        before = now
        wait()


def _look(folder: Path, ignore: Path | None, since: datetime | None) -> tuple[dict[Path, Stamp], dict[str, str]]:
    """All files with their stamps, and the reason for every folder that could not be listed."""
    oldest_ns = 0 if since is None else int(since.timestamp() * 1e9)
    found: dict[Path, Stamp] = {}
    lost: dict[str, str] = {}

    def note(error: OSError) -> None:
        lost[str(error.filename or folder)] = str(error.strerror or error)

    for entry in walk(folder, ignore=ignore, on_error=note):
        try:
            facts = Path(entry.path).stat()  # not the entry's own: Windows updates that one late
        except OSError:
            continue  # gone since it was listed
        if facts.st_mtime_ns >= oldest_ns:
            found[Path(entry.path)] = Stamp(facts.st_size, facts.st_mtime_ns)
    return found, lost


@dataclass
class _Pending:
    """A file that is to be tried again: its stamp at the last attempt, since when, and when it is its turn."""

    stamp: Stamp
    since: float
    next_try: float
    told_failed: int = 0  # images reported as failed, for what may pass
    pause_s: float = FIRST_RETRY_S


@dataclass
class _Queue:
    """Which of the settled files are to be analysed now, and what their outcomes mean."""

    folder: Path
    give_up_s: float
    clock: Callable[[], float]
    once: bool
    _failed: int = 0
    _settled: dict[Path, Stamp] = field(default_factory=dict)
    _pending: dict[Path, _Pending] = field(default_factory=dict)
    _in_hand: dict[str, tuple[Path, Stamp]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many images were reported as failed, less those that went well later because what was wrong had passed."""
        return self._failed + sum(pending.told_failed for pending in self._pending.values())

    def jobs(self, ready: Mapping[Path, Stamp]) -> list[Job]:
        """The files to try now: new or changed ones, and those that have been given their time."""
        jobs = []
        for path, stamp in ready.items():
            if self._settled.get(path) == stamp or self._waits(path, stamp):
                continue
            if not is_scan(path):
                self._settled[path] = stamp
                continue
            name = "/".join(map(printable, path.relative_to(self.folder).parts))
            while name in self._in_hand:  # names that differ only in what cannot be printed
                name += "~"
            self._in_hand[name] = (path, stamp)
            jobs.append(Job(path, name))
        return jobs

    def settle(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes to be reported: none where the file is given more time."""
        path, stamp = self._in_hand.pop(outcomes[0].name)
        errors = {outcome.error for outcome in outcomes}
        failed = sum(outcome.status == "failed" for outcome in outcomes)
        now = self.clock()
        known = self._pending.pop(path, None)
        if known is not None and known.stamp != stamp:
            known = None
        if any(outcome.may_pass for outcome in outcomes) and not self.once:
            pause_s = FIRST_RETRY_S if known is None else min(2 * known.pause_s, LAST_RETRY_S)
            self._pending[path] = _Pending(stamp, now, now + pause_s, failed, pause_s)
            return outcomes if known is None or known.told_failed != failed else []
        since = now if known is None else known.since
        if errors & {LOCKED, *MAYBE_INCOMPLETE} and not self.once and now - since < self.give_up_s:
            # A lock is let go without any change of the file: such a file is tried at every look.
            self._pending[path] = _Pending(stamp, since, now if LOCKED in errors else since + self.give_up_s)
            return []
        self._settled[path] = stamp
        self._failed += failed
        return outcomes

    def _waits(self, path: Path, stamp: Stamp) -> bool:
        known = self._pending.get(path)
        return known is not None and known.stamp == stamp and self.clock() < known.next_try


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM set `stop`; a second one ends the program as usual."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.getsignal(number) for number in numbers}

    def ask(number: int, frame: FrameType | None) -> None:
        click.secho("stopping after the scan in hand; once more to stop at once", fg="yellow", err=True)
        stop.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield
    finally:
        restore()
