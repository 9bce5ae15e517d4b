"""What the surroundings do to a watch: it must neither end nor forget a scan."""

import errno
import os

import click
import pytest

from spm_runtime.engine import intake as intake_module
from spm_runtime.engine.ledger import Ledger
from spm_runtime.errors import CannotOpenError


def nothing():
    pass


def test_a_share_of_results_that_does_not_answer_pauses_the_work(stage, save_scan, monkeypatch, capsys):
    """`Path.is_file` raises where a network file system says "stale handle" or "host is down"."""
    away = [False]
    real = os.stat

    def stat(path, **options):
        if away[0] and not isinstance(path, int) and str(path).startswith(str(stage.out)):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return real(path, **options)

    def unmount():
        away[0] = True
        save_scan(stage.data / "b.npy")
        os.utime(stage.data / "a.npy", (5, 5))  # whether its result is still there cannot be seen now

    def mount():
        away[0] = False

    monkeypatch.setattr(os, "stat", stat)
    save_scan(stage.data / "a.npy")
    assert stage.run(*[nothing] * 3, unmount, *[nothing] * 4, mount, *[nothing] * 5) == 0
    assert sorted(set(stage.fake.names)) == ["a.npy", "b.npy"]
    assert {scan["state"] for scan in stage.scans().values()} == {"done"}
    assert capsys.readouterr().err.count("is away") == 1


@pytest.mark.parametrize("seconds", [13_569_465_600, -13_569_465_600], ids=["year 2400", "year 1540"])
def test_a_time_of_change_that_no_database_holds(stage, save_scan, seconds):
    path = save_scan(stage.data / "a.npy")
    try:
        os.utime(path, ns=(0, seconds * 10**9))
    except (OSError, OverflowError):
        pytest.skip("this file system has no such times")
    assert stage.run(*[nothing] * 4) == 0
    assert stage.fake.names == ["a.npy"]


def test_lines_that_cannot_be_printed_end_nothing(stage, save_scan, monkeypatch):
    """The output of a service often goes to a file, and that disk may be full."""

    def secho(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(click, "secho", secho)
    save_scan(stage.data / "a.npy")
    assert stage.run(*[nothing] * 4) == 0
    assert stage.scans()["a.npy"]["state"] == "done"


def test_a_disk_that_does_not_answer_for_a_moment_does_not_lose_the_ledger(stage, save_scan, monkeypatch, capsys):
    """Reading the ledger fails as writing does."""
    from spm_runtime.engine import ledger as ledger_module

    monkeypatch.setattr(ledger_module, "RETRY_S", 0.0)
    broken = []

    class Connection:
        def __init__(self, real) -> None:
            self._real = real

        def execute(self, query, *values):
            if query.startswith("SELECT name FROM scans WHERE state = 'waiting'") and len(broken) < 3:
                broken.append(query)
                error = ledger_module.sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = ledger_module.sqlite3.SQLITE_IOERR
                raise error
            return self._real.execute(query, *values)

        def __getattr__(self, name) -> object:
            return getattr(self._real, name)

    real = Ledger._open

    def opened(self, **options):
        real(self, **options)
        self.connection = Connection(self.connection)

    monkeypatch.setattr(Ledger, "_open", opened)
    save_scan(stage.data / "a.npy")
    assert stage.run(*[nothing] * 4) == 0
    assert len(broken) == 3
    assert stage.fake.names == ["a.npy"]
    assert capsys.readouterr().err.count("disk I/O error") == 1


def test_a_file_that_cannot_be_looked_at_is_told_and_not_passed_over(stage, save_scan, monkeypatch, capsys):
    save_scan(stage.data / "a.npy")
    real, hidden = intake_module.Path.stat, [True]

    def stat(path, **options):
        if hidden[0] and path.name == "a.npy":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    def show():
        hidden[0] = False

    monkeypatch.setattr(intake_module.Path, "stat", stat)
    with pytest.raises(CannotOpenError, match=r"a\.npy.*Permission denied"):
        stage.run(nothing, nothing, once=True)
    assert stage.run(nothing, nothing, show, *[nothing] * 3) == 0
    assert stage.fake.names == ["a.npy"]
    told = capsys.readouterr().err
    assert told.count("waiting for it") == 1
    assert told.count("is back") == 1


def test_many_troubles_are_told_in_a_few_lines(stage, save_scan, monkeypatch, capsys):
    for number in range(30):
        save_scan(stage.data / f"{number}.npy")
    real = intake_module.Path.stat

    def stat(path, **options):
        if path.suffix == ".npy":
            raise OSError(errno.EHOSTDOWN, "Host is down", str(path))
        return real(path, **options)

    monkeypatch.setattr(intake_module.Path, "stat", stat)
    assert stage.run(*[nothing] * 3) == 0
    told = capsys.readouterr().err.splitlines()
    assert sum("Host is down" in line for line in told) == intake_module.TOLD
    assert sum("25 more" in line for line in told) == 1
