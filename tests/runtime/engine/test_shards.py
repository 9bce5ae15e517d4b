import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spm_runtime.cli import main
from spm_runtime.engine.batch import run_batch
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.merge import merge_shards
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.shards import MANIFEST, Shard, part_of, read_manifest, run_shard
from spm_runtime.engine.state import State
from spm_runtime.errors import OutputError, ParameterError

N = 3

#: The batch of `all_shards`, made once.
MADE: list[Path] = []


@pytest.fixture(autouse=True)
def in_haste(monkeypatch):
    """Drawing and waiting for the disk take most of the time."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("spm_runtime.results._save.draw_overlay", lambda *facts: Image.new("L", (8, 8)))


@pytest.fixture
def data(tmp_path, save_scan):
    """Twelve scans, one of them bad and one a stack, in a folder and a sub-folder."""
    folder = tmp_path / "data"
    for index in range(10):
        save_scan(folder / ("sub" if index % 2 else "") / f"scan-{index}.npy", value=index)
    save_scan(folder / "bad.npy", -1)
    save_scan(folder / "stack.npy", shape=(3, 24, 32))
    return folder


@pytest.fixture
def shard(fake, make_inline):
    def run(number, paths, out, settings=None, count=N, **options):
        return run_shard(
            paths,
            out,
            settings or Settings(),
            Shard(number, count),
            **{"analyse": fake, "make_pool": make_inline, **options},
        )

    return run


@pytest.fixture
def all_shards(shard, data, tmp_path, tmp_path_factory):
    """A batch whose shards all wrote to one folder."""
    out = tmp_path / "out"
    if not MADE:
        assert sum(shard(number, [data], out) for number in range(1, N + 1)) == 1
        MADE.append(tmp_path_factory.mktemp("made") / "out")
        shutil.copytree(out, MADE[0])
    else:
        shutil.copytree(MADE[0], out)
    return out


def rows_of(folder):
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def content_of(out):
    """Every file of the results, what a shard has for itself and timings left out."""
    files = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith(("shard-", ".adatom", "index", "summary")):
            files[name] = path.read_bytes()
    return files


@given(st.text(min_size=1), st.integers(1, 50))
def test_every_name_is_in_exactly_one_part(name, count):
    assert [Shard(number, count).holds(name) for number in range(1, count + 1)].count(True) == 1


def test_parts_do_not_depend_on_the_computer_and_are_of_like_size():
    # Known digests: the partition is part of the format, as shards of one batch may run different Python versions.
    assert [part_of(name, 16) for name in ("a.sxm", "2026/b.sxm", "Überstruktur.sxm")] == [12, 4, 8]
    sizes = [sum(part_of(f"scan-{index:05d}.sxm", 8) == number for index in range(8000)) for number in range(1, 9)]
    assert sum(sizes) == 8000
    assert max(sizes) < 1150
    assert min(sizes) > 850


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "/4", "a/b", "-1/4", "1/0", "1.0/4"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ParameterError, match=f"--shard {text}"):
        Shard.parse(text)


def test_a_shard_is_parsed():
    assert Shard.parse("3/16") == Shard(3, 16)
    assert Shard(3, 16).folder == "shard-0003-of-0016"


def test_merged_shards_are_the_batch_of_one_computer(all_shards, data, tmp_path, fake, make_inline, capsys):
    assert run_batch([data], tmp_path / "one", Settings(), analyse=fake, make_pool=make_inline) == 1
    assert not (all_shards / "summary.csv").exists()
    capsys.readouterr()
    assert merge_shards([all_shards]) == 1
    assert "3 shards: 13 done, 1 failed, 0 skipped" in capsys.readouterr().out
    without_seconds = [
        [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows_of(out)]
        for out in (tmp_path / "one", all_shards)
    ]
    assert without_seconds[0] == without_seconds[1]
    assert content_of(all_shards) == content_of(tmp_path / "one")
    page = (all_shards / "index.html").read_text(encoding="utf-8")
    assert page.count('<img loading="lazy" src="sub/scan-1.npy/overlay.png"') == 1
    assert page.count("<article>") == 13


def test_every_shard_has_a_summary_of_its_own_with_links_that_lead_somewhere(all_shards):
    names = []
    for number in range(1, N + 1):
        desk = all_shards / Shard(number, N).folder
        rows = rows_of(desk)
        names += [row["scan"] for row in rows if row["frame"] in {"", "0"}]
        assert rows
        for row in rows:
            if row["status"] == "done":
                assert (desk / row["folder"] / "result.json").is_file()
        assert read_manifest(desk).finished
    assert len(names) == len(set(names)) == 12


def test_what_is_done_is_not_done_again_and_new_files_are_found(all_shards, shard, data, save_scan, fake):
    fake.seen.clear()
    save_scan(data / "new.npy")
    merge_shards([all_shards])
    number = part_of("new.npy", N)
    assert shard(number, [data], all_shards) in {0, 1}
    assert set(fake.names) <= {"new.npy", "bad.npy"}
    assert "new.npy" in fake.names
    # The new file is one that no other shard saw: they would not have been given it either.
    merge_shards([all_shards])
    assert "new.npy" in {row["scan"] for row in rows_of(all_shards)}


def test_a_shard_that_did_not_see_all_of_its_files_is_named(shard, data, tmp_path, save_scan):
    out = tmp_path / "out"
    number = part_of("late.npy", N)
    others = [other for other in range(1, N + 1) if other != number]
    shard(number, [data], out)
    save_scan(data / "late.npy")
    for other in others:
        shard(other, [data], out)
    with pytest.raises(ParameterError, match=rf"shard {number} of 3 found \d files of its own"):
        merge_shards([out])
    assert not (out / "summary.csv").exists()
    shard(number, [data], out)
    merge_shards([out])
    assert "late.npy" in {row["scan"] for row in rows_of(out)}


def test_results_in_several_folders_are_joined_where_the_first_is(shard, data, tmp_path):
    outs = [tmp_path / f"out-{number}" for number in range(1, N + 1)]
    for number, out in enumerate(outs, start=1):
        shard(number, [data], out)
    merge_shards(outs)
    done = [row for row in rows_of(outs[0]) if row["status"] == "done"]
    assert len(done) == 13
    assert {Path(row["folder"]).parts[0] for row in done} > {".."}
    assert all((outs[0] / row["folder"] / "result.json").is_file() for row in done)


def test_the_folders_of_the_shards_may_be_named_themselves(all_shards):
    desks = [all_shards / Shard(number, N).folder for number in (2, 1, 3)]
    assert merge_shards(desks) == 1
    assert len(rows_of(all_shards)) == 14


@pytest.mark.parametrize("number", range(1, N + 1))
def test_a_missing_shard_is_named(all_shards, number):
    shutil.rmtree(all_shards / Shard(number, N).folder)
    with pytest.raises(ParameterError, match=f"shard {number} of 3 is missing"):
        merge_shards([all_shards])


def test_an_unfinished_shard_is_named(all_shards, shard, data, make_inline):
    class Interrupted(make_inline):
        def wait(self, timeout_s):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shard(2, [data], all_shards, again=True, make_pool=Interrupted)
    with pytest.raises(ParameterError, match="shard 2 of 3 is not finished"):
        merge_shards([all_shards])
    shard(2, [data], all_shards)
    assert merge_shards([all_shards]) == 1


def test_other_settings_are_named(all_shards, shard, data):
    shard(3, [data], all_shards, Settings(params={"threshold": 0.75}))
    with pytest.raises(ParameterError, match=r"(?s)shard 3 of 3 .*other settings.*--param .*0\.75.* against \{\}"):
        merge_shards([all_shards])


def test_a_shard_that_is_there_twice_is_named(all_shards, tmp_path):
    shutil.copytree(all_shards / Shard(1, N).folder, tmp_path / "copy" / Shard(1, N).folder)
    with pytest.raises(ParameterError, match="shard 1 of 3 is there 2 times"):
        merge_shards([all_shards, tmp_path / "copy"])
    merge_shards([all_shards, all_shards])  # the same folder, named twice, is one folder


def test_shards_of_two_divisions_are_told_apart(all_shards, shard, data):
    shard(1, [data], all_shards, count=1)
    with pytest.raises(ParameterError, match="shards of 1 and of 3"):
        merge_shards([all_shards])


def test_results_that_are_gone_or_changed_are_named(all_shards):
    shutil.rmtree(all_shards / "scan-0.npy")
    document = json.loads((all_shards / "scan-2.npy" / "result.json").read_text(encoding="utf-8"))
    document["scan"]["sha256"] = "0" * 64
    (all_shards / "scan-2.npy" / "result.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ParameterError) as refused:
        merge_shards([all_shards])
    assert f"the result {all_shards / 'scan-0.npy'} is missing" in str(refused.value)
    assert f"the result {all_shards / 'scan-2.npy'} is of another content" in str(refused.value)
    assert not (all_shards / "summary.csv").exists()


def test_a_summary_that_was_edited_is_named(all_shards):
    with (all_shards / Shard(1, N).folder / "summary.csv").open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(ParameterError, match=r"shard 1 of 3.*has changed"):
        merge_shards([all_shards])


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 99}', '{"version": 1, "shard": 9, "of": 3}'])
def test_a_manifest_that_says_nothing_is_named(all_shards, content):
    (all_shards / Shard(2, N).folder / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(ParameterError, match=r"shard-0002-of-0003: no shard\.json"):
        merge_shards([all_shards])


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="no shards there"):
        merge_shards([tmp_path])


def test_a_shard_without_scans_is_a_shard(shard, tmp_path, save_scan):
    path = save_scan(tmp_path / "only.npy")
    for number in range(1, N + 1):
        assert shard(number, [path], tmp_path / "out") == 0
    assert merge_shards([tmp_path / "out"]) == 0
    assert [row["scan"] for row in rows_of(tmp_path / "out")] == ["only.npy"]


def test_results_inside_the_scans_folder_are_no_scans(shard, data):
    out = data / "results"
    for number in range(1, N + 1):
        shard(number, [data], out)
    # A result that is just being replaced has no result.json; its maps are no scans for that.
    (out / "scan-0.npy" / "result.json").unlink()
    manifest = read_manifest(out / Shard(1, N).folder)
    for number in range(1, N + 1):
        shard(number, [data], out)
    assert read_manifest(out / Shard(1, N).folder).parts == manifest.parts
    assert merge_shards([out]) == 1


def test_two_tasks_do_not_work_on_one_shard_and_different_ones_do(all_shards, shard, data, tmp_path):
    with State(all_shards / Shard(1, N).folder, tmp_path / "elsewhere"):
        with pytest.raises(OutputError, match="works on these results"):
            shard(1, [data], all_shards)
        assert read_manifest(all_shards / Shard(1, N).folder).finished  # the holder's affair
        shard(2, [data], all_shards)


def test_shards_do_not_work_beside_a_run_that_is_none(all_shards, shard, data, tmp_path):
    with State(all_shards, tmp_path / "elsewhere"):
        with pytest.raises(OutputError, match="not as a shard"):
            shard(2, [data], all_shards)
        with pytest.raises(OutputError, match="not as a shard"):
            merge_shards([all_shards])


def test_tasks_that_look_at_the_lock_at_once_do_not_stop_one_another(all_shards, monkeypatch):
    answers = [{"pid": 1}, {"pid": 1}, None]
    monkeypatch.setattr("spm_runtime.engine.shards.holder", lambda out: answers.pop(0))
    assert merge_shards([all_shards]) == 1
    assert not answers


def test_merging_leaves_nothing_unfinished(all_shards):
    (all_shards / ".partial-work" / ".partial-of-a-killed-one").mkdir(parents=True)
    merge_shards([all_shards])
    assert not list(all_shards.rglob(".partial-*"))


def test_a_folder_that_cannot_be_listed_is_said_by_every_shard_and_counts_once(shard, data, tmp_path, monkeypatch):
    from spm_runtime.engine import batch

    find = batch.find_files

    def found(*args, **options):
        yield from find(*args, **options)
        yield Job(data / "locked", "locked", "locked: cannot be listed (no permission)")

    monkeypatch.setattr(batch, "find_files", found)
    assert [shard(number, [data], tmp_path / "out") >= 1 for number in range(1, N + 1)] == [True] * N
    assert merge_shards([tmp_path / "out"]) == 2
    assert [row["scan"] for row in rows_of(tmp_path / "out") if row["status"] == "failed"] == ["bad.npy", "locked"]


def test_the_results_of_a_scan_never_replace_a_file(shard, data, tmp_path):
    for number in range(1, N + 1):
        with pytest.raises(ParameterError, match="that is a file"):
            shard(number, [data], data)


def test_a_summary_that_could_not_be_written_is_not_finished(shard, data, tmp_path, save_scan, monkeypatch):
    from spm_runtime.engine.console import Console

    write = Console.write_report
    monkeypatch.setattr(Console, "write_report", lambda self, report, *, at_most_every_s=0.0: False)
    desk = tmp_path / "out" / Shard(1, N).folder
    shard(1, [data], tmp_path / "out")
    assert not read_manifest(desk).finished
    monkeypatch.setattr(Console, "write_report", write)
    shard(1, [data], tmp_path / "out")
    assert read_manifest(desk).finished
    save_scan(data / next(name for name in map("new-{}.npy".format, range(99)) if part_of(name, N) == 1))
    monkeypatch.setattr(Console, "write_report", lambda self, report, *, at_most_every_s=0.0: False)
    shard(1, [data], tmp_path / "out")
    assert not read_manifest(desk).finished  # the table is there, and lacks a row


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_line_says_what_is_wrong(tmp_path, all_shards, data):
    for words, code, text in (
        (("merge", all_shards), 1, "3 shards: 13 done, 1 failed"),
        (("merge", tmp_path / "nothing"), 2, "no shards there"),
        (("run", data, "--out", tmp_path / "o", "--shard", "0/4"), 2, "counted from 1"),
        (("run", data, "--out", tmp_path / "o", "--shard", "three"), 2, "expected I/N"),
        (("run", data, "--out", tmp_path / "o", "--shard", "1/2", "--dask", "tcp://a:1"), 2, "--dask"),
    ):
        result = invoke(*words)
        assert result.exit_code == code, (words, result.output)
        assert text in result.output


def test_the_command_line_runs_a_shard(tmp_path, data, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "spm_runtime.cli.run_shard",
        lambda paths, out, settings, *, shard, **options: seen.append((out, shard, options)) or 0,
    )
    assert invoke("run", data, "--out", tmp_path / "o", "--shard", "2/4", "--again").exit_code == 0
    ((out, shard, options),) = seen
    assert (out, shard) == (tmp_path / "o", Shard(2, 4))
    assert options["again"]
