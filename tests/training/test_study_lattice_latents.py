"""`spm-train study lattice-latents`: what is encoded, what is trained and what is not, a report in seconds."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from spm_runtime.errors import ParameterError
from spm_training.cli import cli
from spm_training.recipe import load_recipe
from spm_training.run import RunFolder
from spm_training.studies import lattice_latents as module
from spm_training.studies.latent_scores import Encoded, Probed
from spm_training.studies.lattice_latents import LatticeLatentsOptions, draw_tested, encode, study_lattice_latents
from spm_training.studies.lattice_latents_page import POOLED, Method, keeps_variational
from spm_training.studies.supervised import LatticeClassifier, train_classifier

QUICK = ("training.threads=1", "data.validation_images=16", "data.steps_per_epoch=2")


def quiet(line):
    pass


@pytest.fixture(scope="module")
def drawn():
    return draw_tested(2, 64)


def test_every_image_is_another_surface_and_the_lattices_are_told(drawn):
    assert drawn.patches.shape == (30, 16, 17, 17)
    np.testing.assert_array_equal(np.bincount(drawn.label), [6] * 5)
    np.testing.assert_array_equal(drawn.surface, np.arange(30))
    np.testing.assert_array_equal(np.bincount(drawn.level), [10] * 3)
    rough = [np.abs(np.diff(drawn.patches[drawn.level == n], axis=-1)).mean() for n in range(3)]
    assert rough[0] < rough[1] < rough[2]


def test_latents_stay_with_their_images_in_all_orientations(drawn):
    encoded = encode(drawn, lambda patch: patch[:, 0, [0, 8], [3, 8]])
    assert encoded.latents.shape == (30, 8 * 16, 2)
    np.testing.assert_allclose(encoded.latents[:, :16, 0], drawn.patches[:, :, 0, 3], rtol=1e-6)
    for turn in range(8):  # the middle stays where it is, the other pixel goes to all eight places
        np.testing.assert_allclose(
            encoded.latents[:, 16 * turn : 16 * (turn + 1), 1], drawn.patches[:, :, 8, 8], rtol=1e-6
        )
    places = [(0, 3), (0, 13), (16, 3), (16, 13), (3, 0), (13, 0), (3, 16), (13, 16)]
    expected = np.sort([drawn.patches[:, :, y, x] for y, x in places], axis=0)
    found = np.sort(encoded.latents[..., 0].reshape(30, 8, 16).swapaxes(0, 1), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_supervised_network_learns_and_is_trained_once(tmp_path):
    words = (
        "data.steps_per_epoch=60",
        "optimiser.lr=5e-3",
        'lattices.names=["cubic", "fcc"]',
        *(f"lattices.{name}=[0, 0]" for name in ("thermal", "shot", "striation")),
    )
    recipe = load_recipe("cae-a", smoke=True, overrides=words)
    file, said = tmp_path / "supervised.pt", []
    network = train_classifier(recipe, file, said.append)
    losses = [float(line.split()[-1]) for line in said]
    assert losses[-1] < 0.9 * losses[0]
    assert losses[-1] < np.log(2)
    again = train_classifier(recipe, file, said.append)
    assert said[-1].endswith("finished already")
    patch = torch.randn(4, 1, 17, 17)
    torch.testing.assert_close(network(patch), again(patch))
    torch.testing.assert_close(network(patch), functional.linear(network.encode(patch), *network.classes.parameters()))
    train_classifier(load_recipe("cae-a", smoke=True), file, said.append)  # of another recipe: anew
    assert "epoch" in said[-1]
    assert isinstance(again, LatticeClassifier)


def of_accuracy(patches, images):
    """A method of 20 surfaces with these patches and images right."""

    def told(right):
        right = np.asarray(right, float)
        return Probed(np.stack([right, 1 - right], axis=1), np.zeros(len(right), int))

    encoded = Encoded(np.zeros((20, 4, 2)), np.zeros(20, int), np.arange(20))
    return Method("", encoded, {"patch": told(patches), POOLED: told(images)}, 0.0, 0.0)


def test_the_variational_network_is_kept_only_if_it_separates_better():
    few, most = np.arange(80) % 4 < 1, np.arange(80) % 4 < 3
    images = np.ones(20)
    kept, gain, _ = keeps_variational(of_accuracy(most, images), of_accuracy(few, images))
    assert (kept, gain) == (True, pytest.approx(0.5))
    assert not keeps_variational(of_accuracy(few, images), of_accuracy(few, images))[0]
    assert not keeps_variational(of_accuracy(most, images * 0), of_accuracy(few, images))[0]
    luck = few.copy()
    luck[1] = True
    assert not keeps_variational(of_accuracy(luck, images), of_accuracy(few, images))[0]


def test_from_nothing_to_a_report_and_on(tmp_path, monkeypatch):
    """One network given, three trained; stopped before the report, gone on with: nothing is trained twice."""
    small = LatticeLatentsOptions(images=2, side_px=64, overrides=QUICK, smoke=True)
    first = LatticeLatentsOptions(("cae-a",), images=2, side_px=64, overrides=QUICK, smoke=True)
    assert study_lattice_latents(tmp_path / "first", first, resume=False, device="cpu", report=quiet)
    given = {"cae-a": RunFolder(tmp_path / "first" / "cae-a")}
    options = LatticeLatentsOptions(small.networks, given, images=2, side_px=64, overrides=QUICK, smoke=True)
    out = tmp_path / "study"
    monkeypatch.setattr(module, "write_page", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        study_lattice_latents(out, options, resume=False, device="cpu", report=quiet)
    monkeypatch.undo()
    said = []
    file = study_lattice_latents(out, options, resume=True, device="cpu", report=said.append)
    assert sum("finished already" in line for line in said) == 4  # three, and the supervised one
    assert not (out / "cae-a").exists()
    text = file.read_text(encoding="utf-8")
    for words in ("Recommendation.", "cae-vae", "supervised", "hexagonal-2", "Given as finished runs: cae-a", "nats"):
        assert words in text
    assert text.count("<img") == 3  # clouds, correlations, walks
    numbers = json.loads((out / "lattice-latents.json").read_text(encoding="utf-8"))
    assert list(numbers["methods"]) == ["cae-a", "cae-b", "cae-twin", "cae-vae", "supervised", "PCA, 10 components"]
    assert len(numbers["nats"]) == 10
    assert numbers["best"] in options.networks
    assert numbers["variational_kept"] in (True, False)
    unused = LatticeLatentsOptions(("cae-b",), given, images=2, side_px=64, overrides=QUICK, smoke=True)
    with pytest.raises(ParameterError, match="--run: runs of cae-a, which are not among --network cae-b"):
        study_lattice_latents(tmp_path / "unused", unused, resume=False, device="cpu", report=quiet)
    twice = [word for _ in range(2) for word in ("--run", str(tmp_path / "first" / "cae-a"))]
    refused = CliRunner().invoke(cli, ["study", "lattice-latents", "--out", str(tmp_path / "twice"), *twice])
    assert refused.exit_code == 2
    assert "a second run of cae-a" in refused.output
    with pytest.raises(ParameterError, match="holds lattice-latents"):
        study_lattice_latents(out, options, resume=False, device="cpu", report=quiet)


def test_another_network_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"networks \['denoise'\]: expected some of cae-a"):
        study_lattice_latents(tmp_path, LatticeLatentsOptions(("denoise",)), resume=False, device="cpu", report=quiet)


def test_the_command_takes_runs_by_their_recipe(tmp_path):
    done = CliRunner().invoke(
        cli, ["study", "lattice-latents", "--out", str(tmp_path), "--run", str(tmp_path / "none")]
    )
    assert "none" in str(done.exception)
    assert isinstance(done.exception, ParameterError)
