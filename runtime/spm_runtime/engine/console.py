"""What a person sees of a batch or a watch: lines, a bar, a log file."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from spm_runtime.errors import OutputError
from spm_runtime.results import Outcome, Report, printable

__all__ = ["Console", "log_file"]

logger = logging.getLogger("spm_runtime.engine")
logger.addHandler(logging.NullHandler())  # without a log file, Python would print every warning a second time

#: Size of a log file in bytes, and how many earlier ones are kept.
LOG_BYTES, LOG_COUNT = 5_000_000, 5


class Console:
    """Lines for a person, and the same in the log.

    Parameters
    ----------
    verbose
        Whether to name the files that are no scans.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._bar: tqdm[Any] | None = None
        self._trouble = ""

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show a bar on the terminal while this lasts, with the lines above it; without a terminal, the lines alone."""
        with tqdm(total=total, unit="scan", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def advance(self) -> None:
        """One file more is dealt with."""
        if self._bar is not None:
            self._bar.update(1)

    def line(self, text: str, *, colour: str | None = None, error: bool = False) -> None:
        """Print one line and log it."""
        text = printable(text) if colour else text
        logger.log(logging.WARNING if error or colour else logging.INFO, "%s", text)
        # What it is written to may be a file on a full disk, or a terminal that was closed: that must not end the work.
        with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):
            click.secho(text, fg=colour, err=error)

    def tell(self, text: str) -> None:
        """Say what concerns no single scan: that a share is away, that the disk is full."""
        self.line(text, colour="yellow", error=True)

    def not_a_scan(self, path: Path) -> None:
        """Say that a file is no scan, when asked for it."""
        if self._verbose:
            self.line(f"not a scan: {printable(str(path))}")

    def say(self, outcome: Outcome, *, latency_s: float | None = None) -> None:
        """Print the line of one image, and what nobody foresaw to the log."""
        name = printable(outcome.title)
        if outcome.status != "done":
            colour = "red" if outcome.status == "failed" else "yellow"
            self.line(f"{outcome.status:<8}{name}: {printable(outcome.reason)}", colour=colour)
            if outcome.traceback:
                logger.error("%s\n%s", name, outcome.traceback)
            return
        words = [f"{count:,} {kind}" for kind, count in outcome.counts.items()]
        if "spacing_nm" in outcome.quantities:
            words.append(f"spacing {outcome.quantities['spacing_nm']:.3g} nm")
        elif "spacing_px" in outcome.quantities:
            words.append(f"spacing {outcome.quantities['spacing_px']:.3g} px")
        words.append("was there already" if outcome.reused else f"{outcome.seconds:.2f} s")
        if latency_s is not None:
            words.append(f"{latency_s:.1f} s after its last byte")
        self.line(f"{'done':<8}{name}: {', '.join(words)}")
        for warning in outcome.warnings:
            self.line(f"{'':<8}warning: {warning}", colour="yellow")

    def write_report(self, report: Report, *, at_most_every_s: float = 0.0) -> bool:
        """Bring the summary up to date; whether that went well. A table open in another program must not end a batch."""
        try:
            note = report.write(at_most_every_s=at_most_every_s)
        except OSError as error:
            place = error.filename2 or error.filename or report.folder
            trouble = f"{place}: the summary cannot be written ({error.strerror or error}); close it where it is open"
            if trouble != self._trouble:
                self.line(trouble, colour="red")
            self._trouble = trouble
            return False
        if not report.is_pending:
            self._trouble = ""
        if note:
            self.line(note, colour="yellow")
        return True


class _Log(logging.handlers.RotatingFileHandler):
    """A log file that is no trouble when its disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - named by the base class
        """Nothing: the line stands on the terminal too."""


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Keep a log while this lasts; old parts of it are dropped.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _Log(path, maxBytes=LOG_BYTES, backupCount=LOG_COUNT, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"--log {path}: cannot be written ({error.strerror or error}); name another file") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
