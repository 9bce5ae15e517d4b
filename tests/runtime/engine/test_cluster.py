import csv
import json
import os
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from spm_runtime import __version__
from spm_runtime.cli import main
from spm_runtime.engine import remote
from spm_runtime.engine.batch import run_batch
from spm_runtime.engine.cluster import ClusterPool, run_on_cluster
from spm_runtime.engine.jobs import Finished, Job, Lost, Read
from spm_runtime.engine.remote import Introduction, greet, introduce, places_of
from spm_runtime.engine.service import Service
from spm_runtime.engine.settings import Settings, fingerprint
from spm_runtime.engine.state import State
from spm_runtime.engine.worker import Duty
from spm_runtime.engine.workers import Limits
from spm_runtime.errors import AdatomError, ParameterError
from spm_runtime.results import Outcome

#: The real analysis, but some scans do what no scan should. Every network that is loaded is noted with the process.
ANALYSIS = """
import os
import time
from pathlib import Path

from spm_runtime import pipelines, session

notes = Path(__file__).parent
load = session._load

def noting(data, package, *facts):
    with (notes / "loaded.txt").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {package.name}\\n")
    return load(data, package, *facts)

session._load = noting

def analyse(scan, task, **facts):
    if scan.path.name == "kills.npy":
        os._exit(13)  # as a crash of a library
    if scan.path.name == "held.npy" and not (notes / "held.txt").exists():
        (notes / "held.new").write_text(str(os.getpid()), encoding="utf-8")
        (notes / "held.new").rename(notes / "held.txt")
        time.sleep(1000)
    return pipelines.analyse(scan, task, **facts)
"""


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """The folder of an analysis that other processes can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "analysis_for_a_cluster.py").write_text(textwrap.dedent(ANALYSIS), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("analysis_for_a_cluster", None)


@pytest.fixture
def analyse(notes, monkeypatch):
    from spm_runtime import session

    monkeypatch.setattr(session, "_load", session._load)  # undone with the rest, as the module changes it
    import analysis_for_a_cluster

    return analysis_for_a_cluster.analyse


@pytest.fixture
def crystals(tmp_path):
    """Small images of lattices, one folder deep and two."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    y, x = np.mgrid[:96, :96]
    for index, name in enumerate(["a.npy", "b.npy", "sub/c.npy", "held.npy", "kills.npy"]):
        period = 11.0 + index
        rng = np.random.default_rng(index)
        image = np.cos(2 * np.pi * x / period) * np.cos(2 * np.pi * y / period) + rng.normal(0, 0.05, x.shape)
        np.save(folder / name, image.astype(np.float32))
    (folder / "cut.npy").write_bytes((folder / "a.npy").read_bytes()[:300])
    return folder


@pytest.fixture
def cluster(notes, tmp_path):
    """A scheduler and two processes, each started again when it dies; gives the address."""
    distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        host="127.0.0.1",
        local_directory=str(tmp_path / "scratch"),
    ) as running:
        yield running.scheduler_address


def kill_when_held(notes, killed):
    """Kill the process that holds the scan, once it does."""
    end = time.monotonic() + 120
    while not (notes / "held.txt").exists() and time.monotonic() < end:
        time.sleep(0.02)
    pid = int((notes / "held.txt").read_text(encoding="utf-8"))
    psutil.Process(pid).kill()
    killed.append(pid)


def files_of(out):
    """Every file of the results; of ``result.json`` all but timings."""
    files = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not path.is_file() or name.startswith((".adatom", "index", "summary")):
            continue
        files[name] = path.read_bytes()
        if path.name == "result.json":
            document = json.loads(files[name])
            for task in document["tasks"].values():
                assert task.pop("timings_s")
            files[name] = document
    return files


