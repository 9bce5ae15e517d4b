"""What happens in a process that analyses scans for another one."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from spm_runtime import pipelines
from spm_runtime.engine.analysis import Analyse, process, warm
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.settings import Settings
from spm_runtime.errors import AdatomError
from spm_runtime.results import Outcome
from spm_runtime.session import limit_threads

__all__ = ["TRACE", "Duty", "serve"]

#: The file in which a process says where it was when it died or was too slow.
TRACE = "trace.txt"

#: As low as other programs of little importance; the instrument's software comes first.
NICENESS = 10


@dataclass(frozen=True)
class Duty:
    """What a worker does; it crosses process borders.

    Parameters
    ----------
    out
        Folder of all results.
    settings
        What the user asks for.
    skip_done
        Whether results that are there already are kept.
    warm
        Whether models and kernels are loaded before the first scan comes.
    analyse
        In place of `spm_runtime.pipelines.analyse`; from an importable module.
    """

    out: Path
    settings: Settings
    skip_done: bool = True
    warm: bool = False
    analyse: Analyse = pipelines.analyse

    def do(
        self,
        job: Job,
        staging: Path | None = None,
        on_read: Callable[[str], object] = lambda sha256: None,
        on_image: Callable[[], object] = lambda: None,
    ) -> list[Outcome]:
        """Do one job in this process; see `spm_runtime.engine.analysis.process`."""
        return process(
            job,
            self.out,
            self.settings,
            staging=staging,
            analyse=self.analyse,
            skip_done=self.skip_done,
            on_read=on_read,
            on_image=on_image,
        )


def serve(
    connection: Connection, lifeline: Connection, folder: Path, duty: Duty, threads: int, time_limit_s: float
) -> None:
    """Do one job after another, until there are no more or the supervisor is gone.

    Parameters
    ----------
    connection
        Where jobs come from and words go to.
    lifeline
        Ends when the supervisor does, however it does.
    folder
        Folder on a local disk for copies of scans.
    duty
        What to do.
    threads
        Threads that may be used.
    time_limit_s
        Seconds after which this process writes down where it is: it is about to be ended.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the supervisor lets the scan in hand finish
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    _give_way()
    limit_threads(threads)
    with (folder / TRACE).open("w", encoding="utf-8") as trace:
        faulthandler.enable(trace)

        def say(word: str, value: object = None) -> None:
            faulthandler.dump_traceback_later(time_limit_s, file=trace)
            connection.send((word, value))

        if duty.warm:
            with suppress(AdatomError):  # the first scan meets the same trouble, and its outcome says so
                warm(duty.settings)
        connection.send(("ready", None))
        own = psutil.Process()
        try:
            while (job := connection.recv()) is not None:
                faulthandler.dump_traceback_later(time_limit_s, file=trace)
                outcomes = duty.do(job, folder, lambda sha256: say("read", sha256), lambda: say("image"))
                faulthandler.cancel_dump_traceback_later()
                connection.send(("done", (outcomes, own.memory_info().rss / 1e6)))
        except (EOFError, OSError):  # the supervisor is gone
            return


def _end_with(lifeline: Connection) -> None:
    """End this process at once when the supervisor ends, whatever it is doing."""
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _give_way() -> None:
    own = psutil.Process()
    if sys.platform == "win32":
        own.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        own.nice(max(own.nice(), NICENESS))
