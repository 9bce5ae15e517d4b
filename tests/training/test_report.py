"""The tables: what stands in them follows from the scores."""

import json

import numpy as np
import pytest

from spm_training.atoms.compare import Comparison
from spm_training.atoms.evaluate import Detections, EvaluationOptions, ImageScore
from spm_training.atoms.report import DIAGRAM, Report, Subject, file_stem
from spm_training.metrics import Counts
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS, UNSEEN_FAMILIES

SUBJECT = Subject("atoms", "1.0.0", "0" * 64)
OPTIONS = EvaluationOptions(images=1, side_px=64, spacing_px=(7.0, 9.0))
SEEN = next(name for name in FAMILIES if name not in UNSEEN_FAMILIES)
HELD_OUT = next(name for name in FAMILIES if name in UNSEEN_FAMILIES)


def image(family=SEEN, noise="clear", tp=8, fp=2, fn=0, half=10, **more):
    """By default 8 of 8 columns within 0.25 and two wrong, at distance 0.5 px, bound 0.25 px, spacing 10 px."""
    quarter = Counts(tp, fp, fn, tp * 0.25, tp * 0.0625)
    loose = Counts(half, tp + fp - half, tp + fn - half) if half <= tp + fp and half <= tp + fn else quarter
    values = {"found_spacing_px": 10.5, "chamfer_px": 1.0, "seconds": 0.2, "blob_log_seconds": 0.8} | more
    return ImageScore(family, noise, 10.0, counts={0.25: quarter, 0.5: loose}, **values)


def test_every_number_of_a_row():
    row = Report(SUBJECT, OPTIONS, [image(), image(tp=1, fp=0, fn=9, found_spacing_px=20.0)]).rows()[0]
    assert (row.group, row.images, row.atoms) == ("all", 2, 18)
    assert (row.precision, row.recall) == (9 / 11, 9 / 18)
    assert row.f1_quarter == pytest.approx(18 / 29)
    assert row.jaccard == pytest.approx(9 / 20)
    assert row.precision_images == pytest.approx((0.8 + 1) / 2)
    assert row.recall_images == pytest.approx((1 + 0.1) / 2)
    assert row.f1_images == pytest.approx((16 / 18 + 2 / 11) / 2)
    assert (row.rms_px, row.rms_spacings, row.rms_over_bound, row.rms_over_bound_images) == (0.5, 0.05, 2.0, 2.0)
    assert row.scale_within_tenth == 0.5
    assert row.seconds_per_image == pytest.approx(0.2)
    assert row.time_over_blob_log == pytest.approx(0.25)


def test_the_wide_tolerance_has_its_own_numbers():
    row = Report(SUBJECT, OPTIONS, [image(tp=5, fp=5, fn=5, half=9)]).rows()[0]
    assert (row.f1_quarter, row.f1_half) == (0.5, 0.9)
    assert (row.precision_half, row.recall_half, row.f1_half_images) == (0.9, 0.9, 0.9)


def test_groups_hold_the_images_that_their_names_say():
    scores = [image(family, noise) for family in (SEEN, HELD_OUT) for noise in NOISE_LEVELS]
    twin = Subject("twin", "1", "0", families=tuple(name for name in FAMILIES if name not in UNSEEN_FAMILIES))
    rows = {row.group: row.images for row in Report(twin, OPTIONS, scores).rows()}
    assert rows["all"] == 6
    assert rows["noise: low"] == rows[f"noise: {next(iter(NOISE_LEVELS))}"] == 2
    assert rows[f"family: {SEEN}"] == rows["held-out families"] == rows["families never trained on"] == 3
    assert rows["held-out families, low"] == rows["families never trained on, medium"] == 1
    assert "families never trained on" not in {row.group for row in Report(SUBJECT, OPTIONS, scores).rows()}


def test_nothing_known_is_no_number():
    nothing = image(tp=0, fp=0, fn=5, chamfer_px=float("inf"), blob_log_seconds=float("nan"))
    report = Report(SUBJECT, OPTIONS, [nothing])
    row = report.rows()[0]
    assert (row.precision, row.recall) == (1.0, 0.0)
    assert all(np.isnan(v) for v in (row.rms_px, row.rms_over_bound, row.chamfer_px, row.time_over_blob_log))
    assert "nan" not in report.markdown()
    document = report.document()
    assert document["rows"][0]["rms_px"] is None
    json.dumps(document, allow_nan=False)


