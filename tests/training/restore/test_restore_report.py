"""What many scores say together, and the tables, files and pictures that come of them."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from spm_runtime.errors import ModelError, ParameterError
from spm_runtime.scan import Scan
from spm_training import cli
from spm_training.peers.restore import Peers
from spm_training.restore import pictures, run
from spm_training.restore.compare import RestoreComparison
from spm_training.restore.evaluate import AS_RECORDED, REFERENCES, TRUE_TIP, evaluate_all, restored_of
from spm_training.restore.figures import chosen, goal, mean_interval, row, wins
from spm_training.restore.images import write_images
from spm_training.restore.metrics import Quality, inner
from spm_training.restore.pictures import Examples, RealExample, add_examples, add_real
from spm_training.restore.report import RestoreReport, Subject
from spm_training.restore.scenes import GOOD, NM_TO_M, RestoreOptions
from spm_training.restore.score import ImageScore, Restored
from spm_training.simulate.tips import FAMILIES
from spm_training.studies.page import Page

TINY = RestoreOptions(images=1, side_px=64)


def perfect(scene):
    tip = scene.tip * NM_TO_M if scene.family in ("blunt", "double") else None
    return Restored(scene.clean * NM_TO_M, scene.touched.astype(np.float32), tip)


def lifted(scan):
    """Worse than nothing."""
    return Restored(scan.image + 10 * np.ptp(scan.image))


@pytest.fixture(scope="module")
def scores():
    restorers, oracles = REFERENCES
    return evaluate_all({**restorers, "lifted": lifted}, TINY, oracles={**oracles, "perfect": perfect})


@pytest.fixture(scope="module")
def comparison(scores):
    subjects = [Subject(AS_RECORDED), Subject(TRUE_TIP, oracle=True), Subject("lifted", description="by ten ranges")]
    subjects.append(Subject("perfect", version="1.0.0", sha256="0" * 64))
    reports = [RestoreReport(one, TINY, scores[one.name], scores) for one in subjects]
    return RestoreComparison(reports, ("lifted",), {"another": "is not installed"})


def an_image(psnr, *, group="blunt", registered=0.0, change=0.5):
    quality = Quality(psnr, psnr / 100, psnr / 50)
    return ImageScore(
        "afm", group, "rough", 0, quality, Quality(registered, 0, 0), (0.0, 0.0), 0.0, change, 1.0, None, None, 0.1
    )


def everything(_):
    return True


def test_the_interval_of_a_mean_is_that_of_its_error(rng):
    values = rng.normal(20, 2, 400).tolist()
    found = mean_interval(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert found.low < found.value < found.high
    assert mean_interval([3.0] * 5) == mean_interval([3.0])
    assert math.isnan(mean_interval([]).value)


def test_wins_are_counted_image_by_image():
    ours = [an_image(20), an_image(22), None, an_image(19), an_image(30, group="double")]
    theirs = [an_image(19), an_image(22), an_image(1), None, an_image(40)]
    assert wins(ours, theirs, everything) == (3, 1, 1, 1)
    assert str(wins(ours, theirs, everything)) == "1 / 1 / 1 of 3"
    assert wins(ours, theirs, everything).least == pytest.approx(1 / 3)
    assert wins(ours, theirs, lambda score: score.group == "double") == (1, 0, 0, 0)
    assert str(wins([], [], everything)) == "–"


def test_hackathon_is_judged_registered():
    ours = [an_image(10, group="hackathon", registered=30)]
    theirs = [an_image(20, group="hackathon", registered=25)]
    assert wins(ours, theirs, everything).psnr == 1
    assert row(ours).fair.psnr == 30
    assert row(ours).raw.psnr == 10


def test_a_goal_is_a_share_of_the_true_tips_gain():
    reached = goal([an_image(23)], [an_image(20)], [an_image(24)])
    assert reached == pytest.approx((3, 0.75, -0.01, -0.02))
    assert math.isnan(goal([an_image(23)], [an_image(20)], []).share)
    assert math.isnan(goal([an_image(23)], [an_image(20)], [an_image(19)]).share)


def test_a_row_is_a_mean():
    found = row([an_image(20, change=0.2), an_image(24, change=0.6)])
    assert (found.images, found.raw.psnr, found.change, found.unharmed) == (2, 22, pytest.approx(0.4), 2)
    assert math.isnan(row([]).raw.psnr)


def test_every_method_has_a_score_for_every_image(scores):
    assert {len(every) for every in scores.values()} == {TINY.total}
    assert all(score is not None for name in (AS_RECORDED, "lifted", "perfect") for score in scores[name])
    left_out = [score is None for score in scores[TRUE_TIP]]
    assert sum(left_out) == 2  # the convolution of both modalities
    assert all(score.change == pytest.approx(0, abs=1e-3) for score in scores[AS_RECORDED])


def test_the_true_tip_is_better_than_the_image(scores):
    def of_tips(name):
        return row(chosen(scores[name], lambda score: score.group in ("blunt", "double"))).raw

    assert of_tips(TRUE_TIP).psnr > of_tips(AS_RECORDED).psnr + 1
    assert of_tips("perfect").psnr > 100


def test_a_report_says_what_a_package_carries(comparison):
    perfect_one = comparison.packages[0]
    numbers = perfect_one.headline()
    assert numbers["share_of_true_tip_afm_blunt"] > 1
    assert numbers["certainty_auc"] == numbers["certainty_precision"] == 1
    assert numbers["tip_error"] < 0.05
    assert {f"psnr_gain_{modality}_{family}" for modality in ("afm", "stm") for family in FAMILIES} <= set(numbers)
    text = perfect_one.markdown()
    assert text.startswith("`spm-train evaluate perfect --images 1 --side-px 64`")
    assert "nan" not in text
    assert "second apex" in text
    assert "images with a good tip" in text


def test_goals_are_judged(comparison):
    reached = comparison.goals(comparison.packages[0])
    of_good_tips = [enough for goal, _, enough in reached if GOOD in goal]
    assert of_good_tips == [True, True]
    assert comparison.verdict() == f"perfect 1.0.0 reaches {len(reached)} of {len(reached)} goals."
    assert all(enough for goal, _, enough in reached)
    worse = RestoreReport(
        Subject("lifted", sha256="1"), TINY, comparison.reports[2].scores, comparison.reports[0].references
    )
    assert not any(
        enough for goal, _, enough in RestoreComparison([comparison.reports[0], worse]).goals(worse) if GOOD not in goal
    )


def test_tables_and_files_are_written(comparison, scores, tmp_path):
    files = [*comparison.save(tmp_path), *comparison.packages[0].save(tmp_path), write_images(tmp_path, scores)]
    assert [file.name for file in files] == [
        "comparison-restore.json",
        "comparison-restore.md",
        "evaluation-perfect.json",
        "evaluation-perfect.md",
        "restore-images.csv",
    ]
    text = files[1].read_text(encoding="utf-8")
    for said in (
        "AFM, raw",
        "STM, registered",
        "*erosion, true tip*",
        "goals of perfect",
        "another was not run",
        "by ten ranges",
    ):
        assert said in text
    assert "nan" not in text
    document = json.loads(files[0].read_text(encoding="utf-8"))
    assert document["wins"]["perfect 1.0.0"]["lifted"]["afm blunt"] == {"images": 1, "psnr": 1, "ssim": 1, "vif": 1}
    with files[4].open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 4 * TINY.total - 2
    assert lines[0]["method"] == AS_RECORDED
    assert float(lines[0]["psnr"]) == pytest.approx(scores[AS_RECORDED][0].raw.psnr, rel=1e-4)
    assert lines[0]["tip_error"] == ""


def test_a_result_without_a_surface_is_a_mistake_of_the_pipeline():
    class Nothing:
        maps = ()
        tip = instead_of = None

    with pytest.raises(RuntimeError, match="without the map"):
        restored_of(Nothing())


def test_what_the_network_did_not_do_is_said(scores):
    every = [replace(score, instead=score.modality == "stm") for score in scores["perfect"]]
    text = RestoreReport(Subject("perfect", sha256="0"), TINY, every, scores).markdown()
    assert "5 of 10 images have pixels outside the range" in text
    assert "outside the range" not in RestoreReport(Subject("p"), TINY, scores["perfect"], scores).markdown()


def a_bar(total, title):
    import contextlib

    class Silent:
        def update(self, steps):
            assert steps == 1

    return contextlib.nullcontext(Silent())


def no_peers(_):
    peers = Peers()
    peers.add("lifted", lifted, "by ten ranges")
    peers.missing["BM3D"] = "bm3d is not installed"
    return peers


def test_the_whole_run_writes_tables_and_a_page(monkeypatch, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    np.save(real / "scan.npy", np.random.default_rng(0).normal(0, 1, (64, 70)).astype(np.float32))
    (real / "notes.txt").write_text("no scan", encoding="utf-8")
    monkeypatch.setattr(run, "make_peers", no_peers)
    said = []
    options = RestoreOptions(images=1, side_px=64, families=("blunt",), modalities=("afm",))
    run.run_restore([], options, tmp_path / "out", peers=True, real=real, device="cpu", bar=a_bar, say=said.append)
    page = (tmp_path / "out" / "pictures-restore.html").read_text(encoding="utf-8")
    assert page.count("<img") == 3  # blunt, good tip, real
    assert "scan.npy" in page
    text = "\n".join(said)
    assert "BM3D was not run: bm3d is not installed" in text
    assert "notes.txt: not read" in text


def test_a_run_of_nothing_is_refused(tmp_path):
    def attempt(options, real=None):
        run.run_restore([], options, tmp_path, peers=False, real=real, device="cpu", bar=a_bar, say=print)

    with pytest.raises(ParameterError, match="--images 0"):
        attempt(RestoreOptions(images=0))
    with pytest.raises(ParameterError, match="no such folder"):
        attempt(TINY, tmp_path / "absent")


def test_options_of_the_command():
    assert run.restore_options(None, 256, FAMILIES) == RestoreOptions()
    assert run.restore_options(0, 64, ("blunt",)).total == 0
    with pytest.raises(ParameterError, match="--side-px 63"):
        run.restore_options(1, 63, FAMILIES)
    with pytest.raises(ParameterError, match="--fit-calibration"):
        run.restore_options(1, 64, FAMILIES, "knots.json")


def test_names_of_another_task_are_left_to_it(monkeypatch):
    assert run.restore_packages(["atoms"]) is None
    monkeypatch.setattr(run, "list_models", lambda: iter(()))
    assert run.restore_packages(["restore"]) == []
    with pytest.raises(ParameterError, match="one task at a time"):
        run.restore_packages(["restore", "atoms"])
    with pytest.raises(ModelError):
        run.restore_packages(["no-such-package"])


def test_real_scans_keep_what_is_missing(monkeypatch, tmp_path):
    image = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    image[40:] = np.nan
    page = Page("", "")
    add_real(page, [RealExample(Scan(image), {"same": Restored(image, np.ones_like(image))}, {"other": "too small"})])
    assert "other: too small" in page.html()
    assert inner(image).shape == (48, 48)


def test_what_was_taken_away_from_a_real_scan_is_drawn_as_such(monkeypatch):
    """A tilted scan on a large offset, from half of which a tenth of its relief is taken away."""
    shown = []
    monkeypatch.setattr(pictures, "_grid", lambda panels, *_: shown.append(dict(panels)) or Figure())
    heights = np.random.default_rng(0).uniform(0, 1e-9, (64, 64))
    image = (5e-8 + np.add.outer(2e-10 * np.arange(64), np.zeros(64)) + heights).astype(np.float32)
    restored = image.copy()
    restored[:, 32:] -= 1e-10
    add_real(Page("", ""), [RealExample(Scan(image), {"half": Restored(restored, None)}, {})])
    taken = shown[0]["taken away, four times: half"]
    assert np.median(taken[:, 32:]) == pytest.approx(0.4, rel=0.03)
    assert np.abs(taken[:, :32]).max() < 1e-3
    assert np.ptp(shown[0]["half"]) < 1.2e-9


def test_certainty_and_tip_are_shown_where_they_are_wanted(monkeypatch):
    options = RestoreOptions(images=2, side_px=64, families=("double", "convolution"), modalities=("afm",))
    examples, shown = Examples(each=1), []
    evaluate_all({AS_RECORDED: REFERENCES[0][AS_RECORDED]}, options, oracles={"perfect": perfect}, on_scene=examples)
    assert [one.group for one, _ in examples.kept] == ["double", "convolution", GOOD]
    monkeypatch.setattr(pictures, "_grid", lambda panels, *_: shown.append([title for title, _ in panels]) or Figure())
    add_examples(Page("", ""), examples, ["perfect"], ["perfect"])
    assert [len(titles) for titles in shown] == [7, 3, 7]
    assert shown[0][3:6] == ["touched", "certainty: perfect", "tip, as high as what stands nearby"]


def test_the_command_takes_the_word(monkeypatch, tmp_path):
    from click.testing import CliRunner

    taken = {}
    monkeypatch.setattr(
        run, "run_restore", lambda packages, options, out, **rest: taken.update(options=options, out=out, **rest)
    )
    monkeypatch.setattr(run, "list_models", lambda: iter(()))
    words = ["evaluate", "restore", "--peers", "--images", "3", "--family", "double", "--out", str(tmp_path)]
    outcome = CliRunner().invoke(cli.cli, words, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert taken["options"] == RestoreOptions(images=3, families=("double",))
    assert taken["peers"]