def rows_of(out):
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        return {row["scan"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_cluster_that_loses_workers_writes_what_one_computer_writes(
    tmp_path, crystals, notes, analyse, cluster, capsys
):
    settings = Settings(tasks=("atoms",), device="cpu", pixel_size_nm=0.02)
    killed = []
    killer = threading.Thread(target=kill_when_held, args=(notes, killed))
    killer.start()
    service = Service(attempts=2)
    failed = run_on_cluster([crystals], tmp_path / "far", settings, cluster, service=service, analyse=analyse)
    killer.join()
    assert len(killed) == 1
    printed = capsys.readouterr()
    assert failed == 2
    rows = rows_of(tmp_path / "far")
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.npy": "done", "b.npy": "done", "cut.npy": "failed", "held.npy": "done", "kills.npy": "failed", "sub/c.npy": "done",
    }  # fmt: skip
    assert "the Dask worker tcp://127.0.0.1:" in rows["kills.npy"]["reason"]
    assert "again   held.npy: attempt 1 of 2" in printed.err
    assert "again   kills.npy: attempt 1 of 2" in printed.err
    # No process loaded a network twice, and none of them is this one.
    loaded = (notes / "loaded.txt").read_text(encoding="utf-8").splitlines()
    assert len(loaded) == len(set(loaded)) > 0
    assert str(os.getpid()) not in {line.split()[0] for line in loaded}
    (crystals / "kills.npy").unlink()
    assert run_batch([crystals], tmp_path / "here", settings, service=Service(threads=1), analyse=analyse) == 1
    assert files_of(tmp_path / "far") == files_of(tmp_path / "here")
    here = rows_of(tmp_path / "here")
    for name, row in here.items():
        assert {**row, "seconds": ""} == {**rows[name], "seconds": ""}
    assert not list((tmp_path / "far").rglob(".partial-*"))


class FakeFuture:
    def __init__(self, value=None, error=None, status="pending") -> None:
        self.value, self.error, self.status = value, error, status
        self._ended = None

    def add_done_callback(self, ended):
        self._ended = ended
        if self.status != "pending":
            ended(self)

    def end(self, value=None, error=None, status="finished"):
        self.value, self.error, self.status = value, error, status
        self._ended(self)

    def exception(self, timeout):
        if isinstance(self.error, TimeoutError):
            raise self.error
        return self.error

    def result(self, timeout):
        return self.value

    def cancel(self):
        self.status = "cancelled"


class FakeClient:
    """A scheduler whose workers come and go as the test says."""

    def __init__(self) -> None:
        self.status = "running"
        self.workers = {}
        self.problems = {}
        self.sent = []
        self.restarted = []

    def add(self, address, *, directory="one", nanny="tcp://nanny", status="running", problem=""):
        self.workers[address] = {"local_directory": directory, "nanny": nanny, "status": status, "nthreads": 2}
        self.problems[address] = problem

    def subscribe_topic(self, topic, handler):
        self.topic, self.say = topic, lambda *words: handler((0.0, list(words)))

    def unsubscribe_topic(self, topic):
        assert topic == self.topic

    def scheduler_info(self, n_workers):
        assert n_workers == -1
        return {"workers": dict(self.workers)}

    def submit(self, action, *facts, key, workers, allow_other_workers, pure):
        assert not allow_other_workers
        (address,) = workers
        problem = self.problems[address]
        if action is greet:
            if isinstance(problem, Exception):
                return FakeFuture(error=problem, status="error")
            return FakeFuture(problem, status="finished")
        self.sent.append((address, facts, FakeFuture()))
        return self.sent[-1][2]

    def restart_workers(self, addresses, *, timeout, raise_for_error):
        self.restarted += addresses


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture
def pool(client, tmp_path, package, monkeypatch):
    monkeypatch.setattr("spm_runtime.engine.cluster.LOOK_EVERY_S", 0.01)
    opened = ClusterPool(client, "tcp://s:1", Duty(tmp_path / "out", Settings()), Limits(1000.0, 60.0), [tmp_path])
    yield opened
    opened.close()
    assert opened.in_hand == []


@pytest.fixture
def job(tmp_path, save_scan):
    return lambda name: Job(save_scan(tmp_path / name), name)


def let_pass(pool, seconds=0.05):
    events, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        events += pool.wait(0.01)
    return events


def test_a_worker_does_one_scan_at_a_time(client, pool, job):
    client.add("w1")
    client.add("w2", status="paused")
    let_pass(pool)
    assert pool.free == 1
    pool.submit(job("a.npy"))
    assert (pool.free, pool.in_hand) == (0, ["a.npy"])
    ((address, (_, sent, topic, token), future),) = client.sent
    assert (address, sent.name, topic) == ("w1", "a.npy", client.topic)
    client.say(token, "begun", "")
    client.say("of an earlier scan", "read", "ff" * 32)
    client.say(token, "read", "aa" * 32)
    assert let_pass(pool) == [Read("a.npy", "aa" * 32)]
    outcome = Outcome("a.npy", "a.npy", "done")
    future.end(("aa" * 32, [outcome]))
    assert let_pass(pool) == [Finished("a.npy", [outcome])]
    assert (pool.free, pool.in_hand) == (1, [])
    client.say(token, "read", "aa" * 32)
    assert let_pass(pool) == []


def test_an_end_that_overtakes_the_news_comes_with_it(client, pool, job):
    client.add("w1")
    let_pass(pool)
    pool.submit(job("a.npy"))
    client.sent[0][2].end(("aa" * 32, []))
    assert let_pass(pool) == [Read("a.npy", "aa" * 32), Finished("a.npy", [])]


@pytest.mark.parametrize("directory", [None, "another"])
def test_a_lost_worker_costs_its_scan_and_no_other(client, pool, job, directory):
    client.add("w1")
    client.add("w2")
    let_pass(pool)
    pool.submit(job("a.npy"))
    pool.submit(job("b.npy"))
    del client.workers["w1"]
    if directory is not None:  # started again under the same address
        client.add("w1", directory=directory)
    (event,) = let_pass(pool)
    assert isinstance(event, Lost)
    assert event.name == "a.npy"
    assert "the Dask worker w1 was lost" in event.reason
    assert client.sent[0][2].status == "cancelled"
    assert pool.in_hand == ["b.npy"]
    assert pool.free == (directory is not None)


@pytest.mark.parametrize(
    "end",
    [
        {"error": ValueError("somebody's bug"), "status": "error"},
        {"error": TimeoutError("slow")},
        {"status": "lost"},
    ],
)
def test_a_scan_without_an_outcome_costs_an_attempt(client, pool, job, end):
    client.add("w1")
    let_pass(pool)
    pool.submit(job("a.npy"))
    client.sent[0][2].end(**end)
    (event,) = let_pass(pool)
    assert isinstance(event, Lost)
    assert "gave no outcome" in event.reason
    assert pool.free == 1  # introduced anew


@pytest.mark.parametrize("nanny", ["tcp://nanny", None])
def test_a_scan_that_takes_too_long_is_ended(client, pool, job, capsys, nanny):
    client.add("w1", nanny=nanny)
    client.add("w2", status="paused")
    let_pass(pool)
    pool._limits = Limits(1000.0, 0.1)
    pool.submit(job("a.npy"))
    assert let_pass(pool, 0.3) == []  # not begun: others may use the cluster too
    token = client.sent[0][1][3]
    client.say(token, "begun", "")
    if nanny is None:
        with pytest.raises(AdatomError, match=r"no worker can be used.*no nanny"):
            let_pass(pool, 0.5)
        assert client.restarted == []
        return
    (event,) = let_pass(pool, 0.5)
    assert "--time-limit-s" in event.reason
    assert client.restarted == ["w1"]
    assert pool.free == 0


def test_a_worker_that_sees_other_things_is_not_used(client, pool, capsys):
    client.add("w1", problem="/data is not there")
    client.add("w2")
    let_pass(pool)
    assert pool.free == 1
    assert "worker w1 is not used. /data is not there" in capsys.readouterr().err
    del client.workers["w2"]
    with pytest.raises(AdatomError, match=r"no worker can be used\. w1: /data is not there"):
        let_pass(pool)


def test_a_worker_without_the_program_is_told_what_to_install(client, pool):
    client.add("w1", problem=ModuleNotFoundError("No module named 'spm_runtime'"))
    with pytest.raises(AdatomError, match=rf"No module named 'spm_runtime'; install adatom {__version__}"):
        let_pass(pool)


def test_workers_are_waited_for_and_that_is_said_once(client, pool, capsys):
    let_pass(pool)
    assert capsys.readouterr().err.count("there are no workers; waiting") == 1
    client.add("w1")
    let_pass(pool)
    assert pool.free == 1


def test_a_lost_scheduler_ends_the_batch(client, pool):
    client.status = "connecting"
    with pytest.raises(AdatomError, match="the scheduler was lost"):
        let_pass(pool)


def test_a_scheduler_that_drops_what_is_in_hand_costs_no_attempt(client, pool, job):
    client.add("w1")
    let_pass(pool)
    pool.submit(job("a.npy"))
    client.sent[0][2].end(status="cancelled")
    with pytest.raises(AdatomError, match=r"scheduler was lost.*goes on"):
        let_pass(pool)
    assert pool.in_hand == ["a.npy"]  # for the supervisor to put back in line


def test_paths_are_those_of_the_user_and_what_a_worker_does_not_see_is_said(client, pool, job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = job("a.npy").path
    client.add("w1")
    let_pass(pool)
    for error, reason, text in (
        ("CorruptScanError", f"{absolute}: cut off", "a.npy: cut off"),
        (
            "FileNotFoundError",
            f"{absolute}: no such file",
            "a.npy: is here, and not on the computer of the Dask worker w1",
        ),
    ):
        pool.submit(Job(Path("a.npy"), "a.npy"))
        _, (_, sent, *_), future = client.sent[-1]
        assert sent.path == absolute
        future.end(("", [Outcome("a.npy", "a.npy", "failed", reason=reason, error=error)]))
        (event,) = let_pass(pool)
        assert event.outcomes[0].reason.startswith(text)


def test_what_a_worker_must_agree_with(tmp_path, package, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(remote, "limit_threads", lambda threads: None)
    with State(out):
        duty = Duty(out, Settings())
        agreed = introduce(duty, [tmp_path])
        assert agreed.mark
        assert greet(agreed) == ""

        def differing(**facts):
            return greet(Introduction(**{**vars(agreed), **facts}))

        assert "install the same version" in differing(version="0.0.1")
        assert "not there or not readable" in differing(places=(tmp_path / "nowhere",))
        assert "not the same folder" in differing(mark=b"{}")
        assert "not the same folder" in differing(duty=Duty(tmp_path / "nowhere", Settings()))
        assert "model packages are others" in differing(digest="0" * 64)
        assert "no-such" in differing(duty=Duty(out, Settings(model="no-such")))
    assert agreed.digest == fingerprint(Settings())


def test_the_folders_that_workers_must_see(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("1.npy", "2.npy"):
        (tmp_path / "b" / name).touch()
    monkeypatch.chdir(tmp_path)
    paths = [Path("a"), Path("b/1.npy"), Path("b/2.npy"), Path("nowhere/x.npy")]
    assert places_of(paths) == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize(
    ("settings", "service", "option"),
    [
        (Settings(jobs=2), Service(), "--jobs"),
        (Settings(), Service(threads=2), "--threads"),
        (Settings(), Service(memory_limit_mb=100), "--memory-limit-mb"),
    ],
)
def test_what_the_cluster_decides_is_refused(tmp_path, settings, service, option):
    with pytest.raises(ParameterError, match=f"{option} says nothing with --dask"):
        run_on_cluster([tmp_path], tmp_path / "out", settings, "tcp://s:1", service=service)


def invoke(tmp_path, address):
    return CliRunner().invoke(main, ["run", str(tmp_path), "--out", str(tmp_path / "out"), "--dask", address])


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = invoke(tmp_path, "tcp://127.0.0.1:1")
    assert result.exit_code == 3
    assert 'pip install "adatom[cluster]"' in result.output


def test_an_address_where_nobody_answers_is_named(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    monkeypatch.setattr("spm_runtime.engine.cluster.CONNECT_S", 0.3)
    result = invoke(tmp_path, "tcp://127.0.0.1:1")
    assert result.exit_code == 3
    assert "no scheduler answers" in result.output
    for content in ("", "{}", "[]", '{"address": "tcp://without-a-port"}'):
        (tmp_path / "scheduler.json").write_text(content, encoding="utf-8")
        assert invoke(tmp_path, str(tmp_path / "scheduler.json")).exit_code == 2
    for address in ("nonsense://x", str(tmp_path / "no-such-file.json")):
        result = invoke(tmp_path, address)
        assert result.exit_code == 2, result.output
        assert "expected one as tcp://" in result.output
    (tmp_path / "scheduler.json").write_text('{"address": "tcp://127.0.0.1:1"}', encoding="utf-8")
    assert invoke(tmp_path, str(tmp_path / "scheduler.json")).exit_code == 3
