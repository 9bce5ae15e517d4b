"""Ways to divide points and the choice among them, on points whose classes are known; the page that says so."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import v_measure_score

from spm_runtime.errors import ParameterError
from spm_training.studies.page import Page, check_new, shown
from spm_training.studies.plots import Cloud, Panel, clouds, panels, sheet
from spm_training.studies.selection import (
    Points,
    Trial,
    agglomerative,
    choose,
    density,
    hierarchical_density,
    kmeans,
    mixtures,
    v_measure,
)


def blobs(classes=4, each=60, spread=0.04, images=12, seed=0):
    """Round clouds far apart in three dimensions."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])[:classes]
    truth = np.repeat(np.arange(classes), each).astype(np.int32)
    x = centres[truth] + spread * rng.normal(size=(len(truth), 3))
    return Points(x, {"class": truth}, rng.integers(images, size=len(truth)).astype(np.int32))


def named(labels, name):
    labels = np.asarray(labels, np.int32)
    return Trial(name, {}, labels, 0.0, 0.0, {})


def test_the_v_measure_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    for classes, clusters in ((3, 5), (9, 2), (1, 4), (1, 1)):
        truth, labels = rng.integers(classes, size=200), rng.integers(clusters, size=200)
        labels[:80] = np.minimum(truth[:80], clusters - 1)
        table = np.zeros((classes, clusters), np.int64)
        np.add.at(table, (truth, labels), 1)
        assert v_measure(table) == pytest.approx(v_measure_score(truth, labels), abs=1e-9)


def test_every_method_finds_clouds_that_are_there():
    points = blobs()
    found = [
        *kmeans(points, (4,)),
        *mixtures(points, (4,)),
        *density(points, (0.97,), (5,)),
        *hierarchical_density(points, (20,), (5,)),
        *agglomerative(points, ("ward", "average", "complete"), (4,)),
    ]
    assert len(found) == 1 + 4 + 1 + 1 + 3
    for trial in found:
        assert trial.clusters == 4, trial.name
        assert trial.v_measures["class"] > 0.9, trial.name
        assert trial.silhouette > 0.8, trial.name
        assert trial.davies_bouldin < 0.4, trial.name
    few, many = kmeans(points, (2, 4))
    assert many.criteria["inertia"] < 0.1 * few.criteria["inertia"]
    by_bic = min(mixtures(points, (2, 3, 4, 5), covariances=("spherical",)), key=lambda trial: trial.criteria["bic"])
    assert by_bic.settings["k"] == 4


def test_what_is_no_cluster_has_no_silhouette():
    points = blobs(classes=1)
    (alone,) = density(points, (0.9,), (5,))
    assert alone.clusters == 1
    assert 0 < alone.noise_share < 0.2
    assert np.isnan(alone.silhouette)
    assert np.isnan(alone.davies_bouldin)
    assert "DBSCAN: eps 0" in alone.name


def test_another_setting_must_be_better_on_images_that_did_not_choose_it():
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=1200).astype(np.int32)
    groups = rng.integers(40, size=1200).astype(np.int32)
    wrong = rng.random(1200)
    printed = named(np.where(wrong < 0.3, rng.integers(4, size=1200), truth), "printed")
    better = named(np.where(wrong < 0.1, rng.integers(4, size=1200), truth), "better")
    luck = [named(rng.permutation(printed.labels) if n else printed.labels, f"{n}") for n in range(20)]
    chosen = choose([printed, better, *luck], printed, truth, groups)
    assert chosen.best is better
    low, high = chosen.gain[1:]
    assert 0 < low < chosen.gain[0] < high
    # As good as what is printed: the printed one stays, whatever half of the images prefers.
    flip = rng.random(1200) < 0.3
    alike = named(np.where(flip, rng.integers(4, size=1200), truth), "alike")
    assert choose([printed, alike], printed, truth, groups).best is printed


def test_a_sample_keeps_points_and_truth_together():
    points = blobs()
    few = points.sample(50)
    assert len(few) == len(few.groups) == len(few.truths["class"]) == 50
    assert agglomerative(few, ("ward",), (4,))[0].v_measures["class"] > 0.9
    assert points.sample(10_000) is points


def test_the_page_is_one_file_with_its_pictures(tmp_path):
    page = Page("A <title>", "What was done.")
    page.section("First")
    page.say("a < b")
    page.table(("name", "value"), [("one", 0.123456), ("two", None), ("three", float("nan"))], chosen=[1])
    rng = np.random.default_rng(0)
    labels = np.array([-1, 0, 1, 11, 1])
    page.figure(panels([Panel("t", "x", {"a": ([1, 2], [3, 4])}, log_x=True, log_y=True, marks={"m": 1.5})]), "curves")
    page.figure(clouds([Cloud("t", rng.normal(size=(5, 2)), labels, ("zero", "one"))]), "points")
    page.figure(sheet({"row": rng.random((3, 32, 32)), "other": rng.random((1, 32, 32))}), "patches")
    page.recommend("Take it.")
    file = page.write(tmp_path / "new", "study", {"numbers": [1.5, float("nan")], "at": {"a": (1, 2)}})
    text = file.read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in text
    assert "a &lt; b" in text
    assert text.index("Take it.") < text.index("First")
    assert '<tr class="chosen"><td>two</td><td>–</td></tr>' in text
    assert "0.123<" in text
    assert "http" not in text
    assert "<script" not in text
    pictures = [part.partition('"')[0] for part in text.split("base64,")[1:]]
    assert len(pictures) == 3
    for code in pictures:
        with Image.open(io.BytesIO(base64.b64decode(code))) as picture:
            assert picture.format == "PNG"
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    content = json.loads((tmp_path / "new" / "study.json").read_text(encoding="utf-8"))
    assert content == {
        "title": "A <title>",
        "recommendation": "Take it.",
        "numbers": [1.5, None],
        "at": {"a": [1, 2]},
    }
    with pytest.raises(ParameterError, match=r"holds study\.html already"):
        check_new(tmp_path / "new", "study")
    check_new(tmp_path / "new", "other")


def test_numbers_are_short():
    assert [shown(one) for one in (1234567, 3.14159, 12345.6, 1e-5, "word", None)] == [
        "1,234,567",
        "3.14",
        "12,346",
        "1e-05",
        "word",
        "–",
    ]
