"""What the studies of the first autoencoder rest on: other views and their losses, samples with truth, error maps."""

import numpy as np
import pytest
import torch

from spm_runtime.errors import ParameterError
from spm_training.clusters import Clusters, Scaling, fit_clusters
from spm_training.cost import cost_of
from spm_training.data import Split
from spm_training.networks.ae1 import MARGIN_PX, Ae1
from spm_training.networks.ae1_views import Ae1Views, turned, turned_back
from spm_training.patch_losses import cluster_loss, contrast_loss, symmetry_loss
from spm_training.recipe import load_recipe, read_recipe, to_toml
from spm_training.simulate.surfaces import DEFECT_CLASSES
from spm_training.studies.error_maps import defect_auc, error_map
from spm_training.studies.samples import CONTENTS, Frame, frames, latents_of, window_sample, windows_at
from spm_training.studies.suggestions import mean_gain, wins
from spm_training.tasks import task_of


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def frame_of(inner, yx=(), radius=4.0):
    image = np.pad(inner.astype(np.float32), MARGIN_PX)
    places = np.array(yx, float).reshape(-1, 2)
    return Frame(image, places, np.full(len(places), radius), np.zeros(len(places), np.int32), 0, 0)


def test_every_symmetry_is_another_and_can_be_undone():
    image = torch.rand(2, 1, 5, 5)
    seen = [turned(image, symmetry) for symmetry in range(8)]
    assert torch.equal(seen[0], image)
    for number, one in enumerate(seen):
        assert torch.equal(turned_back(one, number), image)
        assert all(not torch.equal(one, other) for other in seen[:number])


@pytest.mark.parametrize("context", [True, False])
def test_views_come_back_to_their_windows(context):
    """Constant windows look the same however they are turned: then a view has the latents of the window itself."""
    network = Ae1Views(8, context=context, dropout=0.0, view=True, coarse=True).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    margin = network.margin_px
    steps = torch.rand(1, 1, 3, 3)
    image = steps.repeat_interleave(32, 2).repeat_interleave(32, 3) if not context else torch.full((1, 1, 96, 96), 0.3)
    with torch.no_grad():
        output = network(torch.nn.functional.pad(image, (margin,) * 4, mode="replicate"))
    assert output.image.shape == image.shape
    assert output.latent.shape == output.view.shape == (9, 8)
    assert torch.allclose(output.latent, output.view, atol=1e-5)
    assert output.coarse_error.shape == (1,)


def test_in_evaluation_it_is_the_plain_network():
    plain, views = Ae1(8).eval(), Ae1Views(8, view=True).eval()
    views.load_state_dict(plain.state_dict())
    image = torch.rand(1, 1, 46, 46)
    with torch.no_grad():
        assert torch.equal(plain(image), views(image))


def test_symmetry_is_a_share_of_the_spread():
    latent = torch.randn(4000, 3)
    assert symmetry_loss(latent, latent) == 0
    assert float(symmetry_loss(latent, torch.randn(4000, 3))) == pytest.approx(2, abs=0.1)
    noisy = latent + 0.1 * torch.randn(4000, 3)
    assert float(symmetry_loss(latent, noisy)) == pytest.approx(0.01, rel=0.1)
    assert float(symmetry_loss(1e-3 * latent, 1e-3 * noisy)) == pytest.approx(0.01, rel=0.1)


def test_contrast_finds_a_window_among_the_others():
    latent = torch.randn(64, 16)
    assert float(contrast_loss(latent, latent)) < 1.0  # by chance 4.2
    assert float(contrast_loss(latent, torch.randn(64, 16))) > 0.9 * np.log(64)
    assert float(contrast_loss(latent + 50, latent + 50)) == pytest.approx(
        float(contrast_loss(latent, latent)), rel=1e-2
    )


def test_the_cluster_loss_is_the_distance_from_the_nearest_centre():
    clusters = Clusters(Scaling(np.array([1.0, 0.0]), np.array([0.5, 2.0])), np.array([[0.0, 0.0], [1.0, 1.0]]))
    latent = torch.tensor([[1.0, 0.0], [3.2, 0.5]], requires_grad=True)  # scaled: (0, 0) and (1.1, 1)
    loss = cluster_loss(latent, clusters)
    assert float(loss.detach()) == pytest.approx((0 + 0.1**2) / 4)
    loss.backward()
    assert latent.grad[1, 0] > 0
    assert latent.grad[0].abs().max() == 0


