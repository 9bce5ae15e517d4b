"""Whose turn it is, and what an outcome means."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from spm_runtime.engine.analysis import content_key, is_result_of
from spm_runtime.engine.console import Console
from spm_runtime.engine.jobs import Event, Finished, Job, Lost, Read
from spm_runtime.engine.ledger import PASSING, Entry, Found, Ledger, Order, State
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.workers import Pool
from spm_runtime.results import Outcome, Report, read_document

__all__ = ["Rules", "Supervisor", "adopt_results", "has_result"]

#: Seconds until what may pass is tried again; twice as many after every further attempt.
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 300.0

#: The same where nothing is waited for.
LAST_RETRY_OF_BATCH_S = 2.0

#: So often a scan may be in hand when this program is ended from outside; that says little about the scan, unlike an attempt.
MAX_INTERRUPTIONS = 10

#: Seconds between two looks at the room on the disks.
ROOM_EVERY_S = 1.0

#: A clock that goes back by more than this was set, in seconds.
CLOCK_SET_S = 2.0

#: Errors of a file that may only be incomplete.
MAYBE_INCOMPLETE = frozenset({"CorruptScanError", "UnknownFormatError"})


@dataclass(frozen=True)
class Rules:
    """How scans are treated.

    Parameters
    ----------
    root
        Only scans of the ledger that belong to this are taken.
    order
        Which scan comes first.
    attempts
        After so many crashes, or errors that nobody foresaw, a scan is quarantined.
    give_up_s
        How long a file that cannot be read whole is given to change.
    is_batch
        Whether nothing is waited for: what may pass is tried `attempts` times in a few seconds and then fails.
    any_state
        Whether a scan is taken in whatever state its file is by then, as when nobody looks for changes.
    min_free_mb
        Work pauses while a disk has less room than this, in MB of a million bytes.
    """

    root: bytes
    order: Order = "newest"
    attempts: int = 3
    give_up_s: float = 600.0
    is_batch: bool = False
    any_state: bool = False
    min_free_mb: float = 500.0


@dataclass
class Supervisor:
    """Hands scans of the ledger to a pool and writes down what becomes of them; opens no scan itself.

    Parameters
    ----------
    ledger, report, pool, console
        What it works with.
    out
        Folder of all results.
    settings, fingerprint
        What the user asks for, and its digest.
    rules
        How scans are treated.
    places
        Folders whose disks need room.
    is_out_there
        Whether the folder of results is what it was.
    clock
        Seconds since 1970.

    Attributes
    ----------
    images
        How many images have come to an end, by status.
    on_gone
        Called with a file that is not there any more; should it be back, it is to be offered again.
    errors, first_reason
        How many failed of which error, and the reason of the first.
    """

    ledger: Ledger
    report: Report
    pool: Pool
    console: Console
    out: Path
    settings: Settings
    fingerprint: str
    rules: Rules
    places: Sequence[Path]
    is_out_there: Callable[[], bool]
    clock: Callable[[], float]
    on_gone: Callable[[Job], object] = lambda job: None
    errors: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    first_reason: str = ""
    _in_hand: dict[str, Entry] = field(default_factory=dict)
    _put_off: dict[str, Found] = field(default_factory=dict)
    _paused: str = ""
    _cannot_start: bool = False
    _looked_for_room_s: float = float("-inf")
    _latest_s: float = float("-inf")

    @property
    def is_busy(self) -> bool:
        """Whether scans are in hand."""
        return bool(self._in_hand)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand and nothing waits, not even for a later attempt."""
        return not self._in_hand and self.ledger.next_try_s(self.rules.root) is None

    def recover(self) -> None:
        """Take over from a process that died: what it had finished is done, what it had in hand waits again."""
        for entry in self.ledger.entries("state = 'working'"):
            document = None
            if entry.sha256 and entry.key == content_key(entry.sha256, self.fingerprint):
                document = is_result_of(self.out / entry.name, entry.sha256, self.settings)
            if document is not None:
                outcome = Outcome(entry.name, entry.name, "done", document=document)
                self.ledger.patiently(partial(self.report.add, [outcome]))
                self._finish(entry, "done", outcomes=[outcome])
        self.ledger.interrupted(limit=MAX_INTERRUPTIONS)
        self.ledger.reopen(root=self.rules.root, now_s=self.clock())

    def offer(self, found: Iterable[Found]) -> None:
        """Put files in line that are new or have changed, or whose result has vanished."""

        def is_there(name: str) -> bool:
            return has_result(self.out, name) or not self.is_out_there()

        def put_off(file: Found) -> None:
            self._put_off[file.job.name] = file

        self.ledger.offer(
            found,
            root=self.rules.root,
            settings=self.fingerprint,
            now_s=self.clock(),
            is_there=is_there,
            put_off=put_off,
        )

    def dispatch(self) -> None:
        """Begin as many scans as can be begun now."""
        now_s = self.clock()
        if now_s < self._latest_s - CLOCK_SET_S:
            self.ledger.wait_no_longer(now_s=now_s)
        self._latest_s = now_s
        while self.has_room() and self._has_process():
            entry = self.ledger.take(root=self.rules.root, order=self.rules.order, now_s=now_s)
            if entry is None:
                return
            self._in_hand[entry.name] = entry
            self.pool.submit(dataclasses.replace(entry.job, stamp=None) if self.rules.any_state else entry.job)

    def _has_process(self) -> bool:
        try:
            free = self.pool.free
        except OSError as error:  # no folder for its copies, no memory for a process: that may pass
            if not self._cannot_start:
                self.console.tell(f"no process can be started ({error.strerror or error}); waiting")
            self._cannot_start = True
            return False
        self._cannot_start = False
        return free > 0

    def handle(self, events: Iterable[Event]) -> None:
        """Write down what has happened."""
        for event in events:
            entry = self._in_hand[event.name]
            if isinstance(event, Read):
                key = content_key(event.sha256, self.fingerprint)
                self.ledger.note_content(event.name, sha256=event.sha256, key=key)
                continue
            del self._in_hand[event.name]
            if isinstance(event, Lost):
                lost = Outcome(
                    event.name, event.name, "failed", reason=event.reason, error="Lost", traceback=event.traceback
                )
                if event.may_pass:
                    self._try_again(entry, "busy", [lost], lost)
                else:
                    self._attempt_failed(entry, [lost], lost)
            else:
                self._settle(entry, event)
            if event.name in self._put_off:
                self.offer([self._put_off.pop(event.name)])

    def abandon(self) -> None:
        """What is in hand is given up now, and counts as never begun."""
        self.ledger.release(self._in_hand)
        self._in_hand.clear()

    def write_report(self, *, at_most_every_s: float = 0.0) -> bool:
        """Bring the summary up to date; whether that went well. Not while there is no room for it, or no folder."""
        if self._paused and (at_most_every_s or not self.is_out_there()):
            return False
        return self.ledger.patiently(lambda: self.console.write_report(self.report, at_most_every_s=at_most_every_s))

    def has_room(self) -> bool:
        """Whether work may go on; says so once when it may not, and once when it may again."""
        now_s = self.clock()
        if abs(now_s - self._looked_for_room_s) < ROOM_EVERY_S:
            return not self._paused
        self._looked_for_room_s = now_s
        reason = self._why_not()
        if reason != self._paused:
            self.console.tell(f"{reason}; waiting" if reason else "there is room again; going on")
            self.ledger.note_fact("paused", _plain(reason))
            self._paused = reason
        return not reason

    def _why_not(self) -> str:
        if not self.is_out_there():
            return f"{self.out}: the folder of results is away; bring it back, or start again if it is another one now"
        for place in self.places:
            try:
                free_mb = shutil.disk_usage(place).free / 1e6
            except OSError as error:
                return f"{place}: the disk does not answer ({error.strerror or error})"
            if free_mb < self.rules.min_free_mb:
                return f"{place}: the disk is nearly full, less than {self.rules.min_free_mb:.0f} MB are free (--min-free-mb)"
        return ""

    def _settle(self, entry: Entry, event: Finished) -> None:
        """Decide what the outcomes of an attempt mean for the scan."""
        outcomes = event.outcomes
        kind, first = _verdict(outcomes)
        if kind == "gone" and not entry.named:
            self._finish(entry, "gone", kind=kind, reason=f"{entry.path}: vanished before it could be analysed")
            self.on_gone(entry.job)
        elif kind == "fault":
            self._attempt_failed(entry, outcomes, first)
        elif kind in PASSING and not (kind == "device" and self.rules.is_batch):
            self._try_again(entry, kind, outcomes, first)
        elif kind == "incomplete" and not self._has_had_its_time(entry):
            until_s = (
                min(entry.settled_s or 0.0, self.clock()) + self.rules.give_up_s
            )  # the clock may have been set back
            self._postpone(entry, kind, first, next_try_s=until_s, attempts=entry.attempts)
        elif not outcomes:
            self.console.not_a_scan(entry.path)
            self._finish(entry, "ignored")
        else:
            state: State = "skipped" if kind == "skipped" else "failed" if first is not None else "done"
            self._report(entry, outcomes)
            self._finish(entry, state, kind=kind, outcomes=outcomes, first=first)

    def _attempt_failed(self, entry: Entry, outcomes: Sequence[Outcome], first: Outcome | None) -> None:
        """A crash or an error that nobody foresaw: try again, or put the scan into quarantine."""
        attempts = entry.attempts + 1
        if attempts >= self.rules.attempts:
            self._report(entry, outcomes)
            self._finish(entry, "quarantined", kind="fault", outcomes=outcomes, first=first, attempts=attempts)
            return
        pause_s = 0.0 if self.rules.is_batch else FIRST_RETRY_S * 2.0 ** (attempts - 1)
        self._postpone(entry, "fault", first, next_try_s=self.clock() + pause_s, attempts=attempts)
        reason = "" if first is None else first.reason
        self.console.tell(f"again   {entry.name}: attempt {attempts} of {self.rules.attempts}: {reason}")

    def _try_again(self, entry: Entry, kind: str, outcomes: Sequence[Outcome], first: Outcome | None) -> None:
        """The scan is not to blame: try again for ever, less and less often; in a batch a few times."""
        tries = entry.tries + 1
        if self.rules.is_batch and tries >= self.rules.attempts:
            self._report(entry, outcomes)
            self._finish(entry, "failed", kind=kind, outcomes=outcomes, first=first)
            return
        longest_s = LAST_RETRY_OF_BATCH_S if self.rules.is_batch else LAST_RETRY_S
        pause_s = min(FIRST_RETRY_S * 2.0 ** min(entry.tries, 20), longest_s)
        self._postpone(entry, kind, first, next_try_s=self.clock() + pause_s, attempts=entry.attempts, tries=tries)
        if entry.kind != kind and first is not None:
            self.console.tell(f"waiting {entry.name}: {first.reason}")

    def _has_had_its_time(self, entry: Entry) -> bool:
        return self.rules.is_batch or self.clock() - (entry.settled_s or 0.0) >= self.rules.give_up_s

    def _postpone(
        self,
        entry: Entry,
        kind: str,
        first: Outcome | None,
        *,
        next_try_s: float,
        attempts: int,
        tries: int | None = None,
    ) -> None:
        self.ledger.postpone(
            entry.name,
            next_try_s=next_try_s,
            kind=kind,
            reason="" if first is None else _plain(first.reason),
            traceback="" if first is None else _plain(first.traceback),
            attempts=attempts,
            tries=entry.tries if tries is None else tries,
        )

    def _finish(
        self,
        entry: Entry,
        state: State,
        *,
        kind: str = "",
        reason: str = "",
        outcomes: Sequence[Outcome] = (),
        first: Outcome | None = None,
        attempts: int | None = None,
    ) -> None:
        now_s = self.clock()
        analysed = any(outcome.status == "done" and not outcome.reused for outcome in outcomes)
        providers = dict.fromkeys(provider for outcome in outcomes for provider in outcome.providers)
        self.ledger.finish(
            entry.name,
            state,
            now_s=now_s,
            kind=kind,
            reason=_plain(reason if first is None else first.reason),
            traceback="" if first is None else _plain(first.traceback),
            provider=" ".join(providers),
            latency_s=self._latency_s(entry, now_s) if analysed else None,
            analysed=analysed,
            attempts=attempts,
        )
        self.console.advance()

    def _latency_s(self, entry: Entry, now_s: float) -> float | None:
        return None if entry.changed_s is None else max(0.0, now_s - entry.changed_s)

    def _report(self, entry: Entry, outcomes: Sequence[Outcome]) -> None:
        """Put the outcomes into the summary and before the user's eyes."""
        self.ledger.patiently(lambda: self.report.add(outcomes))
        for outcome in outcomes:
            self.images[outcome.status] += 1
            if outcome.status == "failed":
                self.errors[outcome.error] += 1
                self.first_reason = self.first_reason or outcome.reason
            if not outcome.reused or self.rules.is_batch:
                self.console.say(outcome, latency_s=self._latency_s(entry, self.clock()))


