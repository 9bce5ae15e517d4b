"""Nothing is lost beside the microscope: a writer at work, the service killed again and again, the disk full at times.

``ADATOM_TORTURE_SCANS``, ``ADATOM_TORTURE_KILLS`` and ``ADATOM_TORTURE_SEED`` change what is done; ``make torture`` is the
long version. The seed is printed; the same seed writes the same scans, though no two runs meet a kill at the same moment.
"""

import contextlib
import errno
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import spm_kernels
from spm_runtime.models import default_model

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SCANS = int(os.environ.get("ADATOM_TORTURE_SCANS", "24"))
KILLS = int(os.environ.get("ADATOM_TORTURE_KILLS", "4"))
SEED = int(os.environ.get("ADATOM_TORTURE_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)

#: A kill comes so many times later than the start as a start takes, which depends on the machine: some come before the first
#: scan. As many wait until scans are being done again, at most so many starts, so that they come in the middle of the work. A
#: start counts no more seconds than the last number.
SHORTEST, LONGEST, PATIENCE, SOON, MOST_S = 0.1, 2.5, 4.0, 1.0, 8.0

#: Seconds in which the writer writes, for every kill.
SPAN_S = 3.0

#: How a watch ends that is asked to: all done, some scans failed, or, while Python itself starts, by the signal.
STOPPED = (0, 1, -signal.SIGTERM)
#: And while its disk is full: it cannot wait for room then, and says what it could not note. The next start finds out.
NOT_NOTED = (3, "the ledger cannot be written")


def sibling(name):
    """Another module of this folder."""
    spec = importlib.util.spec_from_file_location(f"torture_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


audit, services = sibling("audit"), sibling("service")


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    spm_kernels.warm()  # the first worker of an empty cache would spend its time limit on compiling


@pytest.fixture
def models(tmp_path):
    """A copy of the shipped model, so that nothing changes it meanwhile."""
    package = default_model("atoms").folder
    shutil.copytree(package, tmp_path / "models" / "atoms")
    return tmp_path / "models"


@contextlib.contextmanager
def small_disk(place, size_mb):
    """A disk of its own that can be filled; why there is none, where that cannot be."""
    place.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        yield "no small disk: only root on Linux may mount one"
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "adatom-torture", place], check=False, capture_output=True
    )
    if mounted.returncode:
        yield f"no small disk: {mounted.stderr.decode(errors='replace').strip()}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


class Filler:
    """Fills a disk to the last byte at random moments, and frees it again."""

    def __init__(self, disk, rng) -> None:
        self.disk, self.rng, self.times, self.stop = disk, rng, 0, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def fill(self) -> None:
        with (self.disk / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        self.times += 1

    def free(self) -> None:
        (self.disk / "filler").unlink(missing_ok=True)

    def _run(self) -> None:
        while not self.stop.wait(self.rng.uniform(1.0, 6.0)):
            self.fill()
            self.stop.wait(self.rng.uniform(0.3, 2.0))
            self.free()

    def __enter__(self) -> "Filler":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        self.thread.join()
        self.free()


def kinds_of_kill(rng):
    """Which one to do next; the first ones cover all."""
    first = ["all", "alone", "worker", "all"]
    rng.shuffle(first)
    yield from first
    while True:
        yield rng.choices(["all", "alone", "worker"], [5, 3, 2])[0]


def watch_for(service, seconds, *more):
    """Let the service run; begin it again when it ends by itself."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        service.keep_alive(*more)
        time.sleep(0.05)


def let_work(service, rng, options):
    """Until a random moment, of the start or of the work."""
    if rng.random() < 0.5:
        watch_for(service, rng.uniform(SHORTEST, LONGEST) * service.start_s, *options())
        return
    before, end = service.finished(), time.monotonic() + PATIENCE * service.start_s
    while service.finished() == before and time.monotonic() < end:
        watch_for(service, 0.1, *options())
    watch_for(service, rng.uniform(0.0, SOON) * service.start_s, *options())


def begin(service, options):
    """Start it for the first time, and learn how long that takes until the first scan is done."""
    began = time.monotonic()
    service.start(*options())
    while service.finished() == 0 and time.monotonic() < began + 120:
        watch_for(service, 0.05, *options())
    service.start_s = min(time.monotonic() - began, MOST_S)


def torment(service, kills, rng, options, writer):
    """Kill the service again and again while the writer works; how often in which way."""
    done, kinds = Counter(), kinds_of_kill(rng)
    begin(service, options)
    while done.total() < kills or writer.poll() is None:
        let_work(service, rng, options)
        if done.total() >= kills:
            continue
        kind = next(kinds)
        if kind == "worker":
            done[kind] += service.kill_worker(rng.random())
            continue
        service.kill_all() if kind == "all" else service.kill_alone()
        done[kind] += 1
        if kind == "alone":
            assert service.wait_for_orphans(within_s=30) == []
        service.start(*options())
        if done.total() % 5 == 0:  # now and then somebody asks politely, which loses nothing
            let_work(service, rng, options)
            service.keep_alive()
            stop_politely(service)
            service.start(*options())
    return done


def stop_politely(service):
    """Ask the service to end, and look at how it does."""
    status = service.stop()
    assert status in STOPPED or (status == NOT_NOTED[0] and NOT_NOTED[1] in service.tail()), service.tail()


def run_writer(folder, seed, span_s, tmp_path):
    folder.mkdir()
    orders = {
        "folder": str(folder), "aside": str(tmp_path / "aside"), "truth": str(tmp_path / "truth.json"), "seed": seed,
        "scans": SCANS, "span_s": span_s,
    }  # fmt: skip
    file = tmp_path / "orders.json"
    file.write_text(json.dumps(orders), encoding="utf-8")
    return subprocess.Popen([sys.executable, HERE / "writer.py", file])


def by_kills_alone(status, truth):
    """Good scans that were in hand at three kills: given up rightly, for all that the service can know."""
    rows = [row for row in status["scans"] if row["state"] == "quarantined" and truth[row["scan"]]["good"]]
    return [row["scan"] for row in rows]


def drain(service, truth):
    """Do what is left, put back what the kills alone took out of line; how many that were."""
    limit_s = 60 + 5 * len(truth)
    done = service.once("--min-free-mb", "1", within_s=limit_s)
    assert done.returncode == 1, done.stdout + done.stderr  # some scans are damaged
    killed = by_kills_alone(service.status(), truth)
    if killed:
        service.ask("retry", "--", *killed)
        service.once("--min-free-mb", "1", within_s=limit_s)
    return len(killed)


def all_complaints(service, truth):
    lines = service.log.read_text(encoding="utf-8", errors="replace")
    return [
        *audit.raw_data(service.folder, truth),
        *audit.results(service.out, truth),
        *audit.leftovers(service.out, service.state, service.temporary, truth),
        *audit.bookkeeping(service.status(), truth),
        *audit.summary(service.out, truth),
        *audit.work(lines, truth),
        *(f"ended by itself: {words}" for words in service.refused if "no such folder" not in words),
        *(f"still alive: {words}" for words in service.wait_for_orphans(within_s=10)),
    ]


@pytest.fixture
def told(capsys):
    """Print whatever pytest hides."""

    def tell(text):
        with capsys.disabled():
            print(f"\ntorture: {text}")

    return tell


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM, file modes and renaming open folders are not as on Windows")
def test_nothing_is_lost(tmp_path, models, told):
    rng = random.Random(SEED)
    told(f"ADATOM_TORTURE_SEED={SEED}, {SCANS} scans, {KILLS} kills")
    began = time.monotonic()
    with small_disk(tmp_path / "disk", 100 + SCANS // 2) as no_disk:
        disk = tmp_path / "disk"
        service = services.Service(tmp_path / "scans", disk / "out", disk / "state", tmp_path / "log", models)
        writer = run_writer(service.folder, SEED, KILLS * SPAN_S, tmp_path)

        def options():  # a pause before the disk is full, or the error of a full disk itself
            return ("--min-free-mb", rng.choice(["0", "4"])) if not no_disk else ()

        try:
            with contextlib.nullcontext() if no_disk else Filler(disk, rng) as filler:
                kills = torment(service, KILLS, rng, options, writer)
            assert writer.wait(120) == 0
            truth = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
            stop_politely(service)
            finished = service.finished()
            back = drain(service, truth)
            complaints = all_complaints(service, truth)
        finally:
            writer.kill()
            for process in service.processes():
                process.kill()
        bad = sum(not file["good"] for file in truth.values())
        told(
            f"{len(truth)} files ({bad} damaged, {sum(len(f['versions']) for f in truth.values())} versions), killed "
            f"{dict(kills)}, restarted while the folder was away {len(service.refused)} times, "
            f"{no_disk or f'disk filled {filler.times} times'}, file modes {'bind' if services.modes_bind() else 'do not bind'}, "
            f"{finished} analysed between the kills, {back} put back after three, {time.monotonic() - began:.0f} s"
        )
        assert complaints == [], "\n".join([f"seed {SEED}", *complaints])
