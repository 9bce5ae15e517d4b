"""A whole evaluation of defects: packages, peers and real scans, with the files that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spm_runtime.errors import AdatomError, ParameterError
from spm_runtime.models import ModelPackage, find_model, list_models
from spm_runtime.session import Device
from spm_training.calibration import write_knots
from spm_training.defects.annotated import AnnotatedSet, read_annotated_scans, spiepy_set
from spm_training.defects.annotated_score import RealScores, score_annotated_set
from spm_training.defects.calibrate import fit_defects
from spm_training.defects.evaluate import Finder, Oracle, evaluate_all, package_finder
from spm_training.defects.report import DefectComparison, DefectReport, Subject
from spm_training.defects.scenes import DefectOptions
from spm_training.peers.defects import DefectTuning, make_peers
from spm_training.tables import write_tables
from spm_training.wanted import check_wanted

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["DefectOptions", "chosen_families", "named_packages", "run_calibration", "run_defects"]

#: Opens a progress bar of so many steps with a title.
Bar = Callable[[int, str], AbstractContextManager["tqdm[Any]"]]
Say = Callable[[str], object]


def named_packages(names: Sequence[str]) -> tuple[list[ModelPackage], bool]:
    """The packages that were named, and whether they find defects.

    Parameters
    ----------
    names
        Names or folders. The word ``defects`` stands for the task alone where no package of that name is installed.

    Raises
    ------
    ParameterError
        If two have the same name, or some find defects and others do something else.
    ModelError
        If one is not there, or cannot be read.
    """
    alone = "defects" in names and not any(folder.name == "defects" for folder in list_models())
    packages = [find_model(name) for name in names if not (alone and name == "defects")]
    if len({package.name for package in packages}) < len(packages):
        raise ParameterError("NAME: two packages of the same name; expected different ones. Score them one at a time.")
    tasks = {package.task for package in packages} | ({"defects"} if alone else set())
    if "defects" in tasks and len(tasks) > 1:
        raise ParameterError(f"NAME: packages of the tasks {', '.join(sorted(tasks))}; expected one task at a time.")
    return packages, "defects" in tasks


def chosen_families(only: Sequence[str], left_out: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Families of ``--family`` without those of ``--leave-out``, in the order of all.

    Raises
    ------
    ParameterError
        If a name is unknown, or nothing is left.
    """
    for option, names in (("--family", only), ("--leave-out", left_out)):
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ParameterError(f"{option} {unknown[0]}: unknown; expected one of {', '.join(known)}.")
    chosen = tuple(name for name in known if name in (only or known) and name not in left_out)
    if not chosen:
        raise ParameterError(
            f"--leave-out {' '.join(left_out)}: no family is left; expected one or more. Leave out fewer."
        )
    return chosen


