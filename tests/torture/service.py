"""The service under torture: started, killed in several ways, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

#: Stands in the environment of every process that the service starts, so that orphans are found.
MARK = "ADATOM_TORTURE_ID"
CLI = [sys.executable, "-c", "from spm_runtime.cli import main; main()"]


@dataclass
class Service:
    """`spm-infer watch` as an operating system runs it: begun again whenever it ends.

    Parameters
    ----------
    folder, out, state
        The watched folder, the results and the ledger.
    log
        Where all that it prints is collected.
    models
        Folder of model packages.
    """

    folder: Path
    out: Path
    state: Path
    log: Path
    models: Path
    process: subprocess.Popen[bytes] | None = None
    refused: list[str] = field(default_factory=list)
    start_s: float = 2.0

    @property
    def environment(self) -> dict[str, str]:
        extra = {MARK: str(self.out), "SPM_MODELS": str(self.models), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.temporary.mkdir(exist_ok=True)
        return os.environ | extra | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.temporary))

    @property
    def temporary(self) -> Path:
        """The system's folder for temporary files, as the service sees it."""
        return self.state.parent / "tmp"

    def command(self, *more: str) -> list[str]:
        """The command line of the watch."""
        words = ["watch", str(self.folder), "--out", str(self.out), "--state", str(self.state), "--device", "cpu"]
        words += ["--poll-s", "0.1", "--jobs", "2", "--param", "spacing_px=8"]
        return [*obedient(), *CLI, *words, *more]

    def start(self, *more: str) -> None:
        """Begin, with everything it starts in a process group of its own where there are such groups."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("--give-up-s", "2", *more),
                stdout=log, stderr=subprocess.STDOUT, env=self.environment, start_new_session=os.name != "nt",
            )  # fmt: skip

    def keep_alive(self, *more: str) -> None:
        """Start again what has ended by itself, and remember with what words."""
        if self.process is None or self.process.poll() is None:
            return
        self.refused.append(f"exit code {self.process.returncode}: {self.tail()}")
        time.sleep(0.3)
        self.start(*more)

    def tail(self) -> str:
        """The last lines that it printed."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])

    def finished(self) -> int:
        """How many lines say that a scan is done."""
        return len(re.findall(rb"^done ", self.log.read_bytes(), re.MULTILINE))

    def workers(self) -> list[psutil.Process]:
        """The processes that it has started."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill_all(self) -> None:
        """As a power cut: the service and all that it started, at once."""
        assert self.process is not None
        for process in self.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()

    def kill_alone(self) -> None:
        """The supervising process only."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_worker(self, choice: float, *, within_s: float = 10.0) -> bool:
        """One of the processes that analyse scans; whether there was one in time."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            with contextlib.suppress(psutil.NoSuchProcess):
                workers = [worker for worker in self.workers() if "spawn_main" in " ".join(worker.cmdline())]
                if workers:
                    workers[int(choice * len(workers))].kill()
                    return True
            time.sleep(0.05)
        return False

    def stop(self, *, within_s: float = 60.0) -> int:
        """As the operating system asks: finish the scan in hand and end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def once(self, *more: str, within_s: float) -> subprocess.CompletedProcess[str]:
        """Drain what is there and end."""
        command = self.command("--once", *more)
        done = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            timeout=within_s,
            check=False,
            text=True,
            encoding="utf-8",
        )
        with self.log.open("a", encoding="utf-8") as log:
            log.write(done.stdout + done.stderr)
        return done

    def ask(self, command: str, *more: str) -> str:
        """What another command of the program says of the results."""
        words = [*CLI, command, str(self.out), "--state", str(self.state), *more]
        done = subprocess.run(
            words, env=self.environment, capture_output=True, check=False, text=True, encoding="utf-8"
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """The ledger."""
        status: dict[str, Any] = json.loads(self.ask("status", "--json"))
        return status

    def processes(self) -> list[psutil.Process]:
        """Every living process that carries the mark of this service."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(self.out):
                    found.append(process)
        return found

    def wait_for_orphans(self, *, within_s: float) -> list[str]:
        """Give the processes of a dead service time to notice; the command lines of those that do not."""
        end = time.monotonic() + within_s
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        return [" ".join(process.cmdline()) for process in left]


def obedient() -> list[str]:
    """Words before a command so that file modes bind it: root reads everything unless it lays that power down."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        return []
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]


def modes_bind() -> bool:
    """Whether a file of mode 000 is closed to the service on this machine."""
    return os.name != "nt" and (os.geteuid() != 0 or bool(obedient()))
