"""The registry of readers: what it finds, what it asks, and what it says when nothing fits."""

import importlib
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime import readers
from spm_runtime.errors import (
    CannotOpenError,
    ChannelError,
    CorruptScanError,
    MissingExtraError,
    ScanError,
    UnknownFormatError,
)
from spm_runtime.readers import Reader, find_reader, open_scan, read_scans
from spm_runtime.readers._api import HEAD_BYTES, MAX_PIXELS, Probe, check_claim, import_extra
from spm_runtime.scan import Scan

ALL = readers.readers()
MAGIC = b"test of the registry"


def scans_of(path):
    for direction in ("forward", "backward"):
        for channel in ("Z", "Current"):
            yield Scan(np.ones((8, 9)), channel=channel, direction=direction, path=path)


@pytest.fixture
def add_reader(monkeypatch):
    """Adds a reader to the installation for one test."""

    def add(read=scans_of, **options):
        reader = Reader("Test", (".test",), lambda probe: probe.head.startswith(MAGIC), read, **options)
        monkeypatch.setattr(readers, "readers", lambda: (reader, *ALL))
        return reader

    return add


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.test"
    path.write_bytes(MAGIC + bytes(100))
    return path


# --- what there is ---------------------------------------------------------------------------------------------------


def test_every_module_has_a_reader():
    assert len({reader.name for reader in ALL}) == len(ALL)
    assert list(ALL) == sorted(ALL, key=lambda reader: (reader.rank, reader.name))
    for reader in ALL:
        assert reader.suffixes
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in reader.suffixes)


def test_readers_do_not_import_what_the_base_install_lacks():
    code = (
        "import sys, spm_runtime.readers as r; r.readers()\n"
        "bad = {'rsciio', 'dask', 'NSFopen', 'access2thematrix', 'pandas', 'matplotlib', 'torch'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_new_module_is_found_by_itself(tmp_path, monkeypatch):
    (tmp_path / "invented.py").write_text(
        "from spm_runtime.readers._api import Reader\n"
        "READER = Reader('Invented', ('.inv',), lambda probe: False, lambda path: iter(()), rank=1)\n",
        encoding="utf-8",
    )
    (tmp_path / "_helper.py").write_text("raise RuntimeError", encoding="utf-8")
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    readers.readers.cache_clear()
    try:
        assert "Invented" in {reader.name for reader in readers.readers()}
    finally:
        readers.readers.cache_clear()
        sys.modules.pop("spm_runtime.readers.invented", None)


# --- which one is asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ALL, ids=lambda reader: reader.name)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.binary(max_size=300), pad=st.integers(0, 3000))
def test_sniffers_never_raise_and_know_no_noise(reader, content, pad, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(content + bytes(pad))
    assert reader.sniff(Probe(path, path.stat().st_size)) in (True, False)


def test_probe_sees_the_beginning_only(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)) * 100)
    probe = Probe(tmp_path / "a", 25600)
    assert probe.head == (bytes(range(256)) * 100)[:HEAD_BYTES]


def test_a_special_case_is_asked_first(monkeypatch, file):
    general = Reader("General", (".g",), lambda probe: True, scans_of)
    special = Reader("Special", (".s",), lambda probe: probe.head.startswith(MAGIC), scans_of, rank=10)
    monkeypatch.setattr(
        readers.pkgutil, "iter_modules", lambda _: [types.SimpleNamespace(name=n) for n in ("g", "s", "_x")]
    )
    modules = {"spm_runtime.readers.g": general, "spm_runtime.readers.s": special}
    monkeypatch.setattr(readers.importlib, "import_module", lambda name: types.SimpleNamespace(READER=modules[name]))
    readers.readers.cache_clear()
    try:
        assert find_reader(file) is special
    finally:
        readers.readers.cache_clear()


@pytest.mark.parametrize(("path", "kind"), [("missing.sxm", CannotOpenError), (".", ScanError)])
def test_what_is_no_file(tmp_path, path, kind):
    with pytest.raises(ScanError, match=r"cannot be opened|a folder") as caught:
        open_scan(tmp_path / path)
    assert caught.value.path == tmp_path / path
    assert type(caught.value) is kind


def test_an_empty_file_is_still_being_written(tmp_path):
    (tmp_path / "a.sxm").touch()
    with pytest.raises(UnknownFormatError, match=r"an empty file.*being written"):
        open_scan(tmp_path / "a.sxm")


def test_an_unknown_file_says_what_it_begins_with(tmp_path):
    (tmp_path / "a.sxm").write_bytes(b"GIF89a and so on")
    with pytest.raises(UnknownFormatError, match=r"GIF89a.*one of: .*TIFF"):
        open_scan(str(tmp_path / "a.sxm"))