def run_defects(
    packages: Sequence[ModelPackage],
    options: DefectOptions,
    out: Path,
    *,
    peers: bool,
    real: Path | None,
    device: Device,
    bar: Bar,
    say: Say,
    tuning: DefectTuning | None = None,
) -> None:
    """Score packages, print the tables and write them.

    Parameters
    ----------
    packages
        Packages of the task ``defects``; none scores the peers alone.
    options
        Which simulated images; with no images only real scans are scored.
    out
        Folder of the tables.
    peers
        Score the peers beside them, tuned on scenes of the validation split.
    real
        Folder of annotated scans (`spm_training.defects.annotated`) beside those of SPIEPy, or None.
    device
        Where the runtime computes.
    bar
        Opens a progress bar.
    say
        Prints.
    tuning
        What the peers are tuned on; the default scenes by default.

    Raises
    ------
    ParameterError
        If there is nothing to score, the folder of scans is missing or incomplete, or a package is of another task.
    """
    if not packages and not peers:
        raise ParameterError("NAME: no package of the task 'defects', and no --peers; expected either. Name a package.")
    annotated = _annotated_sets(real, say)  # before the first hour is spent
    check_wanted(options.images, real, others=bool(annotated))
    subjects = {package.name: Subject.of(package) for package in packages}
    finders: dict[str, Finder] = {package.name: package_finder(package, device) for package in packages}
    oracles: dict[str, Oracle] = {}
    missing: dict[str, str] = {}
    if peers:
        found = make_peers(DefectTuning(report=say) if tuning is None else tuning)
        finders, oracles, missing = {**finders, **found.finders}, found.oracles, found.missing
        subjects |= {
            one.name: Subject(
                one.name, description=one.description, places=one.places, classes=one.classes, empty=one.empty
            )
            for one in found.described
        }
    scored = {subjects[name].label: finder for name, finder in finders.items()}
    tables = _score_real(annotated, scored, [subjects[package.name].label for package in packages], bar)
    _write_real(tables, out, say)
    if not options.images:
        return
    with bar(options.total * (len(finders) + len(oracles)), "simulated images") as progress:
        scores = evaluate_all(finders, options, oracles=oracles, on_image=_step(progress))
    reports = [DefectReport(subject, options, scores[name], tables) for name, subject in subjects.items()]
    for report in reports:
        say(f"{report.subject.label}\n\n{report.markdown()}\nwritten: {', '.join(map(str, report.save(out)))}\n")
    if len(reports) > 1:
        comparison = DefectComparison(reports, missing, tables)
        say(f"Comparison\n\n{comparison.markdown()}\nwritten: {', '.join(map(str, comparison.save(out)))}\n")


def run_calibration(
    packages: Sequence[ModelPackage], options: DefectOptions, knots: Path, *, device: Device, bar: Bar, say: Say
) -> None:
    """Fit score to probability on scenes of the validation split, print what it does and write the knots.

    Parameters
    ----------
    packages
        One package of the task ``defects``; where it is calibrated already, the knots do both at once.
    options
        Which scenes.
    knots
        JSON file that ``spm-train export --calibration`` reads.
    device
        Where the runtime computes.
    bar
        Opens a progress bar.
    say
        Prints.

    Raises
    ------
    ParameterError
        If there is not one package, or it does not tell right from wrong.
    """
    if len(packages) != 1:
        raise ParameterError(f"--fit-calibration: {len(packages)} packages; expected one. Name one at a time.")
    with bar(options.total, "calibrating") as progress:
        fitted = fit_defects(packages[0], options, device, on_image=_step(progress))
    x, y = fitted.network_knots
    write_knots(knots, x, y, alarm_levels=fitted.alarm_levels)
    on_top = "" if fitted.known is None else " (from the network's scores, the package's own calibration included)"
    say(f"{fitted.markdown()}\n{len(x)} knots written{on_top}: {knots}")


def _annotated_sets(real: Path | None, say: Say) -> list[AnnotatedSet]:
    """SPIEPy's images and the scans of a folder."""
    own = []
    if real is not None:
        own.append(AnnotatedSet("folder", f"Real scans: {real.name}", "", read_annotated_scans(real)))
    try:
        return [spiepy_set(), *own]
    except AdatomError as error:
        say(f"The images of SPIEPy are not scored: {error}\n")
        return own


def _score_real(
    annotated: Sequence[AnnotatedSet], finders: Mapping[str, Finder], packages: Sequence[str], bar: Bar
) -> list[RealScores]:
    """Score finders on every set, by their labels; those of packages are also not told what a file does not know."""
    total = sum(len(one.scans) * (len(finders) + one.size_is_told * len(packages)) for one in annotated)
    with bar(total, "real scans") as progress:
        return [score_annotated_set(one, finders, without_size=packages, on_image=_step(progress)) for one in annotated]


def _write_real(tables: Sequence[RealScores], out: Path, say: Say) -> None:
    if not tables:
        return
    text = "\n".join(one.markdown() for one in tables)
    files = write_tables(out / "real-defects", {"sets": [one.document() for one in tables]}, text)
    say(f"{text}\nwritten: {', '.join(map(str, files))}\n")


def _step(progress: tqdm[Any]) -> Callable[[object], object]:
    return lambda _: progress.update(1)
