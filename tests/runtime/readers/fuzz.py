"""Damages scan files in many ways and reads them: ``python fuzz.py SEEDS WORK [--count N] [--seed S] [--only NAME]``.

``SEEDS`` has one folder for each seed: the files of one scan, and ``open.txt`` with the name of the one that is opened.
Whatever the bytes are, a reader gives scans or raises a `ScanError`; it never hangs, and never allocates gigabytes. A
violation is printed with what is needed to repeat it, and the exit code is 1. A hang ends with the stack of all threads, a
crash with the signal; ``WORK/case.txt`` then says which case it was, and the damaged files lie beside it.
"""

import argparse
import faulthandler
import importlib
import importlib.util
import random
import shutil
import sys
import time
import traceback
import zlib
from pathlib import Path

from spm_runtime.errors import ScanError
from spm_runtime.readers import read_scans, readers

#: Above what Python and the libraries take from the start. Whole address space, so threads' stacks count too.
MEMORY_BYTES = 2 * 2**30
#: One case: a machine under load is slow, an endless loop is slower.
HANG_S = 90.0
#: A damaged file may still be a valid one with many frames; these are enough.
MAX_SCANS = 300

#: Numbers that lengths, counts and offsets become when a header lies.
LIES = (
    *(0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 2**24, 2**28),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1),
)


def position(rng: random.Random, size: int) -> int:
    """A place in a file: mostly in the header, sometimes anywhere, sometimes near the end."""
    draw = rng.random()
    if draw < 0.5:
        return min(int(rng.expovariate(1 / rng.choice((30, 300, 3000)))), size - 1)
    if draw < 0.7:
        return min(int(size ** rng.random()), size - 1)
    if draw < 0.85:
        return max(size - 1 - int(rng.expovariate(1 / 150)), 0)
    return rng.randrange(size)


def damage(content: bytes, rng: random.Random) -> bytes:
    """One damaged version of a file."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 30))):
        if not data:
            break
        at = position(rng, len(data))
        kind = rng.random()
        if kind < 0.3:
            data[at] ^= 1 << rng.randrange(8)
        elif kind < 0.5:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256), ord("9"), ord("-"), ord(" ")))
        elif kind < 0.8:
            width = rng.choice((2, 4, 8))
            at -= at % rng.choice((1, 2, 4))
            number = rng.choice(LIES) % 256**width
            data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind < 0.86:
            del data[at : at + int(rng.expovariate(1 / 20)) + 1]
        elif kind < 0.92:
            data[at:at] = rng.randbytes(int(rng.expovariate(1 / 20)) + 1)
        elif kind < 0.94:  # a block that was never written to the disk
            length = min(rng.choice((16, 512, 4096)), len(data) - at)
            data[at : at + length] = bytes(length)
        elif kind < 0.97:
            other = position(rng, len(data))
            data[at : at + 64] = data[other : other + 64]
        else:
            del data[at:]
    return bytes(data)


def read(path: Path) -> str:
    """Read a file to the end; an empty text, or what went wrong."""
    try:
        for number, _ in enumerate(read_scans(path)):
            if number >= MAX_SCANS:
                break
    except ScanError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return "asked for more memory than there is:\n" + "".join(traceback.format_exception(error))
            cause = cause.__cause__ or cause.__context__
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the violation
        return "".join(traceback.format_exception(error))
    return ""


def limit_memory() -> None:
    """Cap the address space, where the system can, above what everything takes that is imported."""
    readers()
    for name in (
        "rsciio.digitalmicrograph",
        "rsciio.tia",
        "rsciio.mrc",
        "dask.array",
        "NSFopen.read",
        "access2thematrix",
    ):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run(seed: Path, work: Path, number: int, case: int) -> str:
    """Damage one file of a seed and read it; an empty text, or what went wrong."""
    rng = random.Random(f"{number} {seed.name} {case}")
    files = sorted(path for path in seed.iterdir() if path.name != "open.txt")
    chosen = rng.choice(files)
    for path in files:
        content = path.read_bytes()
        (work / path.name).write_bytes(damage(content, rng) if path is chosen else content)
    (work / "case.txt").write_text(f"{seed.name} --seed {number}, case {case}", encoding="utf-8")
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        return read(work / (seed / "open.txt").read_text(encoding="utf-8"))
    finally:
        faulthandler.cancel_dump_traceback_later()


def main() -> int:
    """Run the cases; 1 after a violation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    faulthandler.enable()
    limit_memory()
    failures = 0
    for seed in sorted(path for path in arguments.seeds.iterdir() if arguments.only in path.name):
        begin = time.perf_counter()
        for case in range(arguments.first, arguments.first + arguments.count):
            if wrong := run(seed, arguments.work, arguments.seed, case):
                failures += 1
                kept = arguments.work / f"violation-{zlib.crc32(wrong.encode()):08x}"
                kept.mkdir(exist_ok=True)
                for path in arguments.work.iterdir():
                    if path.is_file():
                        shutil.copy(path, kept)
                print(f"VIOLATION {seed.name} --seed {arguments.seed}, case {case} ({kept}):\n{wrong}", flush=True)
        print(f"{seed.name}: {arguments.count} cases in {time.perf_counter() - begin:.1f} s", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
