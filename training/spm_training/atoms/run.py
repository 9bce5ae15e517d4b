"""A whole evaluation: packages, peers, detectors on one map and real images, with the files that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spm_runtime.models import ModelPackage
from spm_runtime.session import Device
from spm_training.atoms.annotated import read_annotated
from spm_training.atoms.annotated_score import score_annotated
from spm_training.atoms.compare import Comparison
from spm_training.atoms.detection_stage import compare_detectors, detectors_markdown, scene_count
from spm_training.atoms.evaluate import EvaluationOptions, Finder, evaluate_all, package_finder
from spm_training.atoms.report import Report, Subject
from spm_training.peers import Tuning, available_peers

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["run_comparison"]

#: Opens a progress bar of so many steps with a title.
Bar = Callable[[int, str], AbstractContextManager["tqdm[Any]"]]
Say = Callable[[str], object]


def run_comparison(
    packages: Sequence[ModelPackage],
    options: EvaluationOptions,
    out: Path,
    *,
    peers: bool,
    real: Path | None,
    device: Device,
    bar: Bar,
    say: Say,
) -> None:
    """Score packages, print the tables and write them.

    Parameters
    ----------
    packages
        Packages of the task ``atoms``.
    options
        Which simulated images; with none of each family only real ones are scored.
    out
        Folder of the tables.
    peers
        Score the peers beside them, tuned on scenes of the validation split, and detectors on the packages' own maps.
    real
        Folder of annotated images, or None.
    device
        Where the runtime computes.
    bar
        Opens a progress bar.
    say
        Prints.

    Raises
    ------
    ParameterError
        If the folder of annotated images is missing or incomplete, or a package is of another task.
    """
    annotated = [] if real is None else read_annotated(real)  # before the first hour is spent
    subjects = {package.name: Subject.of(package) for package in packages}
    finders: dict[str, Finder] = {package.name: package_finder(package, device) for package in packages}
    missing: dict[str, str] = {}
    if peers:
        there, missing = available_peers()
        tuning = Tuning(spacing_px=options.spacing_px, report=say)
        with bar(len(there), "tuning the peers") as progress:
            for peer in there:
                progress.set_postfix_str(peer.name)
                finders[peer.name] = peer.make(tuning)
                subjects[peer.name] = Subject(peer.name, tuned=peer.tuned, description=peer.description)
                progress.update(1)
    if annotated:
        with bar(len(annotated) * (len(finders) + peers), "real images") as progress:
            table = score_annotated(finders, annotated, leave_one_out=peers, on_image=_step(progress))
        say(f"Real annotated images\n\n{table.markdown()}\nwritten: {', '.join(map(str, table.save(out)))}\n")
    if not options.total:
        return
    with bar(options.total * len(finders), "simulated images") as progress:
        scores = evaluate_all(finders, options, compare_time=len(finders) > 1, on_image=_step(progress))
    reports = [Report(subject, options, scores[name]) for name, subject in subjects.items()]
    for report in reports:
        say(f"{report.subject.label}\n\n{report.markdown()}\nwritten: {', '.join(map(str, report.save(out)))}\n")
    if len(reports) > 1:
        stages = _stages(packages, options, device, bar) if peers else {}
        comparison = Comparison(reports, missing, stages)
        say(f"Comparison\n\n{comparison.markdown()}\nwritten: {', '.join(map(str, comparison.save(out)))}\n")


def _stages(packages: Sequence[ModelPackage], options: EvaluationOptions, device: Device, bar: Bar) -> dict[str, str]:
    """Tables of the detectors on each package's maps, by heading."""
    tables = {}
    for package in packages:
        with bar(scene_count(options), f"detectors on the maps of {package.name}") as progress:
            scores = compare_detectors(package, options, device, on_image=_step(progress))
        tables[f"Detectors on the confidence maps of {package.name}"] = detectors_markdown(scores)
    return tables


def _step(progress: tqdm[Any]) -> Callable[[object], object]:
    return lambda _: progress.update(1)
