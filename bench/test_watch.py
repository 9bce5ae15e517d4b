"""`spm-infer watch` and `run` from outside: latency, overhead, several workers, memory.

``ADATOM_BENCH_SCANS`` is how many tiny scans the memory is measured over: 300 unless told otherwise. The figure that counts is
that of 10,000, which takes half an hour.
"""

import io
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import spm_runtime as spm
from spm_runtime.results import file_sha256
from spm_runtime.session import limit_threads

CLI = [sys.executable, "-c", "from spm_runtime.cli import main; main()"]
POLL_S = 0.1
ROUNDS = 15
SCANS = int(os.environ.get("ADATOM_BENCH_SCANS", "300"))
FIRST = min(100, SCANS // 3)
SIDE_PX = 512
BATCH = 40
#: As many as the service takes by itself: half the cores.
THREADS = max(1, (os.cpu_count() or 1) // 2)


def lattice(side_px, rng):
    """The content of a file with a hexagonal lattice of this size, no two alike."""
    y, x = np.mgrid[:side_px, :side_px]
    waves = [np.cos(2 * np.pi * (np.sin(a) * y + np.cos(a) * x) / 8.66) for a in np.deg2rad([7, 67, 127])]
    buffer = io.BytesIO()
    np.save(buffer, (sum(waves) + 0.3 * rng.normal(size=y.shape)).astype(np.float32))
    return buffer.getvalue()


def wait_for(condition, process, what, within_s=600.0):
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end or process.poll() is not None:
            raise TimeoutError(what)
        time.sleep(0.002)


class Watch:
    """A watch of an empty folder that has analysed one scan: its model is loaded, its kernels are compiled."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.scans, self.out, self.log = folder / "scans", folder / "out", folder / "log"
        self.scans.mkdir()
        self.rng = np.random.default_rng(0)
        self.numbers = itertools.count()
        words = ["watch", self.scans, "--out", self.out, "--state", folder / "state", "--poll-s", str(POLL_S)]
        with self.log.open("wb") as log:
            command = [*CLI, *map(str, words), "--device", "cpu", *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            self.write_and_wait(*self.next_scan(SIDE_PX))
        except TimeoutError:
            self.stop()
            raise

    def next_scan(self, side_px):
        return self.scans / f"{next(self.numbers):06d}.npy", lattice(side_px, self.rng)

    def write_and_wait(self, path, content) -> None:
        path.write_bytes(content)
        self.wait_for(path)

    def wait_for(self, *paths) -> None:
        wait_for(lambda: all(map(self.is_done, paths)), self.process, f"{paths}: no result; see {self.log}")

    def is_done(self, path):
        return (self.out / path.name / "result.json").is_file()

    def memory(self):
        """Resident bytes of the supervising process, and of each process that it has started."""
        process = psutil.Process(self.process.pid)
        children = process.children(recursive=True)
        return process.memory_info().rss, sum(child.memory_info().rss for child in children)

    def cpu_s(self):
        """Processor time of the service and of all that it has started."""
        process = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
        return sum(one.user + one.system for one in times)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def watch(tmp_path):
    started = Watch(tmp_path)
    yield started
    started.stop()


def bare(path, out):
    """The same work without a service: read, hash, analyse, save."""
    scan = spm.open(path)
    result = spm.analyse(scan, "atoms", device="cpu")
    spm.results.save_results(scan, [result], out, source_sha256=file_sha256(path))


@pytest.mark.benchmark(group="from the last byte to the result")
def test_watch(benchmark, watch, tmp_path):
    """Latency in multiples of the bare analysis, each measured right after the other; polls at a random phase.

    The wait for two equal looks is 1.5 polls on average and one at least; what is left of the latency beyond it and the bare
    analysis is the overhead: copy, ledger, processes, the wait for the disk. On a busy machine the median says little: the
    fastest round of each side, and the processor time of the whole service (its looks and the bench's own pauses included),
    say more.
    """
    limit_threads(THREADS)
    bare_s, bare_cpu_s, rng = [], [], np.random.default_rng(1)
    aside = tmp_path / "aside.npy"

    def setup():
        path, content = watch.next_scan(SIDE_PX)
        aside.write_bytes(content)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        bare(aside, tmp_path / "bare" / str(len(bare_s)))
        bare_s.append(time.perf_counter() - begin)
        bare_cpu_s.append(time.process_time() - begin_cpu)
        time.sleep(rng.uniform(0, POLL_S))
        return (path, content), {}

    bare_first = setup()  # loads the model
    bare_s.clear(), bare_cpu_s.clear()
    watch.write_and_wait(*bare_first[0])
    before_cpu_s = watch.cpu_s()
    benchmark.pedantic(watch.write_and_wait, setup=setup, rounds=ROUNDS)
    latency_s, cpu_s = benchmark.stats.stats.data, watch.cpu_s() - before_cpu_s
    unit = float(np.median(bare_s))
    benchmark.extra_info.update(
        poll_s=POLL_S,
        p50_s=float(np.median(latency_s)),
        p95_s=float(np.percentile(latency_s, 95)),
        p50_in_bare_analyses=float(np.median(latency_s)) / unit,
        p95_in_bare_analyses=float(np.percentile(latency_s, 95)) / unit,
        overhead_beside_polls=(float(np.median(latency_s)) - 1.5 * POLL_S) / unit - 1,
        overhead_of_the_fastest=(min(latency_s) - POLL_S) / min(bare_s) - 1,
        overhead_in_processor_time=cpu_s / sum(bare_cpu_s) - 1,
    )


@pytest.mark.benchmark(group="from the last byte to the result")
def test_bare_reference(benchmark, tmp_path):
    limit_threads(THREADS)
    path = tmp_path / "a.npy"
    path.write_bytes(lattice(SIDE_PX, np.random.default_rng(0)))
    folders = itertools.count()
    benchmark.pedantic(lambda: bare(path, tmp_path / str(next(folders))), rounds=ROUNDS, warmup_rounds=1)


class Batch:
    """`spm-infer run` over the same scans again and again, with one worker or several."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.numbers = folder, itertools.count()
        (folder / "scans").mkdir()
        rng = np.random.default_rng(0)
        for number in range(BATCH):
            (folder / "scans" / f"{number:03d}.npy").write_bytes(lattice(SIDE_PX // 2, rng))

    def run(self, jobs: int) -> float:
        """Scans per second, from the first result to the last: without the start."""
        out = self.folder / f"out{next(self.numbers)}"
        words = [
            "run",
            self.folder / "scans",
            "--out",
            out,
            "--state",
            self.folder / f"{out.name}-state",
            "--jobs",
            jobs,
        ]
        subprocess.run([*CLI, *map(str, words), "--device", "cpu"], check=True, capture_output=True)
        ends = sorted(path.stat().st_mtime for path in out.glob("*/result.json"))
        assert len(ends) == BATCH
        return (BATCH - jobs) / (ends[-1] - ends[jobs - 1])


@pytest.mark.benchmark(group=f"batch of {BATCH} scans, start included")
def test_as_many_workers_as_cores(benchmark, tmp_path):
    """Several workers against one, in turn; one worker has the threads of all cores, several share them."""
    batch, workers = Batch(tmp_path), os.cpu_count() or 1
    alone, together = [], []
    benchmark.pedantic(lambda: together.append(batch.run(workers)), setup=lambda: alone.append(batch.run(1)), rounds=2)
    benchmark.extra_info.update(workers=workers, throughput_beside_one_worker=np.median(together) / np.median(alone))


@pytest.mark.benchmark(group=f"batch of {BATCH} scans, start included")
def test_one_worker_reference(benchmark, tmp_path):
    batch = Batch(tmp_path)
    benchmark.pedantic(lambda: batch.run(1), rounds=2)


@pytest.mark.benchmark(group="memory")
def test_memory_stays(benchmark, tmp_path):
    """Resident memory after many tiny scans over that after the first ones, in all, and supervisor and workers apart."""
    watch = Watch(tmp_path, "--param", "spacing_px=8.66", "--order", "oldest")
    benchmark.pedantic(lambda: None, rounds=1)
    try:
        feed(watch, FIRST)
        before = watch.memory()
        feed(watch, SCANS - FIRST)
        after = watch.memory()
    finally:
        watch.stop()
    benchmark.extra_info.update(
        scans=SCANS,
        beside_scans=FIRST,
        memory_ratio=sum(after) / sum(before),
        supervisor_memory_ratio=after[0] / before[0],
        workers_memory_ratio=after[1] / before[1],
        supervisor_mb=after[0] / 2**20,
        workers_mb=after[1] / 2**20,
    )


def feed(watch, count, ahead=50):
    """Write scans, never far ahead of the results: it is the service's memory that counts, not that of a backlog."""
    paths = []
    for _ in range(count):
        path, content = watch.next_scan(48)
        path.write_bytes(content)
        paths.append(path)
        watch.wait_for(*paths[:-ahead][-1:])
    watch.wait_for(*paths[-ahead:])
