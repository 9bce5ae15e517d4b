import os
import signal
import threading
from datetime import datetime
from functools import partial

import numpy as np
import pytest

from spm_runtime.engine import analysis
from spm_runtime.engine import intake as intake_module
from spm_runtime.engine.intake import Intake
from spm_runtime.engine.jobs import Finished
from spm_runtime.engine.ledger import LEDGER, Ledger
from spm_runtime.engine.service import Service
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.state import state_folder
from spm_runtime.engine.status import retry_scans, status_of
from spm_runtime.engine.watch import watch
from spm_runtime.errors import CannotOpenError, DeviceError, OutputError, ParameterError, ScanError


def nothing():
    pass


def test_a_new_scan_is_analysed_once_it_rests(stage, save_scan):
    seen = []

    def add():
        save_scan(stage.data / "sub" / "a.npy")

    assert stage.run(nothing, add, lambda: seen.append(len(stage.fake.seen)), nothing, nothing) == 0
    assert seen == [0]  # at the first look it might still have grown
    assert stage.fake.names == ["a.npy"]
    assert (stage.out / "sub" / "a.npy" / "result.json").is_file()
    assert stage.rows()["sub/a.npy"]["status"] == "done"


def test_a_growing_file_is_left_alone_until_it_rests(stage, save_scan, tmp_path):
    content = save_scan(tmp_path / "whole.npy").read_bytes()
    target = stage.data / "a.npy"

    def grow(size):
        return lambda: target.write_bytes(content[:size])

    assert stage.run(*(grow(size) for size in (0, 100, 400, 900, len(content))), nothing, nothing) == 0
    assert stage.fake.names == ["a.npy"]


def test_a_pause_in_writing_is_no_failure(stage, save_scan, tmp_path, capsys):
    content = save_scan(tmp_path / "whole.npy").read_bytes()
    target = stage.data / "a.npy"

    def begin():
        target.write_bytes(content[:700])

    def end():
        target.write_bytes(content)

    assert stage.run(begin, nothing, nothing, nothing, end, nothing, nothing) == 0
    assert stage.rows()["a.npy"]["status"] == "done"
    assert "failed" not in capsys.readouterr().out


def test_a_damaged_file_is_reported_after_its_time_and_tried_again_when_it_changes(stage, save_scan, tmp_path, capsys):
    content = save_scan(tmp_path / "whole.npy").read_bytes()
    (stage.data / "a.npy").write_bytes(content[:700])
    before = []

    def look():
        before.append("a.npy" in stage.rows())

    def mend():
        (stage.data / "a.npy").write_bytes(content)

    waits = [nothing] * 8
    failed = stage.run(*waits, look, *[nothing] * 5, look, mend, nothing, nothing)
    assert before == [False, True]
    assert failed == 0
    assert capsys.readouterr().out.count("failed") == 1
    assert stage.rows()["a.npy"]["status"] == "done"


def test_files_that_are_no_scans_are_never_reported(stage):
    (stage.data / "notes.txt").write_text("hello", encoding="utf-8")
    (stage.data / "photo.png").write_bytes(b"not a picture")
    assert stage.run(*[nothing] * 15) == 0
    assert stage.rows() == {}


def test_a_failing_analysis_is_reported_at_once_and_only_once(stage, save_scan):
    save_scan(stage.data / "a.npy", -1)
    assert stage.run(*[nothing] * 6) == 1
    assert stage.fake.names == ["a.npy"]


def test_a_locked_file_is_tried_again_for_ever_and_costs_no_attempt(stage, save_scan, monkeypatch, capsys):
    save_scan(stage.data / "a.npy")
    real, locked, tries = analysis.fetch, [True], []

    def fetch(path, folder, **options):
        tries.append(stage.now)
        if locked[0]:
            raise CannotOpenError(path, "it cannot be opened (Permission denied)", "a readable file", "Wait.")
        return real(path, folder, **options)

    seen = []

    def look():
        seen.append(stage.scans()["a.npy"])
        locked[0] = False

    monkeypatch.setattr(analysis, "fetch", fetch)
    assert stage.run(*[nothing] * 1000, look, *[nothing] * 400) == 0
    assert stage.fake.names == ["a.npy"]
    assert np.round(np.diff(tries)).tolist() == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert (seen[0]["state"], seen[0]["attempts"]) == ("waiting", 0)
    assert "Permission denied" in seen[0]["reason"]
    assert capsys.readouterr().err.count("Permission denied") == 1