def test_a_recipe_with_other_losses_trains_and_costs_what_it_does(tiny, run_fit, tmp_path):
    image_px = "surfaces.image_px=112"
    plain = tiny("data.crop_px=96", image_px, "data.batch=1", name="ae1")
    file = tmp_path / "clusters.npz"
    fit_clusters(np.random.default_rng(0).normal(size=(40, 16)), 3, starts=1).write(file)
    recipe = tiny(
        "data.crop_px=96", image_px, "data.batch=1", "training.epochs=1", "data.steps_per_epoch=1",
        "loss.symmetry_weight=1e-3", "loss.contrast_weight=1e-3", "loss.coarse_weight=0.5",
        "loss.cluster_weight=0.1", f"loss.clusters_file={str(file)!r}", name="ae1",
    )  # fmt: skip
    assert 1.2 < cost_of(recipe).flop_per_step / cost_of(plain).flop_per_step < 2
    run_fit(recipe, tmp_path / "run")
    (tmp_path / "copy.toml").write_text(to_toml(recipe), encoding="utf-8")
    assert read_recipe(tmp_path / "copy.toml") == recipe
    task = task_of(recipe)
    batch = task.collate([task.dataset(Split.TRAIN)[0, 0]])
    network = task.build_network().train()
    terms = task.loss(network(batch.image), batch)
    assert set(terms) == {"loss", "squares", "symmetry", "contrast", "cluster", "coarse"}
    weighted = 1e-3 * (terms["symmetry"] + terms["contrast"]) + 0.5 * terms["coarse"] + 0.1 * terms["cluster"]
    assert torch.allclose(terms["loss"], terms["squares"] + weighted, rtol=1e-5)
    assert set(task.loss(network.eval()(batch.image), batch)) == {"loss"}
    assert type(task_of(plain).build_network()) is Ae1


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("ae2", ["loss.symmetry_weight=1"], "terms of the network 'ae1'"),
        ("ae1", ["loss.cluster_weight=1"], "need each other"),
        ("ae1", ["loss.clusters_file=a.npz"], "need each other"),
        ("ae1", ["loss.coarse_weight=1", "data.crop_px=64"], "crop_px 64 is below 96"),
        ("ae1", ["loss.symmetry_weight=-1"], "symmetry_weight"),
    ],
)
def test_losses_that_do_not_fit_are_refused(name, overrides, words):
    with pytest.raises(ParameterError, match=words):
        load_recipe(name, overrides=overrides)


def test_a_sample_of_windows_knows_what_it_holds(tiny):
    recipe = tiny('surfaces.families=["nacl", "si111-7x7"]', "surfaces.detectability_min=300", name="ae1")
    network = task_of(recipe).build_network().eval()
    found = list(frames(recipe, 2))
    assert [frame.family for frame in found] == [0, 0, 1, 1]
    assert len({frame.number for frame in found}) == 4
    sample = window_sample(found, network, per_image=6)
    assert sample.latent.shape == (24, 16)
    assert sample.patch.shape == (24, 32, 32)
    assert set(sample.family) == {0, 1}
    for number, frame in enumerate(found):
        mine = sample.image == number
        windows = windows_at(torch.from_numpy(np.ascontiguousarray(frame.inner))).numpy()
        rows = frame.inner.shape[1] // 16 - 1
        for patch, content in zip(sample.patch[mine], sample.content[mine], strict=True):
            place = int(np.flatnonzero((windows == patch).all(axis=(1, 2)))[0])
            centre = 16 * np.array(divmod(place, rows)) + 15.5
            inside = np.abs(frame.yx_px - centre).max(axis=1, initial=0) < 16 if len(frame.yx_px) else np.zeros(0, bool)
            if inside.any():
                assert content in frame.kind[inside]
            else:
                assert CONTENTS[content] == "no defect"
    assert len(CONTENTS) == len(DEFECT_CLASSES) + 1


@pytest.mark.parametrize("context", [True, False])
def test_latents_of_a_frame_are_those_of_its_windows(context):
    network = Ae1(8, context=context).eval()
    rng = np.random.default_rng(0)
    frame = frame_of(rng.random((64, 80)))
    found = latents_of(network, frame.image)
    margin = network.margin_px
    y, x = MARGIN_PX + 32, MARGIN_PX + 16
    window = frame.image[y - margin : y + 32 + margin, x - margin : x + 32 + margin]
    with torch.no_grad():
        expected = network.encode(torch.from_numpy(window.copy())[None, None])[0]
    assert found.shape == (3 * 4, 8)
    assert torch.allclose(found[2 * 4 + 1], expected, atol=1e-5)


class Flat(Ae1):
    """Answers 0.5 everywhere."""

    def decode(self, latent):
        return torch.full((len(latent), 1, 32, 32), 0.5)


def test_an_error_map_stands_out_where_the_answer_is_wrong():
    inner = np.full((160, 160), 0.5)
    yx = [(40.0, 50.0), (110.0, 90.0), (20.0, 130.0)]
    y, x = np.indices(inner.shape)
    for row, column in yx:
        inner += 0.4 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 18)
    frame = frame_of(inner, yx)
    network = Flat(4).eval()
    errors = error_map(network, frame)
    assert errors.shape == inner.shape
    assert defect_auc(errors, frame) == 1.0
    assert errors[40, 50] > 0.5 * 0.4**2
    assert errors[80, 20] < 1e-6
    noisy = frame_of(inner + 0.05 * np.random.default_rng(0).normal(size=inner.shape), yx)
    both = error_map(network, noisy, scales=(1, 2))
    assert both.shape == inner.shape
    assert np.isfinite(both).all()
    assert defect_auc(both, noisy) == 1.0
    assert defect_auc(-both, noisy) == 0.0
    many = frame_of(inner, [(y, x) for y in range(10, 160, 28) for x in range(10, 160, 28)])
    assert 0.3 < defect_auc(np.random.default_rng(1).random(inner.shape), many) < 0.7
    assert np.isnan(defect_auc(both, frame_of(inner)))


def test_a_gain_counts_when_it_is_certain():
    rng = np.random.default_rng(0)
    base = rng.random(60)
    better = base + 0.1 + 0.02 * rng.normal(size=60)
    better[3] = np.nan
    mean, low, high = mean_gain(better, base)
    assert mean == pytest.approx(0.1, abs=0.01)
    assert low < mean < high
    assert wins((0.1, 0.05, 0.2), (0.0, -0.1, 0.1))
    assert wins((0.0, -0.1, 0.1), (0.1, 0.05, 0.2))
    assert not wins((0.1, 0.05, 0.2), (-0.1, -0.2, -0.05))
    assert not wins((0.1, -0.05, 0.2), (0.1, -0.1, 0.2))
