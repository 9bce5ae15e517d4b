"""A whole evaluation of restoration: packages, peers, real scans, with the files that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage, find_model, list_models
from spm_runtime.session import Device
from spm_training.peers.restore import DETAILED, GWYDDION_BLIND, Peers, RestoreTuning, make_peers
from spm_training.restore.compare import RestoreComparison
from spm_training.restore.evaluate import (
    AS_RECORDED,
    REFERENCES,
    TRUE_TIP,
    Oracle,
    Restorer,
    Scores,
    evaluate_all,
    package_restorer,
    pipeline_restorer,
)
from spm_training.restore.images import write_images
from spm_training.restore.pictures import Examples, add_examples, add_real, real_examples
from spm_training.restore.report import RestoreReport, Subject, conditions
from spm_training.restore.scenes import RestoreOptions, Shown
from spm_training.restore.score import ImageScore
from spm_training.studies.page import Page
from spm_training.wanted import check_wanted

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["PAPERS", "RestoreOptions", "restore_options", "restore_packages", "run_restore", "score_package"]

#: Opens a progress bar of so many steps with a title.
Bar = Callable[[int, str], AbstractContextManager["tqdm[Any]"]]
Say = Callable[[str], object]

#: Packages of the paper's models, which are scored beside the peers where they are installed.
PAPERS = ("tip-model-1", "tip-model-2", "tip-model-3")
#: VIF at four scales needs 41 pixels within the frame.
LEAST_SIDE_PX = 64
#: Of the task and of the package that does it by default.
_TASK = "restore"
_REFERENCES = (
    Subject(AS_RECORDED, description="the scan itself"),
    Subject(TRUE_TIP, description="erosion by the true tip, by this project's kernels; a bound", oracle=True),
)


def restore_packages(names: Sequence[str]) -> list[ModelPackage] | None:
    """The packages that were named, where the task is ``restore``; None where it is another.

    Parameters
    ----------
    names
        Names or folders. The word ``restore`` stands for the task alone where no package of that name is installed.

    Raises
    ------
    ParameterError
        If two have the same name, or some restore and others do something else.
    ModelError
        If one is not there, or cannot be read.
    """
    alone = _TASK in names and not any(folder.name == _TASK for folder in list_models())
    packages = [find_model(name) for name in names if not (alone and name == _TASK)]
    tasks = {package.task for package in packages} | ({_TASK} if alone else set())
    if _TASK not in tasks:
        return None
    if len(tasks) > 1:
        raise ParameterError(f"NAME: packages of the tasks {', '.join(sorted(tasks))}; expected one task at a time.")
    if len({package.name for package in packages}) < len(packages):
        raise ParameterError("NAME: two packages of the same name; expected different ones. Score them one at a time.")
    return packages


def restore_options(
    images: int | None, side_px: int, families: tuple[str, ...], knots: Path | None = None
) -> RestoreOptions:
    """Options of ``spm-train evaluate`` as those of restoration.

    Raises
    ------
    ParameterError
        If the images are too small, or scores were to be calibrated: restoration has none.
    """
    if knots is not None:
        raise ParameterError("--fit-calibration: expected with finders of atoms or defects. Leave it out.")
    if side_px < LEAST_SIDE_PX:
        raise ParameterError(f"--side-px {side_px}: expected {LEAST_SIDE_PX} or more: VIF needs as many pixels.")
    default = RestoreOptions()
    return RestoreOptions(default.images if images is None else images, side_px, families)


def score_package(
    package: ModelPackage,
    options: RestoreOptions,
    *,
    device: Device = "cpu",
    on_image: Callable[[Any], object] | None = None,
) -> RestoreReport:
    """Score one package beside the references, for its card.

    Parameters
    ----------
    package
        A package of the task ``restore``.
    options
        Which images.
    device
        Where the runtime computes.
    on_image
        Called after every image, for a progress bar.

    Raises
    ------
    ParameterError
        If the package is of another task.
    """
    restorers, oracles = REFERENCES
    subject = Subject.of(package)
    step = None if on_image is None else _first(on_image)
    finders: dict[str, Restorer] = {**restorers, subject.label: package_restorer(package, device)}
    scores = evaluate_all(finders, options, oracles=oracles, on_scene=step)
    return RestoreReport(subject, options, scores[subject.label], scores)


def run_restore(
    packages: Sequence[ModelPackage],
    options: RestoreOptions,
    out: Path,
    *,
    peers: bool,
    real: Path | None,
    device: Device,
    bar: Bar,
    say: Say,
    tuning: RestoreTuning | None = None,
) -> None:
    """Score packages, print the tables and write them, and a page of pictures.

    Parameters
    ----------
    packages
        Packages of the task ``restore``; none scores the references and the peers alone.
    options
        Which simulated images; with no images only real scans are shown.
    out
        Folder of the tables: ``comparison-restore.md``, ``.json`` and ``.html``, ``restore-images.csv``, and one
        ``evaluation-NAME`` for every package.
    peers
        Score the peers, tuned on scenes of the validation split, and the packages of the paper beside them.
    real
        Folder of real scans to be looked at, or None.
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
        If there is nothing to score, the folder of scans is missing, or a package is of another task.
    """
    check_wanted(options.images, real)
    packages = [*packages, *(_of_paper(packages) if peers else [])]
    ours: dict[str, Restorer] = {Subject.of(one).label: package_restorer(one, device) for one in packages}
    page = Page("Surfaces restored from scans with bad tips", conditions(options))
    page.recommend("Look at the pictures before you believe the figures.")
    if options.images:
        found = make_peers(RestoreTuning(report=say) if tuning is None else tuning) if peers else Peers()
        described = [Subject(one.name, description=one.description, oracle=one.oracle) for one in found.described]
        subjects = [*_REFERENCES, *described, *(Subject.of(one) for one in packages)]
        examples = Examples()
        scores = _scores({**found.restorers, **ours}, found.oracles, options, bar, examples)
        comparison = _comparison(subjects, scores, options, found)
        for report in comparison.packages:
            say(f"{report.subject.label}\n\n{report.markdown()}\nwritten: {', '.join(map(str, report.save(out)))}\n")
        files = [*comparison.save(out), write_images(out, scores)]
        say(f"{comparison.markdown()}\nwritten: {', '.join(map(str, files))}\n")
        page.recommend(f"{page.recommendation} {comparison.verdict()}")
        page.section("Simulated scans: PSNR / SSIM / VIF of the frame that is shown")
        order = [one.label for one in subjects if one.name != AS_RECORDED]
        add_examples(page, examples, order, [*DETAILED, *ours])
    if real is not None:
        shown: dict[str, Restorer] = {"classical": pipeline_restorer("classical", device), **ours}
        page.section("Real scans: no truth, to be looked at")
        add_real(page, list(real_examples(real, shown, say=say)))
    say(f"written: {page.write(out, 'pictures-restore', {'images': options.images})}")


def _scores(
    restorers: Mapping[str, Restorer],
    oracles: Mapping[str, Oracle],
    options: RestoreOptions,
    bar: Bar,
    examples: Examples,
) -> dict[str, list[ImageScore | None]]:
    """Of the references and everything else, by name."""
    every = {**REFERENCES[0], **restorers}
    bounds = {**REFERENCES[1], **oracles}
    with bar(options.total * (len(every) + len(bounds)), "simulated images") as progress:
        return evaluate_all(every, options, oracles=bounds, on_image=_step(progress), on_scene=examples)


def _comparison(
    subjects: Sequence[Subject], scores: Mapping[str, Scores], options: RestoreOptions, peers: Peers
) -> RestoreComparison:
    references = {name: scores[name] for name in (AS_RECORDED, TRUE_TIP)}
    reports = [RestoreReport(one, options, scores[one.label], references) for one in subjects]
    return RestoreComparison(reports, GWYDDION_BLIND, peers.missing)


def _of_paper(named: Sequence[ModelPackage]) -> list[ModelPackage]:
    """The packages of the paper that are installed and were not named."""
    known = {package.name for package in named}
    installed = {folder.name for folder in list_models()}
    return [find_model(name) for name in PAPERS if name in installed and name not in known]


def _first(on_image: Callable[[Any], object]) -> Callable[[Shown, object], object]:
    return lambda shown, _: on_image(shown)


def _step(progress: tqdm[Any]) -> Callable[[object], object]:
    return lambda _: progress.update(1)
