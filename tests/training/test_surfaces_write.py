"""Simulated surfaces as files, read back by the runtime, and the command that writes them."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from spm_runtime.errors import ParameterError
from spm_runtime.readers import open_scan
from spm_training.cli import main
from spm_training.simulate.surfaces import DEFECT_CLASSES
from spm_training.simulate.surfaces.write import SurfacesOptions, write_surfaces

OPTIONS = SurfacesOptions(
    count=3, shape=(64, 80), families=("si001-2x1-h", "cu100"), pixel_size_nm=0.08, noise="clear", seed=5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "new"
    write_surfaces(OPTIONS, folder)
    return folder


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_the_runtime_reads_heights_and_calibration(folder):
    for entry in manifest(folder)["scenes"]:
        stem = (folder / entry["image"]).stem
        for name in ("", "-clean", "-steps"):
            scan = open_scan(folder / f"{stem}{name}.tif")
            assert scan.shape == (64, 80)
            assert scan.pixel_size_nm == pytest.approx((0.08, 0.08), rel=1e-5)
        clean, image = (open_scan(folder / f"{stem}{name}.tif").image for name in ("-clean", ""))
        assert 0 < np.std(image - clean) < 60 * entry["white_noise_nm"] + 0.05
        assert set(np.unique(open_scan(folder / f"{stem}-steps.tif").image)) <= {0.0, 255.0}


def test_the_truth_lies_beside_the_image(folder):
    for entry in manifest(folder)["scenes"]:
        with (folder / entry["image"]).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == entry["defects"]
        assert sum(int(row["required"]) for row in rows) == entry["required"]
        for row in rows:
            assert row["class"] in DEFECT_CLASSES
            assert float(row["radius_nm"]) == pytest.approx(0.08 * float(row["radius_px"]), abs=1e-3)
            assert not (int(row["required"]) and int(row["ghost"]))


def test_the_preview_boxes_the_defects(folder):
    drawn = 0
    for entry in manifest(folder)["scenes"]:
        picture = np.asarray(Image.open((folder / entry["image"]).with_suffix(".png")))
        assert picture.shape == (64 * 9, 80 * 9, 3)
        drawn += bool(((picture[..., 0] == 255) & (picture[..., 1] == 60)).any())
        assert entry["noise"] == "clear"
    assert drawn


def test_a_scene_depends_on_seed_and_index_alone(folder, tmp_path):
    write_surfaces(SurfacesOptions(**{**vars(OPTIONS), "count": 1}), tmp_path / "again")
    name = manifest(tmp_path / "again")["scenes"][0]["image"]
    assert name == manifest(folder)["scenes"][0]["image"]
    assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(ParameterError, match="exists already"):
        write_surfaces(OPTIONS, folder)
    with pytest.raises(ParameterError, match=r"granite.*graphite"):
        write_surfaces(SurfacesOptions(families=("granite",)), tmp_path / "new")
    with pytest.raises(ParameterError, match=r"loud.*clear"):
        write_surfaces(SurfacesOptions(noise="loud"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command(monkeypatch, capsys, tmp_path):
    words = ["surfaces", "--out", str(tmp_path / "out"), "--count", "1", "--shape", "40", "48", "--no-defects"]
    monkeypatch.setattr(sys, "argv", ["spm-train", "simulate", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert "1 scenes" in capsys.readouterr().out
    assert manifest(tmp_path / "out")["scenes"][0]["defects"] == 0
    assert manifest(tmp_path / "out")["kind"] == "surfaces"
