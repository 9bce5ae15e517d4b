import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spm_runtime.engine.discovery import _free_name, find_files, is_scan
from spm_runtime.engine.staging import look_at


def names(*paths, ignore=None):
    return [job.name for job in find_files(paths, ignore=ignore) if job.named or is_scan(job.path, look_at(job.path))]


def test_folders_are_searched_recursively_and_sorted(tmp_path, save_scan):
    for name in ("b.npy", "a.npy", "sub/deep/c.npy", "z #1 ü.npy"):
        save_scan(tmp_path / name)
    assert names(tmp_path) == ["a.npy", "b.npy", "sub/deep/c.npy", "z #1 ü.npy"]
    assert names(tmp_path / "sub", tmp_path / "b.npy") == ["deep/c.npy", "b.npy"]


def test_content_decides_not_the_suffix(tmp_path, save_scan):
    save_scan(tmp_path / "scan.unknown")
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "table.csv").write_text("1,2\n3,4\n", encoding="utf-8")
    (tmp_path / "spectrum.dat").write_bytes(b"bias spectroscopy")
    (tmp_path / "program.exe").write_bytes(b"MZ")
    assert names(tmp_path) == ["scan.unknown"]


def test_no_file_is_opened_to_list_them(tmp_path, save_scan, monkeypatch):
    save_scan(tmp_path / "a.npy")
    (tmp_path / "b.sxm").write_bytes(b"garbage")
    real = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, *args, **how: real(self, *args, **how) if self.suffix == ".json" else pytest.fail("opened"),
    )
    assert [job.name for job in find_files([tmp_path])] == ["a.npy", "b.sxm"]


def test_what_can_only_be_a_damaged_scan_is_not_passed_over(tmp_path):
    (tmp_path / "a.sxm").write_bytes(b"garbage")
    (tmp_path / "b.tif").write_bytes(b"")
    (tmp_path / "c.dm4").write_bytes(bytes(5000))
    (tmp_path / "photo.png").write_bytes(b"not a picture")
    found = names(tmp_path)
    assert "b.tif" in found
    assert "c.dm4" in found
    assert "photo.png" not in found


def test_named_files_always_count(tmp_path):
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    assert names(tmp_path / "notes.txt", tmp_path / "nowhere.sxm") == ["notes.txt", "nowhere.sxm"]


def test_results_and_hidden_files_are_passed_over(tmp_path, save_scan):
    save_scan(tmp_path / "a.npy")
    save_scan(tmp_path / ".hidden.npy")
    save_scan(tmp_path / ".git" / "b.npy")
    save_scan(tmp_path / "out" / "c.npy" / "confidence.npy")
    save_scan(tmp_path / "old results" / "d.npy" / "confidence.npy")
    listing = '{"schema_version": 1, "files": ["overlay.png"], "tasks": {"atoms": {"files": ["confidence.npy"]}}}'
    (tmp_path / "old results" / "d.npy" / "result.json").write_text(listing, encoding="utf-8")
    save_scan(tmp_path / "somebody's" / "e.npy")
    (tmp_path / "somebody's" / "result.json").write_text("{}", encoding="utf-8")
    assert names(tmp_path, ignore=tmp_path / "out") == ["a.npy", "somebody's/e.npy"]


@pytest.mark.parametrize(
    "content",
    [
        '{"schema_version": 1, "files": ["overlay.png"], "tasks": {}}',
        '{"schema_version": 1, "files": 3, "tasks": [{}]}',
    ],
    ids=["copied there", "of another program"],
)
def test_a_stray_result_hides_no_scan(tmp_path, save_scan, content):
    save_scan(tmp_path / "a.npy")
    save_scan(tmp_path / "sub" / "b.npy")
    (tmp_path / "result.json").write_text(content, encoding="utf-8")
    assert names(tmp_path) == ["a.npy", "sub/b.npy"]


def test_an_entry_that_cannot_be_looked_at_hides_no_other(tmp_path, save_scan, monkeypatch):
    from spm_runtime.engine import discovery

    for name in ("a.npy", "b.npy", "c.npy"):
        save_scan(tmp_path / name)
    real = discovery._is_file

    def is_file(entry):
        if entry.name == "b.npy":
            raise OSError(5, "Input/output error", entry.path)
        return real(entry)

    monkeypatch.setattr(discovery, "_is_file", is_file)
    first, second, problem = find_files([tmp_path])
    assert (first.name, second.name) == ("a.npy", "c.npy")
    assert "b.npy: cannot be listed (Input/output error)" in problem.problem


def test_a_link_to_the_folder_of_results_is_that_folder(tmp_path, save_scan):
    save_scan(tmp_path / "data" / "a.npy")
    save_scan(tmp_path / "data" / "out" / "b.npy")
    try:
        (tmp_path / "link").symlink_to(tmp_path / "data" / "out", target_is_directory=True)
    except OSError:
        pytest.skip("this user may not make links")
    assert names(tmp_path / "data", ignore=tmp_path / "link") == ["a.npy"]


def test_a_file_given_twice_counts_once(tmp_path, save_scan):
    path = save_scan(tmp_path / "sub" / "a.npy")
    assert names(tmp_path, path, tmp_path / "sub") == ["sub/a.npy"]


def test_inputs_that_would_collide_get_distinct_folders(tmp_path, save_scan):
    paths = [save_scan(tmp_path / folder / "1.npy") for folder in ("x/day", "y/day", "z")]
    assert names(*paths) == ["1.npy", "day/1.npy", "z/1.npy"]
    assert names(tmp_path / "x", tmp_path / "y") == ["day/1.npy", "y/day/1.npy"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that tells upper and lower case apart")
def test_case_alone_does_not_tell_results_apart(tmp_path, save_scan):
    save_scan(tmp_path / "A.npy")
    save_scan(tmp_path / "a.npy")
    found = names(tmp_path)
    assert len({name.casefold() for name in found}) == 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from("12")), max_size=12))
def test_no_two_names_are_the_same(tmp_path_factory, files):
    root = tmp_path_factory.getbasetemp()
    taken = set()
    got = [
        _free_name(root.joinpath(*parts), root.joinpath(*parts).relative_to(root / parts[0]), taken) for parts in files
    ]
    assert len({name.casefold() for name in got}) == len(files)
    assert not any(name.startswith("/") or ".." in name.split("/") for name in got)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_that_no_terminal_can_show_become_plain(tmp_path):
    path = tmp_path / "a\nb.npy"
    with path.open("wb") as file:
        np.save(file, np.ones((4, 4), np.float32))
    assert names(tmp_path) == ["a b.npy"]


def test_a_folder_that_cannot_be_listed_is_a_failed_job(tmp_path, save_scan, monkeypatch):
    import os

    save_scan(tmp_path / "a.npy")
    save_scan(tmp_path / "locked" / "b.npy")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    first, second = find_files([tmp_path])
    assert first.name == "a.npy"
    assert "Permission denied" in second.problem
    assert "locked" in second.name
