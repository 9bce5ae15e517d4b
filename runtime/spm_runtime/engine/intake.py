"""Looks at a folder, again and again, for files that rest."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from spm_runtime.engine.companions import Beside
from spm_runtime.engine.discovery import may_be_scan, walk
from spm_runtime.engine.jobs import Job, Stamp
from spm_runtime.engine.ledger import Found
from spm_runtime.errors import CannotOpenError
from spm_runtime.results import printable

__all__ = ["Intake", "Looks"]

#: A time of change this far off the looks around it comes from a clock that differs, in seconds.
CLOCKS_DIFFER_S = 2.0

#: So long a look is waited for, in seconds; one that takes longer goes on beside the other work.
AT_ONCE_S = 0.25

#: So many files of a look may lie ready at once.
READY = 200

#: So many troubles of a look are told one by one: a share that goes away may be one for every file.
TOLD = 5


@dataclass(frozen=True, slots=True)
class _Fresh:
    """Of a file that may still be written: when it was seen first as it is, and the time of the look before."""

    seen_s: float
    before_s: float | None

    def changed_s(self, stamp: Stamp) -> float | None:
        """When the last byte was written: by the file's own time, unless that is of a copy of old or of another clock.

        Not known of a file that was there from the beginning.
        """
        if self.before_s is None:
            return None
        written_s = stamp.mtime_ns / 1e9
        is_likely = self.before_s - CLOCKS_DIFFER_S <= written_s <= self.seen_s + CLOCKS_DIFFER_S
        return min(written_s, self.seen_s) if is_likely else self.before_s


class Intake:
    """Polls a folder, because the notices that operating systems give miss what other computers write to a share.

    It keeps a few bytes for every file, no names of files that rest.

    Parameters
    ----------
    folder
        The folder, sub-folders included.
    ignore
        A sub-folder to pass over.
    since
        Files last changed before this moment are left out.
    strict
        Whether a folder that cannot be listed is an error.
    tell
        Called with a sentence when a folder vanishes or cannot be listed, and when it is back.
    clock
        Seconds since 1970.

    Attributes
    ----------
    rests
        Whether everything was the same in the last two looks.
    is_away
        Whether the folder itself could not be listed the last time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ignore: Path | None = None,
        since: datetime | None = None,
        strict: bool = False,
        tell: Callable[[str], object],
        clock: Callable[[], float],
    ) -> None:
        self.rests = False
        self.is_away = False
        self._folder, self._strict, self._tell, self._clock = folder, strict, tell, clock
        self._ignore = None if ignore is None else ignore.resolve()
        self._oldest_ns = None if since is None else int(since.timestamp() * 1e9)
        self._resting: set[bytes] = set()  # digests of path and stamp
        self._fresh: dict[bytes, _Fresh] = {}
        self._beside = Beside()
        self._forgotten: deque[bytes] = deque()  # filled while another thread looks
        self._troubles: set[str] = set()
        self._looked_s: float | None = None

    def forget(self, job: Job) -> None:
        """Give a file out again as soon as it rests: when its turn came it was not there, and it may have come back since."""
        if job.stamp is not None:
            self._forgotten.append(_digest(job.path, job.stamp))

    def look(self) -> Iterator[Found]:
        """Look once.

        Yields
        ------
        Found
            Files whose stamp is that of the look before and was not given out yet.

        Raises
        ------
        CannotOpenError
            If it is `strict` and a folder cannot be listed: not everything that is there would be dealt with.
        """
        now_s = self._clock()
        while self._forgotten:
            self._resting.discard(self._forgotten.popleft())
        lost: dict[str, str] = {}
        resting: set[bytes] = set()
        fresh: dict[bytes, _Fresh] = {}
        for path, stamp in self._files(lost):
            if self._oldest_ns is not None and stamp.mtime_ns < self._oldest_ns:
                continue
            state = _digest(path, stamp)
            if state in self._resting:
                self._resting.remove(state)  # so that two looks never take twice the memory
                resting.add(state)
                continue
            before = self._fresh.pop(state, None)
            if before is None:
                fresh[state] = _Fresh(now_s, self._looked_s)
                continue
            resting.add(state)
            yield Found(Job(path, self._name(path), stamp=stamp, named=False), before.changed_s(stamp), before.seen_s)
        self._note_troubles(lost)
        self.is_away = str(self._folder) in lost
        if self.is_away:  # nothing is known of it: neither new nor gone
            return
        self.rests = self._looked_s is not None and not fresh and not lost
        self._resting, self._fresh, self._looked_s = resting, fresh, now_s

    def _files(self, lost: dict[str, str]) -> Iterator[tuple[Path, Stamp]]:
        """All files that may be scans, with their stamps, and the reason for every folder that could not be listed."""

        def note(error: OSError) -> None:
            lost[str(error.filename or self._folder)] = str(error.strerror or error)

        self._beside.begin()
        for entry in walk(self._folder, ignore=self._ignore, on_error=note, in_order=False):
            path = Path(entry.path)
            if not may_be_scan(path):
                continue
            try:
                facts = path.stat()  # not the entry's own: Windows updates that one late
                stamp = dataclasses.replace(Stamp.of(facts), beside=self._beside.state(path))
            except FileNotFoundError:
                continue  # gone since it was listed
            except OSError as error:  # nothing is known of it, so it must not pass for one that is not there
                note(error)
                continue
            yield path, stamp

    def _name(self, path: Path) -> str:
        """The name for people and results; one that cannot be printed is told from others by a few digits."""
        raw = path.relative_to(self._folder).parts
        name = "/".join(map(printable, raw))
        if name == "/".join(raw):
            return name
        return f"{name}~{hashlib.sha256(os.fsencode(path.relative_to(self._folder))).hexdigest()[:6]}"

    def _note_troubles(self, lost: dict[str, str]) -> None:
        new, back = sorted(lost.keys() - self._troubles), sorted(self._troubles - lost.keys())
        if new and self._strict:
            place = new[0]
            raise CannotOpenError(
                place, f"cannot be listed ({lost[place]})", "a readable folder", "Check the share and your rights."
            )
        for places, what in ((new, "cannot be listed ({}); waiting for it"), (back, "is back")):
            for place in places[:TOLD]:
                self._tell(f"{printable(place)}: {what.format(lost.get(place))}")
            if len(places) > TOLD:
                self._tell(f"and {len(places) - TOLD} more, below {printable(str(self._folder))}")
        self._troubles = set(lost)


