import multiprocessing
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spm_runtime.engine.jobs import Job, Stamp
from spm_runtime.engine.ledger import LEDGER, Found, Ledger
from spm_runtime.errors import OutputError

ROOT = b"/data"


def found(name, *, size=1, mtime_ns=0):
    return Found(Job(Path("/data") / name, name, stamp=Stamp(size, mtime_ns)), 0.0, 0.0)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite3") as opened:
        yield opened


def offer(ledger, *items, now_s=0.0, settings="s", **options):
    return ledger.offer(items, root=ROOT, settings=settings, now_s=now_s, **options)


def take(ledger, order="newest", now_s=0.0):
    entry = ledger.take(root=ROOT, order=order, now_s=now_s)
    return None if entry is None else entry.name


def test_a_file_is_taken_once_and_again_when_it_changes(ledger):
    assert offer(ledger, found("a")) == 1
    assert offer(ledger, found("a")) == 0
    assert (take(ledger), take(ledger)) == ("a", None)
    ledger.finish("a", "done", now_s=1.0, analysed=True)
    assert offer(ledger, found("a")) == 0
    assert offer(ledger, found("a", size=2)) == 1
    entry = ledger.get("a")
    assert (entry.state, entry.version, entry.analyses, entry.attempts) == ("waiting", 2, 1, 0)


def test_other_settings_and_a_lost_result_are_a_cause_for_another_analysis(ledger):
    offer(ledger, found("a"))
    take(ledger)
    ledger.finish("a", "done", now_s=1.0)
    assert offer(ledger, found("a"), is_there=lambda name: False) == 1
    take(ledger)
    ledger.finish("a", "done", now_s=1.0)
    assert offer(ledger, found("a"), settings="other") == 1
    assert ledger.get("a").version == 1


def test_a_failed_scan_waits_for_a_change_or_a_request(ledger):
    for name in "ab":
        offer(ledger, found(name))
        take(ledger)
        ledger.finish(name, "failed", now_s=1.0, kind="fact", reason="damaged")
    assert offer(ledger, found("a")) == 0
    assert offer(ledger, found("a"), again=True) == 1
    assert ledger.get("a").reason == ""
    assert ledger.retry(["a", "c"]) == []
    assert ledger.retry() == ["b"]
    assert ledger.counts() == {"waiting": 2}


@pytest.mark.parametrize(("order", "names"), [("newest", "cab"), ("oldest", "bac"), ("given", "abc")])
def test_whose_turn_it_is(ledger, order, names):
    offer(ledger, *(found(name, mtime_ns=time) for name, time in (("a", 2), ("b", 1), ("c", 3))))
    assert [take(ledger, order) for _ in range(3)] == list(names)


def test_one_that_was_tried_comes_after_one_that_was_not_and_not_before_its_time(ledger):
    offer(ledger, found("a", mtime_ns=9), found("b"))
    assert take(ledger) == "a"
    ledger.postpone("a", next_try_s=10.0, kind="busy", attempts=0, tries=1)
    assert ledger.next_try_s(ROOT) == 0.0
    assert take(ledger) == "b"
    assert take(ledger, now_s=9.9) is None
    assert ledger.next_try_s(ROOT) == 10.0
    offer(ledger, found("c"))
    assert [take(ledger, now_s=10.0) for _ in range(2)] == ["c", "a"]


def test_scans_of_another_folder_are_left_to_it(ledger):
    offer(ledger, found("a"))
    assert ledger.take(root=b"/elsewhere", order="newest", now_s=0.0) is None
    assert ledger.counts(b"/elsewhere") == {}


def test_a_change_while_it_is_analysed_is_put_off_and_stays_out_of_the_ledger(ledger):
    """Should the program die now, the next one sees that the file is not the one that was analysed."""
    offer(ledger, found("a"))
    entry = ledger.take(root=ROOT, order="newest", now_s=0.0)
    put_off = []
    assert offer(ledger, found("a"), put_off=put_off.append) == 0
    assert put_off == []
    assert offer(ledger, found("a", size=2), put_off=put_off.append) == 0
    assert ledger.get("a") == entry
    ledger.finish("a", "done", now_s=1.0)
    assert offer(ledger, *put_off) == 1
    assert ledger.get("a").version == 2


