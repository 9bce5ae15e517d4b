"""Simulated scans as the networks that restore see them, and their training in short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from spm_kernels import dilate, erode
from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.relief import EVIDENCE, RESTORE_CHANNELS, TIP_PX, surroundings, tip_heights, visible_tip
from spm_runtime.pipelines.tip_candidates import FACTORS, chosen_factor
from spm_runtime.pipelines.tip_drawn import CODE_WIDTH
from spm_training.data import Split
from spm_training.fit import fit
from spm_training.networks.judge import JUDGED_WIDTH, TOLD_WIDTH
from spm_training.networks.restorer import RestorerNet
from spm_training.networks.tip import TipNet, TipOutput, correlated, packed
from spm_training.recipe import Recipe, load_recipe
from spm_training.run import RunFolder
from spm_training.simulate.tips import FAMILIES
from spm_training.tasks import task_of
from spm_training.tasks.tip import TipTask
from spm_training.tasks.tip_scenes import JudgeSamples, ScanCrops, ScanSample, TipBatch, TipSamples, _view
from spm_training.tip_estimate import TipEstimator, digest_of


def scan(family: str, *, number: int = 0, modality: str = "afm") -> ScanSample:
    recipe = load_recipe(
        "tip", smoke=True, overrides=[f'tips.families=["{family}"]', f'tips.modalities=["{modality}"]']
    )
    return TipSamples(recipe, Split.VALIDATION)._scan(number)


@pytest.mark.parametrize("family", ["blunt", "double", "hackathon"])
@pytest.mark.parametrize("modality", ["afm", "stm"])
def test_truth_makes_the_image(family: str, modality: str) -> None:
    """The clean surface under the true tip is the image but for noise, lines, drift and scars."""
    for number in range(4):
        sample = scan(family, number=number, modality=modality)
        tip = tip_heights(sample.visible.astype(np.float32), sample.local)
        made = dilate(sample.clean.astype(np.float32), tip)
        # What the tip touched beyond the frame is not known to the sample; what is far below its apex is not kept.
        inner = np.s_[20:-20, 20:-20]
        difference = (sample.image.astype(np.float32) - made)[inner]
        before = (sample.image.astype(np.float32) - sample.clean.astype(np.float32))[inner]
        assert np.median(np.abs(difference)) <= np.median(np.abs(before)) + 2e-3
        assert abs(np.median(difference)) < 0.05


def test_a_blurred_scan_holds_its_point_spread() -> None:
    sample = scan("convolution")
    assert sample.visible.max() == 1
    assert sample.touched.all()
    assert FAMILIES[sample.family] == "convolution"


class TestSamples:
    def test_splits_share_nothing_and_samples_repeat(self) -> None:
        recipe = load_recipe("restore", smoke=True)
        train, validation = (ScanCrops(recipe, split) for split in (Split.TRAIN, Split.VALIDATION))
        assert torch.equal(train[0, 1][0], ScanCrops(recipe, Split.TRAIN)[0, 1][0])
        assert not torch.equal(train[0, 0][0], validation[0, 0][0])

    def test_a_sample_tells_what_the_networks_say_of_the_tip(self, tip_run: RunFolder, judge_run: RunFolder) -> None:
        recipe = with_tip(tip_run, judge_run)
        dataset = ScanCrops(recipe, Split.VALIDATION)
        image = dataset[0, 0][0].numpy()
        assert image.shape == (len(RESTORE_CHANNELS) + 1, 64, 64)
        runs = (recipe.tips.tip_run, recipe.tips.judge_run)
        drawn = dataset._scan(0)
        view, evidence = _view(drawn), drawn.evidence.astype(np.float32)
        judged, told = TipEstimator.of(*runs, digest_of(*runs))(view, evidence)
        tip, code = TipEstimator.of(runs[0], "", digest_of(runs[0]))(view, evidence)
        assert told.shape == (TOLD_WIDTH,)
        np.testing.assert_array_equal(told[:CODE_WIDTH], code)
        np.testing.assert_allclose(image[-1].flat[:TOLD_WIDTH], told, rtol=1e-5)
        assert not image[-1].flat[TOLD_WIDTH:].any()
        # The judge changes the heights of the tip and not its shape.
        factor = chosen_factor(told[CODE_WIDTH:])
        np.testing.assert_allclose(judged, np.float32(factor) * tip, rtol=1e-5)

    def test_errors_to_foresee_are_those_of_the_candidates(self, tip_run: RunFolder) -> None:
        recipe = judge_recipe(tip_run)
        dataset = JudgeSamples(recipe, Split.VALIDATION)
        facts, errors = (one.numpy() for one in dataset[0, 1])
        assert facts.shape == (JUDGED_WIDTH,)
        scan = dataset._scan(1)
        view = _view(scan)
        tip, _ = TipEstimator.of(recipe.tips.tip_run, "", digest_of(recipe.tips.tip_run))(
            view, scan.evidence.astype(np.float32)
        )
        clean = scan.clean.astype(np.float32)
        sharpest = erode(view.image, np.float32(FACTORS[-1]) * tip)
        squares = [float(np.mean((one - clean)[8:-8, 8:-8] ** 2)) for one in (sharpest, view.image)]
        assert errors[-1] == pytest.approx(np.log10(squares[0] / squares[1]), abs=1e-3)

    def test_a_judge_without_a_tip_run_says_what_it_needs(self) -> None:
        recipe = load_recipe("judge", smoke=True, overrides=['tips.tip_run=""'])
        with pytest.raises(ParameterError, match=r"tips\.tip_run: empty; expected the run"):
            JudgeSamples(recipe, Split.TRAIN)

    def test_a_missing_tip_run_is_named(self, tmp_path: Path) -> None:
        none = RunFolder(tmp_path / "none")
        recipe = with_tip(none, none)
        with pytest.raises(ParameterError, match=r"none.*not found.*spm-train fit tip"):
            ScanCrops(recipe, Split.TRAIN)


@pytest.fixture(scope="module")
def tip_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A tip network after a few steps."""
    run = RunFolder(tmp_path_factory.mktemp("tip") / "run")
    fit(load_recipe("tip", smoke=True), run, report=lambda _: None)
    return run


