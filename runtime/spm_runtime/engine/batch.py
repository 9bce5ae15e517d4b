"""`spm-infer run`: files and folders, once."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypedDict

from spm_runtime import pipelines
from spm_runtime.engine.analysis import Analyse
from spm_runtime.engine.companions import Beside
from spm_runtime.engine.console import Console
from spm_runtime.engine.discovery import find_files
from spm_runtime.engine.jobs import Job, Stamp
from spm_runtime.engine.ledger import Found
from spm_runtime.engine.service import (
    REPORT_EVERY_S,
    MakePool,
    Service,
    cores,
    make_output,
    opened,
    stopped_by_signals,
)
from spm_runtime.engine.settings import Settings, check_settings
from spm_runtime.engine.supervisor import Rules, Supervisor
from spm_runtime.engine.workers import Workers
from spm_runtime.errors import AdatomError, DeviceError, ModelError, ModelIntegrityError, ParameterError
from spm_runtime.results import Outcome, printable

__all__ = ["BatchOptions", "run_batch"]

#: Errors that say something about every scan when every scan meets them.
COMMON_CAUSES: dict[str, type[AdatomError]] = {
    "DeviceError": DeviceError,
    "ModelError": ModelError,
    "ModelIntegrityError": ModelIntegrityError,
}


class BatchOptions(TypedDict, total=False):
    """Options of `run_batch` that batches of other kinds take and hand on."""

    service: Service
    verbose: bool
    again: bool
    analyse: Analyse


def run_batch(
    paths: Iterable[Path | str],
    out: Path | str,
    settings: Settings,
    *,
    service: Service = Service(),  # noqa: B008 - frozen
    verbose: bool = False,
    again: bool = False,
    choose: Callable[[Sequence[Job]], Sequence[Job]] = lambda jobs: jobs,
    analyse: Analyse = pipelines.analyse,
    make_pool: MakePool = Workers,
    clock: Callable[[], float] = time.time,
) -> int:
    """Analyse files and folders; one line per scan, then ``summary.csv`` and ``index.html``.

    What is done already for the same content, model and parameters is not done again, so a batch that was stopped goes on
    where it was. What had failed is tried again.

    Parameters
    ----------
    paths
        Files, and folders to go through recursively.
    out
        Folder of the results; made when it is not there.
    settings
        What the user asks for.
    service
        How the engine works.
    verbose
        Whether to name the files that are no scans.
    again
        Whether to analyse everything, done or not.
    choose
        Takes a part of the files that were found, in their order.
    analyse, make_pool, clock
        In place of `spm_runtime.pipelines.analyse`, of processes of this computer, and of the system's clock.

    Returns
    -------
    int
        How many images failed or, when the batch was stopped, scans were not begun; one more when the summary could not be
        written.

    Raises
    ------
    ModelError, ParameterError, OutputError
        Before anything is analysed, if no scan could be, or its results would go where a file is.
    ModelError, DeviceError
        After everything is written, if nothing was done because the model or the device does not run.
    """
    check_settings(settings)
    out = Path(out)
    make_output(out)
    console = Console(verbose=verbose)
    jobs = choose(list(find_files(paths, ignore=out, on_skip=console.not_a_scan)))
    if not jobs:
        console.line("no scans found", colour="yellow")
    _refuse_to_replace_files(jobs, out)
    rules = Rules(
        f"run {uuid.uuid4().hex}".encode(), "given", attempts=service.attempts, is_batch=True, any_state=True,
        min_free_mb=service.min_free_mb,
    )  # fmt: skip
    processes = max(1, min(settings.jobs, len(jobs)))
    stop = threading.Event()
    with (
        stopped_by_signals(stop, console.tell),
        opened(
            out, settings, service, rules, processes=processes, threads=service.threads or cores(), console=console, stop=stop,
            skip_done=not again, analyse=analyse, make_pool=make_pool, clock=clock,
        ) as supervisor,
    ):  # fmt: skip
        problems = _put_in_line(supervisor, jobs)
        try:
            with console.progress(len(jobs) - problems):
                _work_off(supervisor, stop)
        finally:  # an interrupted batch leaves a summary of what was done
            written = supervisor.write_report()
        counts = supervisor.ledger.counts(rules.root)
        left = counts.get("waiting", 0)
    return _sum_up(supervisor, problems, left, console) + (not written)


def _put_in_line(supervisor: Supervisor, jobs: Sequence[Job]) -> int:
    """Enter the files into the ledger; how many folders there were that cannot be listed."""
    problems = [
        Outcome(job.name, job.name, "failed", reason=job.problem, error="CannotOpenError")
        for job in jobs
        if job.problem
    ]
    for problem in problems:
        supervisor.ledger.patiently(partial(supervisor.report.add, [problem]))
        supervisor.console.say(problem)
    now_s = supervisor.clock()
    beside = Beside()
    found = (Found(_stamped(job, beside), None, now_s) for job in jobs if not job.problem)
    # What is done is put in line too: whoever opens it sees by its content whether the result is still the right one.
    supervisor.ledger.offer(
        found,
        root=supervisor.rules.root,
        settings=supervisor.fingerprint,
        now_s=now_s,
        again=True,
        is_there=lambda name: False,
    )
    return len(problems)


def _stamped(job: Job, beside: Beside) -> Job:
    """The job with the present state of its file; without one when that is not known, which whoever opens it will say."""
    try:
        stamp = dataclasses.replace(Stamp.of(job.path.stat()), beside=beside.state(job.path))
    except OSError:
        return job
    return Job(job.path, job.name, stamp=stamp, named=job.named)


def _work_off(supervisor: Supervisor, stop: threading.Event) -> None:
    """Analyse everything that is in line, or until it is time to stop."""
    while True:
        if not stop.is_set():
            supervisor.dispatch()
        if supervisor.is_idle or (stop.is_set() and not supervisor.is_busy):
            return
        supervisor.handle(supervisor.pool.wait(0.25))
        supervisor.write_report(at_most_every_s=REPORT_EVERY_S)


def _sum_up(supervisor: Supervisor, problems: int, left: int, console: Console) -> int:
    """Say how it went; how many failed or were not begun."""
    counts = supervisor.images
    failed = counts["failed"] + problems
    console.line(
        f"{counts['done']} done, {failed} failed, {counts['skipped']} skipped: {supervisor.out / 'index.html'}"
    )
    if left:
        console.tell(f"stopped: {left} scans were not analysed; the same command goes on with them")
    if failed and not counts["done"]:
        _raise_common_cause(supervisor.errors, supervisor.first_reason)
    return failed + left


def _refuse_to_replace_files(jobs: Iterable[Job], out: Path) -> None:
    """Refuse the scans' own folder as the folder of results: the results of ``a.sxm`` go to a folder of that name."""
    for job in jobs:
        place = out / job.name
        if place.is_file():
            raise ParameterError(
                f"--out {printable(str(out))}: the results of {printable(str(job.path))} would go to a folder "
                f"{printable(str(place))}, and that is a file; choose another folder with --out, it may lie inside"
            )


def _raise_common_cause(errors: Counter[str], reason: str) -> None:
    """Raise what kept every image from being analysed, when that was the model or the device."""
    if errors and errors.keys() <= COMMON_CAUSES.keys():
        raise COMMON_CAUSES[next(iter(errors))](reason)