def test_interruptions_are_counted_apart_and_have_an_end(ledger):
    for count in range(1, 4):
        offer(ledger, found("a"))
        assert take(ledger) == "a"
        (entry,) = ledger.interrupted(limit=3)
        assert entry.name == "a"
        assert ledger.get("a").interruptions == count
        assert ledger.get("a").attempts == 0
    assert ledger.get("a").state == "quarantined"
    assert "retry" in ledger.get("a").reason


def test_a_clock_that_is_set_back_keeps_nobody_waiting(ledger):
    for name, kind in (("a", "busy"), ("b", "incomplete")):
        offer(ledger, found(name), now_s=1e6)
        take(ledger)
        ledger.postpone(name, next_try_s=1e6 + 300, kind=kind, attempts=0, tries=1)
    assert take(ledger, now_s=10.0) is None
    ledger.wait_no_longer(now_s=10.0)
    assert {take(ledger, now_s=10.0), take(ledger, now_s=10.0)} == {"a", "b"}
    assert ledger.get("b").settled_s == 10.0


def test_a_file_that_has_its_time_keeps_it_when_nobody_waits_longer(ledger):
    offer(ledger, found("a"), now_s=0.0)
    take(ledger)
    ledger.postpone("a", next_try_s=600.0, kind="incomplete", attempts=0, tries=0)
    ledger.wait_no_longer(now_s=10.0)
    assert take(ledger, now_s=10.0) is None


def test_passing_troubles_of_another_run_are_tried_again(ledger):
    for name, kind in (("a", "busy"), ("b", "fact")):
        offer(ledger, found(name))
        take(ledger)
        ledger.finish(name, "failed", now_s=1.0, kind=kind)
    assert offer(ledger, found("a"), found("b")) == 1
    assert ledger.get("a").state == "waiting"


def test_a_stop_ends_the_waiting_for_room(tmp_path):
    told = []
    with Ledger(tmp_path / LEDGER, tell=told.append, is_stopping=lambda: bool(told)) as ledger:
        ledger.connection.execute("PRAGMA max_page_count = 1")  # as if the disk were full
        files = [found(f"{number}") for number in range(1000)]
        with pytest.raises(OutputError, match="make room"):
            offer(ledger, *files)
    assert len(told) == 1


