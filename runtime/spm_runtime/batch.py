"""The engine that `spm-infer run` and `spm-infer watch` share: one scan after another, whatever happens to any of them."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from spm_runtime import pipelines
from spm_runtime._version import __version__
from spm_runtime.discovery import Job, find_scans
from spm_runtime.errors import (
    AdatomError,
    CorruptScanError,
    DeviceError,
    ModelError,
    ModelIntegrityError,
    OutputError,
    ParameterError,
)
from spm_runtime.readers import find_reader, open_scan, read_scans
from spm_runtime.results import (
    Outcome,
    Report,
    Result,
    Task,
    file_sha256,
    printable,
    read_document,
    save_results,
    scan_block,
)
from spm_runtime.scan import Scan
from spm_runtime.settings import Settings, check_settings
from spm_runtime.workers import Workers

if TYPE_CHECKING:
    from spm_runtime.session import Device

__all__ = [
    "Analyse",
    "Outcome",
    "Settings",
    "check_settings",
    "make_output",
    "process",
    "run_batch",
    "say",
    "write_report",
]

#: Seconds between two writings of the summary while a batch runs.
REPORT_EVERY_S = 10.0

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Analyse(Protocol):
    """`spm_runtime.pipelines.analyse`, or what stands in for it."""

    def __call__(
        self,
        scan: Scan,
        task: Task,
        *,
        model: str | Path | None,
        device: Device,
        require_gpu: bool,
        params: Mapping[str, float],
    ) -> Result:
        """Analyse one scan; raises an `AdatomError` when that cannot be done."""


def process(
    job: Job, out: Path, settings: Settings, *, analyse: Analyse = pipelines.analyse, skip_done: bool = False
) -> list[Outcome]:
    """Analyse every image of one file and save what is found; whatever happens becomes an outcome.

    Parameters
    ----------
    job
        The file. It is opened for reading only.
    out
        Folder of all results; those of this file go to ``out / job.name``, frames of a stack one folder deeper.
    settings
        What the user asks for.
    analyse
        In place of `spm_runtime.pipelines.analyse`.
    skip_done
        Whether a result that is already there, for the same content, channel, model and parameters, is kept.

    Returns
    -------
    list of Outcome
        One for a single image, one per frame of a stack; at least one.
    """
    began = time.perf_counter()
    if job.problem:
        return [Outcome(job.name, job.name, "failed", reason=job.problem, error="CannotOpenError")]
    outcomes: list[Outcome] = []
    images = _images(job, settings)
    while True:
        found = _guarded(job, None, partial(next, images, None))
        if found is None:
            break
        if isinstance(found, Outcome):
            outcome = found
        else:
            scan, sha256 = found
            work = partial(_analyse_image, job, scan, sha256, out, settings, analyse, skip_done)
            outcome = _guarded(job, scan.frame, work)
        now = time.perf_counter()
        outcomes.append(outcome if outcome.reused else dataclasses.replace(outcome, seconds=now - began))
        began = now
    return outcomes


def run_batch(
    paths: Iterable[Path | str],
    out: Path | str,
    settings: Settings,
    *,
    verbose: bool = False,
    skip_done: bool = False,
    analyse: Analyse = pipelines.analyse,
) -> int:
    """Analyse files and folders; one line per scan, then ``summary.csv`` and ``index.html``.

    Parameters
    ----------
    paths
        Files, and folders to go through recursively.
    out
        Folder of the results; made when it is not there.
    settings
        What the user asks for.
    verbose
        Whether to name the files that are no scans.
    skip_done
        Whether results that are already there for the same content, model and parameters are kept.
    analyse
        In place of `spm_runtime.pipelines.analyse`.

    Returns
    -------
    int
        How many images failed; one more when the summary could not be written.

    Raises
    ------
    ModelError, ParameterError, OutputError
        Before anything is analysed, if no scan could be, or its results would go where a file is.
    ModelError, DeviceError
        After everything is written, if nothing was done because the model or the device does not run.
    """
    check_settings(settings)
    out = Path(out)
    make_output(out)

    def name_skipped(path: Path) -> None:
        if verbose:
            click.echo(f"not a scan: {printable(str(path))}")

    jobs = list(find_scans(paths, ignore=out, on_skip=name_skipped))
    if not jobs:
        click.secho("no scans found", fg="yellow")
    _refuse_to_replace_files(jobs, out)
    report = Report(out)
    outcomes: list[Outcome] = []
    work = partial(process, out=out, settings=settings, analyse=analyse, skip_done=skip_done)
    try:
        with Workers(work, settings.jobs) as workers, _progress(len(jobs)) as advance:
            for of_file in workers.run(jobs):
                outcomes += of_file
                report.add(of_file)
                advance(of_file)
                write_report(report, at_most_every_s=REPORT_EVERY_S)
    finally:  # an interrupted batch leaves a summary of what was done
        written = write_report(report)
    counts = Counter(outcome.status for outcome in outcomes)
    click.echo(f"{counts['done']} done, {counts['failed']} failed, {counts['skipped']} skipped: {out / 'index.html'}")
    _raise_common_cause(outcomes)
    return counts["failed"] + (not written)


def make_output(out: Path) -> None:
    """Make the folder of all results.

    Raises
    ------
    OutputError
        If that cannot be done.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"--out {out}: the folder cannot be made ({error.strerror or error}); name a folder on a disk that is there, "
            "where you may write"
        ) from error


