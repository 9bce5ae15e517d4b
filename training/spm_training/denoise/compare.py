"""Several denoisers in one comparison: tables side by side, wins and goals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from spm_training.defects.score import Interval
from spm_training.denoise.evaluate import AS_RECORDED, LatticeScore
from spm_training.denoise.report import DenoiseReport, chosen, finite_mean, interval_of
from spm_training.denoise.scenes import SURFACES, conditions
from spm_training.restore.report import plain
from spm_training.simulate.stm_lattices import NOISE_LEVELS
from spm_training.tables import markdown_table, write_tables

__all__ = ["DenoiseComparison", "Goal", "Win"]

#: Goals: dB over BM3D on lattices of the training and on others, and what may be missing of a defect's contrast.
_TRAINED_DB, _UNSEEN_DB, _CONTRAST = 3.0, 1.0, 0.1
#: What the names of all variants of the strongest peer begin with.
_BM3D = "BM3D"


class Goal(NamedTuple):
    """What is asked for, what was reached, and whether that is enough."""

    goal: str
    reached: str
    is_reached: bool


class Win(NamedTuple):
    """One method against another: images, those with the higher PSNR and SSIM, and the mean gain in dB with its interval."""

    images: int
    psnr: int
    ssim: int
    gain_db: Interval

    def __str__(self) -> str:
        return f"{_signed(self.gain_db)} dB; {self.psnr} / {self.ssim} of {self.images}" if self.images else "–"


@dataclass(frozen=True)
class DenoiseComparison:
    """Several subjects on the same images.

    Parameters
    ----------
    reports
        All of the same images; what is as recorded, the peers and the packages.
    trained_on
        Lattices that a package was trained on, by its label; all of them for those that are not named.
    missing
        Why peers that exist were not run, by name.
    """

    reports: Sequence[DenoiseReport]
    trained_on: Mapping[str, Sequence[str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def packages(self) -> list[DenoiseReport]:
        """The subjects that are model packages."""
        return [one for one in self.reports if one.subject.sha256]

    @cached_property
    def peers(self) -> list[DenoiseReport]:
        """The subjects that are neither packages nor the image as recorded."""
        return [one for one in self.reports if not one.subject.sha256 and one.subject.name != AS_RECORDED]

    def best_peer(
        self, level: str, names: Sequence[str], *, of: str = "", by: Literal["psnr_db", "ssim"] = "psnr_db"
    ) -> DenoiseReport | None:
        """The peer with the highest mean PSNR or SSIM at a level on some lattices, among those whose names begin so."""
        there = [one for one in self.peers if one.subject.name.startswith(of)]
        means = {id(one): _mean(one, level, names, by) for one in there}
        known = [one for one in there if math.isfinite(means[id(one)])]
        return max(known, key=lambda one: means[id(one)]) if known else None

    def goals(self, package: DenoiseReport) -> list[Goal]:
        """What the project asks of a package, at every level of noise; of BM3D the better variant counts."""
        lines: list[Goal] = []
        for level in NOISE_LEVELS:
            for kind, names, least in self._groups(package):
                rival = None if least is None else self.best_peer(level, names, of=_BM3D)
                if rival is not None and least is not None:
                    gain = _win(package, rival, level, names).gain_db
                    text = f"noise {level}, {kind}: {least:g} dB above {rival.subject.label}"
                    lines.append(Goal(text, f"{_signed(gain)} dB", gain.value >= least))
                best = self.best_peer(level, names)
                if best is not None:
                    won = _win(package, best, level, names)
                    text = f"noise {level}, {kind}: above the best peer, {best.subject.label}"
                    # Not by chance: all of the interval is above.
                    lines.append(Goal(text, str(won), won.gain_db.value > 0 and not won.gain_db.low <= 0))
                similar = self.best_peer(level, names, by="ssim")
                if similar is not None:
                    ours, theirs = (_mean(one, level, names, "ssim") for one in (package, similar))
                    text = f"noise {level}, {kind}: SSIM above that of the best peer, {similar.subject.label}"
                    lines.append(Goal(text, f"{ours:.3f}, {theirs:.3f}", ours > theirs))
            for kind, name in (("vacancies", "vacancy"), ("adatoms", "adatom")):
                left = interval_of(
                    [getattr(one, name) for one in chosen(package.scores, level, package.options.lattices)]
                )
                if math.isfinite(left.value):
                    text = f"noise {level}: contrast of {kind} kept within {_CONTRAST:.0%}"
                    lines.append(Goal(text, _plain(left), abs(left.value - 1) <= _CONTRAST))
        return lines

    def verdict(self) -> str:
        """How many of its goals every package reaches, in a sentence each."""
        said = []
        for package in self.packages:
            lines = self.goals(package)
            said.append(
                f"{package.subject.label} reaches {sum(one.is_reached for one in lines)} of {len(lines)} goals."
            )
        return " ".join(said)

    def markdown(self) -> str:
        """All tables, their conditions, what the peers are and which were not run."""
        names = self.reports[0].options.names
        parts = [
            self._by_level("PSNR in dB [95 %]", _psnr),
            self._by_level("MSE / PSNR / SSIM", _quality),
            *(self._by_lattice(level, names) for level in NOISE_LEVELS),
            self._by_level("contrast left: vacancies; adatoms [95 %]", _contrast),
            *(self._wins(package) for package in self.packages if self.peers),
            *(self._goals(package) for package in self.packages),
            self._seconds(),
            conditions(self.reports[0].options),
            "As recorded, all of the contrast is there. Intervals: bootstrap over images. Peers are told the rms of all that was "
            "added to the clean image and have settings of their own at every level of noise, for lattices and for surfaces, "
            "tuned on images from the validation split; packages are told nothing. Wins: mean gain in PSNR and images with the "
            "higher PSNR / SSIM. Seconds without the first image, on the machine that evaluated.\n",
            self._described(),
        ]
        return "\n".join(part for part in parts if part)

    def document(self) -> dict[str, object]:
        """All reports for JSON."""
        return {
            "reports": [report.document() for report in self.reports],
            "wins": plain({one.subject.label: self._win_figures(one) for one in self.packages}),
            "goals": {one.subject.label: [line._asdict() for line in self.goals(one)] for one in self.packages},
            "not_run": dict(self.missing),
        }

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``comparison-denoise.json`` and ``.md`` and give their paths."""
        return write_tables(folder / "comparison-denoise", self.document(), self.markdown())

    def _groups(self, package: DenoiseReport) -> list[tuple[str, tuple[str, ...], float | None]]:
        """Lattices of its training, others, and other surfaces: what they are called, their names and the goal in dB."""
        every = package.options.lattices
        known = self.trained_on.get(package.subject.label, every)
        groups: tuple[tuple[str, tuple[str, ...], float | None], ...] = (
            ("trained lattices", tuple(name for name in every if name in known), _TRAINED_DB),
            ("unseen lattices", tuple(name for name in every if name not in known), _UNSEEN_DB),
            ("surfaces", tuple(name for name in package.options.names if name == SURFACES), None),
        )
        return [group for group in groups if group[1]]

    def _kinds(self) -> list[tuple[str, tuple[str, ...]]]:
        """Lattices and other surfaces, as far as they were scored: what stands before the level of noise, and their names."""
        options = self.reports[0].options
        surfaces = tuple(name for name in options.names if name == SURFACES)
        return [kind for kind in (("", options.lattices), (f"{SURFACES}, ", surfaces)) if kind[1]]

    def _by_level(self, title: str, cell: Callable[[Sequence[LatticeScore]], str]) -> str:
        columns = [(kind, names, level) for kind, names in self._kinds() for level in NOISE_LEVELS]
        rows = [
            [one.subject.label, *(cell(chosen(one.scores, level, names)) for _, names, level in columns)]
            for one in self.reports
        ]
        return markdown_table((title, *(f"{kind}noise {level}" for kind, _, level in columns)), rows)

    def _by_lattice(self, level: str, names: Sequence[str]) -> str:
        rows = [
            [one.subject.label, *(_quality(chosen(one.scores, level, [name])) for name in names)]
            for one in self.reports
        ]
        return markdown_table((f"noise {level}: MSE / PSNR / SSIM", *names), rows)

    def _wins(self, package: DenoiseReport) -> str:
        rows = []
        for kind, names in self._kinds():
            for level in NOISE_LEVELS:
                best = self.best_peer(level, names)
                if best is not None:
                    each = [
                        str(_win(package, best, level, [name] if name in names else []))
                        for name in package.options.names
                    ]
                    all_of_them = str(_win(package, best, level, names))
                    rows.append([f"{kind}noise {level}, {best.subject.label}", all_of_them, *each])
        return markdown_table((f"{package.subject.label} against the best peer", "all", *package.options.names), rows)

    def _win_figures(self, package: DenoiseReport) -> dict[str, object]:
        return {
            rival.subject.label: {
                f"{kind}{level}": {**won._asdict(), "gain_db": asdict(won.gain_db)}
                for kind, names in self._kinds()
                for level in NOISE_LEVELS
                if (won := _win(package, rival, level, names)).images
            }
            for rival in self.reports
            if rival is not package
        }

    def _goals(self, package: DenoiseReport) -> str:
        cells = [[line.goal, line.reached, "yes" if line.is_reached else "no"] for line in self.goals(package)]
        return markdown_table((f"goals of {package.subject.label}", "reached", "enough"), cells) if cells else ""

    def _seconds(self) -> str:
        cells = [
            [one.subject.label, f"{finite_mean([score.seconds for score in one.scores]):.3f}"] for one in self.reports
        ]
        return markdown_table(("", "seconds per image"), cells)

    def _described(self) -> str:
        lines = [f"* {one.subject.label}: {one.subject.description}" for one in self.reports if one.subject.description]
        lines += [f"* {name} was not run: {why}" for name, why in self.missing.items()]
        return "\n".join(lines) + "\n" if lines else ""


