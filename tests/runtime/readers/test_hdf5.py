"""HDF5 files: Velox, Berkeley EMD, HyperSpy and files of no convention, written here with h5py."""

import json

import h5py
import numpy as np
import pytest

from spm_runtime.errors import CorruptScanError, ScanError
from spm_runtime.readers import open_scan, read_scans


@pytest.fixture
def picture(rng):
    """Not square, and different at every corner."""
    return rng.integers(1, 60000, size=(12, 20)).astype(np.uint16)


def velox(path, images, *, operations=None, **options):
    """A Velox file: ``images`` are ``(name of the group, frames of (N, H, W), metadata)``."""
    with h5py.File(path, "w") as file:
        for name, frames, metadata in images:
            group = file.create_group(f"Data/Image/{name}")
            group.create_dataset("Data", data=np.moveaxis(frames, 0, -1), **options)
            if metadata is not None:
                text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
                column = np.zeros((60000, len(frames)), np.uint8)
                column[: len(text)] = text[:, None]
                group.create_dataset("Metadata", data=column)
        for key, operation in (operations or {}).items():
            text = np.array([json.dumps(operation)], dtype=h5py.string_dtype("ascii"))
            file[f"Operations/StemInputOperation/{key}"] = text


def metadata(detector="HAADF", unit="m", size=("2e-11", "3e-11")):
    height, width = size
    binary = {"PixelSize": {"width": width, "height": height}, "PixelUnitX": unit, "PixelUnitY": unit}
    if detector:
        binary["Detector"] = detector
    return {"BinaryResult": binary, "Instrument": {"InstrumentClass": "Titan"}}


def hyperspy(path, data, axes, *, name="first", **attributes):
    """A HyperSpy file: ``axes`` are dictionaries in the order of the array."""
    with h5py.File(path, "a") as file:
        file.attrs["file_format"] = "HyperSpy"
        group = file.create_group(f"Experiments/{name}")
        group.create_dataset("data", data=data)
        for index, axis in enumerate(axes):
            inner = group.create_group(f"axis-{index}")
            for key, value in {"size": data.shape[index], **axis}.items():
                inner.attrs[key] = value
        group.create_group("metadata/General").attrs.update(attributes)


# --- Velox -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"chunks": (12, 20, 1)}, {"chunks": (4, 5, 1), "compression": "gzip"}])
def test_velox_values_and_calibration(tmp_path, picture, options):
    velox(tmp_path / "a.emd", [("ab12", picture[None], metadata())], **options)
    (scan,) = read_scans(tmp_path / "a.emd")
    np.testing.assert_array_equal(scan.image, picture.astype(np.float32))
    assert scan.pixel_size_nm == pytest.approx((0.02, 0.03))
    assert (scan.modality, scan.channel, scan.frame, scan.warnings) == ("stem", "HAADF", None, ())
    assert scan.metadata["InstrumentClass"] == "Titan"


def test_velox_series_of_several_detectors(tmp_path, rng):
    stack = rng.integers(1, 999, size=(3, 12, 20)).astype(np.int32)
    images = [("a", stack, metadata("BF-S")), ("b", stack + 1, metadata("HAADF")), ("c", stack + 2, metadata("BF-S"))]
    velox(tmp_path / "a.emd", images)
    scans = list(read_scans(tmp_path / "a.emd"))
    assert [scan.label for scan in scans[::3]] == ["HAADF frame 0", "BF-S frame 0", "BF-S (2) frame 0"]
    np.testing.assert_array_equal(np.stack([scan.image for scan in scans[:3]]), stack + 1)
    np.testing.assert_array_equal(open_scan(tmp_path / "a.emd", channel="bf-s", frame=2).image, stack[2])


def test_velox_detector_from_the_operations(tmp_path, picture):
    operations = {
        "x": {"dataPath": "/Data/Image/other", "detector": "BF"},
        "y": {"dataPath": "/Data/Image/ab", "detector": "DF4"},
    }
    velox(tmp_path / "a.emd", [("ab", picture[None], metadata(detector=""))], operations=operations)
    assert open_scan(tmp_path / "a.emd").channel == "DF4"


