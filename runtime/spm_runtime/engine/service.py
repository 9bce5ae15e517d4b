"""Everything that `run` and `watch` open before they begin and close when they end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil

from spm_runtime import pipelines
from spm_runtime.engine.analysis import Analyse
from spm_runtime.engine.console import Console, log_file
from spm_runtime.engine.ledger import LEDGER, Ledger
from spm_runtime.engine.settings import Settings, fingerprint
from spm_runtime.engine.state import State
from spm_runtime.engine.status import serve_metrics
from spm_runtime.engine.supervisor import Rules, Supervisor, adopt_results
from spm_runtime.engine.worker import Duty
from spm_runtime.engine.workers import Limits, Pool, Workers, kill_left_over
from spm_runtime.errors import OutputError, ParameterError
from spm_runtime.results import Report

__all__ = ["REPORT_EVERY_S", "MakePool", "Service", "make_output", "opened", "stopped_by_signals"]

#: Seconds between two writings of the summary while work goes on.
REPORT_EVERY_S = 10.0

#: Name of the log file in the state folder.
LOG = "adatom.log"

#: The processes may together take so much of the computer's memory, unless the user says otherwise.
MEMORY_SHARE = 0.5
MIN_MEMORY_MB = 1500.0


@dataclass(frozen=True)
class Service:
    """How the engine works; results do not depend on it.

    Parameters
    ----------
    state
        Folder on a local disk for ledger, log and copies; see `spm_runtime.engine.state.state_folder`.
    log
        Log file; in the state folder when None.
    attempts
        After so many crashes, or errors that nobody foresaw, a scan is quarantined.
    memory_limit_mb
        Memory of the process that analyses a scan, in MB of a million bytes; when None, half of the computer's for all
        processes together.
    time_limit_s
        Seconds for one image.
    min_free_mb
        Work pauses while the disk of the results or of the state folder has less room, in MB of a million bytes.
    threads
        Threads of all processes together; when None, half of the cores for a watch, all for a batch.
    metrics_port
        Port on loopback for metrics in the text format of Prometheus; none when None.

    Raises
    ------
    ParameterError
        If a number is out of range.
    """

    state: Path | None = None
    log: Path | None = None
    attempts: int = 3
    memory_limit_mb: float | None = None
    time_limit_s: float = 900.0
    min_free_mb: float = 500.0
    threads: int | None = None
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--attempts", self.attempts, 1),
            ("--threads", self.threads, 1),
            ("--min-free-mb", self.min_free_mb, 0),
        ):
            if value is not None and value < least:
                raise ParameterError(f"{option} {value}: expected {least} or more")
        for option, limit in (("--memory-limit-mb", self.memory_limit_mb), ("--time-limit-s", self.time_limit_s)):
            if limit is not None and not limit > 0:
                raise ParameterError(f"{option} {limit}: expected a number above 0")

    def limits(self, processes: int) -> Limits:
        """What one scan may cost when so many are analysed at once."""
        share_mb = psutil.virtual_memory().total / 1e6 * MEMORY_SHARE / processes
        return Limits(self.memory_limit_mb or max(MIN_MEMORY_MB, share_mb), self.time_limit_s)


class MakePool(Protocol):
    """`Workers`, or what makes another kind of `Pool`."""

    def __call__(
        self,
        *,
        duty: Duty,
        processes: int,
        limits: Limits,
        staging: Path,
        threads: int,
        on_start: Callable[[int, float], object],
        on_end: Callable[[int], object],
    ) -> Pool:
        """A pool that does nothing yet."""


@contextmanager
def opened(
    out: Path,
    settings: Settings,
    service: Service,
    rules: Rules,
    *,
    processes: int,
    threads: int,
    console: Console,
    stop: threading.Event | None = None,
    skip_done: bool = True,
    warm: bool = False,
    analyse: Analyse = pipelines.analyse,
    make_pool: MakePool = Workers,
    clock: Callable[[], float] = time.time,
) -> Iterator[Supervisor]:
    """A supervisor that has taken over from the one before, with all that it needs; everything is closed at the end.

    Parameters
    ----------
    out
        Folder of the results; made when it is not there.
    settings, service, rules
        What the user asks for.
    processes, threads
        How many processes, and threads of all of them together.
    console
        Where to say things.
    stop
        Set when nothing is to be waited for any more, not even for room on the disk.
    skip_done
        Whether results that are there for the same content, model and parameters are kept.
    warm
        Whether the processes load models and kernels before the first scan.
    analyse, make_pool, clock
        In place of the analysis, of processes of this computer, and of the system's clock.

    Raises
    ------
    ModelError, ParameterError
        If no scan could be analysed.
    OutputError
        If `out` or the state folder cannot be used, or another engine works on these results.
    """
    digest = fingerprint(settings)
    is_stopping = threading.Event().is_set if stop is None else stop.is_set
    make_output(out)
    with ExitStack() as stack:
        state = stack.enter_context(State(out, service.state))
        stack.enter_context(log_file(service.log or state.folder / LOG))
        ledger = stack.enter_context(Ledger(state.folder / LEDGER, tell=console.tell, is_stopping=is_stopping))
        _take_over(ledger, state, out, console)
        report = ledger.patiently(lambda: Report(out, ledger.connection))
        stack.callback(report.close)
        pool = make_pool(
            duty=Duty(out, settings, skip_done, warm, analyse),
            processes=processes,
            limits=service.limits(processes),
            staging=state.staging,
            threads=max(1, threads // processes),
            on_start=ledger.note_worker,
            on_end=ledger.forget_worker,
        )
        stack.callback(pool.close)
        if service.metrics_port is not None:
            stack.enter_context(serve_metrics(state.folder / LEDGER, service.metrics_port))
        supervisor = Supervisor(
            ledger, report, pool, console, out, settings, digest, rules, (out, state.folder), lambda: state.out_is_there, clock
        )  # fmt: skip
        supervisor.recover()
        try:
            yield supervisor
        finally:
            pool.close()
            supervisor.abandon()
            ledger.note_fact("paused", "")


def _take_over(ledger: Ledger, state: State, out: Path, console: Console) -> None:
    """Clear up after a process that was ended from outside, and make a ledger where there is none."""
    kill_left_over(ledger.workers())
    for pid, _ in ledger.workers():
        ledger.forget_worker(pid)
    state.clear()
    ledger.note_fact("paused", "")
    if ledger.note:
        console.tell(ledger.note)
    if ledger.is_new and (count := ledger.patiently(lambda: adopt_results(ledger, out))):
        console.line(f"{count} results were there already")


def make_output(out: Path) -> None:
    """Make the folder of all results.

    Raises
    ------
    OutputError
        If that cannot be done.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"--out {out}: the folder cannot be made ({error.strerror or error}); name a folder on a disk that is there, "
            "where you may write"
        ) from error


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def stopped_by_signals(stop: threading.Event, tell: Callable[[str], object]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM set `stop`; a second one raises `KeyboardInterrupt`."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        with suppress(RuntimeError):  # it comes in the middle of a line that nobody takes off
            tell("stopping after the scan in hand; once more to stop at once")

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
