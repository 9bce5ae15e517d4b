"""SPIEPy's raw .dat: a format without a mark, so it must not claim what is not its own."""

import importlib.util
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_runtime.demo import demo_scans
from spm_runtime.errors import UnknownFormatError
from spm_runtime.readers import find_reader, open_scan, read_scans
from spm_runtime.readers._api import Probe
from spm_runtime.readers.spiepy import READER


def dat(heights, shape=None):
    return struct.pack("<II", *(heights.shape if shape is None else shape)) + heights.astype("<f8").tobytes()


@pytest.fixture
def save(tmp_path):
    def write(data):
        path = tmp_path / "image.dat"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def heights(rng):
    """Not square; metres."""
    return rng.normal(size=(12, 30)) * 1e-10


def test_round_trip(save, heights):
    (scan,) = read_scans(save(dat(heights)))
    assert np.array_equal(scan.image, heights.astype(np.float32))
    assert (scan.unit, scan.modality, scan.channel, scan.direction) == ("m", "stm", "Z", None)
    assert (scan.pixel_size_nm, scan.offset_nm, scan.angle_deg, scan.warnings) == (None, None, None, ())


def test_rows_that_were_never_measured(save, heights):
    heights[9:] = 0
    scan = open_scan(save(dat(heights)))
    assert np.isnan(scan.image[9:]).all()
    assert "25.0 %" in scan.warnings[0]


def replaced(heights, value):
    heights = heights.copy()
    heights[0, 5] = value
    return heights


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0, 1e-300, -0.01])
def test_heights_of_no_surface_are_another_format(save, heights, value):
    with pytest.raises(UnknownFormatError):
        open_scan(save(dat(replaced(heights, value))))


@pytest.mark.parametrize("shape", [(12, 31), (0, 0), (1, 360), (2**31, 2**31), (30, 11)])
def test_a_size_that_does_not_fit_is_another_format(save, heights, shape):
    with pytest.raises(UnknownFormatError):
        open_scan(save(dat(heights, shape)))


def test_a_cut_file_and_an_image_of_zeros_are_another_format(save, heights):
    for data in (dat(heights)[:-1], dat(heights)[:10], dat(np.zeros((12, 30)))):
        with pytest.raises(UnknownFormatError):
            open_scan(save(data))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
def test_the_sniffer_takes_no_bytes_by_chance(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("spiepy") / "any"
    path.write_bytes(data)
    assert not READER.sniff(Probe(path, len(data)))


@pytest.mark.parametrize("name", ["image_with_defects", "image_with_step_edge_and_atoms"])
def test_real_images(real_data, name):
    path = real_data / f"stm/spiepy_{name}.dat"
    assert find_reader(path).name == "SPIEPy"
    rows, columns = struct.unpack("<II", path.read_bytes()[:8])
    expected = np.fromfile(path, "<f8", offset=8).reshape(rows, columns)
    assert np.array_equal(open_scan(path).image, expected.astype(np.float32))


@pytest.mark.skipif(importlib.util.find_spec("spiepy") is None, reason="SPIEPy is not installed")
def test_the_images_of_the_package():
    assert [open_scan(path).shape for path in demo_scans()] == [(256, 256), (512, 512), (512, 512)]
