"""Every real scan file, read as the instrument wrote it.

The files are not part of the project (see the fixture ``real_data``). One `Row` says what a file holds; what is not
known from its header comes from looking at the picture.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from spm_runtime.errors import CorruptScanError, MissingExtraError, ScanError, UnknownFormatError
from spm_runtime.readers import open_scan, read_scans
from spm_runtime.scan import Scan


@dataclass(frozen=True)
class Row:
    """What one real file holds.

    ``scans`` counts all channels, directions and frames; the rest describes the first of them (what `open_scan` gives).
    ``extremes`` are the least and the greatest finite value of its image; ``picture`` is a cheap check of orientation
    or content. For a file that cannot be read, ``error`` is the exact class and ``match`` a pattern of the message.
    ``extra`` is the module of the optional dependency that the file needs.
    """

    file: str
    scans: int = 1
    shape: tuple[int, int] = (0, 0)
    pixel_size_nm: tuple[float, float] | None = None
    offset_nm: tuple[float, float] | None = None
    angle_deg: float | None = None
    unit: str = ""
    modality: str = "unknown"
    channel: str = ""
    direction: str | None = None
    frame: int | None = None
    extremes: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    picture: Callable[[Scan], None] | None = None
    error: type[ScanError] | None = None
    match: str = ""
    extra: str | None = None


STEM_ROWS = [
    Row("haadf/16_STOimage_1.ser", shape=(1024, 1024), pixel_size_nm=(0.010012704,) * 2, modality="stem",
        extremes=(16121, 24376), extra="rsciio"),
    Row("haadf/AtomSegNet_03_afterimage_8nm_crp.png", shape=(730, 730), extremes=(0, 255)),
    Row("haadf/AtomSegNet_10_dso_8nm_none_none.png", shape=(1024, 1024), extremes=(0, 255)),
    Row("haadf/DMReader_Image_SI-Survey.dm3", shape=(512, 512), modality="stem", channel="06-SI Survey Image",
        extremes=(2833418, 3235793), extra="rsciio"),
    Row("haadf/example_Se_implanted_MoS2.dm3", shape=(1024, 1024), pixel_size_nm=(0.0126953125,) * 2, modality="stem",
        channel="SI Survey Image (active)", extremes=(2930931, 3542985), extra="rsciio"),
    Row("haadf_annotated/Au_NP_Atom_Lattice.hdf5", shape=(479, 504), channel="image_data0", extremes=(15201, 17482)),
    Row("haadf_annotated/Cropped_PTO-SRO_Aligned.hspy", shape=(224, 1312), pixel_size_nm=(0.01499680298,) * 2,
        modality="stem", channel="HAADF", extremes=(19973, 33750)),
    Row("haadf_annotated/Cropped_PTO-SRO_Aligned_atom_positions1.npy", error=ScanError,
        match=r"shape \(465, 2\), which is not an image"),
    Row("haadf_annotated/HPAI_Pt_NC/021_HAADF_15nm_Sample_PtNC_21Oct20.tif", shape=(512, 512),
        pixel_size_nm=(0.029296875,) * 2, modality="stem", extremes=(172467, 1514965)),
    Row("haadf_annotated/HPAI_Pt_NC/051_HAADF_15nm_Sample_PtNC_21Oct20.tif", shape=(512, 512),
        pixel_size_nm=(0.029296875,) * 2, modality="stem", extremes=(171928, 2667107)),
    Row("haadf_annotated/Sjeon1/Ptporph12.tif", shape=(512, 512), extremes=(0, 65535)),
    Row("haadf_annotated/Sjeon1/bpy_crop19.tif", shape=(512, 512), extremes=(0, 65535)),
    Row("haadf_annotated/Sjeon1/bpy_crop20.tif", shape=(512, 512), extremes=(0, 65535)),
]  # fmt: skip

STM_ROWS: list[Row] = []

AFM_ROWS: list[Row] = []

ROWS = [*STEM_ROWS, *STM_ROWS, *AFM_ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.file)
def test_real_file(row, real_data):
    """A file gives what its row says."""
    path = real_data / row.file
    if row.extra is not None and importlib.util.find_spec(row.extra) is None:
        with pytest.raises(MissingExtraError, match="pip install"):
            open_scan(path)
        return
    if row.error is not None:
        with pytest.raises(row.error, match=row.match) as caught:
            open_scan(path)
        assert type(caught.value) is row.error
        assert caught.value.path == path
        return
    _check(open_scan(path), row)


@pytest.mark.parametrize("row", [row for row in ROWS if row.error is None], ids=lambda row: row.file)
def test_all_scans_of_a_real_file(row, real_data):
    """All channels, directions and frames are there, each distinct by its label, the first one first."""
    if row.extra is not None and importlib.util.find_spec(row.extra) is None:
        pytest.skip(f"{row.extra} is not installed")
    path = real_data / row.file
    labels = []
    for scan in read_scans(path):
        assert scan.path == path
        assert scan.image.dtype == np.float32
        labels.append(scan.label)
    assert len(labels) == row.scans, labels
    assert len(set(labels)) == len(labels), labels
    assert labels[0] == open_scan(path).label


def test_every_real_file_has_a_row(real_data):
    """No data file is left out."""
    there = {
        path.relative_to(real_data).as_posix()
        for path in real_data.rglob("*")
        if path.is_file() and path.suffix not in {".csv", ".md"} and path.parent.name != "LICENSES"
    }
    assert there == {row.file for row in ROWS}


def test_a_table_is_no_scan(real_data):
    """The lists of positions beside the images are recognised by no reader."""
    with pytest.raises(UnknownFormatError, match="no known format"):
        open_scan(real_data / "haadf_annotated/HPAI_Pt_NC/021_Results.csv")


def _check(scan: Scan, row: Row) -> None:
    assert scan.shape == row.shape
    _check_pair(scan.pixel_size_nm, row.pixel_size_nm, 1e-6)
    _check_pair(scan.offset_nm, row.offset_nm, 1e-4)
    if row.angle_deg is None:
        assert scan.angle_deg is None
    else:
        assert scan.angle_deg == pytest.approx(row.angle_deg, abs=1e-3)
    assert (scan.unit, scan.modality, scan.channel) == (row.unit, row.modality, row.channel)
    assert (scan.direction, scan.frame) == (row.direction, row.frame)
    if row.extremes is not None:
        seen = (float(np.nanmin(scan.image)), float(np.nanmax(scan.image)))
        assert all(math.isclose(s, e, rel_tol=1e-5) for s, e in zip(seen, row.extremes, strict=True)), seen
    assert len(scan.warnings) == len(row.warnings), scan.warnings
    for warning, words in zip(scan.warnings, row.warnings, strict=True):
        assert words in warning
    if row.picture is not None:
        row.picture(scan)


def _check_pair(seen: tuple[float, float] | None, expected: tuple[float, float] | None, relative: float) -> None:
    if expected is None:
        assert seen is None
    else:
        assert seen == pytest.approx(expected, rel=relative)
