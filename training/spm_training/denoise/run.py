"""A whole evaluation of denoising: packages, peers, real scans, with the files that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage, find_model, list_models
from spm_runtime.session import Device
from spm_training.denoise.compare import DenoiseComparison
from spm_training.denoise.evaluate import (
    AS_RECORDED,
    ByLevel,
    as_recorded,
    at_every_level,
    evaluate_all,
    package_denoiser,
    package_scan_denoiser,
)
from spm_training.denoise.images import write_images
from spm_training.denoise.pictures import Examples, add_examples, add_real, of_scan, peer_of_scan
from spm_training.denoise.report import DenoiseReport, finite_mean
from spm_training.denoise.scenes import SETTINGS, DenoiseOptions, conditions
from spm_training.denoise.taken import taken_markdown, write_taken
from spm_training.denoise.tuning import DenoisePeers, DenoiseTuning, make_peers
from spm_training.restore.pictures import real_examples
from spm_training.restore.report import Subject
from spm_training.simulate.stm_lattices import LATTICES
from spm_training.studies.page import Page
from spm_training.wanted import check_wanted

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["DenoiseOptions", "denoise_options", "denoise_packages", "run_denoise"]

#: Opens a progress bar of so many steps with a title.
Bar = Callable[[int, str], AbstractContextManager["tqdm[Any]"]]
Say = Callable[[str], object]

#: Of the task and of the package that does it by default.
_TASK = "denoise"
#: Words that stand for other tasks where no package of that name is installed.
_OTHER_TASKS = ("defects", "restore")
#: Peers in the pictures beside the packages, and the level of noise whose settings a peer has on real scans.
_SHOWN_PEERS, _REAL_LEVEL = 3, "medium"


def denoise_packages(names: Sequence[str]) -> list[ModelPackage] | None:
    """The packages that were named, where the task is ``denoise``; None where it is another.

    Parameters
    ----------
    names
        Names or folders. The word ``denoise`` stands for the task alone where no package of that name is installed.

    Raises
    ------
    ParameterError
        If two have the same name, or some take noise away and others do something else.
    ModelError
        If one is not there, or cannot be read.
    """
    installed = {folder.name for folder in list_models()}
    words = {name for name in (_TASK, *_OTHER_TASKS) if name in names and name not in installed}
    packages = [find_model(name) for name in names if name not in words]
    tasks = {package.task for package in packages} | words
    if _TASK not in tasks:
        return None
    if len(tasks) > 1:
        raise ParameterError(f"NAME: packages of the tasks {', '.join(sorted(tasks))}; expected one task at a time.")
    if len({package.name for package in packages}) < len(packages):
        raise ParameterError("NAME: two packages of the same name; expected different ones. Score them one at a time.")
    return packages


def denoise_options(
    images: int | None, side_px: int, names: tuple[str, ...], knots: Path | None = None
) -> DenoiseOptions:
    """Options of ``spm-train evaluate`` as those of denoising.

    Raises
    ------
    ParameterError
        If scores were to be calibrated: denoising has none.
    """
    if knots is not None:
        raise ParameterError("--fit-calibration: expected with finders of atoms or defects. Leave it out.")
    return DenoiseOptions(DenoiseOptions().images if images is None else images, side_px, names)


def run_denoise(
    packages: Sequence[ModelPackage],
    options: DenoiseOptions,
    out: Path,
    *,
    peers: bool,
    real: Path | None,
    device: Device,
    bar: Bar,
    say: Say,
    tuning: DenoiseTuning | None = None,
) -> None:
    """Score packages, print the tables and write them, and a page of pictures.

    Parameters
    ----------
    packages
        Packages of the task ``denoise``; none scores the peers alone.
    options
        Which simulated images; with no images only real scans are shown.
    out
        Folder of the tables: ``comparison-denoise.md`` and ``.json``, ``denoise-images.csv``, ``pictures-denoise.html``, one
        ``evaluation-NAME`` for every package, and ``real-denoise.md`` and ``.json`` where there are real scans.
    peers
        Score the peers too, tuned on images of the validation split.
    real
        Folder of real scans to be looked at, or None.
    device
        Where the runtime computes.
    bar
        Opens a progress bar.
    say
        Prints.
    tuning
        What the peers are tuned on; the default images by default.

    Raises
    ------
    ParameterError
        If there is nothing to score, the folder of scans is missing, or a package is of another task.
    """
    check_wanted(options.images, real)
    if not packages and not (peers and options.images):
        raise ParameterError("NAME: no package, and no peers on simulated images. Name a package, or add --peers.")
    labels = {Subject.of(one).label: one for one in packages}
    on_scans = {label: of_scan(package_scan_denoiser(one, device)) for label, one in labels.items()}
    page = Page("Lattices and scans without their noise", conditions(options))
    page.recommend("Look at the pictures before you believe the figures.")
    if options.images:
        found = make_peers(DenoiseTuning(report=say) if tuning is None else tuning) if peers else DenoisePeers()
        ours = {label: at_every_level(package_denoiser(one, device)) for label, one in labels.items()}
        examples = Examples()
        comparison = _compared(packages, {**found.methods, **ours}, found, options, bar, examples)
        _tell(comparison, out, say)
        page.recommend(f"{page.recommendation} {comparison.verdict()}".strip())
        page.section("Simulated images: PSNR and SSIM against the clean one")
        best = _best_peers(comparison)
        add_examples(page, examples, [*best, *labels])
        if best:
            on_scans = {best[0]: of_scan(peer_of_scan(found.methods[best[0]][_REAL_LEVEL])), **on_scans}
    if real is not None:
        page.section("Real scans: no truth, to be looked at")
        taken = add_real(page, real_examples(real, on_scans, say=say))
        say(f"{taken_markdown(taken)}\nwritten: {', '.join(map(str, write_taken(out, taken)))}\n")
    say(f"written: {page.write(out, 'pictures-denoise', {'images': options.images})}")


def _compared(
    packages: Sequence[ModelPackage],
    methods: Mapping[str, ByLevel],
    peers: DenoisePeers,
    options: DenoiseOptions,
    bar: Bar,
    examples: Examples,
) -> DenoiseComparison:
    every = {AS_RECORDED: at_every_level(as_recorded), **methods}
    with bar(options.total * len(every), "simulated images") as progress:
        scores = evaluate_all(every, options, on_image=lambda _: progress.update(1), on_scene=examples)
    subjects = [Subject(AS_RECORDED, description="the image itself")]
    subjects += [Subject(name, description=_settings(by_level)) for name, by_level in peers.methods.items()]
    subjects += [Subject.of(one) for one in packages]
    reports = [DenoiseReport(options, scores[one.label], one) for one in subjects]
    return DenoiseComparison(reports, {Subject.of(one).label: _trained_on(one) for one in packages}, peers.missing)


def _tell(comparison: DenoiseComparison, out: Path, say: Say) -> None:
    """Print and write the tables."""
    for report in comparison.packages:
        say(f"{report.subject.label}\n\n{report.markdown()}\nwritten: {', '.join(map(str, report.save(out)))}\n")
    scores = {one.subject.label: one.scores for one in comparison.reports}
    files = [*comparison.save(out), write_images(out, scores)]
    say(f"{comparison.markdown()}\nwritten: {', '.join(map(str, files))}\n")


def _best_peers(comparison: DenoiseComparison) -> list[str]:
    """The peers with the highest mean PSNR over all images, the best first."""
    means = {one.subject.label: finite_mean([score.after.psnr_db for score in one.scores]) for one in comparison.peers}
    return sorted(means, key=lambda name: -means[name])[:_SHOWN_PEERS]


def _trained_on(package: ModelPackage) -> tuple[str, ...]:
    """The lattices of its training, as the package states them; none where it does not."""
    stated = str(package.training.get("families", ""))
    return tuple(LATTICES) if stated == "all" else tuple(stated.split(", ")) if stated else ()


def _settings(by_level: ByLevel) -> str:
    return "; ".join(f"noise {setting}: {by_level[setting]}" for setting in SETTINGS)