def test_passing_troubles_are_forgotten_at_the_next_start(ledger):
    for name, kind in (("a", "output"), ("b", "fact")):
        offer(ledger, found(name))
        take(ledger)
        ledger.finish(name, "failed", now_s=1.0, kind=kind)
    ledger.reopen(root=ROOT, now_s=2.0)
    assert [ledger.get(name).state for name in "ab"] == ["waiting", "failed"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_that_are_no_text_survive(ledger, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.sxm")
    ledger.offer([Found(Job(path, "caf"), 0.0, 0.0)], root=ROOT, settings="", now_s=0.0)
    assert ledger.get("caf").path == path


def test_it_is_there_after_it_was_closed_and_other_processes_may_ask(ledger, tmp_path):
    offer(ledger, found("a"))
    ledger.note_fact("paused", "the disk is full")
    ledger.note_worker(17, 1.5)
    with Ledger(tmp_path / "ledger.sqlite3", create=False) as other:
        assert not other.is_new
        assert other.counts() == {"waiting": 1}
        assert other.fact("paused") == "the disk is full"
        assert other.workers() == [(17, 1.5)]
        assert other.fact("nothing") == ""
    with pytest.raises(OutputError, match="no ledger"):
        Ledger(tmp_path / "elsewhere.sqlite3", create=False)


def test_a_damaged_ledger_is_kept_and_said(tmp_path):
    file = tmp_path / "ledger.sqlite3"
    with Ledger(file) as first:
        offer(first, *(found(str(number)) for number in range(200)))
    content = file.read_bytes()
    for damaged in (b"garbage" * 1000, content[:5000], content[:4096] + bytes(len(content) - 4096)):
        file.write_bytes(damaged)
        with pytest.raises(OutputError, match="cannot be opened"):
            Ledger(file, create=False)
        with Ledger(file) as again:
            assert again.is_new
            assert "damaged" in again.note
            assert again.counts() == {}
    assert len(list(tmp_path.glob("*.bak-*"))) == 3
    with Ledger(file) as whole:
        assert not whole.note


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="--state"):
        Ledger(tmp_path / "file" / "ledger.sqlite3")


def test_latencies_are_those_of_the_last_scans(ledger):
    for number in range(20):
        offer(ledger, found(str(number)))
        take(ledger)
        ledger.finish(str(number), "done", now_s=float(number), latency_s=float(number))
    assert ledger.latencies_s(3) == [17.0, 18.0, 19.0]


def _write_for_ever(file, ready):
    with Ledger(file) as ledger:
        for number in range(10**6):
            offer(ledger, *(found(f"{number}-{part}") for part in range(10)))
            ready.set()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_writer_leaves_whole_transactions(tmp_path):
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        ready = context.Event()
        process = context.Process(target=_write_for_ever, args=(tmp_path / "ledger.sqlite3", ready))
        process.start()
        assert ready.wait(30)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with Ledger(tmp_path / "ledger.sqlite3") as ledger:
            assert not ledger.note
            assert ledger.counts()["waiting"] % 10 == 0


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, a scan is in one state, and never given out twice at once."""

    names = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(Path(":memory:"))
        self.in_hand = set()

    @rule(name=names, size=st.integers(1, 3))
    def see(self, name, size):
        offer(self.ledger, found(name, size=size))

    @rule()
    def begin(self):
        name = take(self.ledger)
        assert name not in self.in_hand
        if name is not None:
            self.in_hand.add(name)

    @rule(name=names, state=st.sampled_from(["done", "failed", "quarantined", "gone"]))
    def end(self, name, state):
        if name in self.in_hand:
            self.in_hand.remove(name)
            self.ledger.finish(name, state, now_s=0.0)

    @rule(name=names)
    def put_back(self, name):
        if name in self.in_hand:
            self.in_hand.remove(name)
            self.ledger.postpone(name, next_try_s=0.0, attempts=1, tries=0)

    @rule()
    def ask_for_failed_ones(self):
        self.ledger.retry()

    @invariant()
    def what_is_in_hand_is_working(self):
        assert {entry.name for entry in self.ledger.entries("state = 'working'")} == self.in_hand

    def teardown(self):
        self.ledger.close()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = profile(max_examples=30, stateful_step_count=30, deadline=None)


class FullDisk:
    """A connection to a ledger whose disk is full for a while."""

    def __init__(self, connection, failures) -> None:
        self._connection, self.failures = connection, failures

    def __getattr__(self, name) -> object:
        return getattr(self._connection, name)

    def execute(self, query, *values):
        if self.failures and query.startswith(("UPDATE", "INSERT", "COMMIT")):
            self.failures -= 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._connection.execute(query, *values)


def test_a_full_disk_is_waited_for_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("spm_runtime.engine.ledger.RETRY_S", 0.0)
    told = []
    with Ledger(tmp_path / "ledger.sqlite3", tell=told.append) as ledger:
        real = ledger.connection
        steps = [
            lambda: offer(ledger, found("a"), found("b")),
            lambda: take(ledger),
            lambda: ledger.finish("b", "failed", now_s=1.0),
            lambda: ledger.retry(),
            lambda: ledger.reopen(root=ROOT, now_s=0.0),
            lambda: ledger.note_fact("paused", "x"),
        ]
        for step in steps:
            ledger.connection = FullDisk(real, 3)
            step()
            assert not ledger.connection.failures or step is steps[4]
            ledger.connection = real
        assert ledger.counts() == {"waiting": 1, "working": 1}
    assert len(told) == len(steps)
    assert "full" in told[0]


def test_who_only_asks_does_not_wait(ledger):
    ledger.connection = FullDisk(ledger.connection, 1)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        offer(ledger, found("a"))
