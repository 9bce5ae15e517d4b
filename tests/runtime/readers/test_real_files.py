"""Every real scan file, read as the instrument wrote it.

The files are not part of the project (see the fixture ``real_data``). One `Row` says what a file holds; what is not
known from its header comes from looking at the picture.
"""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from spm_runtime.errors import MissingExtraError, ScanError, UnknownFormatError
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


def _csv(folder, name):
    """``(y, x)`` from a table whose last two columns are X and Y; blank rows are left out."""
    with (folder / name).open(encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row and row[-1].strip().isdigit()]
    return np.array([(float(row[-1]), float(row[-2])) for row in rows])


def _npy(folder, name):
    return np.load(folder / name)[:, ::-1]


def _atomap(folder, name):
    with h5py.File(folder / name, "r") as file:
        return file["_sublattice/atom_positions"][()][:, ::-1]


def marks(load: Callable[..., np.ndarray], name: str, contrast: float) -> Callable[[Scan], None]:
    """The atoms that a person marked are bright in this orientation, and in none of the others.

    ``contrast`` is the least that the marks stand above their surroundings, in standard deviations of one pixel.
    """

    def check(scan: Scan) -> None:
        assert scan.path is not None
        yx = np.rint(load(scan.path.parent, name)).astype(int)
        height, width = scan.shape
        image = (scan.image - scan.image.mean()) / scan.image.std()

        def seen(yx: np.ndarray) -> float:
            inside = yx[(yx >= 8).all(1) & (yx < (height - 8, width - 8)).all(1)]
            near, far = (
                np.mean([image[y - r : y + r + 1, x - r : x + r + 1].mean() for y, x in inside]) for r in (1, 8)
            )
            return float(near - far)

        others = [
            yx[:, ::-1],
            (height - 1, 0) + yx * (-1, 1),
            (0, width - 1) + yx * (1, -1),
            (height - 1, width - 1) - yx,
        ]
        assert seen(yx) > contrast
        assert seen(yx) > 2 * max(seen(other) for other in others)

    return check


STEM_ROWS = [
    Row("haadf/16_STOimage_1.ser", shape=(1024, 1024), pixel_size_nm=(0.010012704,) * 2, modality="stem",
        extremes=(16121, 24376), extra="rsciio"),
    Row("haadf/AtomSegNet_03_afterimage_8nm_crp.png", shape=(730, 730), extremes=(0, 255)),
    Row("haadf/AtomSegNet_10_dso_8nm_none_none.png", shape=(1024, 1024), extremes=(0, 255)),
    Row("haadf/DMReader_Image_SI-Survey.dm3", shape=(512, 512), modality="stem", channel="06-SI Survey Image",
        extremes=(2833418, 3235793), extra="rsciio"),
    Row("haadf/example_Se_implanted_MoS2.dm3", shape=(1024, 1024), pixel_size_nm=(0.0126953125,) * 2, modality="stem",
        channel="SI Survey Image (active)", extremes=(2930931, 3542985), extra="rsciio"),
    Row("haadf_annotated/Au_NP_Atom_Lattice.hdf5", shape=(479, 504), channel="image_data0", extremes=(15201, 17482),
        picture=marks(_atomap, "Au_NP_Atom_Lattice.hdf5", 0.1)),
    Row("haadf_annotated/Cropped_PTO-SRO_Aligned.hspy", shape=(224, 1312), pixel_size_nm=(0.01499680298,) * 2,
        modality="stem", channel="HAADF", extremes=(19973, 33750),
        picture=marks(_npy, "Cropped_PTO-SRO_Aligned_atom_positions1.npy", 0.1)),
    Row("haadf_annotated/Cropped_PTO-SRO_Aligned_atom_positions1.npy", error=ScanError,
        match=r"shape \(465, 2\), which is not an image"),
    Row("haadf_annotated/HPAI_Pt_NC/021_HAADF_15nm_Sample_PtNC_21Oct20.tif", shape=(512, 512),
        pixel_size_nm=(0.029296875,) * 2, modality="stem", extremes=(172467, 1514965),
        picture=marks(_csv, "021_Results.csv", 0.1)),
    Row("haadf_annotated/HPAI_Pt_NC/051_HAADF_15nm_Sample_PtNC_21Oct20.tif", shape=(512, 512),
        pixel_size_nm=(0.029296875,) * 2, modality="stem", extremes=(171928, 2667107),
        picture=marks(_csv, "051_Results.csv", 0.1)),
    Row("haadf_annotated/Sjeon1/Ptporph12.tif", shape=(512, 512), extremes=(0, 65535),
        picture=marks(_csv, "Ptporph12.csv", 0.1)),
    Row("haadf_annotated/Sjeon1/bpy_crop19.tif", shape=(512, 512), extremes=(0, 65535),
        picture=marks(_csv, "bpy_crop19.csv", 0.1)),
    Row("haadf_annotated/Sjeon1/bpy_crop20.tif", shape=(512, 512), extremes=(0, 65535),
        picture=marks(_csv, "bpy_crop20.csv", 0.1)),
]  # fmt: skip


