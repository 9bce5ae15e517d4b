"""Simulated scenes as files, read back by the runtime."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from spm_runtime.errors import ParameterError
from spm_runtime.readers import open_scan
from spm_training.simulate.scene import in_frame
from spm_training.simulate.write import ColumnsOptions, write_columns

OPTIONS = ColumnsOptions(count=2, shape=(48, 64), families=("square", "dichalcogenide"), spacing_px=(8.0, 10.0), seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "new"
    write_columns(OPTIONS, folder)
    return folder


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_the_runtime_reads_image_and_calibration(folder):
    for entry in manifest(folder)["scenes"]:
        scan = open_scan(folder / entry["image"])
        assert scan.shape == (48, 64)
        assert scan.pixel_size_nm == pytest.approx((entry["pixel_size_nm"],) * 2, rel=1e-5)
        assert entry["pixel_size_nm"] * entry["spacing_px"] == pytest.approx(0.28)


def test_the_truth_lies_beside_the_image(folder):
    for entry in manifest(folder)["scenes"]:
        with (folder / entry["image"]).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["y_px", "x_px", "required", "sublattice"]
        assert len(rows) == entry["columns"]
        assert sum(int(row["required"]) for row in rows) == entry["required"]
        yx = np.array([[float(row["y_px"]), float(row["x_px"])] for row in rows])
        inside = in_frame(yx, (48, 64))
        assert in_frame(yx, (48, 64), margin_px=0.5 * entry["spacing_px"]).all()
        assert not any(int(row["required"]) for row, within in zip(rows, inside, strict=True) if not within)


def test_the_preview_rings_the_columns(folder):
    for entry in manifest(folder)["scenes"]:
        picture = np.asarray(Image.open((folder / entry["image"]).with_suffix(".png")))
        assert picture.shape == (48 * 12, 64 * 12, 3)
        assert ((picture[..., 0] == 255) & (picture[..., 1] == 60)).any()


def test_the_manifest_repeats_the_set_and_a_scene_depends_on_its_index_alone(folder, tmp_path):
    assert manifest(folder)["options"]["seed"] == 3
    write_columns(ColumnsOptions(**{**vars(OPTIONS), "count": 3}), tmp_path / "again")
    entries = manifest(tmp_path / "again")["scenes"]
    for old, new in zip(manifest(folder)["scenes"], entries, strict=False):
        assert old == new
        assert (folder / old["image"]).read_bytes() == (tmp_path / "again" / new["image"]).read_bytes()


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(ParameterError, match="exists already"):
        write_columns(OPTIONS, folder)
    with pytest.raises(ParameterError, match=r"cubic.*square"):
        write_columns(ColumnsOptions(families=("cubic",)), tmp_path / "new")
    assert not (tmp_path / "new").exists()
