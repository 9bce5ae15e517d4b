"""Files beside a scan that belong to it: when they come or change later, the scan is analysed again."""

import hashlib
import os
import sqlite3
import struct

import pytest

from spm_runtime.engine import analysis
from spm_runtime.engine import companions as module
from spm_runtime.engine.batch import run_batch
from spm_runtime.engine.companions import Beside, companions, content_digest, is_log
from spm_runtime.engine.jobs import Job, Stamp
from spm_runtime.engine.ledger import LEDGER, Found, Ledger
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.staging import fetch
from spm_runtime.readers._api import Companions

SCAN, SIDE = r"(?P<key>[a-z]+)\d*\.npy", r"(?P<key>[a-z]+)\.(side|log)\d?"


def nothing():
    pass


def mention(name):
    return b"<" + name.encode() + b">"


@pytest.fixture
def plain(monkeypatch):
    """Arrays have a companion of the same name."""
    monkeypatch.setattr(module, "_rules", lambda: (Companions(SCAN, SIDE),))


@pytest.fixture
def log(monkeypatch):
    """Arrays have a log that grows with every one of a session."""
    monkeypatch.setattr(module, "_rules", lambda: (Companions(SCAN, SIDE, mention),))


def test_a_companion_that_comes_or_changes_later_leads_to_a_new_analysis(stage, save_scan, plain):
    path, side = save_scan(stage.data / "a.npy"), stage.data / "a.side"
    save_scan(stage.data / "b.npy")
    digests = []

    def write(content):
        def act():
            digests.append(stage.scans()["a.npy"]["sha256"])
            side.write_bytes(content)

        return act

    def touch():
        os.utime(side, (5, 5))

    actions = [*[nothing] * 4, write(b"1"), *[nothing] * 4, write(b"22"), *[nothing] * 4, touch, *[nothing] * 4]
    assert stage.run(*actions) == 0
    assert stage.fake.names.count("a.npy") == 3  # touched, not changed: not a fourth time
    assert stage.fake.names.count("b.npy") == 1
    assert digests[0] == hashlib.sha256(path.read_bytes()).hexdigest()  # without a companion, that of its own file
    assert len({*digests, stage.scans()["a.npy"]["sha256"]}) == 3
    assert stage.run(*[nothing] * 4) == 0
    assert len(stage.fake.names) == 4  # the next watch finds nothing new


def test_a_batch_sees_a_companion_that_has_changed(tmp_path, save_scan, fake, make_inline, plain):
    save_scan(tmp_path / "data" / "a.npy")
    for content, times in ((b"1", 1), (b"1", 1), (b"2", 2)):
        (tmp_path / "data" / "a.side").write_bytes(content)
        run_batch([tmp_path / "data"], tmp_path / "out", Settings(), analyse=fake, make_pool=make_inline)
        assert len(fake.names) == times


def test_a_session_that_goes_on_does_not_touch_its_earlier_scans(stage, save_scan, log, monkeypatch):
    """Only what the log says up to the mention of a scan is the scan's."""
    session, opened, reads = stage.data / "a.log1", [], []
    real_look, real_read = analysis.look_at, module.Path.read_bytes

    def read_bytes(path):
        if path == session:
            reads.append(path)
        return real_read(path)

    monkeypatch.setattr(analysis, "look_at", lambda path: (opened.append(path.name), real_look(path))[1])
    monkeypatch.setattr(module.Path, "read_bytes", read_bytes)
    for number in range(5):
        save_scan(stage.data / f"a{number}.npy")
    session.write_bytes(b"scale 1 " + b" ".join(mention(f"a{number}.npy") for number in range(5)))

    def scan_more():
        save_scan(stage.data / "a5.npy")
        session.write_bytes(real_read(session) + mention("a5.npy"))

    def rescale():
        opened.clear()
        session.write_bytes(real_read(session).replace(b"scale 1 ", b"scale 10 "))

    before = []
    assert stage.run(*[nothing] * 4, scan_more, *[nothing] * 4, lambda: before.append((len(opened), len(reads)))) == 0
    names = [f"a{number}.npy" for number in range(6)]
    assert sorted(name for name in opened if name.endswith(".npy")) == names
    assert len(reads) == 2  # once for every state, not once for every scan or look
    assert stage.run(*[nothing] * 4, rescale, *[nothing] * 4) == 0
    assert sorted(set(opened) - {"a.log1"}) == names
    assert sorted(stage.fake.names) == sorted(2 * names)


