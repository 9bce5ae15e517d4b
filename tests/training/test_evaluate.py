"""The evaluation: its images are its own, and a perfect finder is perfect."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from spm_runtime.errors import ParameterError
from spm_training.evaluate import EvaluationOptions, Found, evaluate, evaluation_scenes, package_finder, score_scene
from spm_training.metrics import count
from spm_training.peers import LogFinder, strongest_period_px, tuned_finder
from spm_training.report import Report, Subject
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS

SMALL = EvaluationOptions(images=1, side_px=64, spacing_px=(7.0, 9.0))


@pytest.fixture(scope="module")
def scenes():
    return list(evaluation_scenes(SMALL))


def perfect(scenes):
    return [
        score_scene(Found(scene.yx_px, scene.spacing_px * 1.05), scene, noise=noise, seconds=0.1)
        for noise, scene in scenes
    ]


SUBJECT = Subject("atoms", "1.0.0", "0" * 64)


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
    report = Report(SUBJECT, SMALL, perfect(scenes))
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
    score = score_scene(Found(moved, 2 * scene.spacing_px), scene, noise=noise, seconds=0.0)
    assert score.counts[0.25].true_positive < score.counts[0.5].true_positive
    assert Report(SUBJECT, SMALL, [score]).rows()[0].scale_within_tenth == 0.0
    none = score_scene(Found(np.zeros((0, 2)), 1.0), scene, noise=noise, seconds=0.0)
    row = Report(SUBJECT, SMALL, [none]).rows()[0]
    assert (row.recall, row.precision) == (0.0, 1.0)
    assert np.isnan(row.rms_px)
    assert np.isnan(row.chamfer_px)


def test_tables_for_people_and_for_programs(scenes, tmp_path):
    report = Report(SUBJECT, SMALL, perfect(scenes))
    data, text = report.save(tmp_path)
    document = json.loads(data.read_text(encoding="utf-8"))
    assert (document["name"], document["version"], document["sha256"]) == ("atoms", "1.0.0", "0" * 64)
    assert document["command"] == "spm-train evaluate atoms --images 1 --side-px 64 --spacing-px 7 9"
    assert document["rows"][0]["f1_quarter"] == 1.0
    table = text.read_text(encoding="utf-8")
    for group in ("all", "noise: low", "family: honeycomb"):
        assert f"| {group} |" in table
    lengths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(lengths) == 1
    assert Report(SUBJECT, EvaluationOptions(), ()).command == "spm-train evaluate atoms"


def test_families_outside_the_training_are_told_apart(scenes):
    subject = dataclasses.replace(SUBJECT, families=("square", "hexagonal"))
    rows = {row.group: row for row in Report(subject, SMALL, perfect(scenes)).rows()}
    assert rows["families never trained on"].images == (len(FAMILIES) - 2) * len(NOISE_LEVELS)


def test_the_headline_is_plain_numbers(scenes):
    headline = Report(SUBJECT, SMALL, perfect(scenes)).headline()
    assert headline["f1"] == headline["f1_clear"] == 1.0
    assert all(type(value) is float for value in headline.values())


def test_a_finder_is_called_once_for_every_image(scenes):
    truth = {scene.image.tobytes(): scene for _, scene in scenes}
    seen = []
    finder = lambda image: Found(truth[image.tobytes()].yx_px, truth[image.tobytes()].spacing_px)  # noqa: E731
    scores = evaluate(finder, SMALL, on_image=seen.append)
    assert scores == seen
    assert len(scores) == SMALL.total
    assert Report(SUBJECT, SMALL, scores).rows()[0].f1_quarter == 1.0


@pytest.mark.parametrize("period", [5.0, 9.0, 16.0])
def test_the_strongest_period(period):
    y, x = np.mgrid[:160, :128]
    image = np.cos(2 * np.pi * y / period) * np.ones_like(x) + 0.3 * np.cos(2 * np.pi * x / period)
    assert strongest_period_px(image.astype(np.float32)) == pytest.approx(period, rel=0.1)


def test_the_peer_finds_a_clear_lattice_to_a_fraction_of_a_pixel():
    """σ and distance as a tuning would choose them; the truth is where the cosines peak."""
    y, x = np.mgrid[:96, :120]
    image = np.cos(2 * np.pi * (y - 3.3) / 9) + np.cos(2 * np.pi * (x - 5.6) / 9)
    found = LogFinder(0.22, 0.5, 0.6)(image.astype(np.float32))
    truth = np.stack(np.meshgrid(np.arange(3.3, 95.4, 9), np.arange(5.6, 119.4, 9), indexing="ij"), -1).reshape(-1, 2)
    counts = count(found.yx_px, truth, np.ones(len(truth), bool), 2.0)
    assert counts.recall == 1.0
    assert counts.precision > 0.95
    assert counts.rms_px < 0.4


def test_the_peer_is_tuned_on_images_of_its_own(scenes, monkeypatch):
    from spm_training import peers

    monkeypatch.setattr(peers, "_SIGMAS", (0.22,))
    monkeypatch.setattr(peers, "_DISTANCES", (0.5,))
    seen = []

    def fake_f1(finder, looks):
        seen.extend(scene for scene, _, _ in looks)
        return finder.threshold_std

    monkeypatch.setattr(peers, "_f1", fake_f1)
    best = tuned_finder((7.0, 9.0), side_px=64)
    assert best.threshold_std == max(peers._THRESHOLDS)
    assert {scene.family for scene in seen} == set(FAMILIES)
    assert not {scene.image.tobytes() for scene in seen} & {scene.image.tobytes() for _, scene in scenes}


def test_an_unknown_task_has_no_evaluation():
    package = SimpleNamespace(task="restore", folder="models/restore")
    with pytest.raises(ParameterError, match="'restore' has no evaluation"):
        package_finder(package)
