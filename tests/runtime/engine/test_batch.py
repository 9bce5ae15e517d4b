import csv
import hashlib
import json
import logging
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from spm_runtime.engine import analysis, settings, staging
from spm_runtime.engine.analysis import process
from spm_runtime.engine.batch import run_batch as run_in_processes
from spm_runtime.engine.jobs import Job, Stamp
from spm_runtime.engine.settings import Settings
from spm_runtime.errors import CorruptScanError, DeviceError, ModelError, OutputError, ParameterError
from spm_runtime.pipelines import PIPELINES
from spm_runtime.readers import open_scan
from spm_runtime.scan import Scan


@pytest.fixture
def run_batch(make_inline):
    """A batch in this process."""
    return partial(run_in_processes, make_pool=make_inline)


def rows_of(out):
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        return {row["scan"] + (f"#{row['frame']}" if row["frame"] else ""): row for row in csv.DictReader(file)}


def document_of(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def test_bad_files_do_not_end_a_batch(tmp_path, save_scan, fake, capsys, caplog, run_batch):
    data, out = tmp_path / "data", tmp_path / "out"
    save_scan(data / "a.npy")
    save_scan(data / "model.npy", -1)
    save_scan(data / "bug.npy", -2)
    save_scan(data / "sub" / "z.npy")
    (data / "cut.npy").write_bytes((data / "a.npy").read_bytes()[:300])
    (data / "notes.txt").write_text("hello", encoding="utf-8")
    with caplog.at_level(logging.ERROR):
        assert run_batch([data], out, Settings(), analyse=fake) == 3
    rows = rows_of(out)
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.npy": "done", "bug.npy": "failed", "cut.npy": "failed", "model.npy": "failed", "sub/z.npy": "done",
    }  # fmt: skip
    assert "the model cannot do this" in rows["model.npy"]["reason"]
    assert "ZeroDivisionError" in rows["bug.npy"]["reason"]
    assert "cut.npy" in rows["cut.npy"]["reason"]
    printed = capsys.readouterr().out
    for name in rows:
        assert sum(f" {name}:" in line for line in printed.splitlines()) == 1
    assert "notes.txt" not in printed
    assert "somebody's bug" in caplog.text
    assert "Traceback" in caplog.text
    assert "somebody&#x27;s bug" in (out / "index.html").read_text(encoding="utf-8")


