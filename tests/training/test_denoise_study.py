"""`spm-train study lattices`: the printed configurations, scores with known truth, a report in seconds."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from skimage.metrics import structural_similarity

from spm_runtime.errors import ParameterError
from spm_training.cli import cli
from spm_training.data import Split
from spm_training.recipe import load_recipe
from spm_training.run import RunFolder
from spm_training.studies import lattices as module
from spm_training.studies.lattices import (
    CONFIGURATIONS,
    PRINTED,
    LatticesOptions,
    PatchSet,
    _by_components,
    _recipe,
    score_patches,
    study_lattices,
)
from spm_training.tasks.lattice_images import LatticePatches

QUICK = ("training.threads=1", "data.validation_images=16")


def quiet(line):
    pass


def patches_of(*overrides, split=Split.VALIDATION):
    return LatticePatches(load_recipe("cae-a", smoke=True, overrides=overrides), split, 17)


def test_the_configurations_are_the_printed_ones():
    options = LatticesOptions(images=4, budget=1.0)
    recipes = {name: _recipe(options, "bcc", one) for name, one in CONFIGURATIONS.items()}
    told = {
        name: (
            recipe.optimiser.lr,
            recipe.data.batch,
            recipe.lattices.patches,
            recipe.training.epochs,
            recipe.schedule.kind,
        )
        for name, recipe in recipes.items()
    }
    assert told["Baseline"] == (1e-3, 1024, 3000, 100, "plateau")
    assert told["Lower LR"][0] == 1e-4
    assert told["Small Batch"][1] == 256
    assert told["Large Batch"][:2] == (2e-3, 2048)
    assert told["More Patches"][2] == 4900
    assert told["Extended Training"][3] == 200
    assert told["LR Decay"][4] == "cosine"
    for recipe in recipes.values():
        assert (recipe.lattices.names, recipe.lattices.target) == (("bcc",), "noisy")
        assert recipe.lattices.thermal == (0.15, 0.15)
        assert recipe.optimiser.kind == "adam"
        seen = recipe.data.steps_per_epoch * recipe.data.batch  # an epoch is every patch once, but for half a batch
        assert seen == pytest.approx(4 * recipe.lattices.patches, rel=0.2)
    assert _recipe(LatticesOptions(budget=0.1), "fcc", CONFIGURATIONS["Extended Training"]).training.epochs == 20


def test_the_printed_table_is_whole():
    assert set(PRINTED) == {"cubic", "bcc", "fcc"}
    for lattice in PRINTED.values():
        assert list(lattice) == list(CONFIGURATIONS)[:-1]
    assert min(lattice["More Patches"][0] for lattice in PRINTED.values()) == 0.0152
    assert PRINTED["fcc"]["Extended Training"] == (0.0152, 0.9491)


class TestScores:
    def test_the_scale_is_that_of_the_extremes_of_an_image(self):
        patches = patches_of()
        tested = PatchSet.of(patches, 30)
        numbers = patches.image_numbers(patches.keys(30))
        for number, gain in zip(numbers, tested.gain[:, 0, 0, 0], strict=True):
            whole = patches.pool.image[number].astype(np.float32)
            assert gain == pytest.approx(2 / (whole.max() - whole.min()))

    def test_they_are_those_of_scikit_image(self):
        tested = PatchSet.of(patches_of(), 12)
        scores = score_patches(tested.image, tested)
        assert scores.noisy_mse == 0
        assert scores.noisy_ssim == pytest.approx(1)
        pairs = [[(one * g + 1)[0].numpy() for one in (a, b)] for a, b, g in zip(*tested, strict=True)]
        assert scores.clean_mse == pytest.approx(np.mean([(a - b) ** 2 for a, b in pairs]), rel=1e-4)
        options = {"data_range": 2.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected = np.mean([structural_similarity(a, b, **options) for a, b in pairs])
        assert scores.clean_ssim == pytest.approx(expected, abs=1e-4)

    def test_components_take_noise_away_and_find_what_has_few(self):
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(10, 1, 17, 17, generator=generator)
        truth = torch.einsum("bi,ichw->bchw", torch.randn(400, 10, generator=generator), basis)
        noisy = truth + 0.5 * torch.randn(truth.shape, generator=generator)
        torch.testing.assert_close(_by_components(truth, truth), truth, rtol=1e-3, atol=1e-3)
        error = ((_by_components(noisy, noisy) - truth) ** 2).mean()
        assert error < 0.3 * ((noisy - truth) ** 2).mean()


def test_from_nothing_to_a_report_and_on(tmp_path, monkeypatch):
    """Stopped after the trainings, gone on with: nothing is trained twice."""
    options = LatticesOptions(
        lattices=("cubic", "hexagonal-1"), configurations=("Baseline", "LR Decay"), overrides=QUICK, smoke=True
    )
    monkeypatch.setattr(module, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        study_lattices(tmp_path, options, resume=False, device="cpu", report=quiet)
    monkeypatch.undo()
    with pytest.raises(ParameterError, match="exists already"):
        study_lattices(tmp_path, options, resume=False, device="cpu", report=quiet)
    said = []
    file = study_lattices(tmp_path, options, resume=True, device="cpu", report=said.append)
    assert sum("finished already" in line for line in said) == 4
    assert file == tmp_path / "lattices-cae-a.html"
    text = file.read_text(encoding="utf-8")
    for words in ("Recommendation.", "0.0156", "0.892", "PCA of noisy patches", "hexagonal-1", "the noisy patch"):
        assert words in text
    assert text.count("<img") == 3  # curves, and pictures of each lattice
    numbers = json.loads((tmp_path / "lattices-cae-a.json").read_text(encoding="utf-8"))
    cubic = numbers["lattices"]["cubic"]
    assert cubic["trained"]["Baseline"]["printed"] == [0.0156, 0.8917]
    assert cubic["trained"]["LR Decay"]["printed"] is None
    # Principal components of clean patches know more than those of noisy ones; both are better than nothing.
    others = {name: scores["clean_mse"] for name, scores in cubic["others"].items()}
    assert others["PCA of noisy patches"] < others["the noisy patch"]
    assert RunFolder(tmp_path / "cae-a-cubic-lr-decay").recipe().schedule.kind == "cosine"
    with pytest.raises(ParameterError, match="holds lattices-cae-a"):
        study_lattices(tmp_path, options, resume=False, device="cpu", report=quiet)


def test_the_command_knows_the_words(tmp_path):
    words = ["study", "lattices", "--out", str(tmp_path / "a"), "--configuration", "Best"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "expected some of Baseline, Lower LR" in done.output
    done = CliRunner().invoke(
        cli, ["study", "lattices", "--out", str(tmp_path / "b"), "--smoke", "--set", "data.chips=3"]
    )
    assert isinstance(done.exception, ParameterError)
    done = CliRunner().invoke(
        cli, ["study", "lattices", "--out", str(tmp_path / "c"), "--smoke", "--lattice", "diamond"]
    )
    assert "unknown lattices ['diamond']" in str(done.exception)
    chosen = ["--lattice", "fcc", "--configuration", "Small Batch", "--network", "cae-b", "--target", "clean"]
    sets = [word for one in QUICK for word in ("--set", one)]
    done = CliRunner().invoke(
        cli, ["study", "lattices", "--out", str(tmp_path / "d"), "--smoke", "--device", "cpu", *chosen, *sets]
    )
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "d" / "lattices-cae-b.json").read_text(encoding="utf-8"))
    assert (numbers["network"], numbers["target"], list(numbers["lattices"])) == ("cae-b", "clean", ["fcc"])
