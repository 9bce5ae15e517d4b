"""The three real STM images that the PyPI package SPIEPy ships, for the demonstration."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from spm_runtime.errors import AdatomError

__all__ = ["DEMO_SCANS", "demo_scans"]

#: Si(111)-7×7: vacancies and adsorbates; a step edge at low magnification; a step edge with atoms.
DEMO_SCANS = ("image_with_defects.dat", "image_with_step_edge.dat", "image_with_step_edge_and_atoms.dat")


def demo_scans() -> tuple[Path, ...]:
    """Paths of the demonstration's scans; SPIEPy itself is not imported.

    Raises
    ------
    AdatomError
        If SPIEPy is not installed, or ships other files, with the install line.
    """
    spec = importlib.util.find_spec("spiepy")
    if spec is None or spec.origin is None:
        raise AdatomError(
            "the demonstration's scans come with the package SPIEPy, which is not installed. "
            'Install it: pip install "adatom[demo]"'
        )
    folder = Path(spec.origin).parent / "demo"
    scans = tuple(folder / name for name in DEMO_SCANS)
    missing = [scan.name for scan in scans if not scan.is_file()]
    if missing:
        raise AdatomError(
            f"{folder}: {', '.join(missing)} missing; expected the demonstration's scans of SPIEPy 0.2.1. "
            'Install that version: pip install "SPIEPy==0.2.1"'
        )
    return scans
