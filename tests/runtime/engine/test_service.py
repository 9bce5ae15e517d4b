"""What surrounds the work: the lock, copies, status, metrics, the log."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from spm_runtime.engine.batch import run_batch
from spm_runtime.engine.ledger import LEDGER, Ledger
from spm_runtime.engine.service import Service
from spm_runtime.engine.settings import Settings, fingerprint
from spm_runtime.engine.staging import fetch, look_at
from spm_runtime.engine.state import State, find_state, holder, state_folder
from spm_runtime.engine.status import metrics_text, serve_metrics, status_lines, status_of
from spm_runtime.errors import CannotOpenError, OutputError, ParameterError


def test_every_folder_of_results_has_its_own_state(tmp_path, monkeypatch, state):
    folders = {state_folder(tmp_path / name) for name in ("a", "b", "x/a")}
    assert len(folders) == 3
    assert all(folder.parent == state for folder in folders)
    assert state_folder(tmp_path / "x" / ".." / "a") == state_folder(tmp_path / "a")
    assert state_folder(tmp_path / "a", tmp_path / "named").parent == tmp_path / "named"
    monkeypatch.delenv("SPM_STATE")
    assert "adatom" in str(state_folder(tmp_path / "a"))


def test_the_state_of_another_user_is_found_by_the_lock_file(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    with State(out, tmp_path / "service") as held:
        assert find_state(out) == held.folder.resolve()
        assert holder(held.folder)["pid"] == os.getpid()
    assert holder(held.folder) is None
    assert holder(tmp_path / "nowhere") is None


def _hold(out, base, ready):
    with State(out, base):
        ready.set()
        time.sleep(100)


def test_one_engine_for_one_folder_and_a_dead_one_does_not_keep_it(tmp_path):
    """The lock in the folder of results holds also against an engine with another state folder."""
    out = tmp_path / "out"
    out.mkdir()
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(out, tmp_path / "same", ready), daemon=True)
    process.start()
    assert ready.wait(60)
    for base in ("same", "other"):
        with pytest.raises(OutputError, match=rf"process {process.pid} on .* since \d{{4}}-"):
            State(out, tmp_path / base)
    process.kill()
    process.join()
    for base in ("same", "other"):
        with State(out, tmp_path / base) as held:
            assert held.out_is_there


def test_a_state_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="--state"):
        State(tmp_path, tmp_path / "file")


def test_a_copy_is_the_file_and_the_file_is_untouched(tmp_path):
    path, copies = tmp_path / "a.sxm", tmp_path / "copies"
    copies.mkdir()
    path.write_bytes(os.urandom(3_000_000))
    before = path.stat()
    copy = fetch(path, copies)
    assert copy.path.read_bytes() == path.read_bytes()
    assert copy.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert look_at(path).head == path.read_bytes()[:4096]
    with pytest.raises(FileNotFoundError):
        fetch(tmp_path / "nowhere.sxm", copies)


def test_a_file_that_is_replaced_while_it_is_copied_is_not_believed(tmp_path, monkeypatch):
    from spm_runtime.engine import staging

    path, copies = tmp_path / "a.sxm", tmp_path / "copies"
    copies.mkdir()
    path.write_bytes(b"x" * 1000)
    other = tmp_path / "b.sxm"
    other.write_bytes(b"y" * 1000)
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)  # neither size nor time tell
    real = staging._copy
    monkeypatch.setattr(staging, "_copy", lambda *args: (real(*args), other.replace(path) if other.exists() else None))
    with pytest.raises(CannotOpenError, match="while it was read"):
        fetch(path, copies)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk is always full here")
def test_a_full_disk_is_named_and_not_the_scan(tmp_path):
    path, copies = tmp_path / "a.sxm", tmp_path / "copies"
    copies.mkdir()
    path.write_bytes(b"x" * 3_000_000)
    (copies / "a.sxm").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        fetch(path, copies)
    assert caught.value.filename == str(copies / "a.sxm")


def test_what_results_depend_on(package):
    one = fingerprint(Settings())
    assert fingerprint(Settings(device="cpu", jobs=4)) == one
    others = [
        Settings(params={"threshold": 0.25}),
        Settings(channel="Z"),
        Settings(pixel_size_nm=0.1),
        Settings(gwy=True),
    ]
    assert len({one, *map(fingerprint, others)}) == 5


@pytest.mark.parametrize(
    "facts", [{"attempts": 0}, {"memory_limit_mb": 0.0}, {"time_limit_s": -1.0}, {"min_free_mb": -1.0}, {"threads": 0}]
)
def test_a_service_that_makes_no_sense_is_refused(facts):
    with pytest.raises(ParameterError, match="--"):
        Service(**facts)


@pytest.fixture
def batch(tmp_path, save_scan, fake, make_inline):
    for name, code in (("a.npy", 0), ("b.npy", -1), ("c.npy", -2)):
        save_scan(tmp_path / "data" / name, code)
    run_batch([tmp_path / "data"], tmp_path / "out", Settings(), analyse=fake, make_pool=make_inline)
    return tmp_path / "out"


def test_status_lists_everything_with_its_reason(batch):
    facts = json.loads(json.dumps(status_of(batch), allow_nan=False))
    assert {scan["scan"]: scan["state"] for scan in facts["scans"]} == {
        "a.npy": "done", "b.npy": "failed", "c.npy": "quarantined",
    }  # fmt: skip
    (_, failed, quarantined) = facts["scans"]
    assert "the model cannot do this" in failed["reason"]
    assert "somebody's bug" in quarantined["traceback"]
    assert quarantined["attempts"] == 3
    text = "\n".join(status_lines(facts))
    assert "1 done, 1 failed, 1 quarantined" in text
    assert "b.npy: " in text
    with pytest.raises(OutputError, match="no ledger"):
        status_of(batch / "elsewhere")


def test_a_pause_of_a_process_that_was_killed_is_over(batch):
    with Ledger(state_folder(batch) / LEDGER) as ledger:
        ledger.note_fact("paused", "the disk is nearly full")
    assert status_of(batch)["paused"] == ""


def test_metrics_of_a_damaged_ledger_are_an_error_of_the_server(tmp_path):
    (tmp_path / LEDGER).write_bytes(b"garbage" * 1000)
    with serve_metrics(tmp_path / LEDGER, 0) as port, pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_metrics_do_not_look_through_the_whole_ledger_for_damage(batch, monkeypatch):
    from spm_runtime.engine import _tables

    real, queries = _tables.connect, []

    def connect(file):
        connection = real(file)
        connection.set_trace_callback(queries.append)
        return connection

    monkeypatch.setattr(_tables, "connect", connect)
    with serve_metrics(state_folder(batch) / LEDGER, 0) as port:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read()
    assert any("count(*)" in query for query in queries)
    assert not any("quick_check" in query for query in queries)


def test_the_log_keeps_lines_and_tracebacks(batch):
    log = (state_folder(batch) / "adatom.log").read_text(encoding="utf-8")
    assert re.search(r"^\d{4}-.* INFO done    a.npy: 1 atoms", log, re.MULTILINE)
    assert "ZeroDivisionError: somebody's bug" in log


def test_metrics_are_served_on_loopback_in_the_format_of_prometheus(batch):
    ledger = state_folder(batch) / LEDGER
    with serve_metrics(ledger, 0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
        with pytest.raises(OutputError, match="--metrics-port"), serve_metrics(ledger, port):
            pass
    with Ledger(ledger) as opened:
        assert text == metrics_text(opened)
    for line in ('adatom_scans{state="done"} 1', 'adatom_found{kind="atoms"} 1', 'adatom_found{kind="defects"} 0'):
        assert line in text.splitlines()
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) adatom_\w+ .+|adatom_\w+(\{\w+="[\w.]+"\})? (NaN|[\d.e+-]+)', line), line


def command(*words):
    return [sys.executable, "-m", "spm_runtime.cli", *map(str, words)]


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def running(tmp_path, save_scan):
    """A real watch that has just analysed its first scan: its process, those that work for it, the folder of results."""
    data, out = tmp_path / "data", tmp_path / "out"
    save_scan(data / "a.npy", shape=(64, 64))
    watch = subprocess.Popen(command("watch", data, "--out", out, "--poll-s", "0.1", "--device", "cpu"))
    try:
        wait_for((out / "a.npy" / "result.json").is_file)
        children = psutil.Process(watch.pid).children(recursive=True)
        assert children
        yield watch, children, out
    finally:
        watch.kill()
        watch.wait()


def have_ended(children):
    return not any(child.is_running() for child in children)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
def test_a_real_watch_ends_on_sigterm_and_leaves_no_process(running):
    watch, children, out = running
    watch.send_signal(signal.SIGTERM)
    assert watch.wait(60) == 0
    wait_for(lambda: have_ended(children))
    assert status_of(out)["counts"]["done"] == 1
    assert sorted(path.name for path in out.iterdir()) == [".adatom.lock", "a.npy", "index.html", "summary.csv"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_workers_of_a_killed_watch_end_too(running):
    watch, children, _ = running
    watch.kill()
    watch.wait()
    wait_for(lambda: have_ended(children))
    assert have_ended(children)