# --- what a scan is chosen by ----------------------------------------------------------------------------------------


def test_channel_direction_and_frame(add_reader, file):
    add_reader()
    assert open_scan(file).label == "Z forward"
    assert open_scan(file, channel="current").label == "Current forward"
    assert open_scan(file, direction="backward").label == "Z backward"
    assert open_scan(file, channel="CURRENT", direction="backward", frame=0).label == "Current backward"


@pytest.mark.parametrize("choice", [{"channel": "LIA"}, {"frame": 1}, {"channel": "Z", "frame": 7}])
def test_a_wrong_choice_lists_what_there_is(add_reader, file, choice):
    add_reader()
    with pytest.raises(ChannelError, match="one of: Z forward, Current forward, Z backward, Current backward"):
        open_scan(file, **choice)


# --- what a parser may do --------------------------------------------------------------------------------------------


def failing(error):
    def read(path):
        yield Scan(np.ones((8, 8)), path=path)
        raise error

    return read


@pytest.mark.parametrize("kind", sorted(readers.PARSER_ERRORS, key=lambda kind: kind.__name__))
def test_errors_of_parsers_become_our_own(add_reader, file, kind):
    add_reader(failing(kind("first line\nsecond line")))
    scans = read_scans(file)
    assert next(scans).shape == (8, 8)
    with pytest.raises(CorruptScanError, match=r"begins like Test") as caught:
        next(scans)
    assert caught.value.path == file
    assert "second line" not in str(caught.value)


def test_an_error_before_the_first_scan(add_reader, file):
    def read(path):
        raise KeyError("not a generator")

    add_reader(read)
    with pytest.raises(CorruptScanError, match="KeyError"):
        open_scan(file)


@pytest.mark.parametrize(
    ("error", "words", "kind"),
    [
        (MemoryError(), "does not fit in the memory", ScanError),
        (PermissionError(13, "locked"), r"cannot be opened \(locked\)", CannotOpenError),
        (FileNotFoundError(2, "gone"), r"cannot be opened \(gone\)", CannotOpenError),
    ],
)
def test_errors_that_are_not_of_the_file(add_reader, file, error, words, kind):
    add_reader(failing(error))
    with pytest.raises(ScanError, match=words) as caught:
        list(read_scans(file))
    assert type(caught.value) is kind


def test_our_own_errors_and_those_of_the_caller_pass(add_reader, file):
    add_reader(failing(ChannelError(file, "seen", "expected", "remedy")))
    with pytest.raises(ChannelError, match=r"seen; expected expected\. remedy"):
        list(read_scans(file))
    add_reader(failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        list(read_scans(file))


def test_a_file_without_an_image(add_reader, file):
    add_reader(lambda path: iter(()))
    with pytest.raises(CorruptScanError, match="without any image"):
        open_scan(file)


def test_scans_are_read_one_by_one(add_reader, file):
    seen = []

    def read(path):
        for index in range(3):
            seen.append(index)
            yield Scan(np.ones((8, 8)), frame=index, path=path)

    add_reader(read)
    open_scan(file)
    assert seen == [0]


def test_warnings_of_parsers_are_not_those_of_the_user(add_reader, file):
    def read(path):
        import warnings

        warnings.warn("odd metadata", stacklevel=1)
        yield Scan(np.ones((8, 8)), path=path)

    add_reader(read)
    assert open_scan(file).shape == (8, 8)


# --- the pieces that readers use -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "claimed", "there", "words"),
    [
        (0, 0, 10, "between 1 and"),
        (-5, 0, 10, "between 1 and"),
        (MAX_PIXELS + 1, 0, 10, "between 1 and"),
        (10, 11, 10, "claims 11 bytes of data and the file has 10"),
        (10, 11, -4, "the file has 0"),
    ],
)
def test_check_claim(tmp_path, pixels, claimed, there, words):
    with pytest.raises(CorruptScanError, match=words):
        check_claim(tmp_path, pixels=pixels, bytes_claimed=claimed, bytes_there=there)
    check_claim(tmp_path, pixels=10, bytes_claimed=10, bytes_there=10)


def test_import_extra(tmp_path):
    assert import_extra("json", extra="stem", path=tmp_path, format_name="JSON").loads("1") == 1
    with pytest.raises(MissingExtraError, match=r'pip install "adatom\[stem\]"') as caught:
        import_extra("no_such_package.inside", extra="stem", path=tmp_path / "a.xyz", format_name="Any")
    assert "'no_such_package'" in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.path) == (MissingExtraError, str(caught.value), tmp_path / "a.xyz")
