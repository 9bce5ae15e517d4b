"""From runs of restorers and of the tip network to packages, through the eyes of the runtime."""

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from spm_runtime.errors import ParameterError
from spm_runtime.models import load_package
from spm_runtime.pipelines import analyse, restore
from spm_runtime.pipelines.relief import RESTORE_CHANNELS, relief_view, tip_evidence
from spm_runtime.session import Session, self_test
from spm_training.cli import cli
from spm_training.export import ExportOptions, export_run
from spm_training.graphs.base import Calibration
from spm_training.networks.judge import TOLD_WIDTH
from spm_training.recipe import load_recipe
from spm_training.restore.scenes import RestoreOptions, scan_of
from spm_training.run import RunFolder
from spm_training.simulate.tips import FAMILIES, scene_rng, simulate_tip_scene
from spm_training.tip_estimate import TipEstimator

SHORT = ("training.epochs=1", "data.steps_per_epoch=1", "training.threads=1")


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """Finished smoke runs by recipe, not to be changed; the restorer is told of the tip."""
    folder = tmp_path_factory.mktemp("runs")
    judged = (f"tips.tip_run='{(folder / 'tip').as_posix()}'",)
    told = ("network.with_tip=true", *judged, f"tips.judge_run='{(folder / 'judge').as_posix()}'")
    for name, more in {"tip": (), "judge": judged, "restore": told, "tip-model-2": ()}.items():
        trained(load_recipe(name, smoke=True, overrides=(*SHORT, *more)), folder / name)
        if name == "tip":
            _sure_of_a_second_apex(folder / name)
    return {name: RunFolder(folder / name) for name in ("tip", "judge", "restore", "tip-model-2")}


def _sure_of_a_second_apex(run):
    """What a network says after a few steps is the same everywhere: magnified, one pixel wins."""
    best = torch.load(run / "best.pt", weights_only=True)
    best["weights"]["apex.weight"] *= 1e4
    torch.save(best, run / "best.pt")


@pytest.fixture(scope="module")
def package(runs, tmp_path_factory):
    """The package of the restorer with the network that estimates tips, not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "restore"
    export_run(runs["restore"], folder, ExportOptions("1.2.3", half=True))
    return folder


@pytest.fixture(scope="module")
def reference(runs, tmp_path_factory):
    """The package of the hackathon's second model, not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "tip-model-2"
    export_run(runs["tip-model-2"], folder, ExportOptions("0.1.0"))
    return folder


@pytest.fixture(scope="module")
def scan():
    """A scan under a double tip, whose sides are no multiples of any stride."""
    return scan_of(simulate_tip_scene(scene_rng("test", 3), shape=(75, 93), families=["double"]))


def test_the_runtime_opens_and_reproduces_both_networks(package):
    loaded = load_package(package)
    assert (loaded.name, loaded.version, loaded.task, loaded.modalities) == (
        "restore",
        "1.2.3",
        "restore",
        ("afm", "stm"),
    )
    assert list(loaded.attached) == ["marks", "tip", "judge"]
    for one in (loaded, *loaded.attached.values()):
        assert self_test(Session(one, "cpu")) < 1e-4
    inputs, outputs = loaded.test_tensors()
    assert list(inputs) == ["image", "code"]
    assert inputs["image"].shape == (1, len(RESTORE_CHANNELS), 96, 144)
    assert 0.05 < inputs["image"][0, 0].std() < 0.5
    assert inputs["code"].shape == (1, TOLD_WIDTH)
    assert {name: value.shape for name, value in outputs.items()} == {
        "restored": (1, 1, 96, 144),
        "touched": (1, 1, 96, 144),
    }
    inputs, outputs = loaded.attached["tip"].test_tensors()
    assert list(inputs) == ["evidence"]
    assert {name: value.shape[1] for name, value in outputs.items()} == {
        "visible": 1,
        "second": 1,
        "families": len(FAMILIES),
    }


def test_the_pipeline_knows_all_that_it_asks_for(package, reference):
    assert load_package(package).settings == {"channels": list(RESTORE_CHANNELS), "families": list(FAMILIES)}
    assert load_package(reference).settings == {"channels": ["image"]}
    assert not load_package(reference).attached
    assert list(load_package(reference).test_tensors()[1]) == ["restored"]


@pytest.mark.parametrize("name", ["package", "reference"])
def test_a_scan_goes_through_it_with_all_maps(name, scan, request):
    folder = request.getfixturevalue(name)
    result = analyse(scan, "restore", model=folder, device="cpu")
    maps = {one.name: one for one in result.maps}
    assert set(maps) == {"restored", "certainty"}
    assert result.tip is not None
    assert maps["restored"].data.shape == scan.shape
    assert np.isfinite(maps["restored"].data).all()
    assert result.model.version == load_package(folder).version
    if name == "package":  # a fresh restorer adds little of its own yet
        assert abs(maps["restored"].data.mean() - scan.image.mean()) < 0.5 * np.ptp(scan.image)