def _levelled(scan: Scan) -> np.ndarray:
    """The image without its mean plane and without the median of each row."""
    image = scan.image.astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    plane = np.stack([np.ones(image.size), y.ravel(), x.ravel()], axis=1)
    image -= (plane @ np.linalg.lstsq(plane, image.ravel(), rcond=None)[0]).reshape(image.shape)
    return image - np.median(image, axis=1, keepdims=True)


def _both_directions_overlay(scan: Scan) -> None:
    """The backward image shows the same surface in the same order, not its mirror image."""
    forward = _levelled(scan)
    backward = _levelled(open_scan(scan.path, channel=scan.channel, direction="backward"))
    as_read = np.corrcoef(forward.ravel(), backward.ravel())[0, 1]
    mirrored = np.corrcoef(forward.ravel(), backward[:, ::-1].ravel())[0, 1]
    assert as_read > 0.5 > 0.2 > mirrored, (as_read, mirrored)


def _strongest_wave(scan: Scan) -> tuple[float, float]:
    """Wavelength in nm and direction in degrees (0 to 180, counter-clockwise from the right)."""
    image = _levelled(scan)
    spectrum = np.abs(np.fft.rfft2(image * np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])))
    spectrum[:, :2] = 0
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    down = np.fft.fftfreq(image.shape[0], scan.pixel_size_nm[0])[row]
    right = np.fft.rfftfreq(image.shape[1], scan.pixel_size_nm[1])[column]
    return 1 / float(np.hypot(down, right)), math.degrees(math.atan2(-down, right)) % 180


def _graphite(scan: Scan) -> None:
    _both_directions_overlay(scan)
    assert _strongest_wave(scan)[0] == pytest.approx(0.213, rel=0.15)  # rows of graphite, with the drift of a slow scan


def _trench(scan: Scan) -> None:
    """A dark trench from the top right to the bottom left of the middle."""
    _both_directions_overlay(scan)
    image = _levelled(scan)[:, 40:110]
    assert image[:10].mean(axis=0).argmin() - image[-10:].mean(axis=0).argmin() > 15


def _particles(scan: Scan) -> None:
    """Round particles everywhere but in the top left corner; the largest lump in the bottom left one."""
    image = scan.image - np.median(scan.image, axis=1, keepdims=True)
    assert image[85:, :25].mean() > 8e-9 > 3e-9 > image[:15, :25].mean()


def _bumps(scan: Scan) -> None:
    wavelength, direction = _strongest_wave(scan)
    assert (wavelength, direction) == (pytest.approx(521, rel=0.02), pytest.approx(69.7, abs=2))


def _dots(*on: tuple[int, int], off: tuple[int, int], sign: int) -> Callable[[Scan], None]:
    """A check of pillars (sign 1) or holes (sign -1) at some pixels."""

    def check(scan: Scan) -> None:
        _both_directions_overlay(scan)
        image = scan.image.astype(float)
        assert all(sign * (image[row, column] - image[off]) > 1e-7 for row, column in on)

    return check


def _grating(scan: Scan) -> None:
    """Lines that fall from the top left to the bottom right."""
    _both_directions_overlay(scan)
    wavelength, direction = _strongest_wave(scan)
    assert (wavelength, direction) == (pytest.approx(303, rel=0.03), pytest.approx(45, abs=5))


