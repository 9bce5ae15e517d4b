"""Adatom's runtime: opens native scans, runs exported networks and Numba kernels, stores what they find.

>>> import spm_runtime as spm
>>> scan = spm.open("a.sxm")                  # doctest: +SKIP
>>> result = spm.analyse(scan, "atoms")       # doctest: +SKIP
>>> result.save("out")                        # doctest: +SKIP

What the kernels need of a read-only installation stands in `spm_kernels`.
"""

from __future__ import annotations

from spm_runtime._version import __version__
from spm_runtime.errors import AdatomError
from spm_runtime.pipelines import analyse
from spm_runtime.readers import open_scan as open
from spm_runtime.readers import read_scans
from spm_runtime.results import Result
from spm_runtime.scan import Scan

__all__ = ["AdatomError", "Result", "Scan", "__version__", "analyse", "open", "read_scans"]
