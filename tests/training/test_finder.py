"""The finder of defects: what it is taught, what it is told when it is wrong, and how it leaves the training."""

import math

import numpy as np
import onnxruntime as ort
import pytest
import torch

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.surface import FINDER_CHANNELS, PIXEL_UNIT_NM
from spm_training.checkpoint import load_checkpoint
from spm_training.cli import cli
from spm_training.data import Split
from spm_training.fit import _widened
from spm_training.graphs.base import Calibration
from spm_training.graphs.finder import FinderOfDefectsGraph
from spm_training.graphs.onnx_export import deployable, to_onnx
from spm_training.networks.finder import FinderNet, FinderOutput
from spm_training.recipe import load_recipe, recipe_names
from spm_training.run import RunFolder
from spm_training.simulate.surfaces import DEFECT_CLASSES
from spm_training.simulate.surfaces.working import draw_working_surface, in_working_pixels
from spm_training.tasks import task_of
from spm_training.tasks.finder import FinderBatch, FinderCrops, _Surface, _target, finder_loss

SIDE = 48


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def target(*defects, side=SIDE):
    """Maps for defects of ``(y, x, radius, kind, required)``."""
    columns = list(zip(*defects, strict=True)) if defects else [()] * 5
    yx = np.array(columns[:2], float).T.reshape(-1, 2)
    radius, kind, required = np.array(columns[2], float), np.array(columns[3], np.int32), np.array(columns[4], bool)
    return _target(yx, radius, kind, required, side)


def distance(place, side=SIDE):
    y, x = np.mgrid[:side, :side]
    return np.hypot(y - place[0], x - place[1])


# Targets


@pytest.mark.parametrize(("radius", "sigma"), [(1.0, 1.0), (5.0, 1.75), (40.0, 4.0)])
def test_a_peak_is_one_at_the_nearest_pixel_and_as_wide_as_a_third_of_the_radius(radius, sigma):
    maps = target((20.4, 30.6, radius, 3, True), side=64)
    assert maps.presence[20, 31] == 1.0
    assert (maps.presence == 1.0).sum() == 1
    far = distance((20, 31), 64)
    np.testing.assert_allclose(
        maps.presence, np.where(far < 9, np.exp(-0.5 * (far / sigma) ** 2), maps.presence), atol=1e-6
    )
    near = maps.presence > 0.4
    np.testing.assert_allclose(maps.log_radius[near], np.log(radius), rtol=1e-6)
    assert (maps.kind[near] == 3).all()
    np.testing.assert_array_equal(maps.inside == 1, distance((20.4, 30.6), 64) <= max(radius, 2.0))
    assert (maps.weight == 1).all()
    assert (maps.presence.dtype, maps.inside.dtype, maps.kind.dtype) == (np.float32, np.float32, np.int64)


def test_where_peaks_overlap_the_higher_one_tells_radius_and_class():
    maps = target((20, 20, 8.0, 1, True), (20, 26, 4.0, 2, True))
    assert maps.presence[20, 20] == maps.presence[20, 26] == 1.0
    one, two = np.exp(-0.5 * (distance((20, 20)) / 2.8) ** 2), np.exp(-0.5 * (distance((20, 26)) / 1.4) ** 2)
    near = np.maximum(one, two) > 0.4
    np.testing.assert_allclose(maps.presence[near], np.maximum(one, two)[near], rtol=1e-5)
    np.testing.assert_array_equal(maps.kind[near], np.where(one >= two, 1, 2)[near])
    np.testing.assert_allclose(np.exp(maps.log_radius)[near], np.where(one >= two, 8, 4)[near], rtol=1e-5)


def test_what_may_be_found_or_not_is_not_counted_but_at_the_peak_of_another():
    maps = target((20, 20, 5.0, 1, False))
    np.testing.assert_array_equal(maps.weight == 0, distance((20, 20)) <= 5)
    assert not maps.presence.any()
    assert not maps.inside.any()
    both = target((20, 20, 6.0, 1, False), (20, 24, 4.0, 2, True))
    assert both.presence[20, 24] == 1
    assert both.weight[20, 24] == 1
    assert both.weight[20, 15] == 0
    np.testing.assert_array_equal(both.inside == 1, distance((20, 24)) <= 4)


@pytest.mark.parametrize("place", [(-0.4, 10), (10, SIDE - 0.6), (-0.4, -0.4), (SIDE - 0.6, SIDE - 0.6)])
def test_a_centre_on_the_crops_last_pixels_is_asked_for(place):
    maps = target((*place, 4.0, 1, True))
    nearest = np.clip(np.rint(place).astype(int), 0, SIDE - 1)
    assert maps.presence[tuple(nearest)] == 1
    assert (maps.weight == 1).all()


