"""Scenes with bad tips as files, read back by the runtime, and the command that writes them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from spm_kernels import dilate
from spm_runtime.errors import ParameterError
from spm_runtime.readers import open_scan
from spm_training.cli import cli
from spm_training.simulate.tips.write import TipOptions, write_tips

OPTIONS = TipOptions(count=3, shape=(80, 96), families=("blunt", "convolution"), surfaces=("rough", "grating"), seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "new"
    write_tips(OPTIONS, folder)
    return folder


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_the_runtime_reads_the_scan_and_its_truth(folder):
    for entry in manifest(folder)["scenes"]:
        stem = folder / entry["image"]
        scan, clean, tip, touched = (
            open_scan(stem.with_name(stem.stem + part)) for part in (".tif", "-clean.tif", "-tip.tif", "-touched.tif")
        )
        for one in (scan, clean, tip, touched):
            assert one.pixel_size_nm == pytest.approx((entry["pixel_size_nm"],) * 2, rel=1e-5)
        assert scan.shape == clean.shape == touched.shape == (80, 96)
        assert set(np.unique(touched.image)) <= {0.0, 1.0}
        assert touched.image.mean() == pytest.approx(entry["touched"])
        assert np.ptp(clean.image) == pytest.approx(entry["relief_nm"], rel=1e-4)
        if entry["family"] == "blunt":
            again = dilate(clean.image, tip.image)
            noise = (scan.image - again)[30:-30, 30:-30].std() / entry["relief_nm"]
            assert noise < 0.2
        else:
            assert tip.image.sum() == pytest.approx(1, abs=1e-4)


def test_the_preview_shows_scan_surface_touch_and_tip(folder):
    for entry in manifest(folder)["scenes"]:
        picture = np.asarray(Image.open((folder / entry["image"]).with_suffix(".png")))
        assert picture.shape == (80, 3 * 96 + 80)


def test_a_scene_depends_on_its_index_alone_and_on_the_set(folder, tmp_path):
    write_tips(TipOptions(**{**vars(OPTIONS), "count": 4}), tmp_path / "more")
    for old, new in zip(manifest(folder)["scenes"], manifest(tmp_path / "more")["scenes"], strict=False):
        assert old == new
        assert (folder / old["image"]).read_bytes() == (tmp_path / "more" / new["image"]).read_bytes()
    write_tips(TipOptions(**{**vars(OPTIONS), "split": "train"}), tmp_path / "train")
    names = {p.read_bytes() for p in folder.glob("*-clean.tif")} & {
        p.read_bytes() for p in (tmp_path / "train").glob("*-clean.tif")
    }
    assert not names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ("triple",)}, r"--family triple: unknown; expected some of blunt, double"),
        ({"surfaces": ("lattice",)}, r"--surface lattice.*rough"),
        ({"modality": "sem"}, r"--modality sem.*afm, stm"),
        ({"split": "all"}, r"--split all.*train"),
    ],
)
def test_unknown_names_are_refused(options, message, tmp_path):
    with pytest.raises(ParameterError, match=message):
        write_tips(TipOptions(**options), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_refused(folder):
    with pytest.raises(ParameterError, match="exists already"):
        write_tips(OPTIONS, folder)


def test_the_command(tmp_path):
    words = ["simulate", "tips", "--out", str(tmp_path / "stm"), "--count", "2", "--shape", "40", "48"]
    done = CliRunner().invoke(cli, [*words, "--modality", "stm", "--family", "double", "--surface", "steps"])
    assert done.exit_code == 0, done.output
    assert "2 scenes in" in done.output
    for entry in manifest(tmp_path / "stm")["scenes"]:
        assert (entry["modality"], entry["family"], entry["surface"]) == ("stm", "double", "steps")
        assert entry["second_yx_px"] is not None
