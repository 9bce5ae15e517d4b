"""`spm-train study …` from runs to reports, at a size that takes seconds."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from spm_runtime.errors import ParameterError
from spm_training.cli import cli
from spm_training.run import RunFolder
from spm_training.studies import latent_size as module
from spm_training.studies.command import study
from spm_training.studies.latent_size import PRINTED, LatentSizeOptions, smallest_enough, study_latent_size
from spm_training.studies.samples import trained_first
from spm_training.studies.suggestions import SuggestionsOptions, study_suggestions
from spm_training.studies.variants import EPOCHS, budget_recipe, patch_steps

TWO_FAMILIES = ('surfaces.families=["nacl", "si111-7x7"]', "data.validation_images=1")


def quiet(line):
    pass


def report_of(folder, name):
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    numbers = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert numbers["recommendation"]
    assert "Recommendation." in text
    return text, numbers


@pytest.fixture(scope="module")
def runs(tmp_path_factory, trained, tiny_recipe_of):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("ae1", "ae2"):
        trained(tiny_recipe_of("training.epochs=1", "data.steps_per_epoch=1", *TWO_FAMILIES, name=name), folder / name)
    return folder


def test_every_study_and_option_is_explained():
    of_lattices = {"lattices", "lattice-latents", "lattice-offsets", "lattice-transfer"}
    assert set(study.commands) == {"clusters", "latent-size", "restore-losses", "suggestions"} | of_lattices
    for command in study.commands.values():
        assert command.help
        assert all(option.help for option in command.params if option.name != "device")
    done = CliRunner().invoke(cli, ["study", "--help"])
    assert done.exit_code == 0
    assert "latent-size" in done.output


@pytest.mark.parametrize("name", ["latent-size", "suggestions"])
def test_a_wrong_setting_costs_no_training(name, tmp_path):
    done = CliRunner().invoke(cli, ["study", name, "--out", str(tmp_path), "--smoke", "--set", "data.chips=3"])
    assert isinstance(done.exception, ParameterError)
    assert "data.chips" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_clusters_of_two_runs(runs, tmp_path):
    from spm_training.studies.clusters import ClustersOptions, study_clusters

    options = dataclasses.replace(ClustersOptions.smoke(), images=4, defects_per_image=4)
    study_clusters(RunFolder(runs / "ae1"), RunFolder(runs / "ae2"), tmp_path, options, report=quiet)
    text, numbers = report_of(tmp_path, "clusters")
    assert text.count("<img") == 8
    for words in ("K-means", "DBSCAN", "HDBSCAN", "agglomerative", "t-SNE", "PCA", "V: class of the defect"):
        assert words in text
    first, second = numbers["first_stage"], numbers["second_stage"]
    assert first["printed"] == {"k": 6}
    assert second["printed"] == {"covariance": "full", "k": 20}
    assert [trial["k"] for trial in first["trials"]] == [2, 3, 4, 5, 6, 7]
    assert {trial["covariance"] for trial in second["trials"]} == {"spherical", "diag", "tied", "full"}
    assert set(second["trials"][0]["v_measures"]) == {"surface", "content", "surface and content"}
    assert {trial["method"] for trial in numbers["second_stage_comparison"]} == {"DBSCAN", "HDBSCAN", "agglomerative"}
    with pytest.raises(ParameterError, match="holds clusters"):
        study_clusters(RunFolder(runs / "ae1"), RunFolder(runs / "ae2"), tmp_path, options, report=quiet)
    with pytest.raises(ParameterError, match=r"--ae1 .*another network"):
        study_clusters(RunFolder(runs / "ae2"), RunFolder(runs / "ae2"), tmp_path / "new", options, report=quiet)


def test_sizes_are_trained_alike_and_go_on(tmp_path, monkeypatch):
    overrides = ("data.steps_per_epoch=1", "training.epochs=1", "training.threads=1", *TWO_FAMILIES)
    options = LatentSizeOptions((4, 8), overrides, windows=64, pca_windows=160, smoke=True)
    monkeypatch.setattr(module, "_write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        study_latent_size(tmp_path, options, resume=False, device="cpu", report=quiet)
    monkeypatch.undo()
    with pytest.raises(ParameterError, match="exists already"):
        study_latent_size(tmp_path, options, resume=False, device="cpu", report=quiet)
    (tmp_path / "latent-8" / "last.pt").unlink()  # as if it had ended before its first checkpoint
    said = []
    study_latent_size(tmp_path, options, resume=True, device="cpu", report=said.append)
    assert sum("finished already" in line for line in said) == 1
    assert "FLOP in all" in said[0]
    text, numbers = report_of(tmp_path, "latent-size")
    assert text.count("<img") == 3
    assert "small budget" in text
    assert set(numbers["sizes"]) == {"4", "8"}
    one = numbers["sizes"]["8"]
    assert one["compression_over_training_loss"] == pytest.approx(1024 / 8 / one["training_loss"])
    assert set(one["clean_mse_pca"]) == {"same images", "white noise"}
    assert numbers["white_noise"] == 0.03


def test_all_sizes_may_begin_with_the_same_convolutions(runs, tmp_path):
    overrides = (
        "data.steps_per_epoch=1",
        "training.epochs=1",
        "training.threads=1",
        "optimiser.lr=2e-6",
        *TWO_FAMILIES,
    )
    start = RunFolder(runs / "ae1")
    options = LatentSizeOptions((4,), overrides, windows=16, pca_windows=160, start=start, smoke=True)
    study_latent_size(tmp_path, options, resume=False, device="cpu", report=quiet)
    first = trained_first(start)[1].state_dict()
    for size in options.sizes:
        network = trained_first(RunFolder(tmp_path / f"latent-{size}"))[1].state_dict()
        assert network["to_latent.weight"].shape[0] == size
        for name in ("trunk.0.weight", "trunk.8.weight", "decoder.3.weight"):
            assert network[name].numpy() == pytest.approx(first[name].numpy(), abs=1e-5)
    assert "convolutions of one trained network" in report_of(tmp_path, "latent-size")[0]


def test_the_budget_is_fixed_and_the_same_for_all():
    recipe = budget_recipe(smoke=False, overrides=())
    assert patch_steps(recipe) == EPOCHS * 250 * 64
    assert recipe.early_stopping.patience_epochs == recipe.training.epochs
    assert recipe.schedule.kind == "cosine"
    assert patch_steps(budget_recipe(smoke=False, overrides=["training.epochs=2"])) == 2 * 250 * 64
    with pytest.raises(ParameterError, match=r"data\.chips"):
        budget_recipe(smoke=False, overrides=["data.chips=3"])


def test_the_smallest_size_after_which_little_is_gained():
    assert smallest_enough({16: 10.0, 32: 5.0, 64: 4.8, 128: 2.0}) == 32
    assert smallest_enough({16: 10.0, 32: 5.0, 64: 2.0}) == 64
    assert smallest_enough({16: 10.0, 32: 11.0}) == 16
    assert {size: one.parameters for size, one in PRINTED.items()}[32] == 3_488_289


def test_suggestions_get_the_same_budget(tmp_path):
    small = ("data.crop_px=96", "surfaces.image_px=112", "data.batch=1", "data.steps_per_epoch=1", "training.threads=1")
    options = SuggestionsOptions((*small, *TWO_FAMILIES), images=2, windows_per_image=12, windows=18, smoke=True)
    study_suggestions(tmp_path, options, resume=False, device="cpu", report=quiet)
    text, numbers = report_of(tmp_path, "suggestions")
    assert text.count("<img") == 1
    assert set(numbers["variants"]) == {
        "plain", "plain, read at two", "symmetric", "contrastive", "two scales, read at one", "two scales",
        "pseudo-labels",
    }  # fmt: skip
    assert numbers["variants"]["plain"]["gain_auc"] is None
    assert len(numbers["variants"]["symmetric"]["gain_v_measure"]) == 3
    assert numbers["variants"]["pseudo-labels"]["patch_steps"] == numbers["variants"]["plain"]["patch_steps"]
    said = []
    study_suggestions(tmp_path, options, resume=True, device="cpu", report=said.append)
    assert sum("finished already" in line for line in said) == 6