def test_tables_for_people_and_for_programs(tmp_path):
    report = Report(SUBJECT, OPTIONS, [image(noise=noise) for noise in NOISE_LEVELS])
    data, text = report.save(tmp_path)
    document = json.loads(data.read_text(encoding="utf-8"))
    assert (document["name"], document["version"], document["sha256"]) == ("atoms", "1.0.0", "0" * 64)
    assert document["command"] == "spm-train evaluate atoms --images 1 --side-px 64 --spacing-px 7 9"
    assert document["rows"][0]["precision"] == 0.8
    assert document["calibration"] is None
    table = text.read_text(encoding="utf-8")
    for group in ("all", "noise: low", f"family: {SEEN}"):
        assert f"| {group} |" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    assert Report(SUBJECT, EvaluationOptions(), ()).command == "spm-train evaluate atoms"


def scored(**more):
    """Four positions with scores, three of them right and 0.1 px off along both axes."""
    truth = np.array([[1.0, 2.0], [3.3, 4.1], [5.6, 6.9], [np.nan, np.nan]])
    detections = Detections(
        score=np.array([0.95, 0.9, 0.7, 0.2]),
        is_true=np.array([True, True, True, False]),
        found_yx_px=np.nan_to_num(truth) + 0.1,
        true_yx_px=truth,
        std_px=np.full(4, 0.08),
    )
    return image(detections=detections, **more)


def test_scores_bring_a_calibration_and_its_picture(tmp_path):
    report = Report(SUBJECT, OPTIONS, [scored(noise=noise) for noise in NOISE_LEVELS])
    files = report.save(tmp_path)
    assert [file.name for file in files] == [
        "evaluation-atoms.json", "evaluation-atoms.md", "evaluation-atoms-reliability.png",
    ]  # fmt: skip
    assert all(file.is_file() for file in files)
    assert f"]({files[2].name})" in files[1].read_text(encoding="utf-8")
    document = json.loads(files[0].read_text(encoding="utf-8"))["calibration"]
    assert document["expected_calibration_error"] == pytest.approx((2 * 0.075 + 0.3 + 0.2) / 4)
    assert document["coverage"]["low"]["within_one"] == 0.0
    assert document["coverage"]["all"]["within_two"] == 1.0
    assert document["coverage"]["all"]["robust_std"] == pytest.approx(1.4826 * 0.1 / 0.08)
    card = tmp_path / "card"
    card.mkdir()
    assert f"]({DIAGRAM})" in report.card(card)
    assert (card / DIAGRAM).is_file()
    assert report.headline()["calibration_error"] == 0.1625


def test_the_headline_is_plain_numbers():
    headline = Report(SUBJECT, OPTIONS, [image(noise=noise) for noise in NOISE_LEVELS]).headline()
    assert headline["rms_over_bound_low"] == 2.0
    assert all(type(value) is float for value in headline.values())


def test_the_comparison_has_a_line_for_everyone(tmp_path):
    scores = [image(family, noise) for family in (SEEN, HELD_OUT) for noise in NOISE_LEVELS]
    twin = Subject("twin", "1", "0", families=(SEEN,))
    default = Subject("LoG, library defaults", tuned=False, description="as it comes")
    reports = [Report(subject, OPTIONS, scores) for subject in (SUBJECT, twin, default)]
    comparison = Comparison(reports, {"FindFoci": "it is Java"}, {"Detectors": "| a |"})
    data, text = comparison.save(tmp_path)
    said = text.read_text(encoding="utf-8")
    ours, other, theirs = (line for line in said.splitlines() if line.count("|") == 9 and "0.889" in line)
    assert ours.startswith("| atoms 1.0.0 | 0.889 / 0.889 / 0.889 |")
    assert "2.00 / 2.00 / 2.00" in ours
    assert ours.endswith("| 1.00 | 0.25 |")
    assert "(never seen)" in other
    assert "(never seen)" not in ours
    assert theirs.startswith("| LoG, library defaults * |")
    assert "FindFoci was not run: it is Java" in said
    assert "## Detectors\n\n| a |" in said
    document = json.loads(data.read_text(encoding="utf-8"))
    assert [one["name"] for one in document["reports"]] == ["atoms", "twin", "LoG, library defaults"]


def test_names_become_files():
    assert file_stem("LoG + FFT scale") == "LoG-FFT-scale"
    assert file_stem("AtomAI net, blind") == "AtomAI-net-blind"
