"""How the kernels are compiled: cached on disk, without Python's global lock."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from numba import njit

__all__ = ["cache_folder", "kernel"]

P = ParamSpec("P")
R = TypeVar("R")

_cached: list[Any] = []


def kernel(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function with Numba; a decorator.

    Parameters
    ----------
    **options
        Options of ``numba.njit`` beyond ``cache`` and ``nogil``.

    Notes
    -----
    Where no folder for the cache can be written (a read-only installation of a user without a home) a warning says so once, and
    every process compiles anew: slow, but right.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        try:
            compiled = njit(cache=True, nogil=True, **options)(function)
        except RuntimeError as error:  # what Numba raises when it finds no place
            if not _cached:
                warnings.warn(f"{error}; kernels are compiled anew by every process: set NUMBA_CACHE_DIR", stacklevel=2)
            _cached.append(None)
            return njit(nogil=True, **options)(function)  # type: ignore[no-any-return]
        _cached.append(compiled)
        return compiled  # type: ignore[no-any-return]

    return decorate


def cache_folder() -> Path | None:
    """Where Numba keeps the compiled kernels, or None where it cannot keep them."""
    if not _cached or _cached[0] is None:
        return None
    return Path(_cached[0].stats.cache_path)
