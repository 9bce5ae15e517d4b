"""`spm-infer run --dask`: the scans of a batch, analysed by the workers of a Dask cluster.

The supervisor keeps ledger, summary and lock, as for processes of its own. A worker reads a scan from its path, analyses it with
networks that it loads once, and writes the results; scans and results lie where all computers see them at the same path.

One scan at a time goes to each worker, and to that worker alone. So it is known which scan a worker was busy with when it is
lost, and only that one loses an attempt; the supervisor then gives it to another worker. Left to Dask, a scan that kills its
worker would be sent to several others before anybody heard of it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from spm_runtime._version import __version__
from spm_runtime.engine.batch import BatchOptions, run_batch
from spm_runtime.engine.console import Console
from spm_runtime.engine.jobs import Event, Finished, Job, Lost, Read
from spm_runtime.engine.remote import NoAnswerError, absolute, answer_of, greet, introduce, places_of, seen_from_here
from spm_runtime.engine.service import Service
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.worker import Duty
from spm_runtime.engine.workers import Limits
from spm_runtime.errors import AdatomError, ParameterError
from spm_runtime.results import Outcome

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["ClusterPool", "run_on_cluster"]

#: Seconds between two looks at which workers there are.
LOOK_EVERY_S = 1.0

#: Seconds in which a scheduler answers.
CONNECT_S = 20.0

#: A worker process does one scan at a time however many threads it has: the kernels do not expect company.
_ALONE = threading.Lock()


@dataclass
class _Worker:
    """A worker of the cluster, as seen from here.

    Parameters
    ----------
    address, directory
        Where it is, and its own folder there: another process under the same address has another one.
    has_nanny
        Whether somebody starts it again when it is ended.
    future
        What it is busy with.
    token
        Tells the words of what it is busy with from earlier ones.
    ready
        Whether it may be given scans.
    problem
        Why it may not.
    job, told, deadline_s
        The scan in hand, whether its `Read` was passed on, and when it has had its time: known once it is begun.
    """

    address: str
    directory: str
    has_nanny: bool
    future: Future[Any]
    token: str
    ready: bool = False
    problem: str = ""
    job: Job | None = None
    told: bool = False
    deadline_s: float = float("inf")

    @property
    def is_free(self) -> bool:
        return self.ready and self.job is None


def run_on_cluster(
    paths: Iterable[Path | str],
    out: Path | str,
    settings: Settings,
    address: str,
    **options: Unpack[BatchOptions],
) -> int:
    """Analyse files and folders on a Dask cluster; the results are those of `spm_runtime.engine.batch.run_batch`.

    Parameters
    ----------
    paths
        Files and folders, on a file system that all workers see at the same path.
    out
        Folder of the results, on such a file system too.
    settings, **options
        As for `spm_runtime.engine.batch.run_batch`; how many scans at once, threads and memory are for the cluster to say.
    address
        Of the scheduler, as ``tcp://host:8786``, or the file that ``dask scheduler --scheduler-file`` writes.

    Returns
    -------
    int
        As `spm_runtime.engine.batch.run_batch`.

    Raises
    ------
    AdatomError
        As `spm_runtime.engine.batch.run_batch`; also if the extra ``cluster`` is not installed, no scheduler answers, it is lost,
        or no worker sees the files and has the same version and models.
    ParameterError
        If `address` is none, or an option is given that a cluster decides.
    """
    service = options.get("service", Service())
    for option, given in (
        ("--jobs", settings.jobs != 1),
        ("--threads", service.threads is not None),
        ("--memory-limit-mb", service.memory_limit_mb is not None),
    ):
        if given:
            raise ParameterError(
                f"{option} says nothing with --dask: set workers, threads and memory where the cluster is started, as with "
                "`dask worker --nworkers 8 --nthreads 2 --memory-limit 8GB`"
            )
    given_paths = [Path(path) for path in paths]
    if settings.model is not None and Path(settings.model).is_dir():
        settings = dataclasses.replace(settings, model=absolute(Path(settings.model)))
    with _connected(address) as client:

        def make_pool(*, duty: Duty, limits: Limits, **of_this_computer: object) -> ClusterPool:
            return ClusterPool(client, address, duty, limits, places_of(given_paths))

        return run_batch(given_paths, absolute(Path(out)), settings, make_pool=make_pool, **options)


class ClusterPool:
    """The workers of a Dask cluster, those that come later included.

    Parameters
    ----------
    client
        Connection to the scheduler; it stays open.
    address
        What the user calls it.
    duty
        What the workers do.
    limits
        Only the time counts here: the cluster limits memory by itself.
    places
        Folders of scans that a worker must see.
    """

    def __init__(self, client: Client, address: str, duty: Duty, limits: Limits, places: Sequence[Path]) -> None:
        self._client = client
        self._address = address
        self._duty = duty
        self._limits = limits
        self._console = Console()
        self._introduction = introduce(duty, places)
        self._workers: dict[str, _Worker] = {}
        self._words: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        self._topic = f"adatom-{uuid.uuid4().hex}"
        self._looked_s = float("-inf")
        self._waits_for_workers = False
        client.subscribe_topic(self._topic, lambda event: self._words.put(tuple(event[1])))

    @property
    def free(self) -> int:
        """How many jobs can be begun now."""
        return sum(worker.is_free for worker in self._workers.values())

    @property
    def in_hand(self) -> list[str]:
        """Names of the jobs that were begun and have not ended."""
        return [worker.job.name for worker in self._workers.values() if worker.job is not None]

    def submit(self, job: Job) -> None:
        """Begin a job."""
        worker = next(worker for worker in self._workers.values() if worker.is_free)
        there = dataclasses.replace(job, path=absolute(job.path))
        worker.job, worker.told = job, False
        worker.token = uuid.uuid4().hex
        worker.future = self._send(worker.address, worker.token, work, self._duty, there, self._topic, worker.token)

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened since; returns early when something does.

        Raises
        ------
        AdatomError
            If the scheduler is lost, or none of the workers can be used.
        """
        events: list[Event] = []
        until = time.monotonic() + timeout_s
        free = self.free
        while True:
            events += self._look()
            pause_s = 0.0 if events else max(0.0, min(until - time.monotonic(), LOOK_EVERY_S))
            with suppress(queue.Empty):
                while True:
                    events += self._hear(*self._words.get(timeout=pause_s))
                    pause_s = 0.0
            if events or self.free > free or time.monotonic() >= until:
                return events

    def close(self) -> None:
        """Give up what is in hand; a worker that is in the middle of a scan comes to the end of it, unheard."""
        for worker in self._workers.values():
            worker.future.cancel()
        self._workers.clear()
        with suppress(ValueError):  # closed already
            self._client.unsubscribe_topic(self._topic)

    def _send(self, address: str, token: str, action: Callable[..., object], *facts: object) -> Future[Any]:
        """Let one worker do something, and hear of its end."""
        future = self._client.submit(
            action, *facts, key=f"adatom-{token}", workers=[address], allow_other_workers=False, pure=False
        )
        future.add_done_callback(lambda ended: self._words.put((token, "ended", None)))
        return future

    def _look(self) -> Iterator[Event]:
        """See which workers have come, are lost, or have had their time."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        there = self._there()
        for worker in list(self._workers.values()):
            if there.get(worker.address, {}).get("local_directory") != worker.directory:
                del self._workers[worker.address]
                yield from self._lose(worker, "was lost while it analysed this scan: it died of a crash in a library or a lack "
                    "of memory, or its computer went away")  # fmt: skip
            elif worker.job is not None and now_s > worker.deadline_s:
                yield from self._end(worker)
        for address, facts in there.items():
            if address not in self._workers and facts["status"] == "running":
                self._greet(address, facts)
        self._say_if_none()

    def _there(self) -> Mapping[str, Mapping[str, Any]]:
        """The workers that there are, by address."""
        try:
            if self._client.status != "running":
                raise OSError(f"the connection is {self._client.status}")
            workers: Mapping[str, Mapping[str, Any]] = self._client.scheduler_info(n_workers=-1)["workers"]
        except OSError as error:
            raise self._scheduler_lost(str(error)) from error
        return workers

    def _scheduler_lost(self, how: str) -> AdatomError:
        return AdatomError(
            f"--dask {self._address}: the scheduler was lost ({how}); start it again, then the same command goes on"
        )

    def _greet(self, address: str, facts: Mapping[str, Any]) -> None:
        token = uuid.uuid4().hex
        introduction = dataclasses.replace(self._introduction, threads=int(facts["nthreads"]))
        future = self._send(address, token, greet, introduction)
        self._workers[address] = _Worker(address, str(facts["local_directory"]), bool(facts["nanny"]), future, token)

    def _say_if_none(self) -> None:
        workers = self._workers.values()
        if not workers and not self._waits_for_workers:
            self._console.tell(f"--dask {self._address}: there are no workers; waiting for some")
        self._waits_for_workers = not workers
        if workers and all(worker.problem for worker in workers):
            reasons = "; ".join(f"{worker.address}: {worker.problem}" for worker in list(workers)[:3])
            raise AdatomError(f"--dask {self._address}: no worker can be used. {reasons}")

    def _hear(self, token: str, word: str, value: Any) -> Iterator[Event]:
        """What a worker says, or that something has come to its end."""
        worker = next((worker for worker in self._workers.values() if worker.token == token), None)
        if worker is None or worker.problem:  # of something that was given up
            return
        if worker.job is None:
            if word == "ended" and not worker.ready:
                self._introduced(worker)
            return
        worker.deadline_s = time.monotonic() + self._limits.time_s
        if word == "read" and not worker.told:
            worker.told = True
            yield Read(worker.job.name, value)
        elif word == "ended":
            yield from self._fetch(worker, worker.job)

    def _introduced(self, worker: _Worker) -> None:
        """Hear what a new worker says to the introduction."""
        try:
            worker.problem = answer_of(worker.future)
        except NoAnswerError as error:
            if error.is_lost:
                worker.directory = ""  # the next look takes it for a new one if it is still there
                return
            worker.problem = f"{error}; install adatom {__version__} there, as it is here"
        worker.ready = not worker.problem
        if worker.problem:
            self._console.tell(f"--dask {self._address}: worker {worker.address} is not used. {worker.problem}")

    def _fetch(self, worker: _Worker, job: Job) -> Iterator[Event]:
        """The outcomes of a scan."""
        try:
            sha256, outcomes = answer_of(worker.future)
        except NoAnswerError as error:
            if worker.future.status == "cancelled":  # not by us; the scan has nothing to do with it
                raise self._scheduler_lost(str(error)) from error
            # The next look takes it for a new one if it is still there.
            worker.ready, worker.directory = False, ""
            yield from self._lose(worker, f"gave no outcome ({error})")
            return
        if sha256 and not worker.told:
            yield Read(job.name, sha256)
        self._release(worker)
        yield Finished(job.name, [seen_from_here(outcome, job, worker.address) for outcome in outcomes])

    def _end(self, worker: _Worker) -> Iterator[Event]:
        """End a worker that takes too long with a scan, if somebody will start it again; else leave it alone."""
        yield from self._lose(
            worker,
            f"took longer than {self._limits.time_s:g} s; allow it more with --time-limit-s, and report it if it should not take "
            "so long",
        )
        worker.ready = False
        if worker.has_nanny:
            self._client.restart_workers([worker.address], timeout=CONNECT_S, raise_for_error=False)
        else:
            worker.problem = "it is still busy with a scan that takes too long, and has no nanny to end it"
            self._console.tell(
                f"--dask {self._address}: worker {worker.address} is not used any more: {worker.problem}"
            )

    def _lose(self, worker: _Worker, how: str) -> Iterator[Event]:
        """Give up what a worker has in hand."""
        job = worker.job
        worker.future.cancel()
        self._release(worker)
        if job is not None:
            yield Lost(job.name, f"{job.path}: the Dask worker {worker.address} {how}")

    def _release(self, worker: _Worker) -> None:
        worker.job, worker.deadline_s, worker.token = None, float("inf"), ""


def work(duty: Duty, job: Job, topic: str, token: str) -> tuple[str, list[Outcome]]:
    """On a worker: analyse one file and save what is found.

    Parameters
    ----------
    duty, job
        What to do.
    topic, token
        Under which its progress is told.

    Returns
    -------
    tuple of str and list of Outcome
        SHA-256 of the content, empty when it could not be read; what `spm_runtime.engine.analysis.process` returns.
    """
    from distributed import get_worker

    worker = get_worker()
    digests = [""]

    def say(word: str, value: str = "") -> None:
        worker.log_event(topic, [token, word, value])

    def on_read(sha256: str) -> None:
        digests.append(sha256)
        say("read", sha256)

    with _ALONE:
        say("begun")
        # Dask clears this folder of processes that were killed.
        outcomes = duty.do(job, Path(worker.local_directory), on_read, lambda: say("image"))
    return digests[-1], outcomes


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise AdatomError(
            f'--dask needs Dask ({error}); install it with pip install "adatom[cluster]", here and on the workers'
        ) from error
    place = _scheduler_of(address)
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)  # a lost scheduler is said in one line here, not in a traceback
    try:
        try:
            client = Client(place, timeout=CONNECT_S, set_as_default=False, name="adatom")
        except OSError as error:
            raise AdatomError(
                f"--dask {address}: no scheduler answers ({error}); start one with `dask scheduler`, and check address and "
                "firewall"
            ) from error
        with client:
            yield client
    finally:
        log.setLevel(level)


def _scheduler_of(text: str) -> str:
    """The address of a scheduler, as given or as the scheduler's file says.

    Raises
    ------
    ParameterError
        If it is neither.
    """
    from distributed.comm.addressing import get_address_host

    try:
        address = str(json.loads(Path(text).read_text(encoding="utf-8"))["address"]) if Path(text).is_file() else text
        get_address_host(address)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"--dask {text}: no address of a scheduler ({type(error).__name__}: {error}); expected one as tcp://host:8786, "
            "or the file that `dask scheduler --scheduler-file` has written"
        ) from error
    return address
