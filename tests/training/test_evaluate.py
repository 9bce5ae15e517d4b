"""The evaluation: its images are its own, and a perfect finder is perfect."""

import dataclasses
import json

import numpy as np
import pytest

from spm_runtime.errors import ModelError
from spm_training.evaluate import EvaluationOptions, evaluate, evaluation_scenes, score_scene
from spm_training.report import Report
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS

SMALL = EvaluationOptions(images=1, side_px=64, spacing_px=(7.0, 9.0))


@pytest.fixture(scope="module")
def scenes():
    return list(evaluation_scenes(SMALL))


def perfect(scenes):
    return [
        score_scene(scene.yx_px, scene, noise=noise, found_spacing_px=scene.spacing_px * 1.05, seconds=0.1)
        for noise, scene in scenes
    ]


@dataclasses.dataclass
class Package:
    name: str = "atoms"
    version: str = "1.0.0"
    sha256: str = "0" * 64
    training: dict = dataclasses.field(default_factory=lambda: {"families": "all"})


def test_every_family_is_shown_at_every_noise_level(scenes):
    assert len(scenes) == SMALL.total == len(FAMILIES) * len(NOISE_LEVELS)
    assert {(scene.family, noise) for noise, scene in scenes} == {(f, n) for f in FAMILIES for n in NOISE_LEVELS}
    for noise, scene in scenes:
        low, high = NOISE_LEVELS[noise]
        assert low <= scene.detectability <= high
        assert scene.image.shape == (64, 64)


def test_the_images_are_always_the_same_and_all_different(scenes):
    again = list(evaluation_scenes(SMALL))
    assert all(np.array_equal(a[1].image, b[1].image) for a, b in zip(scenes, again, strict=True))
    assert len({scene.image.tobytes() for _, scene in scenes}) == len(scenes)


def test_a_perfect_finder_scores_one(scenes):
    report = Report(Package(), SMALL, perfect(scenes))
    everything, *rest = report.rows()
    assert everything.group == "all"
    assert everything.images == len(scenes)
    for row in (everything, *rest):
        assert (row.f1_quarter, row.f1_half, row.precision, row.recall, row.jaccard) == (1, 1, 1, 1, 1)
        assert row.scale_within_tenth == 1.0
        assert row.rms_px == 0.0 or np.isnan(row.rms_px)
    assert sum(row.atoms for row in rest if row.group.startswith("family")) == everything.atoms


def test_a_finder_with_a_known_error_scores_what_it_must(scenes):
    noise, scene = next((n, s) for n, s in scenes if s.family == "square" and s.required.sum() > 10)
    moved = scene.yx_px + np.array([0.3 * scene.spacing_px, 0.0])
    score = score_scene(moved, scene, noise=noise, found_spacing_px=2 * scene.spacing_px, seconds=0.0)
    assert score.counts[0.25].true_positive < score.counts[0.5].true_positive
    assert Report(Package(), SMALL, [score]).rows()[0].scale_within_tenth == 0.0
    none = score_scene(np.zeros((0, 2)), scene, noise=noise, found_spacing_px=1.0, seconds=0.0)
    row = Report(Package(), SMALL, [none]).rows()[0]
    assert (row.recall, row.precision) == (0.0, 1.0)
    assert np.isnan(row.rms_px)
    assert np.isnan(row.chamfer_px)


def test_tables_for_people_and_for_programs(scenes, tmp_path):
    report = Report(Package(), SMALL, perfect(scenes))
    data, text = report.save(tmp_path)
    document = json.loads(data.read_text(encoding="utf-8"))
    assert document["model"] == "atoms@1.0.0"
    assert document["command"] == "spm-train evaluate atoms --images 1 --side-px 64 --spacing-px 7 9"
    assert document["rows"][0]["f1_quarter"] == 1.0
    table = text.read_text(encoding="utf-8")
    for group in ("all", "noise: low", "family: honeycomb"):
        assert f"| {group} |" in table
    lengths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(lengths) == 1
    assert Report(Package(), EvaluationOptions(), ()).command == "spm-train evaluate atoms"


def test_families_outside_the_training_are_told_apart(scenes):
    package = Package(training={"families": "square, hexagonal"})
    rows = {row.group: row for row in Report(package, SMALL, perfect(scenes)).rows()}
    assert rows["families never trained on"].images == (len(FAMILIES) - 2) * len(NOISE_LEVELS)


def test_the_headline_is_plain_numbers(scenes):
    headline = Report(Package(), SMALL, perfect(scenes)).headline()
    assert headline["f1"] == headline["f1_clear"] == 1.0
    assert all(type(value) is float for value in headline.values())


def test_an_unknown_package_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no package of this name"):
        evaluate("no-such-model", SMALL)
