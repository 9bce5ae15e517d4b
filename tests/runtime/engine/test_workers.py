"""Real processes that crash, hang, eat memory or are killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from spm_runtime.engine import workers as workers_module
from spm_runtime.engine.jobs import Finished, Job, Lost, Read
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.worker import Duty
from spm_runtime.engine.workers import Limits, Workers, kill_left_over
from spm_runtime.errors import AdatomError

FAKE_IN_A_MODULE = """
import os
import sys
import time
import numpy as np
from spm_runtime.results import Atoms, ModelReference, Result

held = []

def analyse(scan, task, *, model, device, require_gpu, params):
    code = scan.image[0, 0]
    if code == -3:
        os._exit(13)  # as a crash of a library
    if code == -4:
        time.sleep(1000)
    if code == -5:
        while True:
            held.append(np.ones(2 * 10**7))
            time.sleep(0.02)
    if code == -6:
        held.append(np.ones(4 * 10**7))
    one = np.ones(1, np.float32)
    atoms = Atoms(np.array([[1.0, 2.0]]), one, one, one, one, np.array([-1], np.int32))
    quantities = {
        "process": float(os.getpid()), "threads": float(os.environ["OMP_NUM_THREADS"]), "torch": float("torch" in sys.modules)
    }
    reference = ModelReference("atoms", "1.0", "ab" * 32)
    return Result(scan, task, reference, "CPU", {"threshold": 0.5}, {"all": 0.0}, atoms, quantities=quantities)
"""


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """A stand-in that other processes can import."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "fake_analysis_for_processes.py").write_text(
        textwrap.dedent(FAKE_IN_A_MODULE), encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    import fake_analysis_for_processes

    yield fake_analysis_for_processes.analyse
    del sys.modules["fake_analysis_for_processes"]


@pytest.fixture
def start(tmp_path, package, importable):
    opened = []

    def begin(processes=1, *, memory_mb=4000.0, time_s=60.0, **facts):
        duty = Duty(tmp_path / "out", Settings(), analyse=importable)
        staging = tmp_path / "staging"
        opened.append(Workers(duty, processes, Limits(memory_mb, time_s), staging, **facts))
        return opened[-1]

    yield begin
    for workers in opened:
        workers.close()
    assert not list((tmp_path / "staging").iterdir())


def do(workers, *jobs, until=90.0):
    """All events of some jobs."""
    waiting, events, end = list(jobs), [], time.monotonic() + until
    while waiting or workers.in_hand:
        assert time.monotonic() < end, (waiting, workers.in_hand, events)
        while waiting and workers.free:
            workers.submit(waiting.pop(0))
        events += workers.wait(0.5)
    return events


@pytest.fixture
def job(tmp_path, save_scan):
    return lambda name, code=0.0: Job(save_scan(tmp_path / "data" / name, code), name)


