"""One file into outcomes: copied, read, analysed, stored; whatever happens becomes an outcome."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from spm_runtime import pipelines
from spm_runtime._version import __version__
from spm_runtime.engine._superseded import remove_superseded
from spm_runtime.engine.discovery import files_of, is_scan
from spm_runtime.engine.jobs import Job
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.staging import Copy, fetch, look_at
from spm_runtime.errors import AdatomError
from spm_runtime.readers import find_reader, open_scan, read_scans
from spm_runtime.results import (
    PARTIAL_PREFIX,
    Outcome,
    Result,
    Task,
    read_document,
    save_results,
    scan_block,
)
from spm_runtime.scan import Scan

if TYPE_CHECKING:
    from spm_runtime.session import Device

__all__ = ["WORKSPACE", "Analyse", "content_key", "is_result_of", "process", "warm"]

#: Folder of unfinished results within the folder of all results: the same disk, so that they are put in place by renaming.
WORKSPACE = f"{PARTIAL_PREFIX}work"

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


@dataclasses.dataclass(frozen=True)
class _Order:
    """What is to be done with one file, and how."""

    job: Job
    out: Path
    settings: Settings
    analyse: Analyse
    skip_done: bool


def process(
    job: Job,
    out: Path,
    settings: Settings,
    *,
    staging: Path | None = None,
    analyse: Analyse = pipelines.analyse,
    skip_done: bool = False,
    on_read: Callable[[str], object] = lambda sha256: None,
    on_image: Callable[[], object] = lambda: None,
) -> list[Outcome]:
    """Analyse every image of one file and save what is found; whatever happens becomes an outcome.

    Depends on nothing but its arguments, so it can be called in any process of any computer that sees the file and `out`.

    Parameters
    ----------
    job
        The file. It is opened for reading only, copied, and closed; the copy is what is analysed.
    out
        Folder of all results; those of this file go to ``out / job.name``, frames of a stack one folder deeper.
    settings
        What the user asks for.
    staging
        Folder on a local disk for the copy, which is removed at the end; the system's own for such things when None.
    analyse
        In place of `spm_runtime.pipelines.analyse`.
    skip_done
        Whether a result that is already there, for the same content, channel, model and parameters, is kept.
    on_read
        Called with the SHA-256 of the content once the file is copied.
    on_image
        Called after every image.

    Returns
    -------
    list of Outcome
        One for a single image, one per frame of a stack; none when the file is no scan.
    """
    if job.problem:
        return [Outcome(job.name, job.name, "failed", reason=job.problem, error="CannotOpenError")]
    if not job.named:
        verdict = _guarded(job, None, lambda: is_scan(job.path, look_at(job.path)))
        if isinstance(verdict, Outcome):
            return [verdict]
        if not verdict:
            return []
    order = _Order(job, out, settings, analyse, skip_done)
    outcomes: list[Outcome] = []
    try:
        with tempfile.TemporaryDirectory(prefix="scan-", dir=staging, ignore_cleanup_errors=True) as folder:
            for outcome in _outcomes(order, Path(folder), on_read):
                outcomes.append(outcome)
                on_image()
    except OSError as error:  # no folder for the copy can be made
        return [_failure(job, None, error)]
    return outcomes


def warm(settings: Settings) -> None:
    """Load the networks and compile the kernels that scans will need, so that the first one does not wait.

    Raises
    ------
    AdatomError
        If a model or the device does not run.
    """
    import spm_kernels

    spm_kernels.warm()
    for task in settings.possible_tasks:
        pipelines.prepare(settings.method(task), settings.device, require_gpu=settings.require_gpu)


def content_key(sha256: str, settings: str) -> str:
    """Key of an analysis in the ledger: SHA-256 of the content's SHA-256 and of `fingerprint`."""
    return hashlib.sha256(f"{sha256} {settings}".encode("ascii")).hexdigest()


def is_result_of(folder: Path, sha256: str, settings: Settings) -> dict[str, Any] | None:
    """The ``result.json`` of a folder when it is whole and is of this content with these models and parameters."""
    document = read_document(folder)
    if document is None or document.get("scan", {}).get("sha256") != sha256:
        return None
    if any(folder.glob("frame-*/result.json")):  # of a stack that it was before: whoever opens it again removes them
        return None
    tasks = settings.tasks_for(document["scan"]["modality"])
    return document if _is_as_wanted(document, folder, tasks, settings) else None


def _outcomes(order: _Order, folder: Path, on_read: Callable[[str], object]) -> Iterator[Outcome]:
    began = time.perf_counter()
    copy = _guarded(order.job, None, lambda: fetch(order.job.path, folder, stamp=order.job.stamp))
    if isinstance(copy, Outcome):
        yield copy
        return
    on_read(copy.sha256)
    images = _images(order, copy)
    outputs: set[str] = set()
    while True:
        scan = _guarded(order.job, None, partial(next, images, None), folder)
        if scan is None:
            break
        if isinstance(scan, Outcome):  # it could not be read whole: nothing is known of its other images
            yield dataclasses.replace(scan, seconds=time.perf_counter() - began)
            return
        outcome = _guarded(order.job, scan.frame, partial(_analyse_image, order, scan, copy.sha256), folder)
        outputs.add(outcome.output)
        now = time.perf_counter()
        yield outcome if outcome.reused else dataclasses.replace(outcome, seconds=now - began)
        began = now
    trouble = _guarded(order.job, None, partial(remove_superseded, order.out, order.job.name, outputs))
    if trouble is not None:
        yield trouble