def test_runtime_and_training_say_the_same_of_a_tip(package, runs, monkeypatch):
    """The networks of a restorer learn from what `TipEstimator` tells them; a second apex is drawn in both."""
    told = []
    draw = restore.with_second_apex
    monkeypatch.setattr(restore, "with_second_apex", lambda *said: told.append((said[0], draw(*said))) or told[-1][1])
    scene = simulate_tip_scene(scene_rng("test", 3), shape=(128, 128), families=["double"])
    view = relief_view(scene.image)
    found = restore._find_tip(view, load_package(package))
    (drawn, composed), *_ = told
    assert (composed > drawn).any()
    folders = (str(runs["tip"].path), str(runs["judge"].path))
    heights, code = TipEstimator(*folders)(view, tip_evidence(view))
    np.testing.assert_allclose(found.beside["code"][0], code, atol=5e-3)
    there = np.isfinite(heights) & np.isfinite(found.heights)
    assert there.mean() > 0.9 * np.isfinite(heights).mean()
    np.testing.assert_allclose(found.heights[there], heights[there], rtol=0.05, atol=0.02)


def test_other_tools_can_open_it_and_the_card_says_how_it_was_made(package):
    rdf = yaml.safe_load((package / "rdf.yaml").read_text(encoding="utf-8"))
    assert [one["id"] for one in rdf["inputs"]] == ["image", "code"]
    assert [axis["type"] for axis in rdf["inputs"][1]["axes"]] == ["batch", "channel"]
    assert rdf["inputs"][0]["axes"][1]["channel_names"] == list(RESTORE_CHANNELS)
    assert {"restoration", "tip", "afm", "stm"} <= set(rdf["tags"])
    assert any("Villarrubia" in one["text"] for one in rdf["cite"])
    spm = rdf["config"]["spm"]
    assert spm["training"]["families"] == ", ".join(FAMILIES)
    assert spm["training"]["modalities"] == "afm, stm"
    assert spm["levelling"]["function"] == "spm_runtime.pipelines.relief.relief_view"
    assert spm["attachments"]["tip"]["training"]["recipe"] == "tip"
    assert spm["parameters"] == {}
    card = (package / "README.md").read_text(encoding="utf-8")
    for text in (
        "1.2.3",
        "Residual U-Net on half",
        f"`code` `(B, {TOLD_WIDTH})`",
        "`tip.onnx`",
        "no probability",
        "unit",
    ):
        assert (text in card) == (text != "no probability")


def test_a_tip_network_goes_where_one_is_seen(runs, tmp_path):
    with pytest.raises(ParameterError, match=r"--tip-run .*'tip2' of recipe tip-model-2 sees the image alone"):
        export_run(runs["tip-model-2"], tmp_path / "b", ExportOptions("0.1.0", attachments={"tip": runs["tip"]}))
    with pytest.raises(ParameterError, match=r"--tip-run .*the network 'tip2'; expected one of 'tip'"):
        export_run(runs["restore"], tmp_path / "c", ExportOptions("0.1.0", attachments={"tip": runs["tip-model-2"]}))
    with pytest.raises(ParameterError, match=r"--tip-run beside a run of 'restorer'"):
        export_run(runs["tip"], tmp_path / "d", ExportOptions("0.1.0"))


def test_heights_are_not_calibrated(runs, tmp_path):
    options = ExportOptions("0.1.0", calibration=Calibration((0.0, 1.0), (0.0, 1.0)))
    with pytest.raises(ParameterError, match=r"--calibration: tip-model-2 restores surfaces"):
        export_run(runs["tip-model-2"], tmp_path / "package", options)
    assert list(tmp_path.iterdir()) == []


def test_scores_go_into_the_card_by_the_command(runs, tmp_path):
    shown = RestoreOptions(images=1, side_px=64, families=("blunt",), modalities=("stm",))
    seen = []
    done = export_run(
        runs["tip-model-2"], tmp_path / "model", ExportOptions("0.1.0"), evaluation=shown, on_image=seen.append
    )
    assert len(seen) == shown.total
    assert load_package(done.folder).metrics == done.report.headline()
    assert done.report.markdown() in (done.folder / "README.md").read_text(encoding="utf-8")


def test_the_command_takes_another_tip_network(runs, tmp_path):
    words = ["export", str(runs["restore"].path), "--to", str(tmp_path / "restore"), "--no-evaluate"]
    done = CliRunner().invoke(cli, [*words, "--tip-run", str(runs["tip"].path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "differ by at most" in done.output
    assert list(load_package(tmp_path / "restore").attached) == ["marks", "tip", "judge"]


@pytest.mark.parametrize(
    ("name", "weights", "images"),
    [
        ("tip-model-1", (1.0, 1.0, 0.0), (70, None)),
        ("tip-model-2", (1.0, 0.0, 0.0), (1000, 1200)),
        ("tip-model-3", (1.0, 1.0, 1.0), (75, 100)),
    ],
)
def test_recipes_are_the_printed_ones(name, weights, images):
    recipe = load_recipe(name)
    loss, data = recipe.loss, recipe.data
    assert (loss.mae_weight, loss.ssim_weight, loss.gradient_weight) == weights
    assert recipe.training.epochs == images[0]
    assert data.steps_per_epoch * data.batch == data.pool  # an epoch is every image once
    assert images[1] in (None, data.pool)
    assert recipe.tips.image_px == data.crop_px  # whole images
    if name == "tip-model-1":
        assert recipe.optimiser.lr == 1e-4
