"""Samples and the short training: half of the user's, reproducible, and it learns."""

import numpy as np
import pytest
import torch
from torch import nn

from spm_runtime.errors import ModelError
from spm_runtime.scan import Scan
from spm_runtime.session import Session
from spm_training.finetune.loop import go_on
from spm_training.finetune.plant import survey
from spm_training.finetune.rebuild import rebuilt_autoencoder
from spm_training.finetune.samples import HomeFinderCrops, HomePatchCrops, framed
from spm_training.finetune.scans import _view
from spm_training.graphs.patches import ImageEncoderGraph
from spm_training.networks.ae1 import MARGIN_PX
from spm_training.packages.stages import learn_stage_one
from spm_training.recipe import load_recipe
from spm_training.tasks import task_of


def recipe_of(name, *overrides):
    return load_recipe(name, smoke=True, overrides=("training.threads=1", *overrides))


@pytest.fixture(scope="module")
def view(package, scene):
    """Smaller than a crop of the finder."""
    image = scene(21, shape=(48, 100)).image
    return _view(Scan(image, unit="nm", pixel_size_nm=(0.08, 0.08), modality="stm", channel="Z"), package)


@pytest.fixture(scope="module")
def finder_crops(view, package):
    ground = survey(view, Session(package, "cpu"))
    return HomeFinderCrops(recipe_of("defects"), [ground, ground])


def test_samples_depend_on_their_key_alone(finder_crops):
    first = [finder_crops[key] for key in ((0, 0), (0, 1), (0, 3), (1, 1))]
    again = [finder_crops[key] for key in ((1, 1), (0, 3), (0, 1), (0, 0))][::-1]
    for one, two in zip(first, again, strict=True):
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(first[1][0], first[2][0])
    assert not torch.equal(first[1][0], first[3][0])


def test_what_a_small_scan_lacks_of_a_crop_is_missing_and_asks_for_nothing(finder_crops):
    image, presence, _, inside, step, *_ = finder_crops[0, 1]
    assert image.shape == (4, 64, 64)
    rows = (image[:2] != 0).any(dim=(0, 2))
    assert int(rows.sum()) == 48
    for target in (presence, inside, step):
        assert not target[0, ~rows].any() or float(target[0, ~rows].max()) < 1  # flanks of peaks reach over the edge


def test_patches_of_the_user_are_in_every_batch(view):
    crops = HomePatchCrops(recipe_of("ae1"), [view])
    image, clean, kind = crops[0, 1]
    side = 32
    assert image.shape == (1, side + 2 * MARGIN_PX, side + 2 * MARGIN_PX)
    assert torch.equal(clean, image[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX])
    assert int(kind) == -1
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    whole = framed(view, 0.2)
    assert whole.shape == (48 + 2 * MARGIN_PX, 100 + 2 * MARGIN_PX)
    np.testing.assert_array_equal(whole[MARGIN_PX], whole[MARGIN_PX - 1])  # continued by reflection


def test_the_error_on_the_users_scans_falls(package, view):
    recipe = recipe_of("ae1", "training.epochs=4", "data.steps_per_epoch=6", "data.batch=4", "optimiser.lr=3e-4")
    network = rebuilt_autoencoder(package)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained, effort = go_on(
        network, task_of(recipe), HomePatchCrops(recipe, [view]), recipe, device=torch.device("cpu"), report=str
    )
    assert effort.last_loss < effort.first_loss
    assert effort.images == 4 * 6 * 4
    assert effort.flop > 0
    assert not trained.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    image = torch.from_numpy(framed(view, 0.2))[None, None, : 32 + 2 * MARGIN_PX, : 32 + 2 * MARGIN_PX]
    target = image[:, :, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
    with torch.no_grad():
        errors = [float((one(image) - target).square().mean()) for one in (network, trained)]
    assert errors[1] < errors[0]


def test_what_was_learned_from_is_not_new_any_more(package, rng):
    """An image unlike all simulated ones counts as known once it is among those that teach the clusters."""
    network, recipe = rebuilt_autoencoder(package), recipe_of("ae1")
    odd = (rng.random((96, 96)) < 0.5).astype(np.float32)
    before = learn_stage_one(recipe, network, 4)
    after = learn_stage_one(recipe, network, 4, more=[odd, odd.T.copy(), odd[::-1].copy()])

    def distance(learned):
        graph = ImageEncoderGraph(network, stride_px=8, clusters=learned.clusters)
        with torch.no_grad():
            return float(graph.named(torch.from_numpy(odd)[None, None])["distance"].median())

    assert distance(before) > before.novelty_distance
    assert distance(after) <= after.novelty_distance * 1.001


def test_a_loss_that_is_none_ends_the_training(package, view):
    recipe = recipe_of("ae1", "training.epochs=1", "data.steps_per_epoch=1")
    network = rebuilt_autoencoder(package)
    nn.init.constant_(network.to_latent.bias, float("nan"))
    with pytest.raises(ModelError, match="the loss is nan in epoch 1"):
        go_on(network, task_of(recipe), HomePatchCrops(recipe, [view]), recipe, device=torch.device("cpu"), report=str)