def test_a_log_that_does_not_know_the_scan_yet_counts_as_a_whole(tmp_path, save_scan, log):
    path = save_scan(tmp_path / "a1.npy")
    beside, states, digests = Beside(), [], []
    for content in (None, b"begun ", b"begun and more ", b"begun and more " + mention("a1.npy"), None):
        if content is not None:
            (tmp_path / "a.log1").write_bytes(content)
        else:
            (tmp_path / "a.log1").unlink(missing_ok=True)
        beside.begin()
        states.append(beside.state(path))
        digests.append(content_digest(path, "00", companions(path)))
    assert states[0] == states[4] == ""
    assert digests[0] == digests[4] == "00"
    assert len(set(states)) == len(set(digests)) == 4
    (tmp_path / "a.log1").write_bytes(b"begun and more " + mention("a1.npy") + b"others")
    (tmp_path / "a.log2").write_bytes(b"others")
    beside.begin()
    assert beside.state(path) == states[3]
    assert content_digest(path, "00", companions(path)) == digests[3]


def test_what_the_readers_declare(tmp_path):
    names = (
        "s--1_1.Z_mtrx",
        "s_0001.mtrx",
        "s_0002.mtrx",
        "other_0001.mtrx",
        "m.emi",
        "m_1.ser",
        "M_2.SER",
        "mm_1.ser",
    )
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in companions(tmp_path / "s--1_1.Z_mtrx")] == ["s_0001.mtrx", "s_0002.mtrx"]
    assert sorted(path.name for path in companions(tmp_path / "m.emi")) == ["M_2.SER", "m_1.ser"]
    assert companions(tmp_path / "m_1.ser") == companions(tmp_path / "s_0001.mtrx") == []
    assert is_log(tmp_path / "s_0001.mtrx")
    assert not any(is_log(tmp_path / name) for name in ("s--1_1.Z_mtrx", "m.emi", "m_1.ser"))
    (tmp_path / "copies").mkdir()
    fetch(tmp_path / "m.emi", tmp_path / "copies")
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["M_2.SER", "m.emi", "m_1.ser"]


def test_a_matrix_scan_is_one_with_its_parameters(tmp_path):
    """Strings of MATRIX files: the number of letters in four bytes, then UTF-16."""
    path, chain = tmp_path / "s--1_1.Z_mtrx", tmp_path / "s_0001.mtrx"
    path.write_bytes(b"pixels")
    mark = struct.pack("<L", len(path.name)) + path.name.encode("utf-16-le")
    digests = []
    for number, content in enumerate((b"10 nm" + mark, b"10 nm" + mark + b"more scans", b"20 nm" + mark, b"10 nm")):
        chain.write_bytes(content)
        (tmp_path / str(number)).mkdir()
        digests.append(fetch(path, tmp_path / str(number)).sha256)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_real_matrix_scans_are_mentioned(real_data):
    """The end of what concerns a scan is found in the parameter files that MATRIX wrote."""
    scans = [path for path in real_data.rglob("*_mtrx") if companions(path)]
    if not scans:
        pytest.skip("no MATRIX scans there")
    for path in scans:
        whole = b"".join(companion.read_bytes() for companion in companions(path))
        mark = struct.pack("<L", len(path.name)) + path.name.encode("utf-16-le")
        assert mark in whole, path.name


def test_a_ledger_of_the_first_version_is_continued(tmp_path):
    file = tmp_path / LEDGER
    item = Found(Job(tmp_path / "a.npy", "a.npy", stamp=Stamp(1, 2)), 0.0, 0.0)
    with Ledger(file) as ledger:
        ledger.offer([item], root=b"", settings="s", now_s=0.0)
    with sqlite3.connect(file) as connection:
        connection.execute("ALTER TABLE scans DROP COLUMN beside")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    with Ledger(file) as ledger:
        assert (ledger.is_new, ledger.note) == (False, "")
        assert ledger.get("a.npy").stamp == Stamp(1, 2)
        assert ledger.offer([item], root=b"", settings="s", now_s=0.0) == 0