def _refuse_to_replace_files(jobs: Iterable[Job], out: Path) -> None:
    """Refuse the scans' own folder as the folder of results: the results of ``a.sxm`` go to a folder of that name."""
    for job in jobs:
        place = out / job.name
        if place.is_file():
            raise ParameterError(
                f"--out {printable(str(out))}: the results of {printable(str(job.path))} would go to a folder "
                f"{printable(str(place))}, and that is a file; choose another folder with --out, it may lie inside"
            )


def write_report(report: Report, *, at_most_every_s: float = 0.0) -> bool:
    """Bring the summary up to date; whether that went well. A table open in another program must not end a batch."""
    try:
        note = report.write(at_most_every_s=at_most_every_s)
    except OSError as error:
        place = error.filename2 or error.filename or report.folder
        click.secho(
            f"{place}: the summary cannot be written ({error.strerror or error}); close it where it is open", fg="red"
        )
        return False
    if note:
        click.secho(printable(note), fg="yellow")
    return True


def say(outcome: Outcome) -> None:
    """Print the line of one image, and what nobody foresaw to the log."""
    if outcome.traceback:
        logger.error("%s\n%s", printable(outcome.title), outcome.traceback)
    name = printable(outcome.title)
    if outcome.status != "done":
        colour = "red" if outcome.status == "failed" else "yellow"
        click.secho(f"{outcome.status:<8}{name}: {printable(outcome.reason)}", fg=colour)
        return
    words = [f"{count:,} {kind}" for kind, count in outcome.counts.items()]
    if "spacing_nm" in outcome.quantities:
        words.append(f"spacing {outcome.quantities['spacing_nm']:.3g} nm")
    elif "spacing_px" in outcome.quantities:
        words.append(f"spacing {outcome.quantities['spacing_px']:.3g} px")
    words.append("was there already" if outcome.reused else f"{outcome.seconds:.2f} s")
    click.echo(f"{'done':<8}{name}: {', '.join(words)}")
    for warning in outcome.warnings:
        click.secho(f"{'':<8}warning: {printable(warning)}", fg="yellow")


