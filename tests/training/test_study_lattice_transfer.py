"""`spm-train study lattice-transfer`: what begins with what, scores with known truth, a report in seconds."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from torch import nn

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_runtime.pipelines.fourier_wiener import without_residue
from spm_training.cli import cli
from spm_training.networks.cae import CaeA, PatchDenoiser, PatchOutput
from spm_training.peers.denoise_scores import DenoiseScores, score
from spm_training.recipe import load_recipe
from spm_training.run import RunFolder
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, simulate_lattice
from spm_training.studies import lattice_transfer as module
from spm_training.studies.lattice_transfer import (
    ALL_PAIRS,
    LatticeTransferOptions,
    _recipes,
    network_denoiser,
    study_lattice_transfer,
)
from spm_training.studies.lattice_transfer_page import Pair, Unseen

QUICK = ("training.threads=1", "data.validation_images=16", "data.steps_per_epoch=2")


def quiet(line):
    pass


class TestPlan:
    def test_every_training_has_its_data_and_as_many_steps(self):
        recipes = _recipes(LatticeTransferOptions(pairs=(("cubic", "fcc"), ("bcc", "fcc"))))
        assert list(recipes) == [
            "scratch-cubic-100", "scratch-bcc-100",
            "scratch-fcc-1", "cubic-to-fcc-1", "scratch-fcc-10", "cubic-to-fcc-10", "scratch-fcc-100", "cubic-to-fcc-100",
            "bcc-to-fcc-1", "bcc-to-fcc-10", "bcc-to-fcc-100",
            "all-five", *(f"without-{name}" for name in LATTICES),
        ]  # fmt: skip
        for name, (recipe, start) in recipes.items():
            assert (recipe.training.epochs, recipe.data.steps_per_epoch) == (5, 100)
            assert start == (f"scratch-{name.partition('-to-')[0]}-100" if "-to-" in name else None)
            if name.startswith("scratch") or "-to-" in name:
                assert recipe.data.pool == int(name.rpartition("-")[2])  # of 100 images
        assert recipes["cubic-to-fcc-10"][0].lattices.names == ("fcc",)
        assert recipes["without-bcc"][0].lattices.names == ("cubic", "fcc", "hexagonal-1", "hexagonal-2")
        assert recipes["all-five"][0].lattices.names == tuple(LATTICES)

    def test_what_begins_with_another_stands_after_it(self):
        names = list(recipes := _recipes(LatticeTransferOptions(pairs=ALL_PAIRS)))
        assert len(ALL_PAIRS) == 20
        assert len(names) == 5 * 3 + 20 * 3 + 6
        for name, (_, start) in recipes.items():
            assert start is None or names.index(start) < names.index(name)

    def test_the_other_network_may_be_one_of_images(self):
        recipes = _recipes(LatticeTransferOptions("denoise", pairs=(), budget=0.1))
        assert {recipe.network.kind for recipe, _ in recipes.values()} == {"denoiser"}
        assert recipes["without-fcc"][0].training.epochs == load_recipe("denoise").training.epochs // 10

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (LatticeTransferOptions(pairs=(("cubic", "diamond"),)), r"lattices \['diamond'\]: expected some of cubic"),
            (LatticeTransferOptions(pairs=(), unseen=()), r"lattices \[\]"),
            (LatticeTransferOptions(overrides=("data.pool=9",)), "--set data.pool=9: how much data"),
            (LatticeTransferOptions("atoms", pairs=()), r"recipe atoms: trains the network 'atoms'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, options, match, tmp_path):
        with pytest.raises(ParameterError, match=match):
            study_lattice_transfer(tmp_path, options, resume=False, device="cpu", report=quiet)


class Same(PatchDenoiser):
    """Gives patches back as they are."""

    def __init__(self) -> None:
        super().__init__(CaeA())

    def forward(self, patch):
        return PatchOutput(patch, patch.new_zeros(len(patch), 10))


class Half(nn.Module):
    """Halves an image."""

    def forward(self, image):
        return image / 2


class TestScores:
    scene = simulate_lattice(np.random.default_rng(0), "bcc", shape=(75, 64), noise=NOISE_LEVELS["medium"])

    def test_patches_that_change_nothing_are_the_image(self):
        found = network_denoiser(Same())(self.scene.image, 0.0)
        np.testing.assert_allclose(found, self.scene.image, atol=1e-5)
        assert score(found, self.scene.clean).mse == pytest.approx(self.scene.noise_rms**2, rel=1e-3)

    def test_an_image_goes_through_its_view(self):
        found = network_denoiser(Half())(self.scene.image, 0.0)
        view = denoise_view(self.scene.image)
        np.testing.assert_allclose(found, view.restored(without_residue(view.image / 2, view.image)), atol=1e-6)

    def test_gains_are_differences_of_decibels(self):
        levels = {name: {level: DenoiseScores(0, psnr + n, 0) for n, level in enumerate(NOISE_LEVELS)} for name, psnr in
                  (("worse", 20.0), ("better", 23.5))}  # fmt: skip
        pair = Pair("cubic", "fcc", {}, {}, {0.1: levels["worse"]}, {0.1: levels["better"]}, {0.1: 10})
        assert pair.gain_db(0.1) == pytest.approx(3.5)
        assert Unseen("fcc", {}, levels["better"], levels["worse"], {}).loss_db == pytest.approx(3.5)


def test_from_nothing_to_a_report_and_on(tmp_path, monkeypatch):
    """Stopped after the trainings, gone on with: nothing is trained twice, and what goes on began with the other lattice."""
    options = LatticeTransferOptions(
        pairs=(("cubic", "fcc"),), unseen=("bcc",), pool=2, images=1, side_px=64, overrides=QUICK, smoke=True
    )
    monkeypatch.setattr(module, "write_page", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        study_lattice_transfer(tmp_path, options, resume=False, device="cpu", report=quiet)
    monkeypatch.undo()
    said = []
    file = study_lattice_transfer(tmp_path, options, resume=True, device="cpu", report=said.append)
    assert sum("finished already" in line for line in said) == 9
    facts = RunFolder(tmp_path / "cubic-to-fcc-1").facts()
    assert facts["start"]["recipe"] == "cae-a"
    assert RunFolder(tmp_path / "scratch-fcc-1").facts()["start"] is None
    text = file.read_text(encoding="utf-8")
    for words in ("Recommendation.", "cubic → fcc", "after cubic, 10%", "bcc, never seen", "thermal 0.15"):
        assert words in text
    assert text.count("<img") == 2
    numbers = json.loads((tmp_path / "lattice-transfer.json").read_text(encoding="utf-8"))
    assert list(numbers["pairs"][0]["shares"]) == ["0.01", "0.1", "1"]
    recorded = numbers["unseen"][0]["as_recorded"]
    assert recorded["low"]["psnr_db"] > recorded["medium"]["psnr_db"] > recorded["high"]["psnr_db"]
    with pytest.raises(ParameterError, match="holds lattice-transfer"):
        study_lattice_transfer(tmp_path, options, resume=False, device="cpu", report=quiet)


def test_the_command_knows_its_words(tmp_path):
    words = ["study", "lattice-transfer", "--out", str(tmp_path / "a"), "--pair"]
    done = CliRunner().invoke(cli, [*words, "cubic"])
    assert done.exit_code == 2
    assert "expected two lattices, as cubic:fcc" in done.output
    sets = [word for one in QUICK for word in ("--set", one)]
    chosen = ["--smoke", "--device", "cpu", "--part", "unseen", "--recipe", "denoise", "--set", "data.batch=1"]
    done = CliRunner().invoke(cli, [*words[:-1], *chosen, *sets])
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "a" / "lattice-transfer.json").read_text(encoding="utf-8"))
    assert (numbers["recipe"], numbers["pairs"], len(numbers["unseen"])) == ("denoise", [], 1)