@pytest.fixture(scope="module")
def judge_run(tip_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A judge of those tips after a few steps."""
    run = RunFolder(tmp_path_factory.mktemp("judge") / "run")
    fit(judge_recipe(tip_run), run, report=lambda _: None)
    return run


def judge_recipe(tip_run: RunFolder) -> Recipe:
    return load_recipe("judge", smoke=True, overrides=[f'tips.tip_run="{tip_run.path.as_posix()}"'])


def with_tip(tip_run: RunFolder, judge_run: RunFolder) -> Recipe:
    """The smallest recipe of a network that is told of the tip."""
    runs = [f'tips.tip_run="{tip_run.path.as_posix()}"', f'tips.judge_run="{judge_run.path.as_posix()}"']
    return load_recipe("restore", smoke=True, overrides=["network.with_tip=true", *runs])


class TestNetworks:
    def test_an_untrained_restorer_is_the_mean_of_image_and_erosions(self) -> None:
        inputs = torch.randn(2, len(RESTORE_CHANNELS) + 1, 32, 48)
        with torch.no_grad():
            found = RestorerNet(8, 2).eval()(inputs)
        torch.testing.assert_close(found.restored, inputs[:, [0, 1, 3, 4]].mean(dim=1, keepdim=True))
        assert found.touched.shape == (2, 1, 32, 48)

    def test_a_restorer_without_a_tip_begins_with_the_image(self) -> None:
        image = torch.randn(1, 1, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(RestorerNet(8, 2, with_tip=False).eval()(image).restored, image)

    def test_shifted_by_a_stride_the_result_shifts(self) -> None:
        """Beyond the halo an output pixel does not depend on where the image begins."""
        torch.manual_seed(0)
        network = RestorerNet(4, 2).eval()
        torch.nn.init.normal_(network.head.weight)
        inputs = torch.randn(1, len(RESTORE_CHANNELS), 128, 128)
        code = torch.randn(1, TOLD_WIDTH)
        with torch.no_grad():
            whole = network.restore(inputs, code).restored
            part = network.restore(inputs[..., network.stride :, :], code).restored
        far = slice(network.stride + network.halo_px, None)
        torch.testing.assert_close(whole[..., far, :], part[..., network.halo_px :, :], rtol=1e-4, atol=1e-4)

    def test_tip_network_says_what_its_shape_promises(self) -> None:
        network = TipNet(4, 3).eval()
        one = packed(torch.randn(128, 128), torch.randn(len(EVIDENCE), TIP_PX, TIP_PX))
        with torch.no_grad():
            found = network(torch.stack([one, one]))
        assert found.visible.shape == (2, 1, TIP_PX, TIP_PX)
        assert found.families.shape == (2, len(FAMILIES))
        assert found.second.shape == (2, 1, TIP_PX, TIP_PX)

    def test_second_apexes_are_counted_where_they_are(self) -> None:
        """Two tips with a second apex, one found a pixel off, and one without, for which one is invented."""
        task = task_of(load_recipe("tip", smoke=True))
        assert isinstance(task, TipTask)
        y, x = np.mgrid[-30:31, -30:31]
        single = (-0.03 * (y**2 + x**2)).astype(np.float32)
        double = np.maximum(single, np.roll(single, (-9, 5), (0, 1)) - 0.4)
        visible = torch.from_numpy(np.stack([visible_tip(tip, 1.0) for tip in (double, double, single)]))[:, None]
        batch = TipBatch(torch.zeros(3), visible, torch.tensor([1, 1, 0]))
        second = torch.zeros_like(visible)
        for number, (row, column) in enumerate([(22, 35), (30, 30), (12, 12)]):
            second[number, 0, row, column] = 20.0
        output = TipOutput(visible.logit(), second, torch.zeros(3, len(FAMILIES)))
        figures = task.validation_metrics(task.validation_sums(output, batch))
        assert (figures["second_found"], figures["second_invented"]) == (0.5, 1.0)
        second[:2, 0] = 0
        second[:2, 0, 21, 35] = 20.0
        second[2, 0, 12, 12], second[2, 0, 30, 30] = 0, 20.0
        assert float(task.loss(output, batch)["second"]) == pytest.approx(0, abs=1e-4)


def test_a_restorer_learns(tip_run: RunFolder, tmp_path: Path) -> None:
    """A few steps on few scans make the loss smaller than that of the start."""
    overrides = ["training.epochs=6", "data.steps_per_epoch=8", "training.ema_decay=0", "network.base_width=8"]
    recipe = load_recipe("restore", smoke=True, overrides=overrides)
    run = RunFolder(tmp_path / "run")
    fit(recipe, run, report=lambda _: None)
    losses = [row["train_loss"] for row in run.metrics()]
    assert losses[-1] < losses[0]
    assert f"val_{task_of(recipe).shown[0]}" in run.metrics()[-1]


def test_surroundings_of_the_runtime_are_those_of_the_training() -> None:
    rng = np.random.default_rng(0)
    points, values, features = (rng.random((3, 40, 52)).astype(np.float32) for _ in range(3))
    found = surroundings(points, values, features)
    coarse = correlated(torch.from_numpy(points)[None], torch.from_numpy(values)[None])
    expected = functional.interpolate(coarse, TIP_PX, mode="bilinear", align_corners=True)[0].numpy()
    np.testing.assert_allclose(found[:3], expected, rtol=1e-4, atol=1e-5)
    assert found[3, 5, 7] == pytest.approx(float(features[0].mean()))
    # By the definition, at one offset of four rows and minus six columns.
    number, y, x = 1, 2, -3
    weight, value = points[number, :-y, -x:], values[number, y:, :x]
    assert found[number, 30 + 2 * y, 30 + 2 * x] == pytest.approx(
        float((weight * value).sum() / weight.sum()), rel=1e-4
    )