def has_result(out: Path, name: str) -> bool:
    """Whether there is a result of a scan, or of a frame of it."""
    try:
        return (out / name / "result.json").is_file() or any((out / name).glob("frame-*/result.json"))
    except OSError:  # the share of the results does not answer: whoever opens the scan will see
        return False


def adopt_results(ledger: Ledger, out: Path) -> int:
    """Enter the results that are there into a new ledger; how many."""
    count = 0
    with ledger.transaction():
        for folder, _, files in os.walk(out):
            document = read_document(Path(folder)) if "result.json" in files else None
            if document is None:
                continue
            outcome = Outcome("", "", "done", document=document)
            ledger.adopt(
                str(document["scan"]["name"]),
                sha256=str(document["scan"]["sha256"] or ""),
                provider=" ".join(outcome.providers),
                finished_s=Path(folder, "result.json").stat().st_mtime,
            )
            count += 1
    return count


def _verdict(outcomes: Sequence[Outcome]) -> tuple[str, Outcome | None]:
    """What sort of end it was, and the outcome that decides it; nothing and None when all went well."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    sorts: list[tuple[str, Callable[[Outcome], bool]]] = [
        ("gone", lambda outcome: outcome.error == "FileNotFoundError" and not outcome.may_pass),
        ("busy", lambda outcome: outcome.error == "CannotOpenError"),
        ("output", lambda outcome: outcome.may_pass),
        ("device", lambda outcome: outcome.error == "DeviceError"),
        ("fault", lambda outcome: bool(outcome.traceback)),
        ("incomplete", lambda outcome: outcome.error in MAYBE_INCOMPLETE),
        ("fact", lambda outcome: True),
    ]
    for kind, fits in sorts:
        for outcome in failed:
            if fits(outcome):
                frame = "" if outcome.frame is None else f"frame {outcome.frame}: "
                return kind, dataclasses.replace(outcome, reason=frame + outcome.reason)
    if outcomes and all(outcome.status == "skipped" for outcome in outcomes):
        return "skipped", outcomes[0]
    return "", None


def _plain(text: str) -> str:
    """Text that a database takes: without the bytes of undecodable names."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