def test_verbose_names_what_is_no_scan(tmp_path, fake, capsys, run_batch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("hello", encoding="utf-8")
    assert run_batch([tmp_path / "data"], tmp_path / "out", Settings(), verbose=True, analyse=fake) == 0
    printed = capsys.readouterr().out
    assert "notes.txt" in printed
    assert "no scans found" in printed
    assert (tmp_path / "out" / "index.html").is_file()


def test_results_say_where_they_come_from_and_the_scan_is_untouched(tmp_path, save_scan, fake, run_batch):
    path = save_scan(tmp_path / "data" / "sub" / "a.npy")
    content = path.read_bytes()
    path.chmod(0o444)
    before = path.stat()
    run_batch([tmp_path / "data"], tmp_path / "out", Settings(), analyse=fake)
    document = document_of(tmp_path / "out" / "sub" / "a.npy")
    assert document["scan"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert document["scan"]["name"] == "sub/a.npy"
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_every_frame_of_a_stack_has_its_own_folder(tmp_path, save_scan, fake, run_batch):
    save_scan(tmp_path / "s.npy", shape=(3, 24, 32))
    run_batch([tmp_path / "s.npy"], tmp_path / "out", Settings(), analyse=fake)
    frames = sorted(
        path.parent.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("result.json")
    )
    assert frames == ["s.npy/frame-000", "s.npy/frame-001", "s.npy/frame-002"]
    assert [document_of(tmp_path / "out" / frame)["scan"]["frame"] for frame in frames] == [0, 1, 2]
    assert list(rows_of(tmp_path / "out")) == ["s.npy#0", "s.npy#1", "s.npy#2"]


def test_a_stack_that_is_rewritten_leaves_no_older_frames(tmp_path, save_scan, fake, run_batch):
    out, path = tmp_path / "out", tmp_path / "s.npy"
    save_scan(path, shape=(4, 24, 32))
    run_batch([path], out, Settings(), analyse=fake)
    results = out / "s.npy"
    (results / "frame-003" / "notes.txt").write_text("mine", encoding="utf-8")
    (results / "frame-007").mkdir()
    (results / "frame-007" / "mine.tif").write_bytes(b"x")  # no result of this program
    other = results / "frame-009"
    shutil.copytree(results / "frame-001", other)
    document = document_of(other)
    document["scan"]["name"] = "other.npy"
    (other / "result.json").write_text(json.dumps(document), encoding="utf-8")

    save_scan(path, value=2.0, shape=(2, 24, 32))
    assert run_batch([path], out, Settings(), analyse=fake) == 0
    assert sorted(place.relative_to(results).as_posix() for place in results.glob("*/result.json")) == [
        "frame-000/result.json", "frame-001/result.json", "frame-009/result.json",
    ]  # fmt: skip
    assert not (results / "frame-002").exists()
    assert [file.name for file in (results / "frame-003").iterdir()] == ["notes.txt"]
    assert (results / "frame-007" / "mine.tif").is_file()


def test_a_stack_that_becomes_an_image_and_one_again(tmp_path, save_scan, fake, run_batch):
    out, path = tmp_path / "out", tmp_path / "s.npy"
    for shape, there in (
        ((2, 24, 32), ["frame-000/result.json", "frame-001/result.json"]),
        ((24, 32), ["result.json"]),
        ((3, 24, 32), ["frame-000/result.json", "frame-001/result.json", "frame-002/result.json"]),
    ):
        save_scan(path, value=float(len(shape)), shape=shape)
        run_batch([path], out, Settings(), analyse=fake)
        results = out / "s.npy"
        assert sorted(place.relative_to(results).as_posix() for place in results.rglob("result.json")) == there
        assert results.joinpath("overlay.png").exists() == (there == ["result.json"])


def test_a_stack_that_is_cut_off_removes_nothing(tmp_path, save_scan, fake, run_batch, monkeypatch):
    from spm_runtime.engine import analysis

    out, path = tmp_path / "out", save_scan(tmp_path / "s.npy", shape=(3, 24, 32))
    run_batch([path], out, Settings(), analyse=fake)
    real = analysis.read_scans

    def read_scans(file):
        scans = real(file)
        yield next(scans)
        raise CorruptScanError(file, "its end", "more frames", "Copy it again.")

    monkeypatch.setattr(analysis, "read_scans", read_scans)
    save_scan(path, value=2.0, shape=(3, 24, 32))
    assert run_batch([path], out, Settings(), analyse=fake) == 1
    assert len(list(out.glob("s.npy/frame-*/result.json"))) == 3


def test_one_bad_frame_leaves_the_others(tmp_path, save_scan, fake, run_batch):
    path = save_scan(tmp_path / "s.npy", shape=(3, 24, 32))
    stack = np.load(path)
    stack[1, 0, 0] = -1
    np.save(path, stack)
    assert run_batch([path], tmp_path / "out", Settings(), analyse=fake) == 1
    assert [row["status"] for row in rows_of(tmp_path / "out").values()] == ["done", "failed", "done"]


def test_the_users_pixel_size_replaces_the_files(tmp_path, save_scan, fake, run_batch):
    path = save_scan(tmp_path / "a.npy")
    run_batch([path], tmp_path / "out", Settings(pixel_size_nm=0.05), analyse=fake)
    assert fake.seen[0].pixel_size_nm == (0.05, 0.05)
    assert rows_of(tmp_path / "out")["a.npy"]["spacing_nm"] == "0.2"
    calibrated = Scan(np.ones((4, 4), np.float32), pixel_size_nm=(0.1, 0.2))
    (warning,) = analysis._calibrated(calibrated, 0.05).warnings
    assert "0.05" in warning
    assert "0.1 × 0.2" in warning
    assert analysis._calibrated(calibrated, None) is calibrated


def test_a_channel_that_is_not_there_is_said(tmp_path, save_scan, fake, run_batch):
    save_scan(tmp_path / "a.npy")
    assert run_batch([tmp_path / "a.npy"], tmp_path / "out", Settings(channel="Current"), analyse=fake) == 1
    assert "Current" in rows_of(tmp_path / "out")["a.npy"]["reason"]


@pytest.mark.parametrize(
    ("modality", "task"), [("stm", "atoms"), ("stem", "atoms"), ("unknown", "atoms"), ("afm", "restore")]
)
def test_the_modality_chooses_the_task(tmp_path, save_scan, fake, monkeypatch, modality, task):
    path = save_scan(tmp_path / "a.npy")
    scan = Scan(np.ones((8, 8), np.float32), modality=modality, path=path)
    monkeypatch.setattr(analysis, "open_scan", lambda *args, **kwargs: scan)
    monkeypatch.setattr(settings, "list_models", lambda: [Path("atoms")])
    (outcome,) = process(Job(path, "a.npy"), tmp_path / "out", Settings(), analyse=fake)
    assert outcome.status == "done"
    assert list(outcome.document["tasks"]) == [task]


def test_a_modality_whose_task_this_version_cannot_do_is_skipped(tmp_path, save_scan, fake, monkeypatch):
    path = save_scan(tmp_path / "a.npy")
    scan = Scan(np.ones((8, 8), np.float32), modality="afm", path=path)
    monkeypatch.setattr(analysis, "open_scan", lambda *args, **kwargs: scan)
    monkeypatch.setattr(settings, "PIPELINES", {"atoms": None, "defects": None})
    (outcome,) = process(Job(path, "a.npy"), tmp_path / "out", Settings(), analyse=fake)
    assert outcome.status == "skipped"
    assert outcome.reason == f"no task for AFM images yet; choose one with --task {' or '.join(PIPELINES)}"
    (outcome,) = process(Job(path, "a.npy"), tmp_path / "out", Settings(tasks=("atoms",)), analyse=fake)
    assert outcome.counts == {"atoms": 1}


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"tasks": ("strain",)}, "strain"), ({"tasks": ("magic",)}, "magic"), ({"pixel_size_nm": -1.0}, "pixel"),
        ({"pixel_size_nm": float("nan")}, "pixel"), ({"jobs": 0}, "jobs"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_met_are_refused(facts, word):
    with pytest.raises(ParameterError, match=word):
        Settings(**facts)


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"params": {"treshold": 0.1}}, ParameterError),
        ({"params": {"threshold": 7.0}}, ParameterError),
        ({"model": "x"}, ModelError),
    ],
)
def test_what_would_fail_for_every_scan_is_said_before_the_first(tmp_path, save_scan, fake, facts, error, run_batch):
    save_scan(tmp_path / "a.npy")
    with pytest.raises(error):
        run_batch([tmp_path / "a.npy"], tmp_path / "out", Settings(**facts), analyse=fake)
    assert not fake.seen


