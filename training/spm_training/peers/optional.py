"""Importing the libraries of the peers: only when asked for, with the remedy when they are not there."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import ModuleType

from spm_runtime.errors import ParameterError

__all__ = ["import_peer", "is_installed"]


def is_installed(package: str) -> bool:
    """Whether a top-level package can be found; it is not imported."""
    return importlib.util.find_spec(package) is not None


def import_peer(module: str, remedy: str) -> ModuleType:
    """Import a module of a peer's library.

    Parameters
    ----------
    module
        Dotted name.
    remedy
        What to type to install the library.

    Raises
    ------
    ParameterError
        If the library is not installed.
    """
    package = module.partition(".")[0]
    if not is_installed(package):
        raise ParameterError(f"the peer needs {package}, which is not installed. Install it: {remedy}")
    with warnings.catch_warnings():
        # Old libraries use what their own dependencies deprecate; nobody here can mend that.
        warnings.simplefilter("ignore")
        return importlib.import_module(module)