def test_a_file_that_will_never_be_an_image_is_reported_at_once_and_read_once(stage, save_scan, monkeypatch):
    save_scan(stage.data / "a.npy")
    asked = []

    def find_reader(file):
        asked.append(file.name)
        raise ScanError(file, "a series of spectra", "an image", "Open the image that was taken with it.")

    monkeypatch.setattr(analysis, "find_reader", find_reader)
    assert stage.run(*[nothing] * 6) == 1
    assert asked == ["a.npy"]
    assert "spectra" in stage.rows()["a.npy"]["reason"]


def test_results_that_cannot_be_written_are_tried_again_less_and_less_often(stage, save_scan, monkeypatch, capsys):
    save_scan(stage.data / "a.npy")
    real, full, attempts, seen = analysis.save_results, [True], [], []

    def save_results(*args, **options):
        attempts.append(stage.now)
        if full[0]:
            raise OSError(28, "No space left on device", "out/a.npy")
        return real(*args, **options)

    def look():
        seen.append(stage.scans()["a.npy"])
        full[0] = False

    monkeypatch.setattr(analysis, "save_results", save_results)
    assert stage.run(*[nothing] * 20, look, *[nothing] * 20) == 0
    assert np.round(np.diff(attempts)).tolist() == [1, 2, 4, 8, 16]
    assert (seen[0]["state"], seen[0]["attempts"]) == ("waiting", 0)
    assert "No space left" in seen[0]["reason"]
    assert stage.rows()["a.npy"]["status"] == "done"
    printed = capsys.readouterr()
    assert printed.err.count("No space left") == 1
    assert printed.out.count("done") == 1


def test_results_that_can_never_be_written_fail_when_nothing_is_waited_for(stage, save_scan, monkeypatch):
    save_scan(stage.data / "a.npy")

    def save_results(*args, **options):
        raise PermissionError(13, "open in another program", "out/a.npy/atoms.csv")

    monkeypatch.setattr(analysis, "save_results", save_results)
    assert stage.run(*[nothing] * 12) == 0
    assert stage.scans()["a.npy"]["state"] == "waiting"
    assert stage.run(*[nothing] * 12, once=True) == 1
    assert stage.scans()["a.npy"]["state"] == "failed"
    monkeypatch.undo()
    assert stage.run(*[nothing] * 4) == 0  # tried again: the scan was not to blame
    assert stage.scans()["a.npy"]["state"] == "done"


def test_once_deals_with_what_is_there_and_ends(stage, save_scan, tmp_path):
    save_scan(stage.data / "a.npy")
    save_scan(stage.data / "sub" / "b.npy")
    (stage.data / "cut.npy").write_bytes(save_scan(tmp_path / "whole.npy").read_bytes()[:700])
    assert stage.run(nothing, nothing, nothing, once=True) == 1
    assert stage.actions  # it ended by itself
    assert {name: row["status"] for name, row in stage.rows().items()} == {
        "a.npy": "done",
        "cut.npy": "failed",
        "sub/b.npy": "done",
    }


def test_once_waits_for_a_file_that_grows(stage, save_scan, tmp_path):
    content = save_scan(tmp_path / "whole.npy").read_bytes()

    def grow(size):
        return lambda: (stage.data / "a.npy").write_bytes(content[:size])

    stage.data.joinpath("a.npy").write_bytes(b"")
    assert stage.run(*(grow(size) for size in (100, 400, 900, len(content))), nothing, nothing, nothing, once=True) == 0
    assert stage.fake.names == ["a.npy"]


def test_what_is_done_is_not_done_again_by_the_next_watch(stage, save_scan):
    path = save_scan(stage.data / "a.npy")
    save_scan(stage.data / "s.npy", shape=(2, 24, 32))
    stage.run(nothing, nothing, once=True)
    assert len(stage.fake.seen) == 3
    earlier = stage.rows()["a.npy"]
    stage.run(nothing, nothing, once=True)
    assert len(stage.fake.seen) == 3
    assert stage.rows()["a.npy"] == earlier
    os.utime(path, ns=(1, 1))  # touched, not changed
    stage.run(nothing, nothing, once=True)
    assert len(stage.fake.seen) == 3
    save_scan(path, value=7.0)
    stage.run(nothing, nothing, once=True)
    assert len(stage.fake.seen) == 4
    stage.run(nothing, nothing, once=True, settings=Settings(params={"threshold": 0.1}))
    assert len(stage.fake.seen) == 7