def test_a_device_that_does_not_run_is_raised_after_the_summary(tmp_path, save_scan, fake, run_batch):
    def analyse(scan, task, **options):
        raise DeviceError("no GPU here")

    save_scan(tmp_path / "a.npy")
    with pytest.raises(DeviceError, match="no GPU here"):
        run_batch([tmp_path / "a.npy"], tmp_path / "out", Settings(), analyse=analyse)
    assert rows_of(tmp_path / "out")["a.npy"]["reason"] == "no GPU here"


def test_a_file_that_changes_meanwhile_is_not_believed(tmp_path, save_scan, fake, monkeypatch):
    path = save_scan(tmp_path / "a.npy")
    real = staging._copy

    def slow(*args):
        real(*args)
        save_scan(path, value=5.0, shape=(32, 32))

    monkeypatch.setattr(staging, "_copy", slow)
    (outcome,) = process(Job(path, "a.npy"), tmp_path / "out", Settings(), analyse=fake)
    assert (outcome.status, outcome.error) == ("failed", "CannotOpenError")
    assert "changed" in outcome.reason


def test_a_file_that_is_not_what_was_found_is_not_analysed(tmp_path, save_scan, fake):
    path = save_scan(tmp_path / "a.npy")
    (outcome,) = process(Job(path, "a.npy", stamp=Stamp(1, 1)), tmp_path / "out", Settings(), analyse=fake)
    assert outcome.error == "CannotOpenError"
    assert not fake.seen


def test_a_full_disk_is_no_fault_of_the_program(tmp_path, save_scan, fake, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "out/a.npy")

    monkeypatch.setattr(analysis, "save_results", full)
    (outcome,) = process(Job(save_scan(tmp_path / "a.npy"), "a.npy"), tmp_path / "out", Settings(), analyse=fake)
    assert "No space left" in outcome.reason
    assert not outcome.traceback


def test_an_interrupted_batch_leaves_a_summary(tmp_path, save_scan, fake, run_batch):
    save_scan(tmp_path / "data" / "a.npy")
    save_scan(tmp_path / "data" / "b.npy")

    def analyse(scan, task, **options):
        if scan.path.name == "b.npy":
            raise KeyboardInterrupt
        return fake(scan, task, **options)

    with pytest.raises(KeyboardInterrupt):
        run_batch([tmp_path / "data"], tmp_path / "out", Settings(), analyse=analyse)
    assert list(rows_of(tmp_path / "out")) == ["a.npy"]


def test_a_pipeline_reads_more_of_the_file_from_its_copy(tmp_path, save_scan, fake):
    path = save_scan(tmp_path / "day 1" / "a.npy", value=2.0)
    read = []

    def analyse(scan, task, **options):
        path.unlink()  # a share that goes away meanwhile
        read.append(open_scan(scan.path).image.max())
        return fake(scan, task, **options)

    (outcome,) = process(Job(path, "day 1/a.npy"), tmp_path / "out", Settings(), analyse=analyse)
    assert outcome.status == "done"
    assert read == [3.0]
    assert document_of(tmp_path / "out" / "day 1" / "a.npy")["scan"]["file"] == "a.npy"


