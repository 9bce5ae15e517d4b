"""The audit of the torture sees what it is there to see."""

import copy
import csv
import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from spm_runtime.results import Atoms, Map, ModelReference, Outcome, Report, Result, read_document, save_results
from spm_runtime.scan import Scan

GOOD, BAD = "day 1/a.npy", "b.npy"


def load_audit():
    spec = importlib.util.spec_from_file_location("torture_audit", Path(__file__).parent / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit = load_audit()


class Place:
    """A watched folder with a good scan and a damaged one, and what a service has left of them."""

    def __init__(self, root) -> None:
        self.settle(root)
        for folder in (self.scans / "day 1", self.state, self.temporary):
            folder.mkdir(parents=True)
        image = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
        np.save(self.scans / GOOD, image)
        (self.scans / BAD).write_bytes((self.scans / GOOD).read_bytes()[:500])
        self.truth = {name: self.facts(name) for name in (GOOD, BAD)}
        one = np.ones(1, np.float32)
        atoms = Atoms(np.array([[1.0, 2.0]]), one, one, one, one, np.array([-1], np.int32))
        model = ModelReference("atoms", "1.0", "ab" * 32)
        layers = (Map("confidence", np.zeros((16, 16), np.float32)),)
        result = Result(Scan(image), "atoms", model, "CPUExecutionProvider", {}, {}, atoms, layers)
        sha256 = self.truth[GOOD]["sha256"]
        save_results(result.scan, [result], self.out / GOOD, source_sha256=sha256, source_name=GOOD)
        report = Report(self.out)
        report.add([Outcome(GOOD, GOOD, "done", document=read_document(self.out / GOOD))])
        report.add([Outcome(BAD, BAD, "failed", reason="cut off")])
        report.write()
        self.status = {"scans": [self.row(GOOD, "done", ""), self.row(BAD, "failed", "cut off")]}
        self.lines = f"done    {GOOD}: 1 atoms, 0.10 s\nfailed  {BAD}: cut off\n"

    def settle(self, root) -> None:
        self.root = root
        self.scans, self.out, self.state, self.temporary = (root / name for name in ("scans", "out", "state", "tmp"))

    def copied(self, root):
        """The same elsewhere, to be spoilt."""
        other = copy.deepcopy(self)
        shutil.copytree(self.root, root)
        other.settle(root)
        return other

    def facts(self, name):
        path = self.scans / name
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        versions = [sha256] if name == GOOD else []
        mtime_ns = path.stat().st_mtime_ns
        return {"way": "at once", "good": name == GOOD, "versions": versions, "mtime_ns": mtime_ns, "sha256": sha256}

    def row(self, name, state, reason):
        return {"scan": name, "state": state, "reason": reason, "analyses": int(state == "done")}

    def complaints(self):
        return [
            *audit.raw_data(self.scans, self.truth),
            *audit.results(self.out, self.truth),
            *audit.leftovers(self.out, self.state, self.temporary, self.truth),
            *audit.bookkeeping(self.status, self.truth),
            *audit.summary(self.out, self.truth),
            *audit.work(self.lines, self.truth),
        ]

    def edit_document(self, change):
        file = self.out / GOOD / "result.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        change(document)
        file.write_text(json.dumps(document), encoding="utf-8")

    def drop_row(self):
        with (self.out / "summary.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        with (self.out / "summary.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows[:-1])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("template"))


@pytest.fixture
def place(template, tmp_path):
    return template.copied(tmp_path / "place")


def test_all_is_well(place):
    assert place.complaints() == []


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda p: (p.scans / GOOD).write_bytes(b"other"), "the scan was changed"),
        (lambda p: os.utime(p.scans / BAD, ns=(1, 1)), "the scan was touched"),
        (lambda p: (p.scans / GOOD).unlink(), "the scan is gone"),
        (lambda p: (p.scans / "day 1" / "new").write_bytes(b""), "nobody wrote this"),
        (lambda p: (p.out / GOOD / "result.json").unlink(), "no result"),
        (lambda p: p.truth[GOOD]["versions"].append("cd" * 32), "result of an older version"),
        (lambda p: p.truth[GOOD].update(versions=["cd" * 32]), "result of a content that never rested"),
        (lambda p: p.truth[GOOD].update(good=False), "a result, and no good scan"),
        (lambda p: p.edit_document(lambda d: d.update(schema_version="1")), "violates"),
        (lambda p: p.edit_document(lambda d: d["scan"].update(name="a.npy")), "calls the scan"),
        (lambda p: (p.out / GOOD / "atoms.csv").unlink(), "atoms.csv is missing"),
        (lambda p: (p.out / GOOD / "overlay.png").write_bytes(b""), "overlay.png is missing or empty"),
        (lambda p: (p.out / GOOD / "mask.tif").write_bytes(b"x"), "the folder holds"),
        (lambda p: (p.out / GOOD / ".partial-1").mkdir(), "left over"),
        (lambda p: (p.out / ".partial-x").mkdir(), "left over"),
        (lambda p: (p.state / "staging.npy").write_bytes(b"x"), "left over in the state"),
        (lambda p: (p.temporary / "abc").write_bytes(b"x"), "temporary folder"),
        (lambda p: (p.out / "core").write_bytes(b"x"), "not foreseen"),
        (lambda p: (p.out / "c.npy").mkdir(), "a folder of no scan"),
        (lambda p: p.status["scans"].pop(), "not in the ledger"),
        (lambda p: p.status["scans"].append(p.row(GOOD, "done", "")), "stands 2 times"),
        (lambda p: p.status["scans"][0].update(state="waiting"), "waiting"),
        (lambda p: p.status["scans"][1].update(reason=""), "is damaged and failed"),
        (lambda p: p.status["scans"][0].update(analyses=2), "2 analyses of 1 versions"),
        (lambda p: p.drop_row(), "summary.csv: day 1/a.npy is None"),
        (lambda p: setattr(p, "lines", p.lines * 2), "analysed 2 times, it had 1 versions"),
    ],
)
def test_whatever_is_wrong_is_said(place, spoil, complaint):
    spoil(place)
    assert any(complaint in sentence for sentence in place.complaints())