def _images(order: _Order, copy: Copy) -> Iterator[Scan]:
    """The images of a file that the settings ask for; their path is the copy, from which a pipeline may read more."""
    find_reader(copy.path)  # first: it says best why a file cannot be opened
    first = open_scan(copy.path, channel=order.settings.channel)
    scans: Iterable[Scan] = [first]
    if first.frame is not None:
        same = (first.channel, first.direction)
        scans = (scan for scan in read_scans(copy.path) if (scan.channel, scan.direction) == same)
    for scan in scans:
        yield _calibrated(scan, order.settings.pixel_size_nm)


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


def _analyse_image(order: _Order, scan: Scan, sha256: str) -> Outcome:
    job, settings = order.job, order.settings
    output = job.name if scan.frame is None else f"{job.name}/frame-{scan.frame:03d}"
    tasks = settings.tasks_for(scan.modality)
    if not tasks:
        reason = (
            f"no task for {scan.modality.upper()} images yet; choose one with --task {' or '.join(pipelines.PIPELINES)}"
        )
        return Outcome(job.name, output, "skipped", frame=scan.frame, reason=reason)
    folder = order.out / output
    earlier = read_document(folder)
    if order.skip_done and earlier is not None:
        wanted = scan_block(scan, source_name=job.name, source_sha256=sha256)
        if earlier.get("scan") == wanted and _is_as_wanted(earlier, folder, tasks, settings):
            return Outcome(job.name, output, "done", frame=scan.frame, document=earlier, reused=True)
    results = [
        order.analyse(
            scan,
            task,
            model=settings.model,
            device=settings.device,
            require_gpu=settings.require_gpu,
            params=settings.params_for(task),
        )
        for task in tasks
    ]
    scan = dataclasses.replace(scan, path=job.path)
    if earlier is not None and (warning := _replaced(earlier, sha256)):
        results[0] = dataclasses.replace(results[0], warnings=(*results[0].warnings, warning))
    save_results(
        scan,
        results,
        folder,
        gwy=settings.gwy,
        source_sha256=sha256,
        source_name=job.name,
        workspace=order.out / WORKSPACE,
    )
    return Outcome(job.name, output, "done", frame=scan.frame, document=read_document(folder) or {})


def _replaced(earlier: Mapping[str, Any], sha256: str) -> str:
    """What to say when an earlier result in the same place is of other content; nothing when it is of the same."""
    before = earlier.get("scan", {}).get("sha256")
    if before is None or before == sha256:
        return ""
    return f"replaces the result of another scan of the same name (sha256 {before[:12]}…, of this one {sha256[:12]}…)"


def _is_as_wanted(document: Mapping[str, Any], folder: Path, tasks: tuple[Task, ...], settings: Settings) -> bool:
    """Whether a ``result.json`` is what analysing the same image again would give, with every file that it lists."""
    if document.get("adatom_version") != __version__ or set(document["tasks"]) != set(tasks):
        return False
    if settings.gwy and not any(name.endswith(".gwy") for name in document["files"]):
        return False
    for task in tasks:
        method, there = settings.method(task), document["tasks"][task]
        asked = there.get("instead_of") or there["model"]  # the model itself chose another one for this scan
        if asked != dataclasses.asdict(method.reference):
            return False
        wanted = method.resolve(settings.params_for(task))
        if any(there["parameters"].get(name) != value for name, value in wanted.items()):
            return False
    return all((folder / name).is_file() for name in files_of(document))


def _guarded(job: Job, frame: int | None, action: Callable[[], T], copied_to: Path | None = None) -> T | Outcome:
    """Do something with one image; whatever is raised becomes an outcome, so that the batch goes on.

    This is the one place that catches every exception: readers and pipelines call a dozen libraries on content that
    nobody has seen before. What was not foreseen keeps its traceback, and is shown and logged as a fault of the program.
    """
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - see above
        outcome = _failure(job, frame, error)
    if copied_to is None:
        return outcome
    # The messages of the readers name the copy; a person knows the file.
    named = outcome.reason.replace(str(copied_to), str(job.path.parent))
    return dataclasses.replace(outcome, reason=named)


def _failure(job: Job, frame: int | None, error: Exception) -> Outcome:
    output = job.name if frame is None else f"{job.name}/frame-{frame:03d}"
    failed = partial(Outcome, job.name, output, "failed", frame=frame, error=type(error).__name__)
    if isinstance(error, AdatomError):
        return failed(reason=str(error))
    is_there = os.path.exists(job.path)  # noqa: PTH110 - `Path.exists` raises where a share is just going away
    if isinstance(error, FileNotFoundError) and not is_there:
        return failed(reason=f"{job.path}: no such file; check the path")
    if isinstance(
        error, OSError
    ):  # of the share, the disk or the folder of results; readers turn theirs into a ScanError
        place = error.filename2 or error.filename or job.path
        reason = (
            f"{place}: {error.strerror or error}; make sure that the disk has room, that the share is there, that you may "
            "read and write there and that no other program has the file open, then analyse the scan again"
        )
        return failed(reason=reason, may_pass=True)
    reason = f"{job.path}: unexpected {type(error).__name__} ({error}); a fault of this program, please report it"
    return failed(reason=reason, traceback="".join(traceback.format_exception(error)))
