"""What must be true when everything has calmed down; every function gives sentences, none when all is well."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tifffile

#: What may lie in the folder of results beside the folders of scans.
OWN_FILES = re.compile(r"(summary\.csv|index.*\.html)")
#: Names that only unfinished work has.
UNFINISHED = re.compile(r"^\.partial|\.partial$|^tmp|\.tmp$|-journal$", re.IGNORECASE)

_SCHEMA_TEST = Path(__file__).parents[1] / "runtime" / "results" / "test_save.py"

Truth = Mapping[str, Mapping[str, Any]]


def raw_data(folder: Path, truth: Truth) -> Iterator[str]:
    """Nothing in the watched folder was changed, touched, added or taken away."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(truth.keys() - there):
        yield f"{name}: the scan is gone"
    for name in sorted(there - truth.keys()):
        if not name.startswith("notes "):
            yield f"{name}: nobody wrote this"
    for name in sorted(there & truth.keys()):
        path = folder / name
        if hashlib.sha256(path.read_bytes()).hexdigest() != truth[name]["sha256"]:
            yield f"{name}: the scan was changed"
        if path.stat().st_mtime_ns != truth[name]["mtime_ns"]:
            yield f"{name}: the scan was touched"


def results(out: Path, truth: Truth) -> Iterator[str]:
    """Every good scan has one complete result of its newest content, and nothing else has any."""
    schema = _schema_check()
    found = {path.parent.relative_to(out).as_posix() for path in out.rglob("result.json")}
    good = {name for name, file in truth.items() if file["good"]}
    for name in sorted(good - found):
        yield f"{name}: no result ({truth[name]['way']})"
    for name in sorted(found - good):
        yield f"{name}: a result, and no good scan"
    for name in sorted(good & found):
        folder = out / name
        document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        yield from (f"{name}: result.json {problem}" for problem in schema.problems(document, schema.SCHEMA))
        if document["scan"]["sha256"] != truth[name]["versions"][-1]:
            old = document["scan"]["sha256"] in truth[name]["versions"]
            yield f"{name}: result of {'an older version' if old else 'a content that never rested'} ({truth[name]['way']})"
        if document["scan"]["name"] != name:
            yield f"{name}: the result calls the scan {document['scan']['name']!r}"
        listed = [*document["files"], *(file for task in document["tasks"].values() for file in task["files"])]
        there = sorted(path.name for path in folder.iterdir())
        if sorted([*listed, "result.json"]) != there:
            yield f"{name}: result.json lists {sorted(listed)}, the folder holds {there}"
        for file in listed:
            if not (folder / file).is_file() or (folder / file).stat().st_size == 0:
                yield f"{name}: {file} is missing or empty"
            elif file.endswith(".tif") and list(tifffile.imread(folder / file).shape) != document["scan"]["shape"]:
                yield f"{name}: {file} is not whole"


def leftovers(out: Path, state: Path, temporary: Path, truth: Truth) -> Iterator[str]:
    """No temporary file is left: not among the results, not beside the ledger, not in the system's folder for them."""
    for path in out.rglob("*"):
        if UNFINISHED.search(path.name):
            yield f"left over: {path.relative_to(out)}"
    for path in out.iterdir():
        if path.is_file() and not OWN_FILES.fullmatch(path.name) and "lock" not in path.name:
            yield f"not foreseen among the results: {path.name}"
    tops = {name.split("/", 1)[0] for name in truth}
    for path in out.iterdir():
        if path.is_dir() and path.name not in tops:
            yield f"a folder of no scan: {path.name}"
    for path in state.rglob("*"):
        if path.is_file() and (UNFINISHED.search(path.name) or path.suffix in {".npy", ".tif", ".sxm"}):
            yield f"left over in the state: {path.relative_to(state)}"
    for path in temporary.iterdir():
        yield f"left over in the system's temporary folder: {path.name}"


def bookkeeping(status: Mapping[str, Any], truth: Truth) -> Iterator[str]:
    """The ledger has every scan once: good ones done, bad ones failed with a reason."""
    rows = status["scans"]
    for name, times in Counter(row["scan"] for row in rows).items():
        if times > 1:
            yield f"{name}: stands {times} times in the ledger"
    known = {row["scan"]: row for row in rows}
    for name, file in sorted(truth.items()):
        row = known.get(name)
        if row is None:
            yield f"{name}: not in the ledger ({file['way']})"
        elif file["good"] and row["state"] != "done":
            yield f"{name}: {row['state']}, {row['reason']} ({file['way']})"
        elif row["analyses"] > len(file["versions"]):
            yield f"{name}: {row['analyses']} analyses of {len(file['versions'])} versions ({file['way']})"
        elif not file["good"] and (row["state"] not in {"failed", "quarantined"} or not row["reason"]):
            yield f"{name}: is damaged and {row['state']}, reason {row['reason']!r}"


def summary(out: Path, truth: Truth) -> Iterator[str]:
    """The table has one row per scan."""
    with (out / "summary.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    status = {row["scan"]: row["status"] for row in rows}
    wanted = {name: "done" if file["good"] else "failed" for name, file in truth.items()}
    if len(status) != len(rows):
        yield "summary.csv: several rows for one scan"
    for name in sorted(status.keys() | wanted.keys()):
        if status.get(name) != wanted.get(name):
            yield f"summary.csv: {name} is {status.get(name)}, expected {wanted.get(name)}"


def work(lines: str, truth: Truth) -> Iterator[str]:
    """No version of a scan was finished twice: by the lines that the service printed."""
    finished = Counter(re.findall(r"^done +(.+?): ", lines, re.MULTILINE))
    for name, times in finished.items():
        versions = len(truth.get(name, {}).get("versions", ()))
        if times > versions:
            yield f"{name}: analysed {times} times, it had {versions} versions ({truth.get(name, {}).get('way')})"


def _schema_check() -> Any:
    """The check of ``result.json`` against the published schema, from the tests of the results."""
    spec = importlib.util.spec_from_file_location("adatom_schema_check", _SCHEMA_TEST)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
