"""What tells the sources of a computation from those of another one: caches keep no answers of code that has changed."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["PACKAGES", "source_digest", "source_files"]

#: Packages whose modules are followed; what is installed beside them counts as unchanging.
PACKAGES = ("spm_training", "spm_runtime", "spm_kernels")

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def source_digest(*modules: str) -> str:
    """Digest of modules and of all that they import from the project.

    Comments, docstrings and formatting do not count.

    Parameters
    ----------
    modules
        Names as ``spm_runtime.levelling``.

    Returns
    -------
    str
        SHA-256 in hexadecimal. It may differ between versions of Python.
    """
    digest = hashlib.sha256()
    for name, file in sorted(source_files(*modules).items()):
        digest.update(f"{name}\n{ast.dump(_bare(file))}\n".encode())
    return digest.hexdigest()


def source_files(*modules: str) -> dict[str, Path]:
    """Files of modules and of all that they import from the project, by name; not what is there for type checkers alone.

    Raises
    ------
    ModuleNotFoundError
        If a module that was named is not there: the caller's mistake.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name)
        found[name] = Path(spec.origin)
        waiting += _imported(_bare(found[name]).body)
    return found


def _imported(statements: list[ast.stmt]) -> Iterator[str]:
    """Modules of the project that statements import, wherever in them."""
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
            else:
                continue
            for name in names:
                if name.split(".")[0] in PACKAGES and _is_module(name):
                    yield name


def _is_module(name: str) -> bool:
    """Whether it names a module, not a value within one."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # its parent is a module without modules of its own
        return False
    return spec is not None and spec.origin is not None


def _bare(file: Path) -> ast.Module:
    """The syntax of a file without docstrings and without what is imported for type checkers alone."""
    tree = ast.parse(file.read_bytes())
    tree.body = [one for one in tree.body if not (isinstance(one, ast.If) and _is_name(one.test, "TYPE_CHECKING"))]
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
