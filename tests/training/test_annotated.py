"""Annotated images: the rules on made-up ones, the readers on the real ones."""

import h5py
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from spm_runtime.errors import ParameterError
from spm_training.atoms.annotated import SINGLE_ATOM_TOLERANCE_PX, AnnotatedImage, read_annotated
from spm_training.atoms.annotated_score import LEAVE_ONE_OUT, score_annotated
from spm_training.atoms.evaluate import Found
from spm_training.metrics import Counts

GRID = np.stack(np.meshgrid(np.arange(20.0, 61, 10), np.arange(30.0, 71, 10), indexing="ij"), -1).reshape(-1, 2)


def annotated(region="image", **more):
    values = {"group": "grid", "name": "one", "image": np.zeros((100, 100), np.float32), "yx_px": GRID}
    return AnnotatedImage(**values | {"tolerance_px": 2.5, "region": region, "spacing_px": 10.0} | more)


def test_everything_is_judged_on_a_whole_image():
    counts = annotated().score(np.concatenate([GRID + 1.0, [[5.0, 5.0], [25.0, 35.0]]]))
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (25, 2, 0)
    assert counts.rms_px == pytest.approx(np.sqrt(2))
    assert annotated().score(np.zeros((0, 2))).recall == 0.0


def test_of_one_sublattice_the_others_are_not_judged_but_duplicates_are():
    centres = GRID + 5.1  # 7.2 px from the nearest annotation
    counts = annotated("sites").score(np.concatenate([GRID, centres, GRID[:3] + np.array([0.0, 3.0])]))
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (25, 3, 0)


def test_outside_the_annotated_hull_nothing_is_judged():
    found = np.array([[25.0, 35.0], [16.0, 50.0], [14.0, 50.0], [90.0, 90.0]])
    assert annotated("hull").judged(found).tolist() == [True, True, False, False]
    counts = annotated("hull").score(np.concatenate([GRID[1:], found]))
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (24, 2, 1)


def test_a_report_by_set_and_finder(tmp_path):
    images = [annotated(), annotated(name="two"), annotated(group="other", doubt="nobody knows")]
    finders = {"perfect": lambda _: Found(GRID, 10.0), "blind": lambda _: Found(np.zeros((0, 2)), 1.0)}
    seen = []
    report = score_annotated(finders, images, on_image=seen.append)
    assert len(seen) == 6
    assert report.by_set("perfect")["grid"].true_positive == 50
    assert report.by_set("blind")["other"] == Counts(0, 0, 25)
    data, text = report.save(tmp_path)
    assert data.is_file()
    said = text.read_text(encoding="utf-8")
    assert "| | grid | other |" in said
    assert "| perfect | 1.000 (1.000 / 1.000) | 1.000 (1.000 / 1.000) |" in said
    assert "Not to be relied on: nobody knows." in said


def test_the_generous_peer_is_not_tuned_on_the_set_that_is_scored():
    """Among tall columns are low ones: one set counts them, the other does not. Each gets the threshold of the other."""
    tall = np.stack(np.meshgrid(np.arange(6, 60, 12), np.arange(6, 60, 12), indexing="ij"), -1).reshape(-1, 2)
    low = tall + 6
    spots = np.zeros((66, 66))
    spots[tuple(tall.T)], spots[tuple(low.T)] = 1.0, 0.5
    image = (ndimage.gaussian_filter(spots, 1.5) * 20).astype(np.float32)
    both = annotated(group="both", image=image, yx_px=np.concatenate([tall, low]).astype(float))
    one = annotated(group="tall", image=image, yx_px=tall.astype(float))
    alone = score_annotated({}, [one], leave_one_out=True).counts[LEAVE_ONE_OUT][0]
    assert alone.f1 == 1.0  # without others it is tuned on the set itself
    crossed = score_annotated({}, [both, one], leave_one_out=True).counts[LEAVE_ONE_OUT]
    assert crossed[0].recall < 1.0
    assert crossed[1].precision < 1.0


