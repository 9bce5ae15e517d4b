"""Processes that analyse scans, one at a time each, and may die of it without harm to anything else."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, Self

import psutil

from spm_runtime.engine.jobs import Event, Finished, Job, Lost, Read
from spm_runtime.engine.worker import TRACE, Duty, serve
from spm_runtime.errors import AdatomError

__all__ = ["Limits", "Pool", "Workers", "kill_left_over"]

#: Seconds between two looks at the memory of a process that works.
CHECK_EVERY_S = 0.1

#: So long a process may go on after its time, to write down where it is.
GRACE_S = 1.0

#: A process that is not ready after so many seconds hangs: it has to import, load models and compile kernels.
START_LIMIT_S = 900.0

#: So many processes in a row may die before one is ready for the first time.
MAX_FALSE_STARTS = 3

#: Once one was ready, the trouble may pass: seconds until the next is begun, twice as many after every further one.
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0

#: Windows waits for 63 things at once and no more; the others are looked at every `CHECK_EVERY_S`.
MOST_HANDLES = 60

#: A process that has grown by half of what it may still take is replaced, but not for less than this.
MIN_GROWTH_MB = 256.0

#: Libraries that begin threads of their own read how many from here.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Limits:
    """What one scan may cost.

    Parameters
    ----------
    memory_mb
        Memory of the process that analyses it, in MB of a million bytes.
    time_s
        Seconds for one image.
    """

    memory_mb: float
    time_s: float


class Pool(Protocol):
    """What analyses scans: processes of this computer, or of others."""

    @property
    def free(self) -> int:
        """How many jobs can be begun now."""

    @property
    def in_hand(self) -> list[str]:
        """Names of the jobs that were begun and have not ended."""

    def submit(self, job: Job) -> None:
        """Begin a job; only while there is something `free`."""

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened since; returns early when something does."""

    def close(self) -> None:
        """End everything now; what is in hand is lost."""


@dataclass
class _Worker:
    """One process, and what it is busy with."""

    process: BaseProcess
    connection: Connection
    lifeline: Connection
    folder: Path
    ready: bool = False
    job: Job | None = None
    is_read: bool = False
    deadline_s: float = float("inf")
    base_mb: float = 0.0
    problem: str = ""
    is_late: bool = False