@pytest.mark.parametrize(("unit", "size"), [("", ("1", "1")), ("m", ("0", "0")), ("m", ("nan", "1"))])
def test_velox_without_calibration(tmp_path, picture, unit, size):
    velox(tmp_path / "a.emd", [("ab", picture[None], metadata(unit=unit, size=size))])
    assert open_scan(tmp_path / "a.emd").pixel_size_nm is None
    velox(tmp_path / "b.emd", [("ab", picture[None], None)])
    scan = open_scan(tmp_path / "b.emd")
    assert (scan.pixel_size_nm, scan.channel) == (None, "ab")


@pytest.mark.parametrize("kind", ["diffraction", "complex"])
def test_velox_without_a_real_image_is_refused(tmp_path, picture, kind):
    data = picture[None].astype(np.complex64) if kind == "complex" else picture[None]
    velox(tmp_path / "a.emd", [("ab", data, metadata(unit="1/m" if kind == "diffraction" else "m"))])
    with pytest.raises(ScanError, match="none of them an image"):
        open_scan(tmp_path / "a.emd")


def test_velox_missing_rows(tmp_path, picture):
    picture[:3] = 0
    velox(tmp_path / "a.emd", [("ab", picture[None], metadata())])
    scan = open_scan(tmp_path / "a.emd")
    assert np.isnan(scan.image[:3]).all()
    assert "25.0 %" in scan.warnings[0]


# --- HyperSpy --------------------------------------------------------------------------------------------------------


def axis(scale=0.02, units="nm", *, navigate=False, name=""):
    return {"name": name, "scale": scale, "offset": 0.0, "units": units, "navigate": navigate}


@pytest.mark.parametrize("unit", ["nm", b"nm", np.bytes_(b"nm")])
def test_hyperspy_image(tmp_path, picture, unit):
    hyperspy(tmp_path / "a.hspy", picture, [axis(0.02, unit), axis(0.03, unit)], title="HAADF")
    (scan,) = read_scans(tmp_path / "a.hspy")
    np.testing.assert_array_equal(scan.image, picture.astype(np.float32))
    assert scan.pixel_size_nm == pytest.approx((0.02, 0.03))
    assert (scan.channel, scan.modality) == ("HAADF", "stem")


@pytest.mark.parametrize("unit", ["", "_None_", "px", "<undefined>"])
def test_hyperspy_without_calibration(tmp_path, picture, unit):
    hyperspy(tmp_path / "a.hspy", picture, [axis(1.0, unit), axis(1.0, unit)])
    scan = open_scan(tmp_path / "a.hspy")
    assert (scan.pixel_size_nm, scan.channel) == (None, "first")


def test_hyperspy_stacks_and_several_signals(tmp_path, rng):
    stack = rng.normal(size=(2, 3, 12, 20))
    axes = [axis(1, "s", navigate=True), axis(1, "", navigate=True), axis(), axis()]
    hyperspy(tmp_path / "a.hspy", stack, axes, name="stack", title="HAADF")
    hyperspy(tmp_path / "a.hspy", stack[0, 0], [axis(), axis()], name="alone", title="HAADF")
    scans = list(read_scans(tmp_path / "a.hspy"))
    assert [scan.label for scan in scans] == ["HAADF", *(f"HAADF (2) frame {index}" for index in range(6))]
    np.testing.assert_allclose(np.stack([scan.image for scan in scans[1:]]), stack.reshape(6, 12, 20), rtol=1e-6)


@pytest.mark.parametrize(
    "axes",
    [
        [axis(navigate=True), axis(0.5, "eV")],
        [axis(0.1, "1 / nm"), axis(0.1, "1 / nm")],
        [axis(0.1, "mrad"), axis(0.1, "mrad")],
        [axis(0.1, "nm^-1"), axis(0.1, "nm^-1")],
    ],
)
def test_hyperspy_spectra_and_diffraction_are_refused(tmp_path, picture, axes):
    hyperspy(tmp_path / "a.hspy", picture, axes)
    with pytest.raises(ScanError, match="none of them an image"):
        open_scan(tmp_path / "a.hspy")


# --- Berkeley EMD ----------------------------------------------------------------------------------------------------


def berkeley(path, data, dims, *, kind=1):
    """``dims`` are ``(name, unit, step)`` in the order of the array."""
    with h5py.File(path, "w") as file:
        group = file.create_group("data/image")
        group.attrs["emd_group_type"] = kind
        group.create_dataset("data", data=data)
        for index, (name, unit, step) in enumerate(dims):
            dim = group.create_dataset(f"dim{index + 1}", data=np.arange(data.shape[index]) * step)
            dim.attrs["name"], dim.attrs["units"] = name, unit