def _digest(path: Path, stamp: Stamp) -> bytes:
    """A state of a file in a few bytes."""
    facts = b"%d %d %s " % (stamp.size, stamp.mtime_ns, stamp.beside.encode("ascii"))
    return hashlib.blake2b(facts + os.fsencode(path), digest_size=12).digest()


class Looks:
    """Looks of an intake, in a thread of their own: a share that does not answer holds up nothing else.

    Parameters
    ----------
    intake
        Whose; nobody else may look meanwhile.

    Attributes
    ----------
    is_looking
        Whether a look was begun and not everything that it finds was taken.
    """

    def __init__(self, intake: Intake) -> None:
        self.is_looking = False
        self._intake = intake
        self._ready: queue.Queue[Found | Exception | None] = queue.Queue(READY)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._at_once_until_s = 0.0

    def begin(self) -> None:
        """Begin a look; only while there is none."""
        self.is_looking = True
        self._at_once_until_s = time.monotonic() + AT_ONCE_S
        # It must not keep this process from ending when it hangs.
        self._thread = threading.Thread(target=self._look, name="look", daemon=True)
        self._thread.start()

    def found(self) -> list[Found]:
        """Some of what was found; a look is waited for a moment, as most of them take no longer.

        Raises
        ------
        CannotOpenError
            As `Intake.look`.
        """
        some: list[Found] = []
        while self.is_looking and len(some) < READY:
            try:
                item = self._ready.get(timeout=max(0.0, self._at_once_until_s - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(item, Found):
                some.append(item)
                continue
            self.is_looking = False
            if item is not None:
                raise item
        return some

    def close(self) -> None:
        """End the look; one that hangs is left alone."""
        self._closed.set()
        with suppress(queue.Empty):  # so that nobody waits for room
            while True:
                self._ready.get_nowait()
        if self._thread is not None:
            self._thread.join(AT_ONCE_S)

    def _look(self) -> None:
        try:
            for found in self._intake.look():
                self._ready.put(found)
                if self._closed.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - raised where the files are taken
            self._ready.put(error)
        else:
            self._ready.put(None)
