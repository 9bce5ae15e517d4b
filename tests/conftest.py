"""Fixtures for every test: where the real scans are, if they are here."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: before anything imports torch, each gets one thread, and so do the processes that it starts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
#: Real scans of real instruments are not part of the project. Set ADATOM_TEST_DATA to a folder that has them.
DATA = Path(os.environ.get("ADATOM_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; skips the test where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real scans at {DATA}: set ADATOM_TEST_DATA to a folder that has them")
    return DATA


@pytest.fixture
def rng(request):
    """A generator seeded by the name of the test."""
    import zlib

    import numpy as np

    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
