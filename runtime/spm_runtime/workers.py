"""One scan after another, or several at once in processes that may die without taking the batch with them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self

from spm_runtime.discovery import Job
from spm_runtime.results import Outcome
from spm_runtime.session import limit_threads

__all__ = ["Workers"]


class Workers:
    """Runs a function over jobs, in this process or in several.

    Processes are spawned, not forked: that is what Windows and macOS have, and onnxruntime does not survive a fork.

    Parameters
    ----------
    work
        Gives the outcomes of a job. With more than one process it has to be picklable.
    processes
        How many; 1 means this one.
    """

    def __init__(self, work: Callable[[Job], list[Outcome]], processes: int) -> None:
        self._work = work
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(self, jobs: Iterable[Job], *, stop: Callable[[], bool] = lambda: False) -> Iterator[list[Outcome]]:
        """Do the jobs.

        Parameters
        ----------
        jobs
            What to do.
        stop
            Asked before every job; once it says yes, those in hand are finished and no other is begun.

        Yields
        ------
        list of Outcome
            The outcomes of one job, in the order in which they are finished.
        """
        waiting = deque(jobs)
        if self._processes == 1:
            while waiting and not stop():
                yield self._work(waiting.popleft())
            return
        while waiting and not stop():
            yield from self._run_in_pool(waiting, stop)

    def _run_in_pool(self, waiting: deque[Job], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Do jobs until all are done or a process dies; then do those in hand alone, to learn which one kills."""
        running: dict[Future[list[Outcome]], Job] = {}
        try:
            while running or (waiting and not stop()):
                while waiting and len(running) < self._processes and not stop():
                    future = self._open().submit(self._work, waiting[0])
                    running[future] = waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcomes = future.result()
                    del running[future]
                    yield outcomes
        except BrokenProcessPool:
            self._close()
            for job in running.values():
                yield self._alone(job)

    def _alone(self, job: Job) -> list[Outcome]:
        with _pool(1) as pool:
            try:
                return pool.submit(self._work, job).result()
            except BrokenProcessPool:
                reason = (
                    f"{job.path}: the process that analysed it died, of a lack of memory or a crash in a library; "
                    "analyse this scan with --jobs 1 to see the message, and report it"
                )
                return [Outcome(job.name, job.name, "failed", reason=reason, error="BrokenProcessPool")]

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = _pool(self._processes)
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _pool(processes: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // processes)
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare, initargs=(threads,))


def _prepare(threads: int) -> None:
    """Share the cores among the workers, and leave Ctrl-C to the parent process, which lets the scans in hand finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads(threads)
