"""Several restorers in one comparison: tables side by side, wins and goals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spm_training.restore.evaluate import AS_RECORDED
from spm_training.restore.figures import Row, certainty_figures, chosen, row, tip_figures, wins
from spm_training.restore.report import RestoreReport, conditions, plain, quality_cell
from spm_training.restore.scenes import GOOD
from spm_training.restore.score import ImageScore
from spm_training.simulate.tips import SURFACES
from spm_training.tables import markdown_table, write_tables

__all__ = ["RestoreComparison"]

#: Goals: share of the true tip's gain, gain over a convolution in dB, share of the images won.
_SHARE, _GAIN_DB, _WON = 0.9, 5.0, 0.9
#: Families that have a goal.
_TIPS, _BLUR = ("blunt", "double"), "convolution"


@dataclass(frozen=True)
class RestoreComparison:
    """Several subjects on the same images.

    Parameters
    ----------
    reports
        All of the same images; the packages and the references among them.
    rivals
        Names of those that a package is to beat image by image, beside the image as recorded.
    missing
        Why peers that exist were not run, by name.
    """

    reports: Sequence[RestoreReport]
    rivals: Sequence[str] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def packages(self) -> list[RestoreReport]:
        """The subjects that are model packages."""
        return [one for one in self.reports if one.subject.sha256]

    def markdown(self) -> str:
        """All tables, their conditions, what the peers are and which were not run."""
        parts = []
        for modality in self.reports[0].options.modalities:
            parts += [
                self._table(f"{modality.upper()}, raw: PSNR / SSIM / VIF", modality, _raw),
                self._table(f"{modality.upper()}, registered: PSNR / SSIM / VIF", modality, _registered),
                self._table(
                    f"{modality.upper()}: PSNR with its 95 % interval, hackathon registered", modality, _with_interval
                ),
                self._surfaces(modality),
            ]
        parts += [self._good_tips(), self._certainties(), self._tips()]
        for package in self.packages:
            parts += [self._wins(package), self._goals(package)]
        parts += [self._seconds(), conditions(self.reports[0].options) + "\n", self._described()]
        return "\n".join(part for part in parts if part)

    def document(self) -> dict[str, object]:
        """All reports for JSON."""
        return {
            "reports": [report.document() for report in self.reports],
            "wins": plain(
                {
                    package.subject.label: {
                        rival: {
                            f"{modality} {group}": wins(package.scores, other.scores, keep)._asdict()
                            for (modality, group), keep in package.groups.items()
                        }
                        for rival, other in self._opponents(package).items()
                    }
                    for package in self.packages
                }
            ),
            "goals": {
                package.subject.label: [
                    dict(zip(("goal", "reached", "is_reached"), line, strict=True)) for line in lines
                ]
                for package in self.packages
                if (lines := self.goals(package))
            },
            "not_run": dict(self.missing),
        }

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``comparison-restore.json`` and ``.md`` and give their paths."""
        return write_tables(folder / "comparison-restore", self.document(), self.markdown())

    def goals(self, package: RestoreReport) -> list[tuple[str, str, bool]]:
        """What is asked for, what was reached, and whether that is enough; for families and modalities that were scored."""
        lines: list[tuple[str, str, bool]] = []
        for (modality, family), reached in package.goals.items():
            name = f"{modality.upper()}, {family}"
            if family in _TIPS and math.isfinite(reached.share):
                share = f"{100 * reached.share:.0f} % ({reached.gain_db:+.2f} dB)"
                lines.append((f"{name}: {_SHARE:.0%} of the true tip's gain in PSNR", share, reached.share >= _SHARE))
                both = f"{reached.ssim:+.3f}, {reached.vif:+.3f}"
                enough = reached.ssim > 0 and reached.vif > 0
                lines.append((f"{name}: SSIM and VIF above the true tip's", both, enough))
            if family == _BLUR and math.isfinite(reached.gain_db):
                gained = f"{reached.gain_db:+.2f} dB"
                lines.append((f"{name}: {_GAIN_DB:g} dB above the image", gained, reached.gain_db >= _GAIN_DB))
            for rival, other in self._opponents(package).items():
                won = wins(package.scores, other.scores, package.groups[modality, family])
                if won.images:
                    lines.append((f"{name}: 9 of 10 images against {rival}", str(won), won.least >= _WON))
        for modality in package.options.modalities:
            figures = package.rows[modality, GOOD]
            if figures.images:
                text = f"{modality.upper()}, {GOOD}: every image changed by less than its noise, or nearer to the truth"
                found = (
                    f"{figures.unharmed} of {figures.images}; changed by {figures.change:.2f} of the noise on average"
                )
                lines.append((text, found, figures.unharmed == figures.images))
        return lines

    def verdict(self) -> str:
        """How many of its goals every package reaches, in a sentence each."""
        said = []
        for package in self.packages:
            lines = self.goals(package)
            said.append(f"{package.subject.label} reaches {sum(enough for *_, enough in lines)} of {len(lines)} goals.")
        return " ".join(said)

    def _opponents(self, package: RestoreReport) -> dict[str, RestoreReport]:
        """The image as recorded and the rivals, by name."""
        by_name = {one.subject.name: one for one in self.reports}
        names = [name for name in (AS_RECORDED, *self.rivals) if name in by_name]
        return {name: by_name[name] for name in names if name != package.subject.name}

    def _table(self, title: str, modality: str, cell: Callable[[Row], str]) -> str:
        families = self.reports[0].options.families
        cells = [
            [_name(report), *(cell(report.rows[modality, family]) for family in families)] for report in self.reports
        ]
        return markdown_table((title, *families), cells)

    def _surfaces(self, modality: str) -> str:
        """Mean gain of the families of one modality by kind of surface."""
        report = self.reports[0]
        recorded = report.references[AS_RECORDED]
        cells = []
        for one in self.reports:
            if one.subject.name == AS_RECORDED:
                continue
            gains = []
            for surface in SURFACES[modality]:
                keep = _all_of(modality, surface)
                pairs = zip(one.scores, recorded, strict=True)
                both = [(a, b) for a, b in pairs if a is not None and b is not None and keep(a)]
                gain = row([a for a, _ in both]).fair.psnr - row([b for _, b in both]).fair.psnr
                gains.append(f"{gain:+.2f}" if math.isfinite(gain) else "–")
            cells.append([_name(one), *gains])
        return markdown_table((f"{modality.upper()}: gain in dB, all families", *SURFACES[modality]), cells)

    def _good_tips(self) -> str:
        modalities = self.reports[0].options.modalities
        headings = [
            f"{modality.upper()}: {what}" for modality in modalities for what in ("change", "error", "unharmed", "PSNR")
        ]
        cells = []
        for report in self.reports:
            line = [_name(report)]
            for modality in modalities:
                figures = report.rows[modality, GOOD]
                line += [f"{figures.change:.2f}", f"{figures.harm:.2f}", f"{figures.unharmed} of {figures.images}"]
                line.append(f"{figures.raw.psnr:.2f}")
            cells.append(line)
        table = markdown_table(("good tip", *headings), (line for line in cells if "nan" not in line[1]))
        return (
            f"{table}\nChange: rms of (restored − image) over the rms of all that came after the tip (noise, scars, offsets of "
            "lines). Error: rms of (restored − clean) over that of (image − clean). Unharmed: one of both is at most 1.\n"
        )

    def _certainties(self) -> str:
        cells = []
        for report in self.reports:
            for modality in report.options.modalities:
                line = [f"{_name(report)}, {modality.upper()}"]
                for family in report.options.families:
                    found = certainty_figures(chosen(report.scores, report.groups[modality, family]))
                    if found is not None:
                        error = found.reliability.expected_error
                        line.append(f"{found.precision:.2f} / {found.recall:.2f} / {found.auc:.2f} / {error:.2f}")
                if len(line) > 1:
                    cells.append(line)
        families = [family for family in self.reports[0].options.families if family != _BLUR]
        heading = "certainty: precision / recall / AUC / calibration error"
        return markdown_table((heading, *families), cells) if cells else ""

    def _tips(self) -> str:
        cells = []
        families = [family for family in self.reports[0].options.families if family != _BLUR]
        for report in self.reports:
            for modality in report.options.modalities:
                scores = {family: chosen(report.scores, report.groups[modality, family]) for family in families}
                found = {family: tip_figures(every) for family, every in scores.items()}
                if not any(found.values()):
                    continue
                double = found.get("double")
                second = "" if double is None else f"{double.near} of {double.two} ({double.second_px:.1f} px)"
                errors = ["" if one is None else f"{one.error:.3f}" for one in found.values()]
                cells.append([f"{_name(report)}, {modality.upper()}", *errors, second])
        headings = ("error of the tip", *families, "second apex within 2 px (median distance)")
        return markdown_table(headings, cells) if cells else ""

    def _wins(self, package: RestoreReport) -> str:
        opponents = self._opponents(package)
        cells = [
            [
                f"{modality.upper()}, {group}",
                *(str(wins(package.scores, other.scores, keep)) for other in opponents.values()),
            ]
            for (modality, group), keep in package.groups.items()
            if group != GOOD
        ]
        heading = f"images on which {package.subject.label} is better: PSNR / SSIM / VIF"
        return markdown_table((heading, *opponents), cells)

    def _goals(self, package: RestoreReport) -> str:
        cells = [[goal, reached, "yes" if enough else "no"] for goal, reached, enough in self.goals(package)]
        return markdown_table((f"goals of {package.subject.label}", "reached", "enough"), cells) if cells else ""

    def _seconds(self) -> str:
        cells = []
        for report in self.reports:
            every = [score.seconds for score in report.scores if score is not None]
            if every:
                cells.append([_name(report), f"{sum(every) / len(every):.3f}"])
        return markdown_table(("", "seconds per image"), cells)

    def _described(self) -> str:
        lines = [f"* {one.subject.label}: {one.subject.description}" for one in self.reports if one.subject.description]
        lines += [f"* {name} was not run: {why}" for name, why in self.missing.items()]
        return "\n".join(lines) + "\n" if lines else ""


def _name(report: RestoreReport) -> str:
    """A bound is marked."""
    return f"*{report.subject.label}*" if report.subject.oracle else report.subject.label


def _raw(figures: Row) -> str:
    return quality_cell(figures.raw)


def _registered(figures: Row) -> str:
    return quality_cell(figures.registered)


def _with_interval(figures: Row) -> str:
    value = figures.interval
    return f"{value.value:.2f} [{value.low:.1f}, {value.high:.1f}]" if math.isfinite(value.value) else "–"


def _all_of(modality: str, surface: str) -> Callable[[ImageScore], bool]:
    return lambda score: score.modality == modality and score.surface == surface and score.group != GOOD