CONTROLLER_ROWS = [
    Row("stm/dI-dV_9K_ABC6_2020_07_02_08_50_47_967.sm4", scans=6, shape=(256, 256), pixel_size_nm=(0.00390625,) * 2,
        offset_nm=(16.3297056, -12.8140227), angle_deg=10.0, unit="m", modality="stm", channel="Topography",
        direction="forward", extremes=(-9.3228237574e-08, -9.2999648871e-08),
        warnings=("spectroscopy that are not read: 2",), picture=_graphite),
    Row("stm/topo_ABC_Graphite-Sample5_9K_2021_08_13_19_11_10_065.sm4", scans=6, shape=(128, 128),
        pixel_size_nm=(0.5859375,) * 2, offset_nm=(46.8247414, -48.3634928), angle_deg=0.0, unit="m", modality="stm",
        channel="Topography", direction="forward", extremes=(-9.710096549e-08, -8.715151267e-08), picture=_trench),
    Row("afm/sample_0.jpk-qi-image", scans=6, shape=(100, 100), pixel_size_nm=(5.0, 5.0),
        offset_nm=(-438.5521489, 11259.20661), angle_deg=0.0, unit="m", modality="afm", channel="Height (measured)",
        direction="forward", extremes=(3.142853757e-06, 3.642587671e-06), picture=_particles),
    Row("afm/old_bruker.002", shape=(256, 256), pixel_size_nm=(58.59375, 58.59375), offset_nm=(0.0, 0.0), angle_deg=0.0,
        unit="m", modality="afm", channel="Height", direction="forward",
        extremes=(5.230047861e-08, 7.570924367e-07), picture=_bumps),
    Row("afm/circles.nid", scans=4, shape=(256, 256), pixel_size_nm=(195.3125, 195.3125), offset_nm=(0.0, 0.0),
        angle_deg=-45.0, unit="m", modality="afm", channel="Topography", direction="forward",
        extremes=(-4.412133876e-07, 5.432226544e-07), extra="NSFopen",
        picture=_dots((27, 11), (22, 60), (228, 28), (171, 25), off=(203, 75), sign=1)),
    Row("afm/grid.nid", scans=6, shape=(256, 256), pixel_size_nm=(11.71875, 11.71875), offset_nm=(-165.728, 1298.2),
        angle_deg=45.0, unit="m", modality="afm", channel="Z-Axis", direction="forward",
        extremes=(7.186671382e-07, 1.021293656e-06), extra="NSFopen", picture=_grating),
    Row("afm/squares_holes.nid", scans=4, shape=(256, 256), pixel_size_nm=(195.3125, 195.3125), offset_nm=(0.0, 0.0),
        angle_deg=-45.0, unit="m", modality="afm", channel="Topography", direction="forward",
        extremes=(-2.409155400e-07, 6.768578942e-07), extra="NSFopen",
        picture=_dots((38, 26), (34, 80), (195, 91), off=(60, 40), sign=-1)),
]  # fmt: skip


def _spots(*spots: tuple[int, int, int], radius: int = 3) -> Callable[[Scan], None]:
    """A check that a surface is high (1) or low (-1) at some pixels, ``(row, column, sign)``."""

    def check(scan: Scan) -> None:
        y, x = np.mgrid[: scan.shape[0], : scan.shape[1]]
        plane = np.stack([np.ones(y.size), y.ravel(), x.ravel()], axis=1)
        heights = scan.image.astype(float).ravel()
        image = (heights - plane @ np.linalg.lstsq(plane, heights, rcond=None)[0]).reshape(scan.shape)
        for row, column, sign in spots:
            patch = image[max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1]
            assert sign * patch.mean() > 0.5 * image.std(), (row, column)

    return check