def test_a_folder_of_results_inside_is_not_watched(stage, save_scan):
    stage.out = stage.data / "out"
    save_scan(stage.data / "a.npy")
    assert stage.run(*[nothing] * 6) == 0
    assert stage.fake.names == ["a.npy"]
    with pytest.raises(ParameterError, match="inside"):
        watch(stage.data, stage.data, Settings(), analyse=stage.fake)


def test_a_state_folder_inside_the_watched_one_is_refused(stage):
    with pytest.raises(ParameterError, match="--state"):
        stage.run(service=Service(state=stage.data / "state"))


def test_a_clock_that_is_set_back_keeps_no_scan_waiting(stage, save_scan, monkeypatch):
    save_scan(stage.data / "a.npy")
    real, jump = analysis.fetch, [0.0]

    def fetch(path, folder, **options):
        if not jump[0]:
            raise CannotOpenError(path, "it cannot be opened", "a readable file", "Wait.")
        return real(path, folder, **options)

    def set_back():
        jump[0] = -1e6

    monkeypatch.setattr(analysis, "fetch", fetch)
    assert stage.run(*[nothing] * 5, set_back, *[nothing] * 5, clock=lambda: stage.now + jump[0]) == 0
    assert stage.scans()["a.npy"]["state"] == "done"


def test_a_device_that_is_away_is_waited_for(stage, save_scan):
    save_scan(stage.data / "a.npy")
    calls = []

    def analyse(*args, **options):
        calls.append(stage.now)
        if len(calls) < 4:
            raise DeviceError("a GPU is required and none is usable")
        return stage.fake(*args, **options)

    assert stage.run(*[nothing] * 15, analyse=analyse) == 0
    assert stage.scans()["a.npy"]["state"] == "done"


def test_a_folder_of_results_that_cannot_be_made(stage, save_scan):
    stage.out = save_scan(stage.data / "a.npy") / "out"
    with pytest.raises(OutputError, match="cannot be made"):
        stage.run(nothing)


def test_since_leaves_older_files_alone(stage, save_scan):
    old, new = save_scan(stage.data / "old.npy"), save_scan(stage.data / "new.npy")
    moment = datetime(2026, 1, 31, 8, 0)
    os.utime(old, (moment.timestamp() - 1,) * 2)
    os.utime(new, (moment.timestamp() + 1,) * 2)
    stage.run(nothing, nothing, once=True, since=moment)
    assert stage.fake.names == ["new.npy"]


def test_a_vanished_folder_is_said_once_and_waited_for(stage, save_scan, capsys):
    save_scan(stage.data / "a.npy")
    away = stage.data.with_name("away")

    def unmount():
        stage.data.rename(away)

    def mount():
        away.rename(stage.data)
        save_scan(stage.data / "b.npy")

    assert stage.run(nothing, nothing, unmount, nothing, nothing, mount, nothing, nothing, nothing) == 0
    assert stage.fake.names == ["a.npy", "b.npy"]  # the first is not taken for new when it is back
    told = capsys.readouterr().err
    assert told.count("waiting for it") == 1
    assert told.count("is back") == 1


def test_scans_whose_turn_comes_while_the_share_is_away_are_done_when_it_is_back(stage, save_scan):
    for name in ("a.npy", "b.npy", "c.npy"):
        save_scan(stage.data / name)
    away = stage.data.with_name("away")
    states = []

    def analyse(scan, *args, **options):
        if not stage.fake.seen:
            stage.data.rename(away)
        return stage.fake(scan, *args, **options)

    def mount():
        states.extend(scan["state"] for scan in stage.scans().values())
        away.rename(stage.data)

    assert stage.run(*[nothing] * 5, mount, *[nothing] * 5, analyse=analyse) == 0
    assert sorted(states) == ["done", "gone", "gone"]
    assert [scan["state"] for scan in stage.scans().values()] == ["done"] * 3


