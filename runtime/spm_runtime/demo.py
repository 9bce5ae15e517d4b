"""The three real STM images that the PyPI package SPIEPy ships, for the demonstration."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from spm_runtime.errors import AdatomError

__all__ = ["DEMO_PIXEL_NM", "DEMO_SCANS", "demo_scans"]

#: Si(111)-7×7: vacancies and adsorbates; a step edge at low magnification; a step edge with atoms.
DEMO_SCANS = ("image_with_defects.dat", "image_with_step_edge.dat", "image_with_step_edge_and_atoms.dat")

#: Their pixels, which the files do not tell: from the side of the 7×7 cell, 2.688 nm (Takayanagi et al., J. Vac. Sci. Technol. A
#: 3, 1502 (1985)), as it appears in each.
DEMO_PIXEL_NM = {
    "image_with_defects.dat": 0.0589,
    "image_with_step_edge.dat": 0.250,
    "image_with_step_edge_and_atoms.dat": 0.0608,
}


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
