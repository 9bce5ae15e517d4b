"""What the pipelines of all tasks share."""

from __future__ import annotations

import time

from spm_runtime.models import ModelPackage
from spm_runtime.scan import Scan

__all__ = ["Clock", "unlike_training"]


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        """End a stage that began where the last one ended."""
        now = time.perf_counter()
        self.laps[stage] = now - self._last
        self._last = now


def unlike_training(scan: Scan, package: ModelPackage, what: str) -> tuple[str, ...]:
    """Sentences for a scan whose pixels or modality a model was not made for.

    Parameters
    ----------
    scan, package
        The scan and the model.
    what
        What a person should check by eye.
    """
    said = []
    if scan.pixel_size_nm is not None:
        low, high = package.pixel_size_nm
        outside = [p for p in scan.pixel_size_nm if not low <= p <= high]
        if outside:
            said.append(
                f"pixel size {outside[0]:.3g} nm is outside the range that model {package.name} was made for "
                f"({low:g} to {high:g} nm): check the calibration, and {what} by eye"
            )
    if scan.modality != "unknown" and scan.modality not in package.modalities:
        known = ", ".join(modality.upper() for modality in package.modalities)
        said.append(f"model {package.name} was not trained on {scan.modality.upper()} images, only on {known}")
    return tuple(said)