def test_a_file_that_is_away_between_two_looks_is_not_lost(stage, save_scan, monkeypatch):
    path = save_scan(stage.data / "a.npy")
    real = analysis.look_at
    tries = []

    def look_at(file):
        tries.append(file)
        if len(tries) == 1:
            raise FileNotFoundError(2, "No such file or directory", str(file))
        return real(file)

    monkeypatch.setattr(analysis, "look_at", look_at)
    monkeypatch.setattr(analysis.os.path, "exists", lambda file: len(tries) != 1 and os.path.lexists(file))
    assert stage.run(*[nothing] * 6) == 0
    assert path.is_file()
    assert stage.scans()["a.npy"]["state"] == "done"


def test_a_share_that_hangs_holds_up_nothing_else(stage, save_scan, monkeypatch):
    """The signal comes while the look hangs; what was found before is analysed and reported."""
    real, hangs, answers = intake_module.walk, threading.Event(), threading.Event()

    def walk(folder, **options):
        yield from real(folder, **options)
        if hangs.is_set():
            answers.wait(60)

    monkeypatch.setattr(intake_module, "walk", walk)
    monkeypatch.setattr(intake_module, "AT_ONCE_S", 0.05)
    save_scan(stage.data / "a.npy")
    try:
        assert stage.run(hangs.set, *[nothing] * 4) == 0
    finally:
        answers.set()
    assert stage.rows()["a.npy"]["status"] == "done"


def test_files_behind_a_link_that_leads_in_a_circle_are_found(stage, save_scan):
    save_scan(stage.data / "a.npy")
    save_scan(stage.data / "c.npy")
    try:
        (stage.data / "b.npy").symlink_to(stage.data / "b.npy")
    except OSError:
        pytest.skip("links need rights here")
    assert stage.run(*[nothing] * 4, once=True) == 0
    assert sorted(stage.fake.names) == ["a.npy", "c.npy"]


def test_a_folder_that_is_not_there_is_refused(stage):
    with pytest.raises(ParameterError, match="no such folder"):
        watch(stage.data / "nowhere", stage.out, Settings(), analyse=stage.fake)


