"""What the ledger says, for a person, for scripts and for Prometheus."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from spm_runtime.engine.ledger import LEDGER, Entry, Ledger
from spm_runtime.engine.state import find_state, holder
from spm_runtime.errors import AdatomError, OutputError, ParameterError
from spm_runtime.results import found_in, printable

__all__ = ["metrics_text", "retry_scans", "serve_metrics", "status_lines", "status_of"]

#: States of which a person asks why.
TROUBLES = "state IN ('failed', 'quarantined', 'gone')"

LOOPBACK = "127.0.0.1"


def status_of(out: Path, base: Path | None = None) -> dict[str, Any]:
    """What is known of a folder of results, whether an engine works on it now or not.

    Parameters
    ----------
    out
        The folder of results.
    base
        As for `spm_runtime.engine.state.state_folder`.

    Returns
    -------
    dict
        Plain values: ``running`` (who analyses now, or None), ``paused`` (why, or empty), ``counts`` by state,
        ``oldest_waiting`` (scan, seconds, reason), ``latency_s`` (p50, p95, of how many), ``provider`` of the latest result,
        ``scans`` (every one with state, reason, attempts, analyses, sha256, times).

    Raises
    ------
    OutputError
        If there is no ledger.
    """
    folder = find_state(out, base)
    with Ledger(folder / LEDGER, create=False) as ledger:
        running = holder(folder)
        facts = summary(ledger)
        scans = [_scan(entry) for entry in ledger.entries("state != 'ignored'")]
    if running is None:  # whoever paused was ended from outside
        facts["paused"] = ""
    return {"out": str(out), "state": str(folder), "running": running, **facts, "scans": scans}


def status_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """`status_of` in lines for a person."""
    running = facts["running"]
    if running is None:
        yield "nobody analyses these scans now"
    else:
        yield f"process {running.get('pid')} on {running.get('host')} analyses since {running.get('since')}"
    if facts["paused"]:
        yield f"paused: {facts['paused']}"
    yield ", ".join(f"{count:,} {state}" for state, count in facts["counts"].items() if count or state == "done")
    oldest, latency_s = facts["oldest_waiting"], facts["latency_s"]
    if oldest is not None:
        yield f"oldest unfinished: {oldest['scan']}, {oldest['seconds']:.0f} s"
    if latency_s["scans"]:
        yield (
            f"from last byte to result: p50 {latency_s['p50']:.1f} s, p95 {latency_s['p95']:.1f} s "
            f"(the last {latency_s['scans']})"
        )
    if facts["provider"]:
        yield f"provider: {facts['provider']}"
    for scan in facts["scans"]:
        if scan["state"] in {"failed", "quarantined", "gone"} or (scan["state"] == "waiting" and scan["reason"]):
            yield f"{scan['state']:<12}{scan['scan']}: {printable(scan['reason'])}"


def retry_scans(out: Path, names: Sequence[str], base: Path | None = None) -> list[str]:
    """Put failed scans back in line; whoever analyses these results takes them at once, or when it is started next.

    Parameters
    ----------
    out
        The folder of results.
    names
        Which, as in the summary; all when there are none.
    base
        As for `spm_runtime.engine.state.state_folder`.

    Returns
    -------
    list of str
        Those that were put back.

    Raises
    ------
    ParameterError
        If there is no such failed scan.
    OutputError
        If there is no ledger.
    """
    with Ledger(find_state(out, base) / LEDGER, create=False) as ledger:
        known = {entry.name for entry in ledger.entries(TROUBLES)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ParameterError(
                f"{', '.join(unknown)}: no such failed scan of {out}; `spm-infer status` lists them, named as in summary.csv"
            )
        return ledger.retry(names or None)


def summary(ledger: Ledger) -> dict[str, Any]:
    """The numbers of `status_of`."""
    counts: dict[str, int] = dict.fromkeys(
        ("done", "waiting", "working", "failed", "quarantined", "skipped", "gone"), 0
    )
    counts.update({state: count for state, count in ledger.counts().items() if state != "ignored"})
    waiting = ledger.entries(
        "name = (SELECT name FROM scans WHERE state IN ('waiting', 'working') AND seen_s IS NOT NULL ORDER BY seen_s LIMIT 1)"
    )
    latest = ledger.entries("name = (SELECT name FROM scans WHERE provider != '' ORDER BY finished_s DESC LIMIT 1)")
    latencies_s = ledger.latencies_s()
    return {
        "paused": ledger.fact("paused"),
        "counts": counts,
        "oldest_waiting": None if not waiting else _waiting(waiting[0]),
        "latency_s": {
            "p50": _quantile(latencies_s, 0.5),
            "p95": _quantile(latencies_s, 0.95),
            "scans": len(latencies_s),
        },
        "provider": latest[0].provider if latest else "",
    }


def metrics_text(ledger: Ledger) -> str:
    """The numbers of the ledger in the text format of Prometheus.

    Source: Prometheus documentation, "Exposition formats", text-based format 0.0.4.
    """
    facts = summary(ledger)
    lines = ["# HELP adatom_scans Scans by state.", "# TYPE adatom_scans gauge"]
    lines += [f'adatom_scans{{state="{state}"}} {count}' for state, count in sorted(facts["counts"].items())]
    found = ledger.patiently(lambda: found_in(ledger.connection))
    lines += ["# HELP adatom_found Defects and atoms of the scans in the summary.", "# TYPE adatom_found gauge"]
    lines += [f'adatom_found{{kind="{kind}"}} {count}' for kind, count in found.items()]
    lines += [
        "# HELP adatom_latency_seconds From the last byte of a scan to its result.",
        "# TYPE adatom_latency_seconds summary",
    ]
    for quantile, name in ((0.5, "p50"), (0.95, "p95")):
        value = facts["latency_s"][name]
        lines.append(f'adatom_latency_seconds{{quantile="{quantile}"}} {"NaN" if value is None else value}')
    oldest = facts["oldest_waiting"]
    for name, text, number in (
        (
            "adatom_oldest_waiting_seconds",
            "How long the oldest unfinished scan has waited.",
            oldest["seconds"] if oldest else 0,
        ),
        ("adatom_paused", "1 while work pauses, as when a disk is nearly full.", int(bool(facts["paused"]))),
        ("adatom_analyses_total", "Scans analysed.", ledger.analyses()),
    ):
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {number}"]
    return "\n".join(lines) + "\n"


@contextmanager
def serve_metrics(ledger: Path, port: int) -> Iterator[int]:
    """Answer ``GET /metrics`` on loopback while this lasts, from a thread of its own; yields the port.

    Parameters
    ----------
    ledger
        The ledger's file.
    port
        Port; 0 for any that is free.

    Raises
    ------
    OutputError
        If the port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
                return
            try:
                with Ledger(ledger, create=False, check=False) as opened:
                    body = metrics_text(opened).encode("utf-8")
            except (AdatomError, sqlite3.Error) as error:
                self.send_error(503, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line for every request would fill the terminal."""

    try:
        server = ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        raise OutputError(f"--metrics-port {port}: cannot be had ({error}); choose another one") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _scan(entry: Entry) -> dict[str, Any]:
    return {
        "scan": entry.name,
        "state": entry.state,
        "kind": entry.kind,
        "reason": entry.reason,
        "traceback": entry.traceback,
        "attempts": entry.attempts,
        "interruptions": entry.interruptions,
        "analyses": entry.analyses,
        "version": entry.version,
        "sha256": entry.sha256,
        "provider": entry.provider,
        "seen_s": entry.seen_s,
        "finished_s": entry.finished_s,
        "latency_s": entry.latency_s,
    }


def _waiting(entry: Entry) -> dict[str, Any]:
    return {"scan": entry.name, "seconds": max(0.0, time.time() - (entry.seen_s or 0.0)), "reason": entry.reason}


def _quantile(ascending: Sequence[float], part: float) -> float | None:
    """The smallest value that at least this part of all does not exceed; None of nothing."""
    return ascending[max(0, math.ceil(part * len(ascending)) - 1)] if ascending else None