def test_a_process_does_one_job_after_another_with_the_threads_it_has(start, job, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    began, ended = [], []
    workers = start(threads=3, on_start=lambda pid, created_s: began.append(pid), on_end=ended.append)
    events = do(workers, job("a.npy"), job("b.npy"))
    assert [(type(event), event.name) for event in events] == [
        (Read, "a.npy"), (Finished, "a.npy"), (Read, "b.npy"), (Finished, "b.npy"),
    ]  # fmt: skip
    quantities = [event.outcomes[0].quantities for event in events if isinstance(event, Finished)]
    assert quantities[0] == quantities[1] == {"process": float(began[0]), "threads": 3.0, "torch": 0.0}
    if sys.platform != "win32":
        assert psutil.Process(began[0]).nice() >= 10
    workers.close()
    assert began == ended
    assert not psutil.pid_exists(began[0])


def test_a_crash_costs_one_attempt_of_one_scan(start, job):
    workers = start(2)
    events = do(workers, job("a.npy"), job("crash.npy", -3), job("b.npy"), job("c.npy"))
    (lost,) = (event for event in events if isinstance(event, Lost))
    assert lost.name == "crash.npy"
    assert "exit code 13" in lost.reason
    assert {event.name for event in events if isinstance(event, Finished)} == {"a.npy", "b.npy", "c.npy"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_is_replaced(start, job):
    workers = start(on_start=lambda pid, created_s: pids.append(pid))
    pids = []
    while not workers.free:
        workers.wait(0.5)
    workers.submit(job("a.npy", -4))
    workers.wait(5)
    os.kill(pids[0], signal.SIGKILL)
    (event,) = (event for event in do(workers) if not isinstance(event, Read))
    assert isinstance(event, Lost)
    assert "SIGKILL" in event.reason
    assert isinstance(do(workers, job("b.npy"))[-1], Finished)


def test_a_scan_that_takes_too_long_is_ended_and_says_where_it_was(start, job):
    event = do(start(time_s=6.0), job("hang.npy", -4))[-1]  # long enough for a busy computer to read the file
    assert isinstance(event, Lost)
    assert "--time-limit-s" in event.reason
    assert "fake_analysis_for_processes.py" in event.traceback


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pipe with a name")
def test_a_file_that_cannot_be_read_in_time_is_not_to_blame(start, tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")  # as a file of a share that does not answer
    (event,) = do(start(time_s=1.0), Job(tmp_path / "pipe.npy", "pipe.npy"))
    assert isinstance(event, Lost)
    assert event.may_pass
    assert "share" in event.reason


def test_a_process_that_hangs_before_it_is_ready_is_ended(start, job, monkeypatch, tmp_path):
    monkeypatch.setattr(workers_module, "START_LIMIT_S", 0.2)
    monkeypatch.setattr(workers_module, "GRACE_S", 0.0)
    workers = start()
    (tmp_path / "modules" / "fake_analysis_for_processes.py").write_text(
        "import time; time.sleep(1000)", encoding="utf-8"
    )
    with pytest.raises(AdatomError, match="not ready after"):
        do(workers, job("a.npy"))


def test_once_one_was_ready_false_starts_are_waited_out(start, job, monkeypatch):
    """A watch of months does not end because there was no memory for a minute."""
    workers = start()
    do(workers, job("a.npy"))
    workers.close()
    for _ in range(9):
        workers._note_false_start("exit code 7")
    with pytest.raises(OSError, match="doctor"):
        workers.free  # noqa: B018 - it begins processes
    monkeypatch.setattr(workers_module, "FIRST_PAUSE_S", 0.0)
    workers._note_false_start("exit code 7")
    assert isinstance(do(workers, job("b.npy"))[-1], Finished)


def test_a_scan_that_takes_too_much_memory_is_ended(start, job):
    workers = start(memory_mb=900.0)
    event = do(workers, job("greedy.npy", -5))[-1]
    assert isinstance(event, Lost)
    assert "900 MB" in event.reason
    assert "--memory-limit-mb" in event.reason


def test_a_process_that_has_grown_is_replaced(start, job):
    pids = []
    workers = start(memory_mb=700.0, on_start=lambda pid, created_s: pids.append(pid))
    events = do(workers, job("a.npy"), job("grows.npy", -6), job("b.npy"))
    assert all(isinstance(event, Read | Finished) for event in events)
    assert len(pids) == 2


def test_processes_that_never_become_ready_are_not_begun_for_ever(start, job, monkeypatch, tmp_path):
    workers = start()
    (tmp_path / "modules" / "fake_analysis_for_processes.py").write_text("import os; os._exit(7)", encoding="utf-8")
    with pytest.raises(AdatomError, match=r"exit code 7.*doctor"):
        do(workers, job("a.npy"))


def test_what_a_dead_supervisor_left_is_ended_and_nothing_else():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    created_s = psutil.Process(process.pid).create_time()
    kill_left_over([(process.pid, created_s - 100.0), (2**22 + 1, 0.0)])
    assert process.poll() is None
    kill_left_over([(process.pid, created_s)])
    assert not psutil.pid_exists(process.pid)
    process.wait()