def test_results_that_are_there_are_kept_only_when_nothing_differs(tmp_path, save_scan, fake, package):
    path = save_scan(tmp_path / "a.npy")

    def again(settings=Settings(), skip_done=True):  # noqa: B008 - frozen
        fake.seen.clear()
        (outcome,) = process(Job(path, "a.npy"), tmp_path / "out", settings, analyse=fake, skip_done=skip_done)
        assert outcome.status == "done"
        assert outcome.reused == (not fake.seen)
        return outcome.reused

    assert not again()
    assert again()
    assert not again(skip_done=False)
    assert not again(Settings(params={"threshold": 0.25}))
    assert again(Settings(params={"threshold": 0.25}))
    assert not again(Settings(pixel_size_nm=0.1))
    assert not again(Settings(gwy=True))
    assert again(Settings(gwy=True))
    (tmp_path / "out" / "a.npy" / "atoms.csv").unlink()
    assert not again()
    (package / "rdf.yaml").write_text(
        (package / "rdf.yaml").read_text(encoding="utf-8").replace("ab" * 32, "cd" * 32), encoding="utf-8"
    )
    assert not again()
    save_scan(path, value=3.0)
    assert not again()
    assert again()


@pytest.mark.parametrize(
    ("fact", "value"),
    [("unit", "V"), ("modality", "stm"), ("offset_nm", [1.0, 2.0]), ("angle_deg", 30.0), ("warnings", ["w"])],
)
def test_a_reader_that_reads_more_than_before_makes_results_new(tmp_path, save_scan, fake, fact, value):
    job = Job(save_scan(tmp_path / "a.npy"), "a.npy")
    process(job, tmp_path / "out", Settings(), analyse=fake)
    document = document_of(tmp_path / "out" / "a.npy")
    assert document["scan"][fact] != value
    document["scan"][fact] = value
    (tmp_path / "out" / "a.npy" / "result.json").write_text(json.dumps(document), encoding="utf-8")
    (outcome,) = process(job, tmp_path / "out", Settings(), analyse=fake, skip_done=True)
    assert not outcome.reused


def test_another_version_makes_results_new(tmp_path, save_scan, fake, monkeypatch):
    job = Job(save_scan(tmp_path / "a.npy"), "a.npy")
    process(job, tmp_path / "out", Settings(), analyse=fake)
    monkeypatch.setattr(analysis, "__version__", "99.0")
    (outcome,) = process(job, tmp_path / "out", Settings(), analyse=fake, skip_done=True)
    assert not outcome.reused


def test_the_scans_own_folder_is_no_folder_for_results(tmp_path, save_scan, fake, run_batch):
    path = save_scan(tmp_path / "data" / "sub" / "a.npy")
    content = path.read_bytes()
    with pytest.raises(
        ParameterError, match=r"--out .*data: the results of .*a\.npy would go to .*a\.npy.*choose another"
    ):
        run_batch([tmp_path / "data"], tmp_path / "data", Settings(), analyse=fake)
    with pytest.raises(ParameterError, match="that is a file"):
        run_batch([path], path.parent, Settings(), analyse=fake)
    assert not fake.seen
    assert path.read_bytes() == content
    assert run_batch([tmp_path / "data"], tmp_path / "data" / "out", Settings(), analyse=fake) == 0


def test_a_result_of_another_scan_of_the_same_name_is_not_replaced_in_silence(
    tmp_path, save_scan, fake, capsys, run_batch
):
    first = save_scan(tmp_path / "monday" / "a.npy")
    second = save_scan(tmp_path / "tuesday" / "a.npy", value=2.0)
    out, words = tmp_path / "out", "replaces the result of another scan of the same name"
    for path, replaces in ((first, False), (first, False), (second, True), (second, False)):
        run_batch([path.parent], out, Settings(), analyse=fake, again=True)
        assert (words in capsys.readouterr().out) == replaces
        assert (words in rows_of(out)["a.npy"]["warnings"]) == replaces
        assert (words in str(document_of(out / "a.npy")["tasks"]["atoms"]["warnings"])) == replaces
    run_batch([first.parent], out, Settings(), analyse=fake)
    assert hashlib.sha256(second.read_bytes()).hexdigest()[:12] in rows_of(out)["a.npy"]["warnings"]


def test_a_folder_of_results_that_cannot_be_made(tmp_path, save_scan, fake, run_batch):
    path = save_scan(tmp_path / "a.npy")
    with pytest.raises(OutputError, match=r"--out .*cannot be made"):
        run_batch([path], path / "out", Settings(), analyse=fake)
