"""`spm-infer watch`: every new scan of a folder, analysed once it is complete.

A file is taken when its size and time of change are the same in two looks and it reads whole. One that does not read whole is
tried again when it changes, and reported as failed when it has not changed for some minutes. One that is locked, or whose results
cannot be written, is tried again for ever, less and less often. One that crashes the process that analyses it is quarantined
after some attempts. Scans whose result is there already, for the same content, model and parameters, are not analysed again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from spm_runtime import pipelines
from spm_runtime.engine.analysis import Analyse
from spm_runtime.engine.console import Console
from spm_runtime.engine.intake import Intake, Looks
from spm_runtime.engine.ledger import Order
from spm_runtime.engine.service import REPORT_EVERY_S, MakePool, Service, cores, opened, stopped_by_signals
from spm_runtime.engine.settings import Settings, check_settings
from spm_runtime.engine.state import state_folder
from spm_runtime.engine.supervisor import Rules, Supervisor
from spm_runtime.engine.workers import Workers
from spm_runtime.errors import ParameterError

__all__ = ["watch"]

#: Seconds after which a signal, a retry from outside or a disk with room again is noticed at the latest.
NOTICE_S = 0.25

#: Seconds between two writings of the summary when nothing is in hand; longer where it takes long, see `Report`.
PROMPT_S = 0.001


def watch(
    folder: Path | str,
    out: Path | str,
    settings: Settings,
    *,
    service: Service = Service(),  # noqa: B008 - frozen
    once: bool = False,
    since: datetime | None = None,
    order: Order = "newest",
    poll_s: float = 1.0,
    give_up_s: float = 600.0,
    analyse: Analyse = pipelines.analyse,
    make_pool: MakePool = Workers,
    clock: Callable[[], float] = time.time,
    ticks: Callable[[], float] = time.monotonic,
) -> int:
    """Analyse every scan of a folder, sub-folders included, as it is completed.

    Parameters
    ----------
    folder
        The folder to watch. When it vanishes later, as a share does, that is said once and it is waited for.
    out
        Folder of the results; it may lie inside `folder`.
    settings
        What the user asks for.
    service
        How the engine works.
    once
        Whether to end when every scan that is there has been dealt with.
    since
        Files last changed before this moment are left alone.
    order
        Which scan comes first when several wait.
    poll_s
        Seconds between two looks.
    give_up_s
        How long a file that cannot be read whole is given to change.
    analyse, make_pool, clock, ticks
        In place of `spm_runtime.pipelines.analyse`, of processes of this computer, and of the system's clocks: seconds since
        1970, and seconds that never jump.

    Returns
    -------
    int
        How many scans of the folder are failed or in quarantine. Ctrl-C or SIGTERM ends the watch after the scans in hand; a
        second one at once.

    Raises
    ------
    ModelError, ParameterError, OutputError
        Before anything is watched: if no scan could be analysed, a folder is not there or cannot be used, or another watch
        works on these results.
    CannotOpenError
        With `once`, if a folder cannot be listed.
    """
    check_settings(settings)
    folder, out = Path(folder), Path(out)
    _check_folders(folder, out, service)
    console = Console()
    rules = Rules(
        os.fsencode(folder.resolve()), order, attempts=service.attempts, give_up_s=give_up_s, is_batch=once,
        min_free_mb=service.min_free_mb,
    )  # fmt: skip
    intake = Intake(folder, ignore=out, since=since, strict=once, tell=console.tell, clock=clock)
    stop = threading.Event()
    with (
        stopped_by_signals(stop, console.tell),
        opened(
            out, settings, service, rules, processes=settings.jobs, threads=service.threads or max(1, cores() // 2),
            console=console, stop=stop, warm=not once, analyse=analyse, make_pool=make_pool, clock=clock,
        ) as supervisor,
    ):  # fmt: skip
        supervisor.on_gone = intake.forget
        supervisor.write_report()
        try:
            _follow(intake, supervisor, stop, once=once, poll_s=poll_s, ticks=ticks)
        finally:
            supervisor.write_report()
        counts = supervisor.ledger.counts(rules.root)
    return counts.get("failed", 0) + counts.get("quarantined", 0)


def _check_folders(folder: Path, out: Path, service: Service) -> None:
    """Refuse folders that cannot be watched, or that would be taken for new scans themselves."""
    if not folder.is_dir():
        raise ParameterError(
            f"{folder}: no such folder; name a folder that exists, and check that its share is mounted"
        )
    if out.resolve() == folder.resolve():
        raise ParameterError(f"--out {out}: the watched folder itself; choose another one, it may lie inside")
    state = state_folder(out, service.state).resolve()
    if state.is_relative_to(folder.resolve()) and not state.is_relative_to(out.resolve()):
        raise ParameterError(
            f"--state {state}: inside the watched folder, where its copies would be taken for new scans; choose another one"
        )


def _follow(
    intake: Intake,
    supervisor: Supervisor,
    stop: threading.Event,
    *,
    once: bool,
    poll_s: float,
    ticks: Callable[[], float],
) -> None:
    """Look, hand out, write down, until it is time to stop."""
    looks = Looks(intake)
    began_s = next_look_s = ticks()
    try:
        while True:
            if not stop.is_set():
                if not looks.is_looking and ticks() >= next_look_s:
                    began_s = ticks()
                    looks.begin()
                if looks.is_looking:
                    supervisor.offer(looks.found())
                    # A look that takes long is a burden for the share: it is left alone for as long.
                    next_look_s = ticks() + max(poll_s, ticks() - began_s)
                supervisor.dispatch()
            if stop.is_set() and not supervisor.is_busy:
                return
            if once and not looks.is_looking and intake.rests and supervisor.is_idle:
                return
            is_due_s = float("inf") if looks.is_looking or stop.is_set() else next_look_s - ticks()
            pause_s = min(max(0.0, is_due_s), NOTICE_S)
            supervisor.handle(supervisor.pool.wait(pause_s))
            # A single scan stands in the summary at once; of many, a part at a time.
            supervisor.write_report(at_most_every_s=REPORT_EVERY_S if supervisor.is_busy else PROMPT_S)
    finally:
        looks.close()
