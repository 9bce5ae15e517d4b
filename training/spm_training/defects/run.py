"""A whole evaluation of defects: packages, peers and real scans, with the files that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage, find_model, list_models
from spm_runtime.session import Device
from spm_training.defects.annotated import annotated_markdown, read_annotated_scans, score_annotated_scans
from spm_training.defects.evaluate import Finder, Oracle, evaluate_all, package_finder
from spm_training.defects.report import DefectComparison, DefectReport, Subject
from spm_training.defects.scenes import DefectOptions
from spm_training.files import write_atomically
from spm_training.peers.defects import DefectTuning, make_peers

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["DefectOptions", "chosen_families", "named_packages", "run_defects"]

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
        Folder of annotated scans (`spm_training.defects.annotated`), or None.
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
    annotated = [] if real is None else read_annotated_scans(real)  # before the first hour is spent
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
    if annotated:
        with bar(len(annotated) * len(finders), "real scans") as progress:
            real_scores = score_annotated_scans(finders, annotated, on_image=_step(progress))
        table = annotated_markdown(real_scores, {name: subjects[name].label for name in finders})
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "real-defects.md", table.encode())
        say(f"Real annotated scans\n\n{table}\nwritten: {out / 'real-defects.md'}\n")
    if not options.images:
        return
    with bar(options.total * (len(finders) + len(oracles)), "simulated images") as progress:
        scores = evaluate_all(finders, options, oracles=oracles, on_image=_step(progress))
    reports = [DefectReport(subject, options, scores[name]) for name, subject in subjects.items()]
    for report in reports:
        say(f"{report.subject.label}\n\n{report.markdown()}\nwritten: {', '.join(map(str, report.save(out)))}\n")
    if len(reports) > 1:
        comparison = DefectComparison(reports, missing)
        say(f"Comparison\n\n{comparison.markdown()}\nwritten: {', '.join(map(str, comparison.save(out)))}\n")


def _step(progress: tqdm[Any]) -> Callable[[object], object]:
    return lambda _: progress.update(1)