@pytest.mark.parametrize("unit", ["[n_m]", "[nm]", "nm", b"[n_m]"])
def test_berkeley_image(tmp_path, picture, unit):
    berkeley(tmp_path / "a.emd", picture, [("Y", unit, 0.02), ("X", unit, 0.03)])
    (scan,) = read_scans(tmp_path / "a.emd")
    np.testing.assert_array_equal(scan.image, picture.astype(np.float32))
    assert scan.pixel_size_nm == pytest.approx((0.02, 0.03))
    assert (scan.channel, scan.modality) == ("image", "stem")


def test_berkeley_axes_go_by_name(tmp_path, rng):
    """RosettaSciIO writes ``(x, y, frame)``, ncempy ``(frame, y, x)``."""
    stack = rng.normal(size=(3, 12, 20)).astype(np.float32)
    berkeley(tmp_path / "a.emd", stack.T, [("x", "nm", 0.03), ("y", "nm", 0.02), ("time", "s", 1.0)])
    berkeley(tmp_path / "b.emd", stack, [("number", "", 1.0), ("y", "nm", 0.02), ("x", "nm", 0.03)])
    for name in ("a.emd", "b.emd"):
        scans = list(read_scans(tmp_path / name))
        np.testing.assert_array_equal(np.stack([scan.image for scan in scans]), stack)
        assert scans[0].pixel_size_nm == pytest.approx((0.02, 0.03))
        assert [scan.frame for scan in scans] == [0, 1, 2]


def test_berkeley_as_rosettasciio_writes_it(tmp_path, rng):
    emd = pytest.importorskip("rsciio.emd")
    image = rng.normal(size=(12, 20)).astype(np.float32)
    axes = [
        {
            "name": name,
            "scale": scale,
            "offset": 0.0,
            "units": "nm",
            "size": size,
            "navigate": False,
            "index_in_array": i,
        }
        for i, (name, scale, size) in enumerate((("y", 0.02, 12), ("x", 0.03, 20)))
    ]
    signal = {
        "data": image,
        "axes": axes,
        "metadata": {"General": {"title": "HAADF"}, "Signal": {}},
        "original_metadata": {},
    }
    signal |= {"learning_results": {}, "attributes": {"_lazy": False}}
    emd.file_writer(str(tmp_path / "a.emd"), signal)
    scan = open_scan(tmp_path / "a.emd")
    np.testing.assert_array_equal(scan.image, image)
    assert scan.pixel_size_nm == pytest.approx((0.02, 0.03))


# --- no convention ---------------------------------------------------------------------------------------------------


def test_generic_takes_images_only(tmp_path, picture, rng):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image_data0"] = picture
        file["positions"] = rng.normal(size=(141, 2))
        file["spectrum"] = rng.normal(size=2048)
        file["name"] = "text"
        file["cube"] = rng.normal(size=(9, 9, 9, 9))
        file["stacks/one"] = np.stack([picture, picture[::-1]])
        file["_sublattice/atom_positions"] = rng.normal(size=(141, 2))
        file["_sublattice/original_image_data"] = picture
    scans = list(read_scans(tmp_path / "a.h5"))
    assert [scan.label for scan in scans] == ["image_data0", "stacks/one frame 0", "stacks/one frame 1"]
    assert {scan.modality for scan in scans} == {"unknown"}
    np.testing.assert_array_equal(scans[2].image, picture[::-1].astype(np.float32))


def test_generic_colours(tmp_path, rng):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["rgb"] = rng.integers(0, 255, size=(12, 20, 3)).astype(np.uint8)
    (scan,) = read_scans(tmp_path / "a.h5")
    assert scan.shape == (12, 20)
    assert "colour picture" in scan.warnings[0]


def test_user_block(tmp_path, picture):
    """MATLAB puts 512 bytes of its own before the signature."""
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["image"] = picture
    np.testing.assert_array_equal(open_scan(tmp_path / "a.mat").image, picture.astype(np.float32))


def test_matlab_arrays_are_transposed(tmp_path, rng):
    stack = rng.normal(size=(12, 20, 3)).astype(np.float32)  # rows, columns, frames in MATLAB
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        for name, array in (("image", stack[..., 0]), ("stack", stack)):
            file[name] = array.T
            file[name].attrs["MATLAB_class"] = np.bytes_(b"single")
    image, *frames = read_scans(tmp_path / "a.mat")
    np.testing.assert_array_equal(image.image, stack[..., 0])
    np.testing.assert_array_equal(np.stack([scan.image for scan in frames], axis=-1), stack)


