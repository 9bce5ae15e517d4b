"""What the documents say is true: commands exist, links lead somewhere, the help is the one we meant."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def command_lines(text):
    """Lines of fenced blocks that call one of our commands."""
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            words = line.partition("#")[0].split()
            if words and words[0] in ("spm-infer", "spm-train", "make"):
                yield words


def help_of(*words):
    module = {"spm-infer": "spm_runtime.cli", "spm-train": "spm_training.cli"}[words[0]]
    code = f"import sys; from {module} import main; sys.argv = {[words[0], *words[1:], '--help']!r}; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_command_and_option_that_a_document_shows_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    seen = 0
    for document in DOCUMENTS:
        for words in command_lines(document.read_text(encoding="utf-8")):
            seen += 1
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"no make target {words[1]}"
                continue
            text = help_of(*words[: 3 if words[:2] == ["spm-train", "simulate"] else 2])  # a command of commands
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert option in text, f"{document.name}: {' '.join(words)}"
    assert seen > 10


def test_the_readme_shows_every_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for program in ("spm-infer", "spm-train"):
        listing = help_of(program).partition("Commands:")[2]
        commands = re.findall(r"^  ([a-z]+) ", listing, re.MULTILINE)
        assert len(commands) >= 5
        for command in commands:
            assert f"{program} {command}" in readme


def test_the_changelog_knows_the_version():
    from spm_runtime import __version__

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "Unreleased" in text or __version__ in text