def _say_all(outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        say(outcome)


def _images(job: Job, settings: Settings) -> Iterator[tuple[Scan, str]]:
    """The images of a file that the settings ask for, each with the SHA-256 of the file's content."""
    find_reader(job.path)  # first: it says best why a file cannot be opened
    stamp = _stamp(job.path)
    first = open_scan(job.path, channel=settings.channel)
    sha256 = file_sha256(job.path)
    scans: Iterable[Scan] = [first]
    if first.frame is not None:
        same = (first.channel, first.direction)
        scans = (scan for scan in read_scans(job.path) if (scan.channel, scan.direction) == same)
    for scan in scans:
        if _stamp(job.path) != stamp:
            raise CorruptScanError(
                job.path,
                "it changed while it was read",
                "a file that is complete",
                "Analyse it again once it is saved.",
            )
        yield _calibrated(scan, settings.pixel_size_nm), sha256


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _calibrated(scan: Scan, pixel_size_nm: float | None) -> Scan:
    """The scan with the user's pixel size, saying so where the file says otherwise."""
    if pixel_size_nm is None:
        return scan
    warnings = scan.warnings
    size = (pixel_size_nm, pixel_size_nm)
    if scan.pixel_size_nm is not None and scan.pixel_size_nm != size:
        height, width = scan.pixel_size_nm
        warnings += (f"pixel size {pixel_size_nm:g} nm as given; the file says {height:.6g} × {width:.6g} nm (y × x)",)
    return dataclasses.replace(scan, pixel_size_nm=size, warnings=warnings)


def _analyse_image(
    job: Job, scan: Scan, sha256: str, out: Path, settings: Settings, analyse: Analyse, skip_done: bool
) -> Outcome:
    output = job.name if scan.frame is None else f"{job.name}/frame-{scan.frame:03d}"
    tasks = settings.tasks_for(scan.modality)
    if not tasks:
        reason = (
            f"no task for {scan.modality.upper()} images yet; choose one with --task {' or '.join(pipelines.PIPELINES)}"
        )
        return Outcome(job.name, output, "skipped", frame=scan.frame, reason=reason)
    folder = out / output
    earlier = read_document(folder)
    if skip_done and earlier is not None:
        wanted = scan_block(scan, source_name=job.name, source_sha256=sha256)
        if _is_same(earlier, wanted, folder, tasks, settings):
            return Outcome(job.name, output, "done", frame=scan.frame, document=earlier, reused=True)
    results = [
        analyse(
            scan,
            task,
            model=settings.model,
            device=settings.device,
            require_gpu=settings.require_gpu,
            params=settings.params,
        )
        for task in tasks
    ]
    if earlier is not None and (warning := _replaced(earlier, sha256)):
        results[0] = dataclasses.replace(results[0], warnings=(*results[0].warnings, warning))
    save_results(scan, results, folder, gwy=settings.gwy, source_sha256=sha256, source_name=job.name)
    return Outcome(job.name, output, "done", frame=scan.frame, document=read_document(folder) or {})


def _replaced(earlier: Mapping[str, Any], sha256: str) -> str:
    """What to say when an earlier result in the same place is of other content; nothing when it is of the same."""
    before = earlier.get("scan", {}).get("sha256")
    if before is None or before == sha256:
        return ""
    return f"replaces the result of another scan of the same name (sha256 {before[:12]}…, of this one {sha256[:12]}…)"


def _is_same(
    document: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, tasks: tuple[Task, ...], settings: Settings
) -> bool:
    """Whether a ``result.json`` is what analysing the scan again would give."""
    if (
        document.get("adatom_version") != __version__
        or document.get("scan") != wanted
        or set(document["tasks"]) != set(tasks)
    ):
        return False
    if settings.gwy and not any(name.endswith(".gwy") for name in document["files"]):
        return False
    for task in tasks:
        package, there = settings.package(task), document["tasks"][task]
        if there["model"] != dataclasses.asdict(package.reference):
            return False
        if any(there["parameters"].get(name) != value for name, value in package.resolve(settings.params).items()):
            return False
    blocks = [document, *document["tasks"].values()]
    return all((folder / name).is_file() for block in blocks for name in block["files"])


def _guarded(job: Job, frame: int | None, action: Callable[[], T]) -> T | Outcome:
    """Do something with one image; whatever is raised becomes an outcome, so that the batch goes on.

    This is the one place that catches every exception: readers and pipelines call a dozen libraries on content that
    nobody has seen before. What was not foreseen keeps its traceback, and is shown and logged as a fault of the program.
    """
    output = job.name if frame is None else f"{job.name}/frame-{frame:03d}"
    failed = partial(Outcome, job.name, output, "failed", frame=frame)
    try:
        return action()
    except AdatomError as error:
        return failed(reason=str(error), error=type(error).__name__)
    except OSError as error:  # of the share, the disk or the folder of results; readers turn theirs into a ScanError
        place = error.filename2 or error.filename or job.path
        reason = (
            f"{place}: {error.strerror or error}; make sure that the disk has room, that the share is there, that you may "
            "read and write there and that no other program has the file open, then analyse the scan again"
        )
        return failed(reason=reason, error=type(error).__name__, may_pass=True)
    except Exception as error:  # noqa: BLE001 - see above
        reason = f"{job.path}: unexpected {type(error).__name__} ({error}); a fault of this program, please report it"
        return failed(reason=reason, error=type(error).__name__, traceback=traceback.format_exc())


@contextmanager
def _progress(length: int) -> Iterator[Callable[[list[Outcome]], None]]:
    """A bar on the terminal, with the lines of the scans above it; without a terminal, the lines alone."""
    if not sys.stderr.isatty():
        yield _say_all
        return
    with click.progressbar(length=length, file=sys.stderr, show_pos=True) as bar:

        def advance(outcomes: list[Outcome]) -> None:
            click.echo(
                "\r\x1b[2K", nl=False, err=True
            )  # the lines take the place of the bar, which is drawn again below
            _say_all(outcomes)
            bar.update(1)

        yield advance


def _raise_common_cause(outcomes: list[Outcome]) -> None:
    """Raise what kept every image from being analysed, when that was the model or the device."""
    kinds: dict[str, type[AdatomError]] = {"DeviceError": DeviceError, "ModelError": ModelError}
    kinds["ModelIntegrityError"] = ModelIntegrityError
    if outcomes and all(outcome.error in kinds for outcome in outcomes):
        raise kinds[outcomes[0].error](outcomes[0].reason)