def _mean(report: DenoiseReport, level: str, names: Sequence[str], of: str) -> float:
    return finite_mean([getattr(score.after, of) for score in chosen(report.scores, level, names)])


def _win(ours: DenoiseReport, theirs: DenoiseReport, level: str, names: Sequence[str]) -> Win:
    """Image by image; equal ones are no win."""
    pairs = list(zip(chosen(ours.scores, level, names), chosen(theirs.scores, level, names), strict=True))
    return Win(
        len(pairs),
        sum(one.after.psnr_db > other.after.psnr_db for one, other in pairs),
        sum(one.after.ssim > other.after.ssim for one, other in pairs),
        interval_of([one.after.psnr_db - other.after.psnr_db for one, other in pairs]),
    )


def _psnr(scores: Sequence[LatticeScore]) -> str:
    return _plain(interval_of([one.after.psnr_db for one in scores]))


def _quality(scores: Sequence[LatticeScore]) -> str:
    means = (finite_mean([getattr(one.after, name) for one in scores]) for name in ("mse", "psnr_db", "ssim"))
    return "{:.5f} / {:.2f} / {:.3f}".format(*means)


def _contrast(scores: Sequence[LatticeScore]) -> str:
    return "; ".join(_plain(interval_of([getattr(one, kind) for one in scores])) for kind in ("vacancy", "adatom"))


def _plain(value: Interval) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _signed(value: Interval) -> str:
    return f"{value.value:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"