def write_folder(folder):
    """The layout of the sources, with x and y as they give them."""
    folder.mkdir()
    xy = np.array([[3.0, 10.0], [13.0, 10.0], [3.0, 20.0], [13.5, 20.25]])
    with h5py.File(folder / "Au_NP_Atom_Lattice.hdf5", "w") as file:
        file["image_data0"] = np.ones((40, 30))
        file["_sublattice/atom_positions"] = xy
    with h5py.File(folder / "Cropped_PTO-SRO_Aligned.hspy", "w") as file:
        file["Experiments/HAADF/data"] = np.ones((40, 30))
    np.save(folder / "Cropped_PTO-SRO_Aligned_atom_positions1.npy", xy)
    for name, image, table, text in (
        ("HPAI_Pt_NC", "021_x.tif", "021_Results.csv", " ,X,Y\n1,5,30\n2,6,31\n"),
        ("Sjeon1", "bpy.tif", "bpy.csv", "\ufeffX,Y\n\n5,30\n\n6,31\n\n"),
    ):
        (folder / name).mkdir()
        tifffile.imwrite(folder / name / image, np.ones((40, 30), np.uint16))
        (folder / name / table).write_text(text, encoding="utf-8")
    return folder


def test_every_layout_is_read_as_y_and_x(tmp_path):
    gold, perovskite, platinum, rhenium = read_annotated(write_folder(tmp_path / "real"))
    np.testing.assert_array_equal(gold.yx_px[3], [20.25, 13.5])
    assert (gold.region, perovskite.region, platinum.region) == ("hull", "sites", "image")
    assert gold.spacing_px == pytest.approx(10.0, abs=0.3)
    assert gold.tolerance_px == pytest.approx(0.25 * gold.spacing_px)
    for one in (platinum, rhenium):
        np.testing.assert_array_equal(one.yx_px, [[30.0, 5.0], [31.0, 6.0]])
        assert one.tolerance_px == SINGLE_ATOM_TOLERANCE_PX
        assert one.image.shape == (40, 30)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ParameterError, match="no such folder"):
        read_annotated(tmp_path / "nowhere")
    folder = write_folder(tmp_path / "real")
    (folder / "Sjeon1" / "bpy.csv").write_text("X,Y\n50,3\n", encoding="utf-8")
    with pytest.raises(ParameterError, match="lie outside the image"):
        read_annotated(folder)
    (folder / "Sjeon1" / "bpy.csv").unlink()
    with pytest.raises(ParameterError, match="Fetch them again"):
        read_annotated(folder)


def test_the_real_annotations_lie_on_atoms(real_data):
    """In the band-passed image the marks stand high, and those of the mirrored or transposed annotation do not."""
    folder = real_data / "haadf_annotated"
    if not folder.is_dir():
        pytest.skip(f"no annotated images at {folder}")
    images = read_annotated(folder)
    assert {one.name: len(one.yx_px) for one in images} == {
        "Au_NP_Atom_Lattice": 141, "Cropped_PTO-SRO_Aligned": 465, "021_HAADF_15nm_Sample_PtNC_21Oct20": 33,
        "051_HAADF_15nm_Sample_PtNC_21Oct20": 72, "Ptporph12": 56, "bpy_crop19": 118, "bpy_crop20": 84,
    }  # fmt: skip
    for one in images:
        image = one.image.astype(np.float64)
        band = ndimage.gaussian_filter(image, 2) - ndimage.gaussian_filter(image, 12)
        last = np.array(image.shape) - 1

        def height(yx, band=band):
            return float(ndimage.map_coordinates(band, yx.T, order=1, mode="nearest").mean() / band.std())

        here = height(one.yx_px)
        mirrored = [height(np.abs([down, right] * last - one.yx_px)) for down, right in ((0, 1), (1, 0), (1, 1))]
        assert bool(one.doubt) == (here < 2)
        if not one.doubt:
            assert here > 1.5 + max(*mirrored, height(one.yx_px[:, ::-1]) if last[0] == last[1] else 0)
        assert one.score(one.yx_px).f1 == 1.0
