"""A digest of sources changes with what is computed, wherever that stands, and with nothing else."""

import sys

import pytest

from spm_training import sources
from spm_training.sources import source_digest, source_files

FILES = {
    "__init__.py": "",
    "first.py": '''"""Doc."""
from typing import TYPE_CHECKING
import numpy as np
from adatom_toy.second import twice
from adatom_toy import third
if TYPE_CHECKING:
    from adatom_toy.other import Thing

def answer(x):
    """Doc."""
    return twice(x) + third.ONE
''',
    "second.py": "def twice(x):\n    from adatom_toy.fourth import TWO\n    return TWO * x\n",
    "third.py": "ONE = 1\n",
    "fourth.py": "import adatom_toy.first\nTWO = 2\n",
    "other.py": "class Thing:\n    pass\n",
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    folder = tmp_path / "adatom_toy"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sources, "PACKAGES", ("adatom_toy",))
    source_digest.cache_clear()
    yield folder
    source_digest.cache_clear()
    for name in [name for name in sys.modules if name.startswith("adatom_toy")]:
        del sys.modules[name]


def changed(folder, name, old, new):
    """Whether a change of a file changes the digest."""
    before = source_digest("adatom_toy.first")
    text = FILES[name].replace(old, new)
    assert text != FILES[name]
    (folder / name).write_text(text, encoding="utf-8")
    source_digest.cache_clear()
    return source_digest("adatom_toy.first") != before


def test_imports_are_followed_wherever_they_stand_and_in_circles(toy):
    names = {name.removeprefix("adatom_toy").removeprefix(".") for name in source_files("adatom_toy.first")}
    assert names == {"", "first", "second", "third", "fourth"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("first.py", "+", "-"), ("second.py", "TWO *", "2 +"), ("third.py", "1", "2"), ("fourth.py", "= 2", "= 3")],
)
def test_a_change_of_what_is_computed_counts(toy, name, old, new):
    assert changed(toy, name, old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("first.py", "Doc.", "Other words."),
        ("third.py", "ONE", "# A comment.\n\nONE"),
        ("third.py", "ONE = 1", "ONE=1"),
        ("other.py", "pass", "x = 1"),
        ("first.py", "\n", "\r\n"),
    ],
)
def test_words_formatting_and_what_is_for_type_checkers_do_not(toy, name, old, new):
    assert not changed(toy, name, old, new)


def test_a_module_that_is_not_there():
    with pytest.raises(ModuleNotFoundError, match=r"spm_training\.nowhere"):
        source_files("spm_training.nowhere")