def test_stacks_that_are_too_long_do_not_hide_the_image(tmp_path, picture):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["patterns"] = np.ones((70000, 8, 8), np.uint8)
        file["survey"] = picture
    assert [scan.label for scan in read_scans(tmp_path / "a.h5")] == ["survey"]


def test_frames_are_read_one_by_one(tmp_path):
    """The first frame of a long stack does not wait for the last one."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("stack", (500, 64, 64), "f4", chunks=(1, 64, 64))
        for index in range(500):
            data[index] = np.arange(64 * 64).reshape(64, 64)
    scans = read_scans(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+", locking=False) as file:
        first = next(scans)
        assert file["stack"].shape == (500, 64, 64)
    assert first.frame == 0
    scans.close()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_links_to_other_files_are_not_followed(tmp_path, picture):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = picture
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink("secret.h5", "/image")
        file["soft"] = h5py.SoftLink("/link")
        file["Data/Image"] = h5py.ExternalLink("secret.h5", "/")
    with pytest.raises(ScanError, match="none of them an image"):
        open_scan(tmp_path / "a.h5")


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_pixels_in_other_files_are_refused(tmp_path, picture, kind):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = picture
    (tmp_path / "raw").write_bytes(picture.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external":
            file.create_dataset("image", picture.shape, "u2", external=[(str(tmp_path / "raw"), 0, picture.nbytes)])
        else:
            layout = h5py.VirtualLayout(picture.shape, "u2")
            layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "image", picture.shape)
            file.create_virtual_dataset("image", layout)
    with pytest.raises(ScanError, match="in another file"):
        open_scan(tmp_path / "a.h5")


@pytest.mark.parametrize("shape", [(2**20, 2**20), (2**40, 8, 8), (64, 64)])
def test_a_data_set_without_pixels_is_refused(tmp_path, shape):
    """A few hundred bytes of header claim terabytes of fill values."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", shape, "f8", chunks=(1,) * (len(shape) - 2) + (8, 8))
    with pytest.raises(ScanError):
        open_scan(tmp_path / "a.h5")


@pytest.mark.parametrize("shape", [(2**13, 2**13), (2**20, 2**20), (60000, 64, 64), (2**30, 8, 8)])
def test_a_data_set_with_one_chunk_of_terabytes_is_refused(tmp_path, shape):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("image", shape, "f8", chunks=(1,) * (len(shape) - 2) + (8, 8), compression="gzip")
        data[(*(0,) * (len(shape) - 2), slice(8), slice(8))] = 1.0
    with pytest.raises(ScanError, match=r"claims|none of them an image"):
        open_scan(tmp_path / "a.h5")


def test_a_huge_chunk_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset(
            "image", (16, 16), "f8", chunks=(3584, 3584), maxshape=(None, None), compression="gzip"
        )
        data[:] = 1.0
    with pytest.raises(CorruptScanError, match="claims"):
        open_scan(tmp_path / "a.h5")


@pytest.mark.parametrize("layout", ["hyperspy", "berkeley", "velox"])
def test_a_heap_of_zeros_is_refused(tmp_path, picture, layout):
    """The library hangs in a heap of texts whose objects have no length: a region of the file that was lost."""
    if layout == "hyperspy":
        hyperspy(tmp_path / "a.h5", picture, [axis(units="nm" * 40), axis()])
    elif layout == "berkeley":
        berkeley(tmp_path / "a.h5", picture, [("y", "nm", 0.02), ("x", "nm", 0.03)])
    else:
        operations = {"y": {"dataPath": "/Data/Image/ab", "detector": "DF4"}}
        velox(tmp_path / "a.h5", [("ab", picture[None], metadata(detector=""))], operations=operations)
    assert open_scan(tmp_path / "a.h5").modality == "stem"
    content = bytearray((tmp_path / "a.h5").read_bytes())
    at = content.index(b"GCOL") + 16
    assert content[at] == 1  # the first object
    content[at : at + 16] = bytes(16)
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(CorruptScanError, match="texts are damaged"):
        open_scan(tmp_path / "a.h5")