@pytest.mark.parametrize("place", [(-3, 10), (10, -0.6), (SIDE + 2, SIDE + 1), (SIDE - 0.4, 5)])
def test_a_centre_beyond_the_crop_is_not_asked_for_but_its_extent_is(place):
    maps = target((*place, 5.0, 1, True))
    assert not (maps.presence == 1).any()
    within = distance(place) <= 5
    assert within.any()
    np.testing.assert_array_equal(maps.inside == 1, within)
    np.testing.assert_array_equal(maps.weight == 0, within)


@pytest.mark.parametrize("place", [(-300, 10), (10, 500), (-80, -80)])
def test_what_is_far_away_leaves_no_trace(place):
    maps = target((*place, 5.0, 1, True), (*place, 5.0, 1, False))
    assert not maps.presence.any()
    assert not maps.inside.any()
    assert (maps.weight == 1).all()


def test_an_empty_crop_is_silent():
    maps = target()
    assert not maps.presence.any()
    assert (maps.weight == 1).all()


# Crops


def painted(side, count, *, pixel_nm=0.1, seed=0):
    """A surface whose image says what the truth is: 1 at the centres, the class beside it, steps where it is negative."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation((side // 8) ** 2)[:count]
    yx = np.stack(np.divmod(cells, side // 8), axis=1) * 8.0 + rng.integers(1, 7, (count, 2))
    kind = rng.integers(1, 9, count).astype(np.int32)
    maps = np.zeros((2, side, side), np.float16)
    steps = rng.random((side, side)) < 0.1
    steps[yx[:, 0].astype(int), yx[:, 1].astype(int)] = False
    maps[0][steps] = -1
    maps[0, yx[:, 0].astype(int), yx[:, 1].astype(int)] = 1
    maps[1, yx[:, 0].astype(int), yx[:, 1].astype(int)] = kind
    return _Surface(maps, 0.7, steps, yx, np.full(count, 2.0), kind, np.ones(count, bool), pixel_nm)


def crops_of(recipe, split, surface):
    crops = FinderCrops(recipe, split)
    crops._cached = lambda *_: surface
    return crops


def batch_of(*samples):
    return FinderBatch(*(torch.stack(parts) for parts in zip(*samples, strict=True)))


def test_crops_and_their_truth_are_mirrored_together(tiny):
    """Whatever is cut and mirrored, the truth lies on what the image shows, at the border of the surface too."""
    recipe = tiny(name="defects")
    crops = crops_of(recipe, Split.TRAIN, painted(64, 40))
    seen, corners = 0, []
    for index in range(40):
        sample = batch_of(crops[0, index])
        image, peaks = sample.image[0], sample.presence[0, 0] == 1
        assert torch.equal(peaks, image[0] == 1)
        assert torch.equal(sample.kind[0][peaks], image[1][peaks].long())
        assert torch.equal(sample.step[0, 0] == 1, image[0] == -1)
        assert all((part.shape[-2:] == (32, 32)) for part in sample[:-1])
        seen += int(peaks.sum())
        corners.append(image[0].numpy().tobytes())
    assert seen > 200
    assert len(set(corners)) > 30  # those at a corner of the surface may be equal


def test_all_four_mirror_images_are_shown(tiny):
    recipe = tiny("surfaces.image_px=64", "data.crop_px=64", name="defects")
    surface = painted(64, 20)
    crops = crops_of(recipe, Split.TRAIN, surface)
    whole = surface.maps[0].astype(np.float32)
    names = {np.flip(whole, axes).tobytes(): axes for axes in ((), (0,), (1,), (0, 1))}
    shown = [crops[0, index][0][0].numpy().tobytes() for index in range(40)]
    # Rows and columns are never exchanged: the scan's lines stay lines.
    assert {names[one] for one in shown} == {(), (0,), (1,), (0, 1)}


def test_borders_of_the_surface_are_shown_often(tiny):
    recipe = tiny("surfaces.image_px=128", name="defects")
    rows = np.broadcast_to(np.arange(128, dtype=np.float16)[:, None], (2, 128, 128))
    surface = painted(128, 0)._replace(maps=rows)
    crops = crops_of(recipe, Split.TRAIN, surface)
    images = [crops[0, index][0][0] for index in range(200)]
    at_border = np.mean([bool(((image == 0) | (image == 127)).any()) for image in images])
    assert 0.12 < at_border < 0.35


def test_a_training_image_is_now_and_then_without_calibration_and_a_validation_image_never(tiny):
    recipe, surface = tiny(name="defects"), painted(64, 5)
    number = np.float32(np.log(0.1 / PIXEL_UNIT_NM))
    for split, least, most in ((Split.TRAIN, 0.03, 0.2), (Split.VALIDATION, 0, 0)):
        crops = crops_of(recipe, split, surface)
        numbers = np.array([[float(c[0, 0]) for c in crops[0, i][0][2:]] for i in range(200)])
        assert set(np.unique(numbers[:, 0])) <= {0.0, float(np.float32(0.7))}
        assert set(np.unique(numbers[:, 1])) <= {0.0, float(number)}
        unknown = (numbers == 0).mean(axis=0)
        assert (unknown >= least).all()
        assert (unknown <= most).all()


def test_channels_are_those_of_the_recipe(tiny):
    recipe = tiny('network.channels=["coarse","fine"]', name="defects")
    image = crops_of(recipe, Split.VALIDATION, painted(64, 20))[0, 0][0]
    assert image.shape == (2, 32, 32)
    assert image[1].max() == 1
    assert task_of(recipe).input_shape == (2, 32, 32)
    with pytest.raises(ParameterError, match=r"network.*channels"):
        tiny('network.channels=["fine","colour"]', name="defects")
    with pytest.raises(ParameterError, match=r"image_px 64 is below 80"):
        tiny("data.crop_px=80", name="defects")


def test_a_key_gives_the_same_sample_and_the_pool_comes_again(tiny):
    recipe = tiny('surfaces.families=["cu100"]', "data.pool=12", name="defects")
    first, again = (FinderCrops(recipe, Split.TRAIN) for _ in range(2))
    calls = []
    simulate = first._cached
    first._cached = lambda *words: calls.append(words) or simulate(*words)
    one = first[0, 3]
    for a, b in zip(one, again[0, 3], strict=True):
        assert torch.equal(a, b)
    first[1, 3]  # 3 steps of 4 images: the whole pool in an epoch
    first[0, 4]
    assert calls[0] == calls[1]
    assert calls[0] != calls[2]
    validation = FinderCrops(recipe, Split.VALIDATION)
    assert not torch.equal(one[0], validation[0, 3][0])


def test_a_simulated_surface_has_its_truth_in_working_pixels():
    """The image of a pit or a hill that stands out is at its place: truth and image agree to a pixel."""
    near = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        scene, surface = draw_working_surface(rng, 96, families=("cu100",), detectability=(300.0, 420.0), defects=True)
        assert surface.heights.shape == (96, 96)
        assert surface.pixel_size_nm >= 0.08
        yx = in_working_pixels(scene.defects.yx_px, surface)
        back = (yx + 0.5) / surface.factor - 0.5
        np.testing.assert_allclose(back, scene.defects.yx_px, atol=1e-9)
        edge = np.array(scene.steps.shape) - 0.5
        np.testing.assert_allclose(in_working_pixels(edge[None], surface), [[95.5, 95.5]], atol=1e-9)
        near.append(surface.pixel_size_nm)
    assert len(set(near)) > 1


# The loss


def perfect(batch, sure=20.0):
    """What a network that knows the truth says."""

    def logit(wanted):
        return torch.where(wanted, sure, -sure)

    kind = sure * torch.nn.functional.one_hot(batch.kind, len(DEFECT_CLASSES)).permute(0, 3, 1, 2).float()
    return FinderOutput(
        logit(batch.presence == 1), logit(batch.inside == 1), logit(batch.step == 1), batch.log_radius.clone(), kind
    )


@pytest.fixture
def batch(tiny):
    crops = crops_of(tiny(name="defects"), Split.VALIDATION, painted(64, 30))
    return batch_of(*(crops[0, index] for index in range(3)))


def test_a_perfect_answer_costs_nothing_and_scores_one(tiny, batch):
    terms = finder_loss(perfect(batch), batch)
    assert set(terms) == {"loss", "presence", "inside", "step", "radius", "kind"}
    assert all(float(value) < 1e-5 for value in terms.values())
    task = task_of(tiny(name="defects"))
    figures = task.validation_metrics(task.validation_sums(perfect(batch), batch))
    for name in ("f1", "precision", "recall", "kind_accuracy"):
        assert figures[name] == 1.0


def test_terms_by_hand(batch):
    """The focal loss of Zhou et al. at p = 1/4 everywhere, and the others where all logits are 0."""
    flat = torch.zeros_like(batch.presence)
    kinds = torch.zeros(len(batch.image), len(DEFECT_CLASSES), *batch.image.shape[2:])
    output = FinderOutput(flat - math.log(3), flat, flat, batch.log_radius + 0.25, kinds)
    terms = {name: float(value) for name, value in finder_loss(output, batch).items()}
    y, weight = batch.presence.double().numpy(), batch.weight.double().numpy()
    peaks = y == 1
    found = -((1 - 0.25) ** 2) * np.log(0.25) * peaks.sum()
    silent = -(0.25**2) * np.log(0.75) * ((1 - y) ** 4 * weight)[~peaks].sum()
    assert terms["presence"] == pytest.approx((found + silent) / 3 / 3.0, rel=1e-5)
    assert terms["step"] == pytest.approx(math.log(2), rel=1e-5)
    counted = np.maximum(weight, batch.inside.numpy())
    assert terms["inside"] == pytest.approx(math.log(2) * counted.mean(), rel=1e-5)
    assert terms["radius"] == pytest.approx(0.25, rel=1e-4)
    assert terms["kind"] == pytest.approx(math.log(len(DEFECT_CLASSES)), rel=1e-5)
    total = terms["presence"] + 2 * terms["inside"] + 2 * terms["step"] + 0.5 * terms["radius"] + terms["kind"]
    assert terms["loss"] == pytest.approx(total, rel=1e-5)


def test_what_is_optional_is_neither_a_mistake_nor_a_false_positive(tiny):
    surface = painted(64, 30)
    required = np.arange(30) % 2 == 0
    crops = crops_of(tiny(name="defects"), Split.VALIDATION, surface._replace(required=required))
    batch = batch_of(*(crops[0, index] for index in range(2)))
    optional = batch.weight == 0
    assert optional.any()
    output = perfect(batch)
    also = output._replace(
        presence=torch.where(batch.image[:, :1] == 1, 20.0, output.presence),
        inside=torch.where(optional, 20.0, output.inside),
    )
    assert (also.presence > 0).sum() > (output.presence > 0).sum()
    assert float(finder_loss(also, batch)["loss"]) < 1e-5
    task = task_of(tiny(name="defects"))
    assert task.validation_metrics(task.validation_sums(also, batch))["precision"] == 1.0
    blind = output._replace(presence=torch.full_like(output.presence, -20.0))
    assert task.validation_metrics(task.validation_sums(blind, batch))["recall"] == 0.0


def test_an_image_without_defects_teaches_silence(tiny):
    crops = crops_of(tiny(name="defects"), Split.VALIDATION, painted(64, 0))
    batch = batch_of(crops[0, 0])
    output = perfect(batch)
    assert float(finder_loss(output, batch)["loss"]) < 1e-5
    loud = output._replace(presence=torch.full_like(output.presence, 3.0).requires_grad_())
    terms = finder_loss(loud, batch)
    assert float(terms["radius"]) == float(terms["kind"]) == 0
    terms["loss"].backward()
    assert (loud.presence.grad > 0).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_are_finite_and_a_few_steps_help(batch, precision):
    network = FinderNet(4, 2, channels_in=4)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = network(batch.image)
        assert all(part.dtype == torch.float32 for part in output)
        loss = finder_loss(output, batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_logits_of_any_size_keep_loss_and_gradients_finite(batch):
    for size in (1e3, -1e3):
        parts = [torch.full_like(part, size).requires_grad_() for part in perfect(batch)]
        loss = finder_loss(FinderOutput(*parts), batch)["loss"]
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(part.grad).all() for part in parts)


# The network and its graph


def test_the_network_is_as_large_as_it_says():
    network = FinderNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_947_773
    assert network.stride == 16
    assert network.kinds == len(DEFECT_CLASSES) == 9
    recipe = load_recipe("defects")
    assert sum(p.numel() for p in task_of(recipe).build_network().parameters()) == 1_947_773


def test_a_fresh_network_expects_little_and_radii_are_bounded():
    network = FinderNet(4, 2).eval()
    with torch.no_grad():
        output = network(torch.randn(2, 4, 16, 20))
        assert output.presence.shape == output.log_radius.shape == (2, 1, 16, 20)
        assert output.kind.shape == (2, 9, 16, 20)
        assert float(output.presence.sigmoid().mean()) < 0.1
        wild = network(1e4 * torch.randn(1, 4, 16, 16)).log_radius
    assert 0 <= float(wild.min()) <= float(wild.max()) <= 5


def test_a_pixel_beyond_the_halo_has_no_say():
    network = FinderNet(2, 2).eval()
    side, halo = 96, network.halo_px
    assert 0 < halo < 40
    image = torch.randn(1, 4, side, side)
    other = image.clone()
    other[..., : 48 - halo] += torch.randn(1, 4, side, 48 - halo)
    with torch.no_grad():
        one, two = (FinderOfDefectsGraph(network, DEFECT_CLASSES, FINDER_CHANNELS)(x) for x in (image, other))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a[..., 48:], b[..., 48:])
        assert not torch.equal(a[..., : 48 - halo], b[..., : 48 - halo])


def test_the_exported_graph_equals_torch():
    network = FinderNet(4, 2)
    for _ in range(3):
        network(2 * torch.randn(2, 4, 16, 16) + 0.5)  # batch norms that matter
    network = deployable(network.eval())
    graph = FinderOfDefectsGraph(network, DEFECT_CLASSES, FINDER_CHANNELS)
    graph.calibrate(Calibration((0.0, 0.02, 1.0), (0.0, 0.4, 0.9)))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    data = to_onnx(graph, identity="test@1")
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_outputs()] == ["presence", "inside", "step", "radius_px", "kind"]
    for shape in ((1, 4, 4, 8), (2, 4, 24, 12)):
        image = torch.randn(shape)
        with torch.no_grad():
            expected, raw = graph.named(image), network(image)
        found = session.run(None, {"image": image.numpy()})
        for spec, value in zip(graph.OUTPUTS, found, strict=True):
            assert value.dtype == np.float32
            assert value.shape == (shape[0], len(spec.channels), *shape[2:])
            np.testing.assert_allclose(value, expected[spec.id], rtol=1e-4, atol=1e-5)
        probability = np.interp(raw.presence.sigmoid().numpy(), (0.0, 0.02, 1.0), (0.0, 0.4, 0.9))
        np.testing.assert_allclose(found[0], probability, atol=1e-4)
        np.testing.assert_allclose(found[4].sum(axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(found[3], raw.log_radius.exp(), rtol=1e-4)


# Further input channels


def test_a_widened_network_says_the_same_whatever_the_new_channels_hold():
    narrow, wide = FinderNet(4, 2, channels_in=2).eval(), FinderNet(4, 2, channels_in=4).eval()
    wide.load_state_dict(_widened(narrow.state_dict(), wide.state_dict()))
    image = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        for a, b in zip(narrow(image[:, :2]), wide(image), strict=True):
            torch.testing.assert_close(a, b)


def test_widening_changes_no_equal_network_and_makes_no_other_one_fit():
    state = FinderNet(4, 2).state_dict()
    assert all(tensor is state[name] for name, tensor in _widened(state, state).items())
    for other in (FinderNet(8, 2), FinderNet(4, 3), FinderNet(4, 2, kinds=5), FinderNet(4, 2, channels_in=3)):
        with pytest.raises(RuntimeError, match="Error"):
            other.load_state_dict(_widened(state, other.state_dict()))


# From recipe to run


def test_the_recipe_is_listed():
    assert "defects" in recipe_names()
    recipe = load_recipe("defects")
    assert recipe.network.channels == FINDER_CHANNELS
    assert recipe.card.modalities == ("stm",)


def test_a_smoke_training_through_the_command_line_and_one_that_begins_with_fewer_channels(tmp_path):
    from click.testing import CliRunner

    words = ["--smoke", "--device", "cpu", "--set", "training.threads=1", "--set", 'surfaces.families=["cu100"]']
    words += ["--set", "training.epochs=1", "--set", "data.steps_per_epoch=1"]
    narrow = [*words, "--set", 'network.channels=["fine","coarse"]']
    done = CliRunner().invoke(cli, ["fit", "defects", *narrow, "--out", str(tmp_path / "narrow")])
    assert done.exit_code == 0, done.output
    assert "epoch 1/1" in done.output
    row = RunFolder(tmp_path / "narrow").metrics()[0]
    assert {"val_f1", "val_precision", "val_recall", "val_kind_accuracy", "val_step", "train_presence"} <= row.keys()
    assert all(math.isfinite(value) for value in row.values())
    still = ["--set", "optimiser.lr=1e-12", "--set", "optimiser.weight_decay=0", "--from", str(tmp_path / "narrow")]
    done = CliRunner().invoke(cli, ["fit", "defects", *words, *still, "--out", str(tmp_path / "wide")])
    assert done.exit_code == 0, done.output
    before, after = (load_checkpoint(tmp_path / name / "best.pt")["weights"] for name in ("narrow", "wide"))
    first = next(iter(before))
    assert (before[first].shape[1], after[first].shape[1]) == (2, 4)
    torch.testing.assert_close(after[first][:, :2], before[first], atol=1e-8, rtol=0)
    assert float(after[first][:, 2:].abs().max()) < 1e-8