PROBE_ROWS = [
    Row("stm/A151216.123306-02602.sxm", scans=18, shape=(128, 128), pixel_size_nm=(0.015625,) * 2,
        offset_nm=(-312.4986, -333.5099), angle_deg=0.0, unit="Hz", modality="afm", channel="Frequency_Shift",
        direction="forward", extremes=(-4.840730190, -1.466526270), warnings=("'Z' carries no image",),
        picture=_spots((70, 37, -1), (61, 122, 1), (105, 10, 1))),
    Row("stm/Image_671.sxm", scans=14, shape=(256, 256), pixel_size_nm=(0.1953125,) * 2, offset_nm=(25.0, 25.0),
        angle_deg=0.0, unit="m", modality="stm", channel="Z", direction="forward",
        extremes=(-1.280502e-07, -1.269032e-07), picture=_spots((10, 245, -1), (245, 20, 1), (95, 201, 1))),
    Row("stm/STM_nanonis_generic_4_5.sxm", scans=4, shape=(256, 256), pixel_size_nm=(0.015625,) * 2,
        offset_nm=(11.30423, -528.0251), angle_deg=0.0, unit="m", modality="stm", channel="Z", direction="forward",
        extremes=(9.144658e-09, 9.339756e-09), picture=_spots((245, 20, -1), (250, 245, 1))),
    Row("stm/Si_7x7_012.sxm", scans=4, shape=(256, 256), pixel_size_nm=(0.78125,) * 2, offset_nm=(0.0, 0.0), angle_deg=0.0,
        unit="m", modality="stm", channel="Z", direction="forward", extremes=(-4.566347e-08, -4.121504e-08),
        picture=_spots((10, 250, -1), (150, 150, 1))),
    Row("stm/Si_7x7_028.sxm", scans=4, shape=(256, 256), pixel_size_nm=(0.1953125,) * 2, offset_nm=(0.0, 0.0), angle_deg=0.0,
        unit="m", modality="stm", channel="Z", direction="forward", extremes=(-5.686785e-08, -5.622027e-08),
        picture=_spots((240, 40, 1))),
    Row("stm/probeflow_nanonis.sxm", scans=4, shape=(160, 160), pixel_size_nm=(0.0625,) * 2, offset_nm=(56.57749, 470.9271),
        angle_deg=0.0, unit="m", modality="stm", channel="Z", direction="forward", extremes=(1.0538e-07, 1.057491e-07),
        picture=_spots((57, 70, -1), (100, 114, -1), (70, 93, 1))),
    Row("stm/probeflow_createc_afm.dat", scans=10, shape=(256, 256), pixel_size_nm=(0.058595547,) * 2,
        offset_nm=(24.57124217, 304.3315430), angle_deg=0.0, unit="m", modality="afm", channel="Topography",
        direction="forward", extremes=(-1.249978e-07, -1.243693e-07), picture=_spots((3, 128, -1), (128, 128, 1))),
    Row("stm/probeflow_createc_scan_11nm.dat", scans=4, shape=(512, 512), pixel_size_nm=(0.02197332031,) * 2,
        offset_nm=(-467.314623, 346.144958), angle_deg=0.0, unit="m", modality="stm", channel="Topography",
        direction="forward", extremes=(-4.313264e-08, -4.258081e-08), picture=_spots((214, 235, -1))),
    Row("stm/probeflow_createc_terrace.dat", scans=4, shape=(512, 512), pixel_size_nm=(0.2124088281,) * 2,
        offset_nm=(-75.82929672, -6.37207031), angle_deg=0.0, unit="m", modality="stm", channel="Topography",
        direction="forward", extremes=(-1.364658e-09, 9.021495e-11), picture=_spots((264, 344, -1), (96, 425, 1))),
    Row("stm/spiepy_image_with_defects.dat", shape=(256, 256), unit="m", modality="stm", channel="Z",
        extremes=(4.079374e-12, 9.860197e-10), picture=_spots((217, 48, 1), (68, 104, -1))),
    Row("stm/spiepy_image_with_step_edge_and_atoms.dat", shape=(512, 512), unit="m", modality="stm", channel="Z",
        extremes=(-1.957637e-09, 2.468676e-09), picture=_spots((350, 404, -1), (62, 385, 1))),
    Row("afm/GwiddionReader_chip.gwy", error=ScanError, match=r"GWYO.*save it again"),
    Row("afm/PTO_110_Virgin0001.gwy", scans=4, shape=(256, 256), pixel_size_nm=(39.21568627,) * 2, unit="m",
        modality="afm", channel="Height", direction="backward", extremes=(-1.545857e-08, 1.096367e-07),
        picture=_spots((105, 243, 1), (38, 32, 1), (228, 41, 1))),
    Row("afm/IgorIBWReader_ImageStack_BTFO_DSO.ibw", scans=4, shape=(256, 256), pixel_size_nm=(7.843137255,) * 2,
        offset_nm=(0.0, 0.0), angle_deg=0.0, unit="m", modality="afm", channel="Height", direction="backward",
        extremes=(-3.476373e-09, 2.948823e-09), picture=_spots((198, 255, 1), (198, 150, -1), radius=0)),
    Row("afm/IgorIBWReader_P0089OP0027.ibw", scans=5, shape=(256, 256), pixel_size_nm=(7.843137255,) * 2,
        offset_nm=(0.0, 0.0), angle_deg=0.0, unit="m", modality="afm", channel="Height", direction="backward",
        extremes=(-2.253887e-08, 2.504748e-08), picture=_spots((162, 134, 1), (3, 37, -1))),
]  # fmt: skip

ROWS = [*STEM_ROWS, *PROBE_ROWS, *CONTROLLER_ROWS]


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
