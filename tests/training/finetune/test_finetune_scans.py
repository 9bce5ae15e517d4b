"""A user's folder: what is read, what is left out, what is held out."""

import shutil

import numpy as np
import pytest

from spm_runtime.errors import ParameterError
from spm_training.finetune.scans import read_collection, views_of


def names(images):
    return {image.path.name for image in images}


def test_both_directions_are_one_image_and_the_rest_is_left_out_with_a_reason(user_scans, package):
    found = read_collection(user_scans, package)
    assert (len(found.training), len(found.held_out)) == (3, 1)
    assert names(found.training) | names(found.held_out) == {f"scan-{n}.gwy" for n in range(4)}
    assert all(len(image.views) == 2 for image in (*found.training, *found.held_out))
    assert [one.path.name for one in found.left_out] == ["current.gwy"]
    assert "values in A; expected heights" in found.left_out[0].reason


def test_views_are_in_nanometres_on_working_pixels(user_scans, package, scene):
    found = read_collection(user_scans, package)
    view = next(view for view in views_of([*found.training, *found.held_out]) if view.name == "scan-2.gwy Z forward")
    assert view.pixel_size_nm == pytest.approx(0.08)
    assert view.surface.heights.shape == scene(2).image.shape
    plane = np.polynomial.polynomial.polyvander2d(*np.indices(view.surface.heights.shape) / 80, (1, 1)).reshape(-1, 4)
    image = scene(2).image.ravel()
    flat = image - plane @ np.linalg.lstsq(plane, image, rcond=None)[0]
    assert np.corrcoef(flat, view.surface.heights.ravel())[0, 1] > 0.9
    assert 0.5 < view.surface.heights.std() / flat.std() < 1.5


def test_the_split_follows_from_the_content(user_scans, package, tmp_path):
    before = read_collection(user_scans, package)
    for number, path in enumerate(sorted(user_scans.glob("scan-*.gwy"), reverse=True)):
        shutil.copyfile(path, tmp_path / f"other-{number}.gwy")
    after = read_collection(tmp_path, package)
    assert [image.sha256 for image in before.held_out] == [image.sha256 for image in after.held_out]
    assert not {image.sha256 for image in after.training} & {image.sha256 for image in after.held_out}


def test_a_copy_is_no_further_image(user_scans, package, tmp_path):
    for path in user_scans.glob("scan-*.gwy"):
        shutil.copyfile(path, tmp_path / path.name)
    shutil.copyfile(tmp_path / "scan-0.gwy", tmp_path / "scan-9.gwy")
    found = read_collection(tmp_path, package)
    assert len(found) == 4
    assert "the same content as scan-0.gwy" in found.left_out[0].reason


def test_too_few_scans_are_refused(user_scans, package, tmp_path):
    for number in range(3):
        shutil.copyfile(user_scans / f"scan-{number}.gwy", tmp_path / f"scan-{number}.gwy")
    shutil.copyfile(user_scans / "current.gwy", tmp_path / "current.gwy")
    with pytest.raises(ParameterError, match=r"3 usable scans; expected 4(.|\n)*values in A"):
        read_collection(tmp_path, package)
    with pytest.raises(ParameterError, match="no such folder"):
        read_collection(tmp_path / "nowhere", package)


@pytest.mark.parametrize(
    ("shape", "hole", "said"), [((20, 90), 0, "working pixels"), ((60, 60), 40, "% of the image measured")]
)
def test_a_scan_that_shows_too_little_is_left_out(user_scans, package, tmp_path, write, rng, shape, hole, said):
    for number in range(4):
        shutil.copyfile(user_scans / f"scan-{number}.gwy", tmp_path / f"scan-{number}.gwy")
    image = rng.normal(size=shape)
    image[len(image) - hole :] = np.nan
    write(tmp_path / "odd.gwy", {"Z": image}, 0.08)
    found = read_collection(tmp_path, package)
    assert len(found) == 4
    assert said in found.left_out[0].reason
