"""Images and patches of lattices as the networks that denoise see them, and their training in short."""

import numpy as np
import pytest
import torch

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_runtime.pipelines.fourier_wiener import fourier_wiener
from spm_training.data import Split, rng_for
from spm_training.fit import fit
from spm_training.loading import train_loader
from spm_training.networks.cae import CaeTwin, PatchDenoiser, divergence
from spm_training.networks.denoiser import DenoiserNet
from spm_training.options import LatticeImageOptions
from spm_training.recipe import load_recipe, read_recipe, to_toml
from spm_training.run import RunFolder
from spm_training.simulate import lattice_pairs
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, Noise
from spm_training.tasks import lattice_images as module
from spm_training.tasks import task_of
from spm_training.tasks.lattice_images import (
    CropBatch,
    LatticeCrops,
    LatticePatches,
    drawn_by,
    image_number,
    lattice_image,
    patch_corners,
    turned,
)


def options_of(**values):
    return LatticeImageOptions(**({"image_px": 96} | values))


def image_of(seed, split, number, options):
    recipe = load_recipe("denoise", smoke=True).model_copy(update={"lattices": options})
    return lattice_image(seed, split, number, **drawn_by(recipe))


def recipe_of(name, *overrides):
    return load_recipe(name, smoke=True, overrides=overrides)


