"""Writes scans into a folder in every way that instruments and people do: ``python writer.py ORDERS``.

``ORDERS`` is a JSON file with ``folder``, ``aside`` (a folder on the same disk for what is moved in and out), ``truth``,
``seed``, ``scans`` and ``span_s``. When all is written, ``truth`` says of every file that is there: the SHA-256 of every
content that it had at rest, whether it is a scan that can be read, its time of change and how it was written.

Every scan is a generator that yields the seconds until its next step; one loop takes the steps of all of them in turn.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile

#: One in twenty files is damaged for good.
BAD_SHARE = 0.05
SIDE_PX = 64
PITCH_PX = 8.0
OLD_NS = 978_307_200_000_000_000  # the first of January 2001

Steps = Iterator[float]


@dataclass
class File:
    """What is known of one file."""

    way: str
    good: bool
    versions: list[str] = field(default_factory=list)


class Writer:
    """The files of one folder.

    Parameters
    ----------
    folder
        The watched folder.
    aside
        A folder on the same disk that nobody watches.
    rng
        Decides everything.
    """

    def __init__(self, folder: Path, aside: Path, rng: np.random.Generator) -> None:
        self.folder, self.aside, self.rng = folder, aside, rng
        self.files: dict[Path, File] = {}
        self.number = 0

    # ------------------------------------------------------------------------------------ content

    def scan(self, suffix: str) -> bytes:
        """A lattice with noise: no two alike."""
        y, x = np.mgrid[:SIDE_PX, :SIDE_PX] + self.rng.uniform(0, PITCH_PX, (2, 1, 1))
        image = np.cos(2 * np.pi * y / PITCH_PX) + np.cos(2 * np.pi * x / PITCH_PX)
        image = (image + 0.1 * self.rng.normal(size=image.shape)).astype(np.float32)
        buffer = io.BytesIO()
        if suffix == ".npy":
            np.save(buffer, image)
        elif suffix == ".tif":
            tifffile.imwrite(buffer, image, imagej=True, resolution=(50.0, 50.0), metadata={"unit": "nm"})
        else:
            buffer.write(sxm_head() + image.astype(">f4").tobytes())
        return buffer.getvalue()

    def damaged(self, suffix: str) -> bytes:
        """What is left of a scan after a crash or a bad disk; nobody will ever read it."""
        whole = self.scan(suffix)
        if suffix == ".sxm" and self.rng.random() < 0.5:
            return bytes(len(whole))
        return whole[: int(len(whole) * self.rng.uniform(0.3, 0.95))]

    def place(self, suffix: str, folder: str | None = None) -> Path:
        """A new name, some of them awkward, in a sub-folder that may be new too."""
        self.number += 1
        folders = ["", "", "day 1", "day 2/50 % #3", f"new/{self.number // 7}", "Prüfung"]
        names = ["{:04d}", "scan {:04d}", "-5 V {:04d}", "#{:04d}", "Größe {:04d}", "{:04d}.part 1"]
        inside = self.rng.choice(folders) if folder is None else folder
        return self.folder / inside / (str(self.rng.choice(names)).format(self.number) + suffix)

    # ------------------------------------------------------------------------------------ ways of writing

    def note(self, path: Path, content: bytes, way: str, *, good: bool = True) -> None:
        known = self.files.setdefault(path, File(way, good))
        known.good = good
        if good:
            known.versions.append(hashlib.sha256(content).hexdigest())

    def put(self, path: Path, content: bytes, way: str, *, good: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.note(path, content, way, good=good)

    def suffix(self) -> str:
        return str(self.rng.choice([".npy", ".tif", ".sxm"]))

    def at_once(self) -> Steps:
        suffix = self.suffix()
        self.put(self.place(suffix), self.scan(suffix), "at once")
        yield 0.0

    def burst(self) -> Steps:
        """As many at once as a program that empties its buffer."""
        for _ in range(3):
            yield from self.at_once()

    def slowly(self, *, good: bool = True) -> Steps:
        """Piece by piece, with pauses in which the file seems to rest."""
        suffix = self.suffix()
        content = self.scan(suffix) if good else self.damaged(suffix)
        path = self.place(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        cuts = sorted(self.rng.integers(0, len(content), 4).tolist())
        for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            with path.open("ab") as file:
                file.write(content[start:end])
            yield float(self.rng.choice([0.02, 0.1, 0.6]))
        self.note(path, content, "slowly" if good else "damaged, slowly", good=good)

    def broken(self) -> Steps:
        if self.rng.random() < 0.3:
            yield from self.slowly(good=False)
            return
        suffix = self.suffix()
        self.put(self.place(suffix), self.damaged(suffix), "damaged", good=False)
        yield 0.0

    def renamed(self) -> Steps:
        """Written where nobody looks, or under a hidden name beside it, then given its name."""
        suffix = self.suffix()
        content, path = self.scan(suffix), self.place(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = self.aside / f"{self.number}.tmp" if self.rng.random() < 0.5 else path.with_name(f".{path.name}.tmp")
        hidden.write_bytes(content[:200])
        yield 0.3
        hidden.write_bytes(content)
        hidden.replace(path)
        self.note(path, content, "renamed")

    def old(self) -> Steps:
        """Copied from an archive with its time of change, which never moves again."""
        suffix = self.suffix()
        content, path = self.scan(suffix), self.place(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        outside = self.aside / f"{self.number}.old"
        outside.write_bytes(content)
        os.utime(outside, ns=(OLD_NS, OLD_NS + self.number))
        outside.replace(path)
        self.note(path, content, "old")
        yield 0.0

    def rewritten(self) -> Steps:
        """Saved again under its name, twice: a new version each time."""
        suffix = self.suffix()
        path = self.place(suffix)
        self.put(path, self.scan(suffix), "rewritten")
        yield float(self.rng.uniform(0.2, 4.0))
        content = self.scan(suffix)
        path.write_bytes(content[: len(content) // 2])
        yield float(self.rng.choice([0.05, 0.5]))
        path.write_bytes(content)
        self.note(path, content, "rewritten")
        yield float(self.rng.uniform(0.2, 4.0))
        content, new = self.scan(suffix), self.aside / f"{self.number}.new"
        new.write_bytes(content)
        new.replace(path)
        self.note(path, content, "rewritten")

    def mended(self) -> Steps:
        """Damaged for so long that it has been given up, then saved again."""
        suffix = self.suffix()
        path = self.place(suffix)
        self.put(path, self.damaged(suffix), "mended", good=False)
        yield float(self.rng.uniform(0.5, 6.0))
        self.put(path, self.scan(suffix), "mended")

    def busy(self) -> Steps:
        """Nobody may read it until its program has closed it."""
        suffix = self.suffix()
        content, path = self.scan(suffix), self.place(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o000), "wb") as file:
            file.write(content)
            file.flush()
            yield float(self.rng.uniform(0.5, 3.0))
        path.chmod(0o644)
        self.note(path, content, "busy")

    def copied(self) -> Steps:
        """The same content under two names is two scans."""
        suffix = self.suffix()
        content = self.scan(suffix)
        self.put(self.place(suffix), content, "copied")
        yield 0.4
        self.put(self.place(suffix), content, "copied")

    def away(self) -> Steps:
        """In a folder that vanishes and comes back, as a share does."""
        name = f"session {self.number}"
        for _ in range(2):
            suffix = self.suffix()
            self.put(self.place(suffix, name), self.scan(suffix), "away")
        yield float(self.rng.uniform(0.0, 0.6))
        (self.folder / name).rename(self.aside / name)
        yield float(self.rng.uniform(0.3, 2.0))
        (self.aside / name).rename(self.folder / name)

    def no_scan(self) -> Steps:
        """Something else that people leave beside their scans."""
        (self.folder / f"notes {self.number}.txt").write_text("tip changed at 3 V", encoding="utf-8")
        yield 0.0

    def all_away(self) -> Steps:
        """The whole folder is gone for a while; nobody can write meanwhile either, so nothing else happens."""
        gone = self.aside / "everything"
        self.folder.rename(gone)
        time.sleep(0.7)
        gone.rename(self.folder)
        yield 0.0

    # ------------------------------------------------------------------------------------ all of it

    def plan(self, scans: int) -> list[Steps]:
        """Generators that leave about this many files, every way at least once."""
        ways = [self.at_once, self.burst, self.slowly, self.renamed, self.old, self.rewritten, self.mended, self.busy,
                self.copied, self.away]  # fmt: skip
        files = {"burst": 3, "copied": 2, "away": 2}
        plan, left = [way() for way in ways], scans - len(ways) - 4
        for _ in range(max(1, round(BAD_SHARE * scans))):
            plan.append(self.broken())
            left -= 1
        while left > 0:
            way = ways[int(self.rng.integers(len(ways)))]
            plan.append(way())
            left -= files.get(way.__name__, 1)
        others = [self.all_away, self.no_scan] * max(1, scans // 100)
        return plan + [other() for other in others]

    def run(self, scans: int, span_s: float) -> None:
        """Begin every scan at its moment, and go on with it when it is its turn."""
        plan = self.plan(scans)
        starts = self.rng.uniform(0, span_s, len(plan)).tolist()
        turns = [(start, index) for index, start in enumerate(starts)]
        heapq.heapify(turns)
        began = time.monotonic()
        while turns:
            due, index = heapq.heappop(turns)
            time.sleep(max(0.0, due - (time.monotonic() - began)))
            pause_s = next(plan[index], None)
            if pause_s is not None:
                heapq.heappush(turns, (time.monotonic() - began + pause_s, index))

    def truth(self) -> dict[str, object]:
        """Of every file: what `File` knows, the time of change and the content that is there now."""
        return {
            path.relative_to(self.folder).as_posix(): {
                "way": file.way,
                "good": file.good,
                "versions": file.versions,
                "mtime_ns": path.stat().st_mtime_ns,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path, file in self.files.items()
        }


def sxm_head() -> bytes:
    """The header of a Nanonis scan of one channel, forward only."""
    table = "\tChannel\tName\tUnit\tDirection\tCalibration\tOffset\n\t0\tZ\tm\tforward\t1.000E-9\t0.000E+0\n"
    tags = {
        "NANONIS_VERSION": "2", "SCANIT_TYPE": "FLOAT MSBFIRST", "SCAN_PIXELS": f"{SIDE_PX} {SIDE_PX}",
        "SCAN_RANGE": "1.28E-9 1.28E-9", "SCAN_OFFSET": "0.0 0.0", "SCAN_ANGLE": "0.0", "SCAN_DIR": "down",
        "Z-CONTROLLER": "\tName\ton\tSetpoint\n\tlog Current\t1\t5.000E-11 A", "DATA_INFO": table,
    }  # fmt: skip
    text = "".join(f":{tag}:\n{value}\n" for tag, value in tags.items())
    return text.encode() + b":SCANIT_END:\n\n\n\x1a\x04"


def main() -> None:
    """Do what the orders say."""
    orders = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder, aside = Path(orders["folder"]), Path(orders["aside"])
    aside.mkdir(exist_ok=True)
    writer = Writer(folder, aside, np.random.default_rng(orders["seed"]))
    writer.run(orders["scans"], orders["span_s"])
    shutil.rmtree(aside)
    Path(orders["truth"]).write_text(json.dumps(writer.truth(), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