def test_once_does_not_pass_over_a_folder_that_vanishes(stage, save_scan):
    save_scan(stage.data / "a.npy")
    with pytest.raises(CannotOpenError, match="cannot be listed"):
        stage.run(lambda: stage.data.rename(stage.data.with_name("away")), nothing, once=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_let_the_scan_in_hand_finish(stage, save_scan, number):
    for name in ("a.npy", "b.npy"):
        save_scan(stage.data / name)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def analyse(*args, **options):
        if not stage.fake.seen:
            signal.raise_signal(number)
        return stage.fake(*args, **options)

    assert stage.run(*[nothing] * 9, analyse=analyse) == 0
    assert len(stage.fake.names) == 1
    assert stage.rows()[stage.fake.names[0]]["status"] == "done"
    assert sorted(scan["state"] for scan in stage.scans().values()) == ["done", "waiting"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_it_runs_in_a_thread_that_may_not_handle_signals(stage, save_scan):
    save_scan(stage.data / "a.npy")
    failed = []
    thread = threading.Thread(target=lambda: failed.append(stage.run(nothing, nothing, nothing, once=True)))
    thread.start()
    thread.join()
    assert failed == [0]


def test_a_summary_that_cannot_be_written_does_not_end_the_watch(stage, save_scan, monkeypatch, capsys):
    from spm_runtime.results import _report

    def locked(path, **options):
        raise PermissionError(13, "open in another program", str(path))

    monkeypatch.setattr(_report, "replacing", locked)
    save_scan(stage.data / "a.npy")
    assert stage.run(*[nothing] * 40) == 0
    assert (stage.out / "a.npy" / "result.json").is_file()
    assert capsys.readouterr().out.count("the summary cannot be written") == 1


def look_at(folder, **options):
    return Intake(folder, tell=print, clock=lambda: 0.0, **options)


def test_an_intake_gives_out_what_rests_once(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    intake, names = look_at(tmp_path), []
    for action in (
        nothing, lambda: (tmp_path / "b").write_bytes(b"1"), lambda: (tmp_path / "a").write_bytes(b"22"), nothing, nothing,
    ):  # fmt: skip
        names.append(sorted(found.job.name for found in intake.look()))
        action()
    assert names == [[], ["a"], [], ["b"], ["a"]]
    list(intake.look())
    assert intake.rests


def test_a_file_deleted_between_listing_and_stat_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"1")
    real = intake_module.walk

    def walk(folder, **options):
        for entry in real(folder, **options):
            (tmp_path / "a").unlink()
            yield entry

    monkeypatch.setattr(intake_module, "walk", walk)
    intake = look_at(tmp_path)
    assert [*intake.look(), *intake.look()] == []


@pytest.mark.parametrize(
    ("written_s", "expected"),
    [(3.0, 3.0), (5.5, 5.0), (-1e6, 0.0), (1e6, 0.0)],
    ids=["its own", "fast", "old", "future"],
)
def test_when_the_last_byte_was_written(tmp_path, written_s, expected):
    now = iter([0.0, 5.0, 6.0])
    intake = Intake(tmp_path, tell=print, clock=lambda: next(now))
    list(intake.look())
    (tmp_path / "a").write_bytes(b"1")
    os.utime(tmp_path / "a", ns=(0, int(written_s * 1e9)))
    assert list(intake.look()) == []
    (found,) = intake.look()
    assert found.changed_s == expected


def test_a_file_that_was_there_from_the_beginning_has_no_latency(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    intake = look_at(tmp_path)
    list(intake.look())
    (found,) = intake.look()
    assert found.changed_s is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_no_terminal_can_show_are_told_apart(tmp_path):
    for name in ("a\nb.npy", "a\tb.npy", "a b.npy"):
        (tmp_path / name).write_bytes(b"1")
    intake = look_at(tmp_path)
    list(intake.look())
    names = {found.job.name for found in intake.look()}
    assert len(names) == 3
    assert "a b.npy" in names


def test_ten_thousand_files_cost_no_reading(stage, save_scan, monkeypatch):
    """Files that were dealt with are not opened again at later looks, nor by the next watch."""
    save_scan(stage.data / "a.npy")
    (stage.data / "notes.bin").write_bytes(b"x")
    opened = []
    real = analysis.look_at
    monkeypatch.setattr(analysis, "look_at", lambda path: (opened.append(path.name), real(path))[1])
    stage.run(*[nothing] * 8)
    stage.run(*[nothing] * 8)
    assert sorted(opened) == ["a.npy", "notes.bin"]


def test_a_crash_costs_an_attempt_and_three_of_them_mean_quarantine(stage, save_scan, capsys):
    save_scan(stage.data / "crash.npy", -3)
    save_scan(stage.data / "a.npy")
    assert stage.run(*[nothing] * 20) == 1
    assert sorted(stage.fake.names) == ["a.npy", *["crash.npy"] * 3]
    scan = stage.scans()["crash.npy"]
    assert (scan["state"], scan["attempts"], scan["traceback"]) == ("quarantined", 3, "the stack")
    assert "died" in stage.rows()["crash.npy"]["reason"]
    assert stage.run(*[nothing] * 6) == 1
    assert len(stage.fake.names) == 4  # it stays in quarantine


def test_a_retry_is_taken_up_while_the_watch_runs(stage, save_scan):
    save_scan(stage.data / "crash.npy", -3)
    states = []

    def ask():
        assert retry_scans(stage.out, ["crash.npy"]) == ["crash.npy"]
        states.append(stage.scans()["crash.npy"])

    assert stage.run(*[nothing] * 10, ask, *[nothing] * 10, service=Service(attempts=2)) == 1
    assert len(stage.fake.names) == 4
    assert (states[0]["state"], states[0]["attempts"]) == ("waiting", 0)
    with pytest.raises(ParameterError, match="no such failed scan"):
        retry_scans(stage.out, ["nothing.npy"])


def test_a_scan_that_is_rewritten_is_analysed_again_and_leaves_quarantine(stage, save_scan):
    path = save_scan(stage.data / "a.npy", -3)
    assert stage.run(*[nothing] * 15, lambda: save_scan(path, value=2.0), *[nothing] * 3) == 0
    scan = stage.scans()["a.npy"]
    assert (scan["state"], scan["version"], scan["analyses"], scan["attempts"]) == ("done", 2, 1, 0)


def test_a_scan_that_changes_while_it_is_analysed_is_analysed_again(stage, save_scan):
    path = save_scan(stage.data / "a.npy")
    done = []

    def analyse(*args, **options):
        result = stage.fake(*args, **options)
        if not done:
            save_scan(path, value=9.0, shape=(32, 32))
        done.append(result)
        return result

    assert stage.run(*[nothing] * 8, analyse=analyse) == 0
    assert [scan.shape for scan in stage.fake.seen] == [(24, 32), (32, 32)]


def test_a_scan_that_changed_while_it_was_analysed_is_not_forgotten_by_a_crash(stage, save_scan, make_inline):
    """The result is complete and a new version of the file was seen, but nobody has written either down."""
    path = save_scan(stage.data / "a.npy")

    class Slow(make_inline):
        def wait(self, timeout_s):
            self._sleep(timeout_s)
            events, self._events = self._events, []
            return [event for event in events if not isinstance(event, Finished)]  # the scan stays in hand

    def rewrite():
        save_scan(path, value=9.0, shape=(32, 32))

    with pytest.raises(KeyboardInterrupt):
        stage.run(*[nothing] * 4, rewrite, *[nothing] * 4, lambda: signal.raise_signal(signal.SIGINT),
                  make_pool=partial(Slow, sleep=stage.sleep))  # fmt: skip
    with Ledger(state_folder(stage.out) / LEDGER) as ledger:
        ledger.connection.execute("UPDATE scans SET state = 'working'")  # as if it had been killed
    assert (stage.out / "a.npy" / "result.json").is_file()
    assert stage.run(*[nothing] * 6) == 0
    assert [scan.shape for scan in stage.fake.seen] == [(24, 32), (32, 32)]


def test_a_scan_that_vanishes_is_listed_and_taken_up_when_it_is_back(stage, save_scan):
    path = save_scan(stage.data / "a.npy")
    save_scan(stage.data / "b.npy")
    away = path.with_name("moved.tmp")
    states = []

    def analyse(scan, *args, **options):
        if scan.path.name == "b.npy" and path.exists():
            path.rename(away)
        return stage.fake(scan, *args, **options)

    def back():
        states.append(stage.scans()["a.npy"])
        away.rename(path)

    os.utime(path, (1, 1))  # the older one: it is taken last
    assert stage.run(*[nothing] * 5, back, *[nothing] * 5, analyse=analyse) == 0
    assert states[0]["state"] == "gone"
    assert "vanished" in states[0]["reason"]
    assert stage.scans()["a.npy"]["state"] == "done"


def test_a_disk_that_is_nearly_full_pauses_the_work_and_is_said_once(stage, save_scan, monkeypatch, capsys):
    from spm_runtime.engine import supervisor

    free, seen = [10_000_000], []
    monkeypatch.setattr(supervisor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": free[0]}))
    save_scan(stage.data / "a.npy")

    def more():
        seen.append((len(stage.fake.names), status_of(stage.out)["paused"]))
        free[0] = 10**12

    assert stage.run(*[nothing] * 9, more, *[nothing] * 6) == 0
    assert seen[0][0] == 0
    assert "nearly full" in seen[0][1]
    assert stage.fake.names == ["a.npy"]
    told = capsys.readouterr().err
    assert told.count("nearly full") == 1
    assert told.count("going on") == 1
    assert status_of(stage.out)["paused"] == ""


def test_a_share_of_results_that_goes_away_pauses_the_work(stage, save_scan, capsys):
    away = stage.out.with_name("away")

    def unmount():
        stage.out.rename(away)
        stage.out.mkdir()  # the empty folder that a share leaves
        save_scan(stage.data / "b.npy")

    def mount():
        assert not list(stage.out.iterdir())
        stage.out.rmdir()
        away.rename(stage.out)

    save_scan(stage.data / "a.npy")
    assert stage.run(*[nothing] * 3, unmount, *[nothing] * 4, mount, *[nothing] * 4) == 0
    assert {scan["state"] for scan in stage.scans().values()} == {"done"}
    assert capsys.readouterr().err.count("is away") == 1


@pytest.mark.parametrize(("order", "names"), [("newest", ["new.npy", "old.npy"]), ("oldest", ["old.npy", "new.npy"])])
def test_the_newest_scan_comes_first_unless_told_otherwise(stage, save_scan, order, names):
    for index, name in enumerate(["old.npy", "new.npy"]):
        os.utime(save_scan(stage.data / name), (1e9 + index, 1e9 + index))
    stage.run(*[nothing] * 4, order=order)
    assert stage.fake.names == names


def test_two_watches_never_share_results(stage, save_scan, tmp_path):
    seen = []

    def second():
        with pytest.raises(OutputError, match=rf"process {os.getpid()} on .* since"):
            watch(stage.data, stage.out, Settings(), analyse=stage.fake)
        seen.append(status_of(stage.out)["running"])

    stage.run(nothing, second, nothing)
    assert seen[0]["pid"] == os.getpid()
    assert status_of(stage.out)["running"] is None


def test_results_of_a_process_that_died_are_taken_over(stage, save_scan):
    """The ledger is brought back to a moment when the result was complete and not written down yet."""
    save_scan(stage.data / "done.npy")
    save_scan(stage.data / "begun.npy")
    stage.run(*[nothing] * 4)
    (stage.out / "begun.npy" / "result.json").unlink()
    (stage.out / ".partial-work" / ".partial-xyz").mkdir(parents=True)
    staging = state_folder(stage.out) / "staging" / "worker-1-1"
    staging.mkdir(parents=True)
    with Ledger(state_folder(stage.out) / LEDGER) as ledger:
        ledger.connection.execute("UPDATE scans SET state = 'working', analyses = 0")
        ledger.connection.execute("DELETE FROM images")
    (stage.out / "summary.csv").unlink()
    stage.fake.seen.clear()
    stage.run(*[nothing] * 4)
    assert stage.fake.names == ["begun.npy"]
    scans = stage.scans()
    assert {name: (scan["state"], scan["interruptions"], scan["analyses"]) for name, scan in scans.items()} == {
        "done.npy": ("done", 0, 1), "begun.npy": ("done", 1, 1),
    }  # fmt: skip
    assert set(stage.rows()) == set(scans)
    assert not staging.exists()
    assert not list(stage.out.glob(".partial*"))


def test_a_lost_ledger_is_made_from_the_results(stage, save_scan, capsys):
    save_scan(stage.data / "a.npy")
    save_scan(stage.data / "s.npy", shape=(2, 24, 32))
    stage.run(*[nothing] * 4)
    ledger = state_folder(stage.out) / LEDGER
    for damage in (lambda: ledger.unlink(), lambda: ledger.write_bytes(b"garbage" * 1000)):
        for extra in ("-wal", "-shm"):
            ledger.with_name(ledger.name + extra).unlink(missing_ok=True)
        damage()
        stage.fake.seen.clear()
        stage.run(*[nothing] * 4)
        assert stage.fake.seen == []
        assert {scan["state"] for scan in stage.scans().values()} == {"done"}
    assert "damaged" in capsys.readouterr().err


def test_a_result_that_was_deleted_is_made_again_at_the_next_start(stage, save_scan):
    save_scan(stage.data / "a.npy")
    stage.run(*[nothing] * 4)
    (stage.out / "a.npy" / "result.json").unlink()
    stage.run(*[nothing] * 4)
    assert stage.fake.names == ["a.npy", "a.npy"]


def test_a_second_signal_stops_at_once_and_costs_nothing(stage, save_scan):
    save_scan(stage.data / "a.npy")

    def analyse(*args, **options):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        stage.run(*[nothing] * 4, analyse=analyse)
    scan = stage.scans()["a.npy"]
    assert (scan["state"], scan["attempts"], scan["interruptions"]) == ("waiting", 0, 0)
    assert stage.run(*[nothing] * 4) == 0


def test_status_tells_latency_and_provider(stage, save_scan):
    stage.run(nothing, lambda: save_scan(stage.data / "a.npy"), *[nothing] * 4)
    facts = status_of(stage.out)
    assert facts["counts"]["done"] == 1
    assert facts["provider"] == "CPUExecutionProvider"
    assert facts["latency_s"]["scans"] == 1
    assert 1.0 <= facts["latency_s"]["p50"] <= 3.5  # two looks
    assert facts["oldest_waiting"] is None