class TestImages:
    def test_lattices_take_turns_and_one_can_be_left_out(self):
        assert [image_of(0, 0, n, options_of()).lattice for n in range(6)] == [0, 1, 2, 3, 4, 0]
        four = options_of(names=("cubic", "bcc", "hexagonal-1", "hexagonal-2"))
        assert [image_of(0, 0, n, four).lattice for n in range(5)] == [0, 1, 3, 4, 0]

    def test_an_image_repeats_and_splits_share_none(self):
        one, again, other = (image_of(0, split, 3, options_of()) for split in (0, 0, 1))
        np.testing.assert_array_equal(one.image, again.image)
        assert np.abs(one.image - other.image).max() > 0.1

    @pytest.mark.parametrize("number", range(5))
    def test_image_and_clean_are_on_one_scale_and_without_noise_the_same(self, number):
        still = options_of(thermal=(0, 0), shot=(0, 0), striation=(0, 0))
        quiet = image_of(0, 0, number, still)
        np.testing.assert_array_equal(quiet.image, quiet.clean)
        assert 0.9 < np.percentile(quiet.image, 99) - np.percentile(quiet.image, 1) < 1.3
        white = options_of(thermal=(0.2, 0.2), shot=(0, 0), striation=(0, 0))
        noisy = image_of(0, 0, number, white)
        noise = (noisy.image.astype(np.float64) - noisy.clean).std() / noisy.height
        assert noise == pytest.approx(0.2, rel=0.03)  # in heights of an atom in the plane

    def test_other_surfaces_have_their_share(self):
        half = [image_of(0, 0, number, options_of(image_px=64, surfaces_share=0.5)) for number in range(60)]
        others = [one for one in half if one.lattice == -1]
        assert 15 < len(others) < 45
        assert {one.lattice for one in half} == {-1, 0, 1, 2, 3, 4}
        for one in others:
            assert (one.height, len(one.yx_px)) == (1, 0)
            assert 0 < np.abs(one.image - one.clean).std() < 1
            assert np.abs(one.clean).max() < 4

    def test_upside_down_is_the_same_image_otherwise(self):
        still = {"thermal": (0, 0), "shot": (0, 0), "striation": (0, 0)}
        up, down = (image_of(0, 0, 3, options_of(inverted_share=share, **still)) for share in (0, 1))
        np.testing.assert_allclose(down.image.astype(float), -up.image.astype(float), atol=2e-3)
        np.testing.assert_array_equal(down.yx_px, up.yx_px)

    @pytest.mark.parametrize("name", ["thermal", "shot", "striation"])
    def test_the_shipped_noise_holds_that_of_the_tables(self, name):
        low, high = getattr(load_recipe("denoise").lattices, name)
        assert all(low < getattr(level, name) < high for level in NOISE_LEVELS.values())

    def test_spread_noise_and_defects_are_drawn_in_their_ranges(self, monkeypatch):
        seen = []
        simulate = lattice_pairs.simulate_lattice
        monkeypatch.setattr(
            lattice_pairs, "simulate_lattice", lambda *a, **k: seen.append((a[1], k)) or simulate(*a, **k)
        )
        options = options_of(image_px=32, spread_factor=(0.6, 2.0), vacancies_max=0.04, adatoms_max=0.02)
        for number in range(200):
            image_of(0, 0, number, options)
        factors = np.array([k["spread_px"] / LATTICES[name].spread_px for name, k in seen])
        thermal = np.array([k["noise"].thermal for _, k in seen])
        assert 0.6 <= factors.min() < 0.65 < 1.9 < factors.max() <= 2.0
        assert np.log(thermal).mean() == pytest.approx(np.log(np.array(options.thermal)).mean(), abs=0.2)
        assert 0 <= min(k["vacancies"] for _, k in seen) <= max(k["vacancies"] for _, k in seen) <= 0.04
        assert max(k["adatoms"] for _, k in seen) <= 0.02
        assert isinstance(seen[0][1]["noise"], Noise)

    @pytest.mark.parametrize(
        ("word", "match"),
        [
            ('lattices.names=["diamond"]', r"unknown lattices \['diamond'\]"),
            ("lattices.thermal=[0.3, 0.1]", r"thermal 0.3 to 0.1; expected an ascending range"),
            ("lattices.spread_factor=[0, 0]", r"spread_factor 0 to 0"),
            ('lattices.leave_out=["diamond"]', r"leave_out \['diamond'\]; expected some of \['cubic'"),
            ('lattices.leave_out=["cubic", "bcc", "fcc", "hexagonal-1", "hexagonal-2"]', "no lattice is left"),
            ("data.crop_px=128", r"lattices.image_px 96 is below data.crop_px 128"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, word, match):
        with pytest.raises(ParameterError, match=match):
            recipe_of("denoise", word)

    def test_patches_are_cut_from_lattices(self):
        with pytest.raises(ParameterError, match=r"surfaces_share: patches are cut from lattices only"):
            recipe_of("cae-b", "lattices.surfaces_share=0.1")

    def test_a_run_keeps_the_recipe(self, tmp_path):
        recipe = recipe_of("cae-twin", 'lattices.names=["fcc"]', "lattices.target=noisy")
        (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
        assert read_recipe(tmp_path / "recipe.toml") == recipe


class TestCrops:
    def test_a_crop_is_part_of_its_image_mirrored_at_most(self):
        recipe = recipe_of("denoise")
        image, clean, height, beside = LatticeCrops(recipe, Split.TRAIN, (16, 32))[1, 1]
        number = (recipe.data.steps_per_epoch * recipe.data.batch + 1) % recipe.data.pool
        whole = lattice_image(recipe.training.seed, 0, number, **drawn_by(recipe))
        assert height == pytest.approx(whole.height)
        found = 0
        for axes in ((), (0,), (1,), (0, 1)):
            windows = np.lib.stride_tricks.sliding_window_view(np.flip(whole.image, axes), (64, 64))
            y, x = np.nonzero(windows[:, :, 0, 0] == image[0, 0, 0].numpy())
            for place in zip(y, x, strict=True):
                if np.array_equal(windows[place], image[0].numpy()):
                    cleans = np.lib.stride_tricks.sliding_window_view(np.flip(whole.clean, axes), (64, 64))
                    np.testing.assert_array_equal(cleans[place], clean[0].numpy())
                    for one, side in zip(beside.numpy(), (16, 32), strict=True):
                        filtered = np.flip(fourier_wiener(whole.image.astype(np.float32), side), axes)
                        windows_too = np.lib.stride_tricks.sliding_window_view(filtered, (64, 64))
                        np.testing.assert_allclose(windows_too[place], one, atol=2e-3)
                    found += 1
        assert found == 1

    def test_images_without_a_lattice_are_those_of_all_and_of_the_same_cache(self, monkeypatch):
        """Other arguments would mean other files, and hours of simulating."""
        asked = []
        all_of_them, without = (
            recipe_of("denoise"),
            recipe_of("denoise", 'lattices.leave_out=["bcc", "fcc"]', "data.pool=3"),
        )
        assert drawn_by(without) == drawn_by(all_of_them)
        monkeypatch.setattr(
            module, "lattice_image", lambda *key, **drawn: asked.append(key) or image_of(*key, options_of())
        )
        for split, expected in ((Split.TRAIN, [0, 3, 4, 0, 3]), (Split.VALIDATION, [0, 3, 4, 5, 8])):
            crops = LatticeCrops(without, split)
            asked.clear()
            for index in range(5):
                crops[0, index]
            assert [number for _, _, number in asked] == expected
        patches = LatticePatches(recipe_of("cae-a", 'lattices.leave_out=["cubic"]', "data.pool=5"), Split.TRAIN, 17)
        assert patches.pool.lattice.tolist() == [1, 2, 3, 4, 1]

    def test_every_number_is_itself_where_nothing_is_left_out(self):
        assert [image_number(options_of(), n) for n in range(12)] == list(range(12))
        assert options_of(leave_out=("fcc",)).taught == tuple(name for name in LATTICES if name != "fcc")

    def test_validation_images_are_never_repeated(self):
        crops = LatticeCrops(recipe_of("denoise"), Split.VALIDATION)
        assert not torch.equal(crops[0, 0][0], crops[0, 4][0])


class TestPatches:
    def test_patches_are_those_of_the_printed_grid(self):
        rng = np.random.default_rng(0)
        every = patch_corners(rng, 3600, 256, 17)
        assert len(np.unique(every, axis=0)) == 3600
        assert (every % 4 == 0).all()
        assert every.max() == 236
        assert len(patch_corners(rng, 3721, 256, 16)) == 3721
        assert (patch_corners(rng, 3000, 256, 17) % 4 == 0).all()
        more = patch_corners(rng, 4900, 256, 17)
        assert len(np.unique(more, axis=0)) == 4900
        assert (more % 4).any()
        assert more.max() <= 239

    def test_a_round_shows_every_patch_once(self):
        recipe = recipe_of("cae-a", "data.pool=2", "lattices.patches=60", "data.batch=30", "data.steps_per_epoch=2")
        patches = LatticePatches(recipe, Split.TRAIN, 17)
        rounds = [
            [patches._patch(epoch, index) for epoch in (turn, turn + 1) for index in range(60)] for turn in (0, 2)
        ]
        assert all(sorted(one) == list(range(120)) for one in rounds)
        assert rounds[0] != rounds[1]

    def test_a_batch_at_once_is_its_samples(self):
        patches = LatticePatches(recipe_of("cae-twin"), Split.TRAIN, 17)
        keys = [(1, 5), (1, 100), (1, 6)]
        batch = patches.__getitems__(keys)
        for number, key in enumerate(keys):
            for one, many in zip(patches[key], batch, strict=True):
                assert torch.equal(one, many[number])

    @pytest.mark.parametrize("turn", range(8))
    def test_symmetries_move_the_offset_with_the_picture(self, turn):
        y, x = np.mgrid[-8:9, -8:9]
        offset = np.array([[3.0, -5.0]], np.float32)
        picture = np.exp(-((y - offset[0, 0]) ** 2 + (x - offset[0, 1]) ** 2)).astype(np.float32)
        maps, moved = turned(picture[None, None], offset, np.array([turn]))
        peak = np.array(np.unravel_index(maps[0, 0].argmax(), (17, 17))) - 8
        np.testing.assert_array_equal(peak, moved[0])

    def test_all_symmetries_differ(self):
        picture = np.random.default_rng(0).random((1, 1, 5, 5)).astype(np.float32).repeat(8, axis=0)
        maps, _ = turned(picture, np.zeros((8, 2), np.float32), np.arange(8))
        assert len({one.tobytes() for one in maps}) == 8

    @pytest.mark.parametrize("split", [Split.TRAIN, Split.VALIDATION])
    def test_the_centred_patch_has_an_atom_in_its_middle(self, split):
        """A vacancy is no atom; the nearest atom may lie outside the patch."""
        words = ('lattices.names=["hexagonal-1"]', "lattices.vacancies_max=0.2", "lattices.image_px=128")
        quiet = ("lattices.thermal=[0,0]", "lattices.shot=[0,0]", "lattices.striation=[0,0]")
        patches = LatticePatches(recipe_of("cae-twin", *words, *quiet), split, 17)
        batch = patches.__getitems__([(0, i) for i in range(100)])
        inner = (batch.offset_yx_px.abs() < 8).all(dim=1)
        assert inner.float().mean() > 0.8
        centred = batch.centred[:, 0]
        # By the definition, with another interpolation: a patch centred on a pixel needs none.
        moved = torch.nn.functional.grid_sample(
            batch.clean,
            _grid(batch.offset_yx_px),
            mode="bicubic",
            align_corners=True,
        )[:, 0]
        middle = slice(6, 11)
        seen = (batch.offset_yx_px.abs() < 4).all(dim=1)
        error = (moved - centred)[seen][:, middle, middle].abs().max()
        assert error < 0.03
        # The middle is higher than its surroundings on average: an atom stands there.
        ring = centred[:, 8, [4, 12]].mean() / 2 + centred[:, [4, 12], 8].mean() / 2
        assert centred[:, 8, 8].mean() > ring + 0.2

    def test_pools_of_two_data_sets_are_the_same(self):
        recipe = recipe_of("cae-b")
        one, other = (LatticePatches(recipe, Split.VALIDATION, 16)[0, 7] for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    def test_the_loader_takes_batches_at_once(self):
        task = task_of(recipe_of("cae-a"))
        loader, sampler = train_loader(task)
        sampler.epoch = 1
        batch = next(iter(loader))
        dataset = task.dataset(Split.TRAIN)
        single = task.collate([dataset[1, index] for index in range(32)])
        assert all(torch.equal(a, b) for a, b in zip(batch, single, strict=True))


def _grid(offset):
    """Sampling places of patches of 17 × 17 moved by an offset, as `grid_sample` takes them."""
    y, x = torch.meshgrid(torch.arange(-8.0, 9), torch.arange(-8.0, 9), indexing="ij")
    return torch.stack([x + offset[:, 1, None, None], y + offset[:, 0, None, None]], dim=-1) / 8


class TestNetworks:
    @pytest.mark.parametrize("windows_px", [(), (16, 32)])
    def test_a_fresh_denoiser_changes_nothing(self, windows_px):
        image = torch.randn(2, 1 + len(windows_px), 32, 48)
        with torch.no_grad():
            for fold in (1, 2):
                network = DenoiserNet(4, 2, fold_px=fold, windows_px=windows_px).eval()
                assert torch.equal(network(image), image[:, :1])

    @pytest.mark.parametrize("fold", [1, 2])
    def test_beyond_the_halo_nothing_is_seen(self, fold):
        torch.manual_seed(0)
        network = DenoiserNet(4, 2, fold_px=fold).eval()
        torch.nn.init.normal_(network.head.weight)
        side = 4 * network.stride * (network.halo_px // network.stride + 2)
        image = torch.randn(1, 1, side, side)
        with torch.no_grad():
            whole, part = network(image), network(image[..., network.stride :, :])
        far = slice(network.stride + network.halo_px, None)
        torch.testing.assert_close(whole[..., far, :], part[..., network.halo_px :, :], rtol=1e-4, atol=1e-4)

    def test_two_decoders_share_an_encoder(self):
        network = PatchDenoiser(CaeTwin()).eval()
        found = network(torch.randn(3, 1, 17, 17))
        assert [tuple(one.shape) for one in found] == [(3, 1, 17, 17), (3, 10), (3, 1, 17, 17), (3, 2)]
        found.offset_yx_px.sum().backward()
        assert network.network.encoder[0].weight.grad.abs().sum() > 0
        assert network.network.decoder[0].weight.grad is None

    def test_the_range_of_a_network_is_that_of_a_view(self):
        """An image with white noise, extremes and all, lies in the range of the network but for a few pixels."""
        noisy = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
        patch = torch.from_numpy(denoise_view(noisy).image)[None, None]
        for name in ("cae-a", "cae-b"):
            network = task_of(recipe_of(name)).build_network()
            low, high = network.network.RANGE
            seen = patch * network.gain + network.middle
            assert ((seen < low) | (seen > high)).float().mean() < 1e-3
            assert seen.max() - seen.min() > 0.8 * (high - low)


@pytest.mark.parametrize("name", ["denoise", "cae-a", "cae-b", "cae-twin", "cae-vae"])
def test_networks_learn(name, tmp_path):
    """A few steps make the loss smaller than that of the start."""
    words = {"denoise": ("data.steps_per_epoch=10", "training.ema_decay=0", "network.base_width=8")}
    words |= dict.fromkeys(("cae-a", "cae-b", "cae-twin", "cae-vae"), ("data.steps_per_epoch=40", "optimiser.lr=3e-3"))
    recipe = recipe_of(name, "training.epochs=4", "training.threads=1", *words[name])
    run = RunFolder(tmp_path / "run")
    fit(recipe, run, device="cpu", report=lambda _: None)
    rows = run.metrics()
    assert rows[-1]["train_loss"] < 0.9 * rows[0]["train_loss"]
    for figure in task_of(recipe).shown:
        assert f"val_{figure}" in rows[-1]


def test_figures_are_those_of_atoms_of_height_one():
    """White noise of 0.1 atoms is a PSNR of 20 dB, whatever the view made of it; SSIM is that of scikit-image."""
    from skimage.metrics import structural_similarity

    words = ("lattices.thermal=[0.1,0.1]", "lattices.shot=[0,0]", "lattices.striation=[0,0]", "data.crop_px=96")
    words = (*words, "lattices.surfaces_share=0")
    task = task_of(recipe_of("denoise", *words))
    batch = task.collate([task.dataset(Split.VALIDATION)[0, i] for i in range(5)])
    found = task.validation_metrics(task.validation_sums(batch.image, batch))
    assert found["psnr"] == pytest.approx(20, abs=0.1)
    assert found["gain"] == 0
    expected = []
    for image, clean, height in zip(batch.image, batch.clean, batch.height, strict=True):
        pair = [(one[0].double().numpy() - clean.min().item()) / height.item() for one in (clean, image)]
        expected.append(
            structural_similarity(*pair, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        )
    assert found["ssim"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_errors_count_in_units_of_the_noise():
    """An answer that leaves a tenth of the noise costs the same at any noise, but for the floor."""
    losses = []
    for noise in (0.03, 0.3):
        quiet = ("lattices.shot=[0,0]", "lattices.striation=[0,0]", "lattices.surfaces_share=0")
        words = (f"lattices.thermal=[{noise},{noise}]", *quiet)
        task = task_of(recipe_of("denoise", "loss.relative_floor=1e-4", "loss.irregular_weight=0", *words))
        batch = task.collate([task.dataset(Split.VALIDATION)[0, i] for i in range(3)])
        terms = task.loss(batch.clean + 0.1 * (batch.image - batch.clean), batch)
        losses.append(float(terms["loss"]))
        assert terms["squares"] < terms["loss"]
    assert losses == pytest.approx([0.01, 0.01], rel=1e-3)


def test_pixels_count_more_where_the_filter_is_wrong():
    """An error counts sixteenfold where the filtered image is an atom's height or more off the truth, once where it is right."""
    task = task_of(recipe_of("denoise", "loss.relative_floor=0", "loss.irregular_weight=15"))
    clean = torch.zeros(1, 1, 4, 4)
    beside = torch.zeros(1, 1, 4, 4)
    beside[..., 0, :] = torch.tensor([0.0, 1.0, 2.0, 6.0])
    batch = CropBatch(clean.clone(), clean, torch.tensor([2.0]), beside)
    for column, expected in enumerate((1, 1 + 15 / 4, 16, 16)):
        answer = clean.clone()
        answer[..., 0, column] = 1.0
        assert task.loss(answer, batch)["loss"] == pytest.approx(expected / 16)
    with pytest.raises(ParameterError, match=r"irregular_weight needs the filtered images"):
        recipe_of("denoise", "network.windows_px=[]")


def test_the_divergence_is_that_of_torch_and_counts_per_pixel():
    mean, log_variance = torch.randn(2, 50, 10)
    normal = torch.distributions.Normal(torch.zeros(10), torch.ones(10))
    drawn = torch.distributions.Normal(mean, (log_variance / 2).exp())
    torch.testing.assert_close(divergence(mean, log_variance), torch.distributions.kl_divergence(drawn, normal))
    task = task_of(recipe_of("cae-vae", "loss.kl_weight=0.5"))
    batch = task.collate([task.dataset(Split.VALIDATION)[0, i] for i in range(6)])
    with torch.no_grad():
        output = task.build_network().eval()(batch.image)
    terms = task.loss(output, batch)
    kl = divergence(output.latent, output.log_variance).sum() / 6
    assert terms["kl"] == pytest.approx(float(kl))
    assert terms["loss"] == pytest.approx(float(terms["squares"] + 0.5 * kl / 17**2))
    assert task.validation_metrics(task.validation_sums(output, batch))["kl"] == pytest.approx(float(kl))


def test_the_noisy_image_is_a_target_too():
    for name in ("denoise", "cae-a"):
        plain = ("loss.relative_floor=0", "loss.irregular_weight=0")
        task = task_of(recipe_of(name, "lattices.target=noisy", *plain))
        batch = task.collate([task.dataset(Split.VALIDATION)[0, i] for i in range(2)])
        network = task.build_network().eval()
        with torch.no_grad():
            output = network(task.inputs(batch))
        answer = output if name == "denoise" else output.denoised
        assert task.loss(output, batch)["loss"] == pytest.approx(((answer - batch.image) ** 2).mean().item())


def test_streams_of_places_and_images_are_apart():
    one, other = (rng_for(0, Split.TRAIN, epoch, 0).random(4) for epoch in (0, module._PLACES))
    assert not np.array_equal(one, other)
