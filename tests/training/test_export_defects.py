"""From runs of the finder of defects and of the patch autoencoders to a package, through the eyes of the runtime."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from click.testing import CliRunner

from spm_runtime import doctor
from spm_runtime.errors import ParameterError
from spm_runtime.models import load_package
from spm_runtime.pipelines import analyse
from spm_runtime.session import Session, self_test
from spm_training.cli import cli
from spm_training.data import Split
from spm_training.defects.scenes import DefectOptions, scan_of
from spm_training.export import ExportOptions, export_run
from spm_training.graphs.patches import ImageEncoderGraph
from spm_training.networks.ae1 import MARGIN_PX
from spm_training.packages import stages
from spm_training.packages.stages import ON_DEFECT_PX, stage_one, target_clusters
from spm_training.recipe import load_recipe
from spm_training.run import RunFolder
from spm_training.simulate.surfaces import DEFECT_CLASSES, simulate_surface
from spm_training.tasks.patches import SurfaceCrops
from spm_training.trained import trained_network

#: What all maps of a package with autoencoders are called.
MAPS = {"mask", "steps", "class_map", "character_map", "error_map"}


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """Finished smoke runs by recipe, not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    overrides = {"defects": ('surfaces.families=["si001-2x1-h", "cu100"]',), "ae1": (), "ae2": ()}
    for name, more in overrides.items():
        words = ("training.epochs=1", "training.threads=1", *more)
        trained(load_recipe(name, smoke=True, overrides=words), folder / name)
    return {name: RunFolder(folder / name) for name in overrides}


