"""Stand-ins for the analysis and for processes, so that what the engine does with scans can be tested without either."""

import csv
import signal
from functools import partial

import numpy as np
import pytest
import yaml

from spm_runtime.engine import intake as intake_module
from spm_runtime.engine.jobs import Finished, Lost, Read
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.status import status_of
from spm_runtime.engine.watch import watch
from spm_runtime.errors import ModelError
from spm_runtime.models import load_package
from spm_runtime.results import Atoms, Map, Result


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A model package that is found by default; nothing but its description is ever read."""
    tensor = {"test_tensor": {"source": "test.npy", "sha256": "0" * 64}}
    limits = {"minimum": 0.01, "maximum": 1.0}
    spm = {
        "task": "atoms", "modalities": ["stm", "stem"], "size_multiple": 8, "halo_px": 8, "spacing_px": limits,
        "pixel_size_nm": limits, "tolerance": 1e-4, "training": {}, "metrics": {}, "known_failures": [],
        "parameters": {"threshold": {"default": 0.5, "minimum": 0.0, "maximum": 1.0, "description": "confidence"}},
    }  # fmt: skip
    rdf = {
        "name": "atoms", "version": "1.0", "description": "a test", "config": {"spm": spm},
        "weights": {"onnx": {"source": "weights.onnx", "sha256": "ab" * 32}},
        "inputs": [{"id": "image", **tensor}], "outputs": [{"id": "confidence", **tensor}],
    }  # fmt: skip
    folder = tmp_path / "models" / "atoms"
    folder.mkdir(parents=True)
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf), encoding="utf-8")
    monkeypatch.setenv("SPM_MODELS", str(folder.parent))
    return folder


class Crash(BaseException):
    """The process would be no more."""


class Inline:
    """A pool that analyses in this process, at once, and waits by sleeping."""

    def __init__(
        self, *, duty, processes, limits, staging, threads, on_start, on_end, sleep=lambda seconds: None
    ) -> None:
        self._duty, self._staging, self._sleep = duty, staging, sleep
        self._events = []
        self.in_hand = []

    @property
    def free(self):
        return 1 - len(self.in_hand)

    def submit(self, job):
        self.in_hand.append(job.name)
        self._staging.mkdir(parents=True, exist_ok=True)
        try:
            outcomes = self._duty.do(job, self._staging, lambda sha256: self._events.append(Read(job.name, sha256)))
            self._events.append(Finished(job.name, outcomes))
        except Crash:
            self._events.append(Lost(job.name, f"{job.path}: the process that analysed it died", "the stack"))

    def wait(self, timeout_s):
        if not self._events:
            self._sleep(timeout_s)
        events, self._events = self._events, []
        self.in_hand.clear()
        return events

    def close(self):
        pass


@pytest.fixture
def make_inline():
    return Inline


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The engine's own folder, away from the user's."""
    monkeypatch.setenv("SPM_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


class FakeAnalysis:
    """Finds one atom per image and nothing else, and fails as the first pixel says."""

    def __init__(self, package) -> None:
        self.package = package
        self.seen = []

    def __call__(self, scan, task, *, model, device, require_gpu, params) -> Result:
        self.seen.append(scan)
        code = scan.image[0, 0]
        if code == -3:
            raise Crash
        if code == -1:
            raise ModelError(f"{scan.path}: the model cannot do this")
        if code == -2:
            raise ZeroDivisionError("somebody's bug")
        one = np.ones(1, np.float32)
        atoms = Atoms(np.array([[1.0, 2.0]]), one, one, one, one, np.array([-1], np.int32))
        loaded = load_package(self.package)
        if task != "atoms":
            return Result(scan, task, loaded.reference, "CPUExecutionProvider", loaded.resolve(params), {"all": 0.0})
        quantities = {"spacing_px": 4.0} | ({"spacing_nm": 4.0 * scan.pixel_size_nm[0]} if scan.pixel_size_nm else {})
        confidence = Map("confidence", np.zeros(scan.shape, np.float32))
        return Result(
            scan, task, loaded.reference, "CPUExecutionProvider", loaded.resolve(params), {"all": 0.0}, atoms, (confidence,),
            quantities, ("a fake",),
        )  # fmt: skip

    @property
    def names(self):
        return [scan.path.name for scan in self.seen]


@pytest.fixture
def fake(package):
    return FakeAnalysis(package)


@pytest.fixture
def save_scan():
    """Write a scan file; the first pixel tells the stand-in what to do."""

    def save(path, code=0.0, *, value=1.0, shape=(24, 32)):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full(shape, value, np.float32)
        image[::4, ::4] += 1
        image[..., 0, 0] = code
        with path.open("wb") as file:
            np.save(file, image)
        return path

    return save


DAWN = 1.9e9  # later than any file of these tests


class Stage:
    """Time that passes only when the watch sleeps; what happens meanwhile is a list of actions, one per second."""

    def __init__(self, tmp_path, fake, make_pool) -> None:
        self.data, self.out, self.fake, self.make_pool = tmp_path / "data", tmp_path / "out", fake, make_pool
        self.data.mkdir()
        self.now = self.acted = DAWN
        self.actions = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.now < self.acted + 1:
            return
        self.acted = self.now
        if self.actions:
            self.actions.pop(0)()
        else:
            signal.raise_signal(signal.SIGINT)

    def run(self, *actions, **options):
        self.actions = list(actions)
        facts = {
            "poll_s": 1.0,
            "give_up_s": 10.0,
            "clock": self.clock,
            "ticks": self.clock,
            "analyse": self.fake,
            "make_pool": partial(self.make_pool, sleep=self.sleep),
        } | options
        return watch(self.data, self.out, facts.pop("settings", Settings()), **facts)

    def rows(self):
        with (self.out / "summary.csv").open(encoding="utf-8", newline="") as file:
            return {row["scan"]: row for row in csv.DictReader(file)}

    def scans(self):
        return {scan["scan"]: scan for scan in status_of(self.out)["scans"]}


@pytest.fixture
def stage(tmp_path, fake, make_inline, monkeypatch):
    monkeypatch.setattr("spm_runtime.results._report.PATIENCE", 0.0)  # time does not pass here
    monkeypatch.setattr(intake_module, "AT_ONCE_S", 60.0)  # every look is over before the next second
    return Stage(tmp_path, fake, make_inline)
