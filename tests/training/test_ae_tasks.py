"""Patches of simulated surfaces as training samples, how reconstructions are judged, and PCA beside them."""

import numpy as np
import pytest
import torch

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.surface import unit_range
from spm_training.data import Split
from spm_training.networks.ae1 import MARGIN_PX
from spm_training.patch_scores import ReconstructionScore, batches_of, markdown, score_network, score_pca
from spm_training.recipe import load_recipe
from spm_training.simulate.surfaces import DEFECT_CLASSES
from spm_training.tasks import task_of
from spm_training.tasks.patches import PatchBatch


def batch_of(image, clean, margin=0):
    padded = torch.nn.functional.pad(image, (margin,) * 4)
    return PatchBatch(padded, clean, torch.full((len(image),), -1))


def test_a_sample_is_a_function_of_its_key(tiny):
    task, other = task_of(tiny(name="ae1")), task_of(tiny("training.seed=5", name="ae1"))
    train, validation = task.dataset(Split.TRAIN), task.dataset(Split.VALIDATION)
    image, clean, kind = train[3, 1]
    assert image.shape == (1, 46, 46)
    assert clean.shape == (1, 32, 32)
    assert kind == -1
    assert all(torch.equal(a, b) for a, b in zip((image, clean), train[3, 1], strict=False))
    for different in (train[4, 1], train[3, 0], validation[0, 1], other.dataset(Split.TRAIN)[3, 1]):
        assert not torch.equal(image, different[0])
    assert 0 <= image.min() < image.max() <= 1
    assert 0 <= clean.min() < clean.max() <= 1


def test_with_context_and_without_it_the_same_pixels_are_learned(tiny):
    with_context, without = (
        task.collate([task.dataset(Split.TRAIN)[1, index] for index in range(2)])
        for task in (task_of(tiny(f"network.context={word}", name="ae1")) for word in ("true", "false"))
    )
    assert with_context.image.shape[-1] == without.image.shape[-1] + 2 * MARGIN_PX
    assert torch.equal(with_context.target, without.target)
    assert torch.equal(with_context.clean, without.clean)


def test_crops_are_cut_from_images_that_were_scaled_as_a_whole(tiny):
    """At no clipping the extremes of the image are 0 and 1, so a crop hardly ever reaches both; tilt is gone."""
    dataset = task_of(tiny("surfaces.clip_percent=0", name="ae1")).dataset(Split.TRAIN)
    surface = dataset.surface(0)
    image = surface.image.astype(float)
    assert image.min() == 0
    assert image.max() == 1
    y, x = np.indices(image.shape) - (image.shape[0] - 1) / 2
    assert abs((y * image).sum() / (y**2).sum()) < 1e-3
    assert abs((x * image).sum() / (x**2).sum()) < 1e-3
    noise = image - surface.clean
    assert 0 < noise.std() < 0.5


def test_the_noise_of_a_sample_is_that_of_the_simulator(tiny):
    quiet, loud = (
        task_of(tiny(f"surfaces.detectability_min={d}", f"surfaces.detectability_max={d}", name="ae1"))
        .dataset(Split.VALIDATION)
        .surface(0)
        for d in (400, 10)
    )
    noise = [np.std(np.diff(one.image.astype(float) - one.clean, axis=1)) for one in (quiet, loud)]
    assert noise[1] > 5 * noise[0]


def test_the_unit_range_ignores_outliers_where_told():
    image = np.linspace(-1, 1, 1000).reshape(20, 50)
    image[3, 4] = 50.0
    assert unit_range(image, 0.0) == (-1.0, 50.0)
    low, high = unit_range(image, 0.5)
    assert -1 <= low < -0.98
    assert 0.98 < high <= 1.0
    low, high = unit_range(np.full((4, 4), 3.0), 0.0)
    assert (low, high) == (2.5, 3.5)


def test_patches_lie_on_defects_and_have_their_own_scale(tiny):
    dataset = task_of(tiny(name="ae2")).dataset(Split.VALIDATION)
    for index in range(3):
        image, clean, kind = dataset[0, index]
        assert image.shape == clean.shape == (1, 32, 32)
        assert image.min() == pytest.approx(0, abs=1e-6)
        assert image.max() == pytest.approx(1, abs=1e-6)
        assert 0 <= kind < len(DEFECT_CLASSES)
        assert torch.equal(image, dataset[0, index][0])
        assert (image - clean).std() < 0.5


