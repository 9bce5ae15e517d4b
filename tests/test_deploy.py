"""The instructions for running the watch as a service name things that exist."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from spm_runtime.cli import main

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
UNIT = DEPLOY / "adatom-watch.service"
PAGE = DEPLOY / "README.md"


def settings(name):
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def command_lines():
    """Every call of `spm-infer`: of the unit, and of the page by shell, Task Scheduler and NSSM."""
    yield from settings("ExecStart")
    text = PAGE.read_text(encoding="utf-8")
    yield from re.findall(r"^(spm-infer .*?)(?: +#.*)?$", text, re.MULTILINE)
    yield from (f"spm-infer {words}" for words in re.findall(r"^\$arguments = '(.*)'$", text, re.MULTILINE))
    yield from (f"spm-infer {words}" for words in re.findall(r"AppParameters (watch .*)$", text, re.MULTILINE))


@pytest.mark.parametrize("line", list(command_lines()))
def test_commands_and_options_exist(line):
    _, command, *words = shlex.split(line, posix=False)
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0, line
    for word in words:
        if word.startswith("--"):
            assert f"{word} " in done.output, line


def test_the_page_shows_every_way():
    assert len(list(command_lines())) == 5


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (DEPLOY / target).is_file(), target


def test_the_unit_gives_the_scans_to_be_read_only():
    (command,) = settings("ExecStart")
    words = shlex.split(command)
    scans, out, state = words[2], words[words.index("--out") + 1], words[words.index("--state") + 1]
    assert settings("ReadOnlyPaths") == [scans]
    assert settings("ReadWritePaths") == [out]
    assert settings("StateDirectory") == [Path(state).name]
    assert settings("RequiresMountsFor") == [f"{scans} {out}"]
    assert settings("ProtectSystem") == ["strict"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_understands_the_unit(tmp_path):
    (command,) = settings("ExecStart")
    text = UNIT.read_text(encoding="utf-8").replace(command.split()[0], sys.executable)  # a program that is there
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / UNIT.name],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr, done.stderr
