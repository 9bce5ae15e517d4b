"""What holds for every reader, whatever the bytes are: scans or a `ScanError`, soon, and without gigabytes.

The seeds are small whole files of every format, written by the tests of the formats. Real files, where they are, are
damaged too.
"""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import find_reader, read_scans, readers

HERE = Path(__file__).parent
FUZZ = HERE / "fuzz.py"

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(1, 60000, size=(12, 20)).astype(np.uint16)
STACK = RNG.integers(1, 60000, size=(3, 12, 20)).astype(np.uint16)
RAW = RNG.integers(-(2**15), 2**15, size=(12, 20))


def sibling(name):
    """Another module of tests in this folder, for the files that it writes; None without its optional packages."""
    spec = importlib.util.spec_from_file_location(f"seeds_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except pytest.skip.Exception:
        return None
    return module


def save(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def tiff(folder, **options):
    tifffile.imwrite(folder / "a.tif", options.pop("data", PICTURE), **options)
    return folder / "a.tif"


def png(folder, array=PICTURE):
    Image.fromarray(array).save(folder / "a.png")
    return folder / "a.png"


def npy(folder, array=PICTURE):
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def velox(folder):
    module = sibling("test_hdf5")
    module.velox(folder / "a.emd", [("ab", STACK, module.metadata())], chunks=(6, 20, 1), compression="gzip")
    return folder / "a.emd"


def hspy(folder):
    module = sibling("test_hdf5")
    module.hyperspy(folder / "a.hspy", PICTURE, [module.axis(), module.axis()])
    return folder / "a.hspy"


def berkeley(folder):
    sibling("test_hdf5").berkeley(folder / "a.emd", PICTURE, [("y", "[n_m]", 0.02), ("x", "[n_m]", 0.03)])
    return folder / "a.emd"


def plain_hdf5(folder):
    with h5py.File(folder / "a.h5", "w", libver="latest") as file:
        file["image"] = PICTURE
        file.create_dataset("stack", data=STACK, chunks=(1, 6, 20), shuffle=True, compression="lzf")
    return folder / "a.h5"


def nanonis(folder):
    channels = [(name, "m", {"forward": RAW * 1e-12, "backward": RAW * -1e-12}) for name in ("Z", "Current")]
    return save(folder, "a.sxm", sibling("test_nanonis_sxm").sxm(channels))


def gwyddion(folder):
    module = sibling("test_gwyddion")
    heights = module.field(RAW * 1e-12)
    container = module.GwyContainer({"/0/data": heights, "/0/data/title": "Z (Forward)", "/1/data": heights})
    container.tofile(str(folder / "a.gwy"))
    return folder / "a.gwy"


def igor(folder):
    module = sibling("test_igor_ibw")
    return save(folder, "a.ibw", module.ibw(np.stack([RAW * 1e-12] * 4).astype(np.float32), labels=module.LABELS))


def createc(folder, kind):
    images = np.abs(RAW).astype(np.float32).reshape(4, 6, 10) / 4 + 1
    return save(folder, "a.dat", sibling("test_createc").dat(images, kind))


def dm(folder, version):
    writer = sibling("conftest").Dm(version)
    tags = [("DigiScan", [("Sample Time", 2.0), ("Text", "abc"), ("Values", np.arange(9, dtype=np.float32))])]
    return save(folder, "a.dm3", writer.images(writer.image(PICTURE, tags=tags), writer.image(PICTURE, name="BF")))


#: Each writes a small whole scan of one format into a folder and gives the file that is opened.
SEEDS = {
    "tiff": tiff,
    "tiff-imagej": lambda folder: tiff(folder, data=STACK, imagej=True, resolution=(50, 50), metadata={"unit": "nm"}),
    "tiff-zlib-tiles": lambda folder: tiff(folder, compression="zlib", tile=(16, 16)),
    "tiff-ome-big": lambda folder: tiff(folder, data=STACK, ome=True, bigtiff=True, photometric="minisblack"),
    "png": png,
    "png-palette": lambda folder: png(folder, (PICTURE // 256).astype(np.uint8)),
    "npy": npy,
    "npy-stack": lambda folder: npy(folder, STACK.astype(np.float32)),
    "hdf5-velox": velox,
    "hdf5-hyperspy": hspy,
    "hdf5-berkeley": berkeley,
    "hdf5-plain": plain_hdf5,
    "dm3": lambda folder: dm(folder, 3),
    "dm4": lambda folder: dm(folder, 4),
    "ser": lambda folder: save(folder, "a_1.ser", sibling("conftest").make_ser(STACK)),
    "mrc": lambda folder: save(folder, "a.mrc", sibling("conftest").make_mrc(STACK)),
    "nanonis": nanonis,
    "gwyddion": gwyddion,
    "igor": igor,
    "createc": lambda folder: createc(folder, "[Paramco32]"),
    "createc-plain": lambda folder: createc(folder, "[Parameter]"),
    "spiepy": lambda folder: save(folder, "a.dat", sibling("test_spiepy").dat(RAW * 1e-12)),
    "bruker": lambda folder: sibling("test_bruker").write(folder, [RAW.astype("<i2")] * 2),
    "rhk": lambda folder: sibling("test_rhk_sm4").write(folder, [{"raw": RAW}, {"raw": RAW, "label": "Current"}]),
    "jpk": lambda folder: (m := sibling("test_jpk")).write(folder, (RAW.astype(np.int32), m.HEIGHT)),
    "nanosurf": lambda folder: sibling("test_nanosurf_nid").write(folder, [(RAW.astype("<i2"), {})]),
    "matrix": lambda folder: (m := sibling("test_omicron_mtrx")).write(folder, m.measured(RAW), m.scanner(20, 12)),
}
#: The optional packages that seeds need.
NEEDS = {
    "dm3": "rsciio",
    "dm4": "rsciio",
    "ser": "rsciio",
    "mrc": "rsciio",
    "nanosurf": "NSFopen",
    "matrix": "access2thematrix",
}


@pytest.fixture(scope="session")
def seeds(tmp_path_factory):
    """A folder with one folder for each seed; ``open.txt`` names the file that is opened."""
    root = tmp_path_factory.mktemp("seeds")
    for name, write in SEEDS.items():
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            continue
        (root / name).mkdir()
        (root / name / "open.txt").write_text(write(root / name).name, encoding="utf-8")
    return root


def opened(seeds, name):
    if not (seeds / name).is_dir():
        pytest.skip(f"{NEEDS[name]} is not installed")
    return seeds / name / (seeds / name / "open.txt").read_text(encoding="utf-8")


def outcome(path):
    """The scans of a file, or None where it is refused; anything else is a failure of the test."""
    try:
        return list(itertools.islice(read_scans(path), 50))
    except ScanError:
        return None


def assert_sound(scans):
    """What comes of damage is refused, or is whole images of a size and calibration that can be worked with."""
    for scan in scans or ():
        assert scan.image.shape == scan.shape
        assert 0 < scan.image.size <= 2**20  # the seeds are small; a larger image is a header that was believed
        assert scan.pixel_size_nm is None or min(scan.pixel_size_nm) > 0


def test_every_reader_has_a_seed(seeds):
    """A new format brings a small whole file with it."""
    known = {find_reader(opened(seeds, name)).name for name in SEEDS if (seeds / name).is_dir()}
    without = {reader.name for reader in readers()} - known
    if all(importlib.util.find_spec(package) is not None for package in NEEDS.values()):
        assert not without
    else:
        assert without <= {reader.name for reader in readers() if reader.extra is not None}


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_whole(seeds, name):
    """Damage means something only if the seed is read."""
    assert outcome(opened(seeds, name))


@pytest.mark.parametrize("name", SEEDS)
def test_content_decides_not_the_suffix(seeds, name, tmp_path):
    path = opened(seeds, name)
    if name == "matrix":
        pytest.skip("a MATRIX scan is found by the names of its two files")
    for suffix in ("", ".sxm", ".png", ".dat"):
        copy = tmp_path / f"scan{suffix}"
        copy.write_bytes(path.read_bytes())
        expected, seen = outcome(path), outcome(copy)
        assert [scan.label for scan in seen] == [scan.label for scan in expected]
        for one, other in zip(expected, seen, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            assert one.pixel_size_nm == other.pixel_size_nm


@pytest.mark.parametrize("name", SEEDS)
def test_every_length_is_scans_or_an_error(seeds, name, tmp_path):
    """A file that is still being written. One that lost data is refused."""
    path = opened(seeds, name)
    content, whole = path.read_bytes(), len(outcome(path))
    for other in path.parent.iterdir():
        (tmp_path / other.name).write_bytes(other.read_bytes())
    lengths = {*range(0, min(len(content), 200), 7), *np.linspace(0, len(content) - 1, 60).astype(int).tolist()}
    for length in sorted(lengths):
        (tmp_path / path.name).write_bytes(content[:length])
        scans = outcome(tmp_path / path.name)
        assert scans is None or len(scans) <= whole
    half = content[: len(content) // 2]
    (tmp_path / path.name).write_bytes(half)
    assert outcome(tmp_path / path.name) is None


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=6), header=st.booleans())
def test_flipped_bits_are_scans_or_an_error(seeds, name, flips, header, tmp_path_factory):
    path = opened(seeds, name)
    content = bytearray(path.read_bytes())
    reach = min(len(content), 600) if header else len(content)
    for place, bit in flips:
        content[min(int(place * reach), len(content) - 1)] ^= 1 << bit
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    for other in path.parent.iterdir():
        (folder / other.name).write_bytes(other.read_bytes())
    (folder / path.name).write_bytes(content)
    assert_sound(outcome(folder / path.name))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(content=st.binary(max_size=400), pad=st.integers(0, 5000), reader=st.integers(0, 10**6), keep=st.integers(4, 64))
def test_noise_after_a_signature(seeds, content, pad, reader, keep, tmp_path_factory):
    """The first bytes of a real format, then noise."""
    names = sorted(path.name for path in seeds.iterdir())
    head = opened(seeds, names[reader % len(names)]).read_bytes()[:keep]
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(head + content + bytes(pad))
    assert_sound(outcome(path))


def fuzz(seeds, work, *options):
    """Run the script in a process of its own: it limits its memory, and ends itself when it hangs."""
    # Every thread takes address space, which is what the limit counts.
    few = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    roots = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, str(FUZZ), str(seeds), str(work), *options],
        env={**os.environ, **few, "PYTHONPATH": roots},
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )


def report(result, work):
    case = (work / "case.txt").read_text(encoding="utf-8") if (work / "case.txt").exists() else "before the first case"
    return f"exit {result.returncode} at {case}\n{result.stdout[-6000:]}\n{result.stderr[-6000:]}"


def test_damaged_files_cost_neither_gigabytes_nor_minutes(seeds, tmp_path):
    result = fuzz(seeds, tmp_path, "--count", "120")
    assert result.returncode == 0, report(result, tmp_path)


@pytest.mark.slow
def test_damaged_real_files_cost_neither_gigabytes_nor_minutes(real_data, tmp_path):
    seeds, work = tmp_path / "seeds", tmp_path / "work"
    work.mkdir()
    for path in sorted(real_data.rglob("*")):
        if path.is_file() and path.suffix not in {".csv", ".md", ".txt"}:
            folder = seeds / path.name
            folder.mkdir(parents=True)
            (folder / path.name).write_bytes(path.read_bytes())
            (folder / "open.txt").write_text(path.name, encoding="utf-8")
    result = fuzz(seeds, work, "--count", "12")
    assert result.returncode == 0, report(result, work)


def test_the_fuzzer_notices(tmp_path):
    """A test that cannot fail proves nothing: a case that cannot be read at all is a violation."""
    (tmp_path / "seeds" / "a").mkdir(parents=True)
    (tmp_path / "seeds" / "a" / "a.npy").write_bytes(b"x" * 100)
    (tmp_path / "seeds" / "a" / "open.txt").write_text("a\0b", encoding="utf-8")  # no file can have this name
    result = fuzz(tmp_path / "seeds", tmp_path, "--count", "1")
    assert result.returncode == 1
    assert "VIOLATION a --seed 0, case 0" in result.stdout


def test_a_corrupt_file_is_called_so(seeds, tmp_path):
    """The message names the format that was recognised."""
    path = opened(seeds, "tiff")
    (tmp_path / "a.tif").write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptScanError, match="TIFF"):
        list(read_scans(tmp_path / "a.tif"))
