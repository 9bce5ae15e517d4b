import csv
import os
import signal
import threading
from datetime import datetime

import numpy as np
import pytest

from spm_runtime import watch as watch_module
from spm_runtime.batch import Settings
from spm_runtime.errors import CannotOpenError, OutputError, ParameterError, ScanError
from spm_runtime.watch import settled, watch


class Stage:
    """Time that passes only when the watch sleeps; what happens meanwhile is a list of actions, one per sleep."""

    def __init__(self, tmp_path, fake) -> None:
        self.data, self.out, self.fake = tmp_path / "data", tmp_path / "out", fake
        self.data.mkdir()
        self.now = 0.0
        self.actions = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.actions:
            self.actions.pop(0)()
        else:
            signal.raise_signal(signal.SIGINT)

    def run(self, *actions, **options):
        self.actions = list(actions)
        facts = {
            "poll_s": 1.0,
            "give_up_s": 10.0,
            "clock": self.clock,
            "sleep": self.sleep,
            "analyse": self.fake,
        } | options
        return watch(self.data, self.out, facts.pop("settings", Settings()), **facts)

    def rows(self):
        with (self.out / "summary.csv").open(encoding="utf-8", newline="") as file:
            return {row["scan"]: row for row in csv.DictReader(file)}


@pytest.fixture
def stage(tmp_path, fake):
    return Stage(tmp_path, fake)


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
    assert failed == 1
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


def test_a_locked_file_is_tried_at_every_look(stage, save_scan, monkeypatch):
    path = save_scan(stage.data / "a.npy")
    from spm_runtime import batch

    real, locked = batch.find_reader, [True]

    def find_reader(file):
        if locked[0]:
            raise CannotOpenError(file, "cannot be opened", "a readable file", "Wait.")
        return real(file)

    monkeypatch.setattr(batch, "find_reader", find_reader)
    assert stage.run(nothing, nothing, lambda: locked.clear() or locked.append(False), nothing, nothing) == 0
    assert stage.fake.names == [path.name]


def test_a_file_that_will_never_be_an_image_is_reported_at_once_and_read_once(stage, save_scan, monkeypatch):
    save_scan(stage.data / "a.npy")
    from spm_runtime import batch

    asked = []

    def find_reader(file):
        asked.append(file.name)
        raise ScanError(file, "a series of spectra", "an image", "Open the image that was taken with it.")

    monkeypatch.setattr(batch, "find_reader", find_reader)
    assert stage.run(*[nothing] * 6) == 1
    assert asked == ["a.npy"]
    assert "spectra" in stage.rows()["a.npy"]["reason"]


def test_results_that_cannot_be_written_are_tried_again_less_and_less_often(stage, save_scan, monkeypatch, capsys):
    save_scan(stage.data / "a.npy")
    from spm_runtime import batch

    real, full, attempts, seen = batch.save_results, [True], [], []

    def save_results(*args, **options):
        attempts.append(stage.now)
        if full[0]:
            raise OSError(28, "No space left on device", "out/a.npy")
        return real(*args, **options)

    def look():
        seen.append(stage.rows()["a.npy"]["status"])
        full[0] = False

    monkeypatch.setattr(batch, "save_results", save_results)
    assert stage.run(*[nothing] * 20, look, *[nothing] * 20) == 0
    pauses = np.diff(attempts)
    assert pauses.tolist() == [1, 2, 4, 8, 16]
    assert seen == ["failed"]
    assert stage.rows()["a.npy"]["status"] == "done"
    printed = capsys.readouterr().out
    assert printed.count("No space left") == 1
    assert printed.count("done") == 1


def test_results_that_could_never_be_written_count_as_failed(stage, save_scan, monkeypatch):
    save_scan(stage.data / "a.npy")
    from spm_runtime import batch

    def save_results(*args, **options):
        raise PermissionError(13, "open in another program", "out/a.npy/atoms.csv")

    monkeypatch.setattr(batch, "save_results", save_results)
    assert stage.run(*[nothing] * 12) == 1
    assert stage.run(nothing, nothing, once=True) == 1  # nothing is waited for


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
        signal.raise_signal(number)
        return stage.fake(*args, **options)

    assert stage.run(*[nothing] * 9, analyse=analyse) == 0
    assert stage.fake.names == ["a.npy"]
    assert stage.rows()["a.npy"]["status"] == "done"
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

    def locked(path, content):
        raise PermissionError(13, "open in another program", str(path))

    monkeypatch.setattr(_report, "write_atomically", locked)
    save_scan(stage.data / "a.npy")
    assert stage.run(*[nothing] * 4) == 0
    assert (stage.out / "a.npy" / "result.json").is_file()
    assert "summary" in capsys.readouterr().out


def test_settled_yields_what_rests(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    sleeps = iter(
        [lambda: (tmp_path / "b").write_bytes(b"1"), lambda: (tmp_path / "a").write_bytes(b"22"), nothing, nothing]
    )
    looks = settled(tmp_path, wait=lambda: next(sleeps)(), tell=print)
    assert [sorted(path.name for path in next(looks)) for _ in range(3)] == [["a"], ["b"], ["a", "b"]]


def test_a_file_deleted_between_listing_and_stat_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"1")
    real = watch_module.walk

    def walk(folder, **options):
        for entry in real(folder, **options):
            (tmp_path / "a").unlink()
            yield entry

    monkeypatch.setattr(watch_module, "walk", walk)
    looks = settled(tmp_path, wait=nothing, tell=print)
    assert next(looks) == {}


def test_ten_thousand_files_cost_no_reading(stage, save_scan, monkeypatch):
    """Files that were dealt with are not opened again at later looks."""
    save_scan(stage.data / "a.npy")
    (stage.data / "notes.bin").write_bytes(b"x")
    opened = []
    real = watch_module.is_scan
    monkeypatch.setattr(watch_module, "is_scan", lambda path: (opened.append(path.name), real(path))[1])
    stage.run(*[nothing] * 8)
    assert sorted(opened) == ["a.npy", "notes.bin"]
    assert np.isfinite(stage.now)