@dataclass
class Workers:
    """Processes of this computer.

    They are spawned, not forked: that is what Windows and macOS have, and onnxruntime does not survive a fork. Their priority
    is below normal. One that takes too much memory or time is killed, one that has grown is replaced.

    Parameters
    ----------
    duty
        What they do.
    processes
        How many.
    limits
        What one scan may cost.
    staging
        Folder on a local disk for the copies of scans.
    threads
        Threads of each process.
    on_start, on_end
        Called with the identifier (and the time of creation) of every process.
    """

    duty: Duty
    processes: int
    limits: Limits
    staging: Path
    threads: int = 1
    on_start: Callable[[int, float], object] = lambda pid, created_s: None
    on_end: Callable[[int], object] = lambda pid: None
    _workers: list[_Worker] = field(default_factory=list)
    _false_starts: int = 0
    _was_ready: bool = False
    _next_start_s: float = float("-inf")
    _checked_s: float = 0.0
    _number: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """How many jobs can be begun now; begins processes as long as there are too few."""
        try:
            while len(self._workers) < self.processes:
                if time.monotonic() < self._next_start_s:
                    raise OSError(f"{self._false_starts} in a row ended before they were ready; `spm-infer doctor`")
                self._workers.append(self._start())
        except OSError:
            if not self._workers:  # otherwise those that are there go on, and the next call tries again
                raise
        return sum(worker.ready and worker.job is None for worker in self._workers)

    @property
    def in_hand(self) -> list[str]:
        """Names of the jobs that were begun and have not ended."""
        return [worker.job.name for worker in self._workers if worker.job is not None]

    def submit(self, job: Job) -> None:
        """Begin a job."""
        worker = next(worker for worker in self._workers if worker.ready and worker.job is None)
        worker.job, worker.is_read = job, False
        worker.deadline_s = time.monotonic() + self.limits.time_s
        with suppress(OSError):  # it has just died, which `wait` will say
            worker.connection.send(job)

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened since; returns early when something does."""
        events: list[Event] = []
        until = time.monotonic() + timeout_s
        while not events:
            left = until - time.monotonic()
            handles = [worker.connection for worker in self._workers][:MOST_HANDLES]  # its end wakes too
            if left <= 0 and timeout_s > 0:
                break
            pause = max(0.0, min(left, CHECK_EVERY_S))
            if handles:
                wait(handles, pause)
            else:
                time.sleep(pause)
            was_ready = self._ready
            for worker in list(self._workers):
                events += self._listen(worker)
            self._check()
            if timeout_s == 0 or self._ready > was_ready:
                break
        return events

    def close(self) -> None:
        """End all processes now; what is in hand is lost."""
        for worker in self._workers:
            worker.process.kill()
        while self._workers:
            self._bury(self._workers[-1])

    @property
    def _ready(self) -> int:
        return sum(worker.ready for worker in self._workers)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        lifeline, held = context.Pipe(duplex=False)
        self._number += 1
        folder = self.staging / f"worker-{os.getpid()}-{self._number}"
        folder.mkdir(parents=True, exist_ok=True)
        arguments = (theirs, lifeline, folder, self.duty, self.threads, self.limits.time_s)
        process = context.Process(target=serve, args=arguments, daemon=True, name=f"spm-infer worker {self._number}")
        with _environment(dict.fromkeys(THREAD_VARIABLES, str(self.threads))), _signals_held():
            process.start()
        theirs.close()
        lifeline.close()
        with suppress(psutil.NoSuchProcess):  # it has died already, which `wait` will say
            self.on_start(process.pid or 0, psutil.Process(process.pid).create_time())
        return _Worker(process, ours, held, folder, deadline_s=time.monotonic() + START_LIMIT_S)

    def _listen(self, worker: _Worker) -> Iterator[Event]:
        """What a process says, or that it is no more."""
        ended = not worker.process.is_alive()  # before its last words are read: they are not lost
        try:
            while worker.connection.poll():
                yield from self._hear(worker, *worker.connection.recv())
        except (EOFError, OSError):
            ended = True
        if ended and worker in self._workers:
            worker.process.join()
            yield from self._lose(worker)

    def _hear(self, worker: _Worker, word: str, value: Any) -> Iterator[Event]:
        job = worker.job
        if word == "ready":
            worker.ready, worker.deadline_s = True, float("inf")
            self._was_ready, self._false_starts = True, 0
        elif job is not None:
            worker.deadline_s = time.monotonic() + self.limits.time_s
            if word == "read":
                worker.is_read = True
                yield Read(job.name, value)
            elif word == "done":
                outcomes, used_mb = value
                worker.job, worker.deadline_s = None, float("inf")
                worker.base_mb = worker.base_mb or used_mb
                if used_mb - worker.base_mb > max(MIN_GROWTH_MB, (self.limits.memory_mb - worker.base_mb) / 2):
                    worker.process.kill()
                    self._bury(worker)
                yield Finished(job.name, outcomes)

    def _lose(self, worker: _Worker) -> Iterator[Event]:
        """What to say of a process that is no more."""
        trace = ""
        with suppress(OSError):  # it did not come so far
            trace = (worker.folder / TRACE).read_text(encoding="utf-8", errors="replace")
        how = _how(worker.process.exitcode)
        reason = (
            worker.problem or f"the process that analysed it died ({how}), of a crash in a library or a lack of memory"
        )
        self._bury(worker)
        if not worker.ready:
            self._note_false_start(worker.problem or how)
        if worker.job is not None:
            # A share that does not answer says nothing about the scan.
            may_pass = worker.is_late and not worker.is_read
            yield Lost(worker.job.name, f"{worker.job.path}: {reason}", trace, may_pass)

    def _note_false_start(self, how: str) -> None:
        self._false_starts += 1
        if self._was_ready:
            pause_s = FIRST_PAUSE_S * 2.0 ** min(self._false_starts - 1, 20)
            self._next_start_s = time.monotonic() + min(pause_s, LAST_PAUSE_S)
        elif self._false_starts >= MAX_FALSE_STARTS:
            raise AdatomError(
                f"{self._false_starts} processes for the analysis ended before they were ready ({how}); "
                "run `spm-infer doctor`, and make sure that there is memory for them"
            )

    def _bury(self, worker: _Worker) -> None:
        """Wait for the end of a process, and clear up after it."""
        self._workers.remove(worker)
        worker.process.join()
        self.on_end(worker.process.pid or 0)
        worker.connection.close()
        worker.lifeline.close()
        worker.process.close()
        shutil.rmtree(worker.folder, ignore_errors=True)

    def _check(self) -> None:
        """Kill what takes too much memory or time."""
        now_s = time.monotonic()
        if now_s - self._checked_s < CHECK_EVERY_S:
            return
        self._checked_s = now_s
        for worker in self._workers:
            if not worker.problem:
                worker.is_late = now_s > worker.deadline_s + GRACE_S
                worker.problem = self._problem_of(worker)
                if worker.problem:
                    worker.process.kill()

    def _problem_of(self, worker: _Worker) -> str:
        """Why a process is to be ended; mostly nothing."""
        if worker.job is None:
            return f"not ready after {START_LIMIT_S:g} s" if worker.is_late else ""
        with suppress(psutil.NoSuchProcess):
            used_mb = psutil.Process(worker.process.pid).memory_info().rss / 1e6
            if used_mb > self.limits.memory_mb:
                return (
                    f"its analysis took more than {self.limits.memory_mb:.0f} MB of memory and was ended; allow it more with "
                    "--memory-limit-mb, or save a smaller region"
                )
        if worker.is_late and not worker.is_read:
            return f"it could not be read within {self.limits.time_s:g} s; check that its share answers"
        if worker.is_late:
            return (
                f"its analysis took longer than {self.limits.time_s:g} s and was ended; allow it more with "
                "--time-limit-s, and report it if it should not take so long"
            )
        return ""


def kill_left_over(workers: list[tuple[int, float]]) -> None:
    """End processes that a supervisor left alone when it died; one that only has the same identifier is spared."""
    for pid, created_s in workers:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.TimeoutExpired):
            process = psutil.Process(pid)
            if abs(process.create_time() - created_s) < 0.05:
                process.kill()
                process.wait(10)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that a process inherits, those that the user has set left alone."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _signals_held() -> Iterator[None]:
    """What is begun meanwhile is spared by Ctrl-C and SIGTERM from its first moment on; this process hears them afterwards."""
    if sys.platform == "win32":  # nothing of that kind is inherited there
        yield
        return
    resource_tracker.ensure_running()  # to begin it would let the signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