@pytest.fixture(scope="module")
def package(runs, tmp_path_factory):
    """The package of the finder with both autoencoders, not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "defects"
    attachments = {"ae1": runs["ae1"], "ae2": runs["ae2"]}
    export_run(runs["defects"], folder, ExportOptions("1.2.3", half=True, attachments=attachments))
    return folder


@pytest.fixture(scope="module")
def scan():
    """A simulated scan of a stepped surface with defects."""
    rng = np.random.default_rng(5)
    return scan_of(simulate_surface(rng, shape=(90, 110), families=["si001-2x1-h"], pixel_size_nm=0.08))


def test_the_runtime_opens_and_reproduces_it(package):
    loaded = load_package(package)
    assert (loaded.name, loaded.version, loaded.task, loaded.modalities) == ("defects", "1.2.3", "defects", ("stm",))
    assert loaded.size_multiple == 16
    assert loaded.spacing_px is None
    assert loaded.pixel_size_nm == (0.005, 0.7)
    assert set(loaded.attached) == {"encoder", "decoder", "classes"}
    for one in (loaded, *loaded.attached.values()):
        assert self_test(Session(one, "cpu")) < 1e-4
    inputs, outputs = loaded.test_tensors()
    assert inputs["image"].shape == (1, 4, 96, 144)
    assert inputs["image"][0, 0].std() > 0.5
    assert {name: value.shape[1] for name, value in outputs.items()} == {
        "presence": 1,
        "inside": 1,
        "step": 1,
        "radius_px": 1,
        "kind": len(DEFECT_CLASSES),
    }


def test_the_pipeline_knows_all_that_it_asks_for(package):
    loaded = load_package(package)
    defaults = {name: one.default for name, one in loaded.parameters.items()}
    bound = load_recipe("defects").parameters.lower_bound
    assert defaults == {"lower_bound": bound, "confirm": 1.0, "unexplained": 0.0, "false_alarms": 0.1}
    bounds = {name: (one.minimum, one.maximum) for name, one in loaded.parameters.items()}
    assert bounds == {"lower_bound": (0, 1), "confirm": (0, 1), "unexplained": (0, 1), "false_alarms": (1e-4, 0.99)}
    settings = loaded.settings
    assert settings["channels"] == ["fine", "coarse", "spread", "pixel"]
    assert settings["classes"] == list(DEFECT_CLASSES)
    assert settings["clip_percent"] == 0.2
    assert settings["clusters"] == 6
    assert settings["smoothing_px"] == 2.0
    assert settings["novelty_distance"] > 0
    assert all(number in range(6) for number in settings["target_clusters"])
    shares = np.array(settings["mixture_classes"])
    assert shares.shape == (20, len(DEFECT_CLASSES))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-3)


def test_a_scan_goes_through_it_with_all_maps(package, scan):
    result = analyse(scan, "defects", model=package, device="cpu", params={"lower_bound": 0.0, "unexplained": 1})
    assert {one.name for one in result.maps} == MAPS
    assert all(one.data.shape == scan.shape for one in result.maps)
    assert result.defects is not None
    assert result.defects.names == (*DEFECT_CLASSES, "other")
    assert result.quantities["novelty"] > 0
    assert result.model.version == "1.2.3"


def test_the_finder_alone_is_a_package_with_scores_in_its_card(runs, scan, tmp_path):
    seen = []
    shown = DefectOptions(images=1, side_px=64, families=("si001-2x1-h",))
    done = export_run(
        runs["defects"], tmp_path / "defects", ExportOptions("0.1.0"), evaluation=shown, on_image=seen.append
    )
    assert len(seen) == shown.total
    loaded = load_package(done.folder)
    assert done.difference < 1e-4
    assert set(loaded.settings) == {"classes", "channels"}
    assert not loaded.attached
    result = analyse(scan, "defects", model=done.folder, device="cpu")
    assert {one.name for one in result.maps} == {"mask", "steps", "class_map"}
    assert loaded.metrics == done.report.headline()
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert done.report.markdown() in card
    assert "`spm-train evaluate defects --images 1 --side-px 64 --family si001-2x1-h`" in card


def test_the_doctor_finds_it_well(package, monkeypatch):
    monkeypatch.setenv("SPM_MODELS", str(package.parent))
    found = {one.topic: one for one in doctor.examine()}
    assert found["model defects"].state == "ok"
    assert found["model defects"].text.startswith("1.2.3")


def test_the_description_and_the_card_say_how_it_was_made(package):
    rdf = yaml.safe_load((package / "rdf.yaml").read_text(encoding="utf-8"))
    assert "arXiv:1904.07850" in rdf["cite"][1]["text"]
    assert "defects" in rdf["tags"]
    assert "atoms" not in rdf["tags"]
    assert rdf["inputs"][0]["axes"][1]["channel_names"] == ["fine", "coarse", "spread", "pixel"]
    spm = rdf["config"]["spm"]
    assert spm["training"]["families"] == "si001-2x1-h, cu100"
    assert spm["training"]["weights"] == "float16"
    assert spm["levelling"]["function"] == "spm_runtime.pipelines.surface.finder_input"
    assert {entry["source"] for entry in rdf["attachments"]} == {"encoder.onnx", "decoder.onnx", "classes.onnx"}
    card = (package / "README.md").read_text(encoding="utf-8")
    for text in ("1.2.3", "CPU budget", "spm-train evaluate", "no probability", "`encoder.onnx`", *DEFECT_CLASSES):
        assert text in card
    assert "spacing" not in card


def test_weights_are_stored_in_half_precision_and_a_mixture_is_not(package):
    """Its factors are larger than float16 holds where a component is narrow."""
    weights = {name: one.training["weights"] for name, one in load_package(package).attached.items()}
    assert weights == {"encoder": "float16", "decoder": "float16", "classes": "float16"}
    assert (package / "encoder.onnx").stat().st_size < 4 * 2**20
    model = onnx.load(package / "classes.onnx")
    kinds = {tensor.data_type: [] for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        kinds[tensor.data_type].append(tuple(tensor.dims))
    assert (20, 8, 8) in kinds[onnx.TensorProto.FLOAT]
    assert max(np.prod(dims) for dims in kinds[onnx.TensorProto.FLOAT]) <= 20 * 8 * 8


def test_the_command_puts_calibrated_scores_into_graph_and_description(runs, tmp_path):
    raw, probability = [0.0, 0.01, 1.0], [0.0, 0.3, 1.0]
    knots, folder = tmp_path / "knots.json", tmp_path / "defects"
    knots.write_text(json.dumps({"raw": raw, "probability": probability}), encoding="utf-8")
    words = ["export", str(runs["defects"].path), "--to", str(folder), "--calibration", str(knots), "--no-evaluate"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "differ by at most" in done.output
    spm = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))["config"]["spm"]
    assert spm["calibration"] == {"raw": raw, "probability": probability}
    inputs, after = load_package(folder).test_tensors()
    network, _ = trained_network(runs["defects"])
    with torch.no_grad():
        before = network(torch.from_numpy(inputs["image"])).presence.sigmoid().numpy()
    np.testing.assert_allclose(after["presence"], np.interp(before, raw, probability), atol=1e-4)
    assert "presence is calibrated" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("option", "kind", "said"),
    [
        ("ae1", "ae2", r"--ae1-run .*the network 'ae2'; expected one of 'ae1'"),
        ("ae2", "defects", r"--ae2-run .*the network 'finder'; expected one of 'ae2'"),
    ],
)
def test_a_run_of_another_network_is_not_attached(runs, tmp_path, option, kind, said):
    options = ExportOptions("0.1.0", attachments={option: runs[kind]})
    with pytest.raises(ParameterError, match=said):
        export_run(runs["defects"], tmp_path / "defects", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["context", "terraces"])
def test_an_autoencoder_that_the_runtime_cannot_use_is_refused(runs, tmp_path, option):
    run = RunFolder(Path(shutil.copytree(runs["ae1"].path, tmp_path / "run")))
    text = run.recipe_file.read_text(encoding="utf-8")
    assert f"{option} = true" in text
    run.recipe_file.write_text(text.replace(f"{option} = true", f"{option} = false"), encoding="utf-8")
    with pytest.raises(ParameterError, match=rf"{option}=False.*expected true for both"):
        export_run(runs["defects"], tmp_path / "package", ExportOptions("0.1.0", attachments={"ae1": run}))
    assert not (tmp_path / "package").exists()


def test_an_autoencoder_is_no_package_and_no_part_of_a_finder_of_atoms(runs, finished_run, tmp_path):
    with pytest.raises(ParameterError, match=r"--ae2-run beside a run of 'finder'"):
        export_run(runs["ae2"], tmp_path / "package", ExportOptions("0.1.0"))
    with pytest.raises(ParameterError, match=r"--ae1-run .*'atoms' has; expected --scale-run"):
        export_run(
            RunFolder(finished_run), tmp_path / "package", ExportOptions("0.1.0", attachments={"ae1": runs["ae1"]})
        )


def test_what_was_learned_is_kept_until_the_weights_change(runs, tmp_path, monkeypatch):
    run = RunFolder(Path(shutil.copytree(runs["ae1"].path, tmp_path / "ae1")))
    network, _ = trained_network(run)
    first = stage_one(run, network)
    learned = []
    monkeypatch.setattr(stages, "_learn_one", lambda *_: learned.append(1) or first)
    again = stage_one(run, network)
    assert not learned
    np.testing.assert_array_equal(again.clusters.centres, first.clusters.centres)
    assert (again.target_clusters, again.novelty_distance) == (first.target_clusters, first.novelty_distance)
    run.best.write_bytes(run.best.read_bytes() + b"\0")
    stage_one(run, network)
    assert learned
    (run.path / "stage_one.npz").write_bytes(b"nothing")
    with pytest.raises(ParameterError, match=r"stage_one\.npz: not readable"):
        stage_one(run, network)


def test_an_image_is_new_beyond_nearly_all_of_the_validation(runs):
    network, _ = trained_network(runs["ae1"])
    learned = stage_one(runs["ae1"], network)
    graph = ImageEncoderGraph(network, stride_px=8, clusters=learned.clusters)
    crops = SurfaceCrops(runs["ae1"].recipe(), Split.VALIDATION, MARGIN_PX)
    typical = []
    for number in range(4):  # the pool of the smoke recipe
        image = torch.from_numpy(crops.surface(number).image.astype(np.float32)).clamp(0, 1)
        with torch.no_grad():
            typical.append(float(graph.named(image[None, None])["distance"].median()))
    assert learned.novelty_distance == pytest.approx(np.percentile(typical, 99), rel=1e-4)


def test_target_clusters_lie_mostly_on_defects():
    label = np.repeat(np.arange(5), [1000, 200, 100, 100, 10])
    on = np.zeros(len(label), bool)
    on[:10] = True  # of the first hardly any
    on[1000:1060] = True  # of the second more than of all, but not half
    on[1200:1260] = True  # of the third most
    on[1400:] = True  # of the last all, but these are few
    assert target_clusters(label, on, 6) == (2,)
    assert target_clusters(label, np.ones(len(label), bool), 6) == ()


def test_windows_that_lie_on_a_defect():
    middle = np.array([[20.0, 20.0], [20.0, 29.0], [60.0, 60.0]])
    yx, radius = np.array([[20.0, 20.0 + ON_DEFECT_PX], [50.0, 60.0]]), np.array([1.0, 10.0])
    np.testing.assert_array_equal(stages._lies_on(middle, yx, radius), [True, True, True])
    np.testing.assert_array_equal(stages._lies_on(middle, yx, radius - 0.5), [True, True, False])
    assert not stages._lies_on(middle, np.zeros((0, 2)), np.zeros(0)).any()


class _Patches:
    """Patches that are as bright as their class says."""

    def __getitem__(self, key) -> tuple:
        rng = np.random.default_rng(key)
        kind = int(rng.integers(3))
        return torch.full((1, 32, 32), 0.3 * kind), None, torch.tensor(kind)


class _Brightness:
    """Latents: the brightness of a patch, and noise that says nothing."""

    def encode(self, patch):
        generator = torch.Generator().manual_seed(0)
        noise = 0.01 * torch.randn(len(patch), 2, generator=generator)
        return torch.cat([patch.mean(dim=(1, 2, 3))[:, None] + noise[:, :1], noise[:, 1:]], dim=1)


def test_components_of_the_mixture_know_their_class(runs, monkeypatch):
    """Where latents tell the class, every component is of one, as far as so few patches tell; each of the three has some."""
    monkeypatch.setattr(stages.Ae2Task, "dataset", lambda *_: _Patches())
    learned = stages._learn_two(runs["ae2"], _Brightness(), 64)
    assert learned.shares.shape == (20, len(DEFECT_CLASSES))
    np.testing.assert_allclose(learned.shares.sum(axis=1), 1.0)
    heavy = learned.mixture.weights > 0.02
    assert heavy.sum() >= 3
    assert (learned.shares[heavy].max(axis=1) > 0.75).all()
    assert set(learned.shares[heavy].argmax(axis=1)) == {0, 1, 2}
