"""What a model card says of scores, standard deviations and pixel locking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spm_training.atoms.evaluate import Detections, ImageScore
from spm_training.calibration import Coverage, Locking, Reliability, coverage, joined, pixel_locking, reliability
from spm_training.simulate.columns import NOISE_LEVELS

__all__ = ["CalibrationReport"]

#: Shares of a normal distribution within one and two standard deviations.
NORMAL_WITHIN = (0.6827, 0.9545)


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """What is to be said of a finder's scores and standard deviations over a set of images.

    Parameters
    ----------
    reliability
        Of all positions.
    coverage
        By noise level, and ``all``.
    found, truth
        Pixel locking of the right positions, and of the true ones that they answer.
    """

    reliability: Reliability
    coverage: dict[str, Coverage]
    found: Locking
    truth: Locking

    @classmethod
    def of(cls, scores: Sequence[ImageScore]) -> CalibrationReport | None:
        """Of scored images; None where the finder gives no scores."""
        groups = {"all": scores} | {
            level: [score for score in scores if score.noise == level] for level in NOISE_LEVELS
        }
        told = {name: [one.detections for one in group if one.detections is not None] for name, group in groups.items()}
        if not told["all"]:
            return None
        every = joined(told["all"])
        return cls(
            reliability(every.score, every.is_true),
            {name: _coverage_of(joined(group)) for name, group in told.items() if group},
            pixel_locking(every.found_yx_px[every.is_true]),
            pixel_locking(every.true_yx_px[every.is_true]),
        )

    def markdown(self) -> str:
        """Tables of reliability, coverage and pixel locking."""
        lines = [
            self.reliability.markdown("within 0.25 of the spacing", "positions"),
            "Errors of single coordinates over the standard deviation that the finder states:",
            "",
            "| | coordinates | below 1 | below 2 | robust std |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, one in self.coverage.items():
            numbers = f"{one.within_one:.3f} | {one.within_two:.3f} | {one.robust_std:.2f}"
            lines.append(f"| {name} | {one.count} | {numbers} |")
        normal_one, normal_two = NORMAL_WITHIN
        lines += [
            f"| normal and honest | | {normal_one:.3f} | {normal_two:.3f} | 1.00 |",
            "",
            f"Fractional parts of the right positions deviate from uniform by at most {self.found.largest_deviation:.1%} in "
            f"ten bins (χ² per degree of freedom {self.found.chi_square:.2f}); those of the true positions that they answer by "
            f"{self.truth.largest_deviation:.1%} ({self.truth.chi_square:.2f}).",
        ]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, object]:
        """The same for JSON, None for NaN."""
        return {
            **self.reliability.document(),
            "coverage": {
                name: {key: _plain(value) for key, value in vars(one).items()} for name, one in self.coverage.items()
            },
            "pixel_locking": {
                name: {key: _plain(value) for key, value in vars(one).items()}
                for name, one in (("found", self.found), ("truth", self.truth))
            },
        }


def _coverage_of(all_found: Detections) -> Coverage:
    return coverage(all_found.found_yx_px - all_found.true_yx_px, all_found.std_px)


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