def test_an_image_must_hold_the_crop_and_its_context():
    with pytest.raises(ParameterError, match=r"image_px 140 is below 142"):
        load_recipe("ae1", overrides=["data.crop_px=128", "surfaces.image_px=140"])
    with pytest.raises(ParameterError, match=r"unknown families \['cheese'\]"):
        load_recipe("ae1", overrides=['surfaces.families=["cheese"]'])
    with pytest.raises(ParameterError, match="detectability_min"):
        load_recipe("ae1", overrides=["surfaces.detectability_min=500"])
    assert load_recipe("ae1", overrides=["network.latent=64"]).network.latent == 64


def test_the_recipes_are_the_printed_ones():
    """UCL report, sections 2.1 and 2.4: Adam at 1e-3, a plateau, early stopping; 150 epochs at most, 1450 images."""
    for name, latent, epochs in (("ae1", 32, 150), ("ae2", 8, 30)):
        recipe = load_recipe(name)
        assert (recipe.optimiser.kind, recipe.optimiser.lr, recipe.optimiser.weight_decay) == ("adam", 1e-3, 0.0)
        assert recipe.schedule.kind == "plateau"
        assert recipe.network.latent == latent
        assert recipe.training.epochs == epochs
        assert recipe.early_stopping.patience_epochs < epochs
        assert recipe.data.pool == 1450


def test_the_figures_tell_noise_from_error(tiny):
    """An answer without the noise: the loss is the noise and nothing beyond; one that copies it: no loss, the noise as error."""
    task = task_of(tiny(name="ae1"))
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1, 32, 32, generator=generator)
    batch = batch_of(clean + 0.03 * torch.randn(4, 1, 32, 32, generator=generator), clean, margin=7)
    perfect = task.validation_metrics(task.validation_sums(clean + 1e-6, batch))
    assert perfect["noise_mse"] == pytest.approx(9e-4, rel=0.1)
    assert perfect["loss"] == pytest.approx(perfect["noise_mse"], rel=1e-2)
    assert perfect["excess_mse"] == pytest.approx(0, abs=1e-6)
    assert perfect["clean_psnr_db"] > 100
    copied = task.validation_metrics(task.validation_sums(batch.target, batch))
    assert copied["loss"] == 0
    assert copied["clean_over_noise"] == pytest.approx(1)
    assert copied["clean_psnr_db"] == pytest.approx(-10 * np.log10(9e-4), abs=0.5)


def test_pca_finds_the_components_that_are_there():
    """Windows of three patterns and white noise of variance s: with three components the error is 3 s / 1024 per pixel."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(3, 32, 32))

    def batches(count):
        clean = np.einsum("nk,kij->nij", rng.uniform(0, 0.03, (count, 3)), patterns) + 0.5
        image = clean + 0.02 * rng.normal(size=clean.shape)
        return [batch_of(*(torch.from_numpy(one.astype(np.float32))[:, None] for one in (image, clean)))]

    scores = score_pca(batches(4000), batches(200), (1, 3, 40))
    for score in scores.values():
        assert score.noise_mse == pytest.approx(4e-4, rel=0.02)
    assert scores[3].clean_mse == pytest.approx(3 * 4e-4 / 1024, rel=0.5)
    assert scores[3].excess_mse == pytest.approx(0, abs=4e-6)
    assert scores[1].clean_mse > 20 * scores[3].clean_mse
    assert scores[40].clean_mse > 3 * scores[3].clean_mse  # it learns noise
    assert scores[40].mse < scores[3].mse


def test_a_network_is_judged_at_white_noise_of_a_stated_strength(tiny):
    recipe = tiny("data.crop_px=64", name="ae1")
    (batch,) = batches_of(recipe, Split.EVALUATION, 4, white_noise=0.05)
    (quiet,) = batches_of(recipe, Split.EVALUATION, 4, white_noise=0.0)
    assert batch.image.shape == (4, 1, 78, 78)
    assert torch.equal(quiet.target, quiet.clean)
    assert torch.equal(batch.clean, quiet.clean)
    noise = (batch.target - batch.clean).numpy()
    assert noise.std() == pytest.approx(0.05, rel=0.03)
    assert abs(noise.mean()) < 3e-3
    assert abs(np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]) < 0.03
    with pytest.raises(ParameterError, match="expected 'ae1'"):
        batches_of(tiny(name="ae2"), Split.EVALUATION, 1)


def test_a_network_is_scored_on_batches_of_its_task(tiny):
    recipe = tiny(name="ae1")
    batches = batches_of(recipe, Split.EVALUATION, 3, white_noise=None)
    assert sum(len(batch.image) for batch in batches) == 3
    score = score_network(task_of(recipe).build_network(), batches)
    assert score.mse > 0
    assert score.noise_mse > 0
    table = markdown({"AE1, 16 numbers": score, "nothing": ReconstructionScore(2e-3, 1e-3, 1e-3)})
    assert "| nothing | 0.002 | 0.001 | 0.001 | 1 |" in table
    assert table.count("\n") == 4
