"""From a run to a package, through the eyes of the runtime."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from spm_runtime.errors import ModelError, ModelIntegrityError, ParameterError
from spm_runtime.models import load_package
from spm_runtime.pipelines import analyse
from spm_runtime.scan import Scan
from spm_runtime.session import Session, self_test
from spm_training import export as module
from spm_training.atoms.evaluate import EvaluationOptions
from spm_training.atoms.report import DIAGRAM
from spm_training.export import ExportOptions, check_against_torch, export_run
from spm_training.graphs.base import AtomsGraph, Calibration
from spm_training.graphs.onnx_export import deployable
from spm_training.networks.atoms import AtomsNet
from spm_training.recipe import load_recipe
from spm_training.run import RunFolder
from spm_training.trained import trained_network


@pytest.fixture(scope="module")
def package(finished_run, tmp_path_factory):
    """The package of the tiny run, not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "atoms"
    export_run(RunFolder(finished_run), folder, ExportOptions("1.2.3"))
    return folder


@pytest.fixture(scope="module")
def reference_run(tiny_recipe_of, trained, tmp_path_factory):
    """A finished run of the paper's network."""
    folder = tmp_path_factory.mktemp("run") / "atomid"
    trained(tiny_recipe_of("training.epochs=1", name="atomid"), folder)
    return folder


def test_the_runtime_opens_and_reproduces_it(package):
    loaded = load_package(package)
    assert loaded.reference.name == "atoms"
    assert loaded.version == "1.2.3"
    assert loaded.task == "atoms"
    assert self_test(Session(loaded, "cpu")) < 1e-4
    assert loaded.size_multiple == 4  # the tiny network's stride
    assert loaded.spacing_px == (6.0, 11.0)
    assert set(loaded.parameters) == {"filter_lower_bound", "filter_window_size", "spacing_px"}
    assert {file.name for file in package.iterdir()} == {
        "rdf.yaml",
        "weights.onnx",
        "test_input.npy",
        "test_output_confidence.npy",
        "test_output_offset.npy",
        "test_output_position_std.npy",
        "test_output_spacing.npy",
        "README.md",
    }


def test_the_pipeline_runs_it(package, rng):
    result = analyse(Scan(rng.normal(size=(64, 80)).astype(np.float32)), "atoms", model=package, device="cpu")
    assert result.model.version == "1.2.3"
    assert result.atoms is not None


def test_the_test_input_is_levelled_and_not_square(package):
    inputs, outputs = load_package(package).test_tensors()
    image = inputs["image"]
    assert image.shape[2] != image.shape[3]
    assert np.abs(image).max() <= 4
    assert 0.5 < image.std() < 2
    assert outputs["confidence"].shape == image.shape
    assert outputs["spacing_px"].shape == (1, 1)
    assert outputs["offset_px"].shape == (1, 2, *image.shape[2:])
    assert outputs["position_std_px"].shape == image.shape
    assert outputs["position_std_px"].min() > 0


def test_other_tools_can_open_it_without_network(package):
    from bioimageio.spec import ValidationContext, validate_format

    content = yaml.safe_load((package / "rdf.yaml").read_text(encoding="utf-8"))
    context = ValidationContext(root=package, perform_io_checks=False, log_warnings=False)
    summary = validate_format(content, context=context)
    assert summary.status != "failed", summary.errors


def test_the_description_and_the_card_say_how_it_was_made(package):
    spm = yaml.safe_load((package / "rdf.yaml").read_text(encoding="utf-8"))["config"]["spm"]
    assert spm["training"]["recipe"] == "atoms"
    assert spm["training"]["seed"] == load_recipe("atoms").training.seed
    assert spm["training"]["budget"] == "CPU budget"
    assert spm["training"]["commit"]
    assert spm["known_failures"] == list(load_recipe("atoms").card.known_failures)
    assert spm["levelling"]["background_radius_px"] == 16
    assert spm["metrics"] == {}
    card = (package / "README.md").read_text(encoding="utf-8")
    for text in ("1.2.3", "CPU budget", "spm-train evaluate", *spm["known_failures"]):
        assert text in card


def test_the_halo_of_the_package_covers_the_network(package):
    loaded = load_package(package)
    assert loaded.halo_px == AtomsNet(2, 2).halo_px


def test_scores_go_into_the_card_with_their_command(finished_run, tmp_path):
    seen = []
    options = EvaluationOptions(images=1, side_px=48, spacing_px=(8.0, 10.0))
    done = export_run(
        RunFolder(finished_run), tmp_path / "atoms", ExportOptions("0.1.0"), evaluation=options, on_image=seen.append
    )
    assert len(seen) == options.total == len(done.report.scores)
    assert "f1_clear" in load_package(done.folder).metrics
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert "`spm-train evaluate atoms --images 1 --side-px 48 --spacing-px 8 10`" in card
    assert done.report.markdown(diagram=DIAGRAM) in card
    assert (done.folder / DIAGRAM).is_file()


def test_half_precision(finished_run, tmp_path):
    done = export_run(RunFolder(finished_run), tmp_path / "atoms", ExportOptions("0.1.0", half=True))
    assert done.difference < 1e-4
    assert load_package(done.folder).training["weights"] == "float16"


def test_a_package_that_differs_from_torch_is_refused(package, finished_run):
    network, _ = trained_network(RunFolder(finished_run))
    graph = AtomsGraph(deployable(network)).eval()
    loaded = load_package(package)
    images = [np.random.default_rng(0).normal(size=(2, 1, 16, 24)).astype(np.float32)]
    assert check_against_torch(graph, loaded, images) < 1e-4
    graph.network.spacing_head[-1].bias.data += 0.01
    with pytest.raises(ModelIntegrityError, match=r"differ by 0\.01; expected at most 0\.0001"):
        check_against_torch(graph, loaded, images)
    graph.network.spacing_head[-1].bias.data -= 0.01
    graph.network.position_head[-1].bias.data[1] += 0.5
    with pytest.raises(ModelIntegrityError, match=r"differ by 0\.\d+"):
        check_against_torch(graph, loaded, images)


def test_a_failed_export_leaves_nothing_behind(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TORCH_TOLERANCE", -1.0)
    with pytest.raises(ModelIntegrityError):
        export_run(RunFolder(finished_run), tmp_path / "atoms", ExportOptions("0.1.0"))
    assert list(tmp_path.iterdir()) == []


def test_only_a_package_is_ever_overwritten(finished_run, package, tmp_path):
    run = RunFolder(finished_run)
    with pytest.raises(ParameterError, match="--overwrite"):
        export_run(run, package, ExportOptions("2.0.0"))
    (tmp_path / "thesis.txt").write_text("irreplaceable", encoding="utf-8")
    with pytest.raises(ParameterError, match="exists already"):
        export_run(run, tmp_path, ExportOptions("2.0.0"), overwrite=True)
    folder = Path(shutil.copytree(package, tmp_path / "atoms"))
    export_run(run, folder, ExportOptions("2.0.0"), overwrite=True)
    assert load_package(folder).version == "2.0.0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atoms", "thesis.txt"]


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"recipe\.toml|run\.json"):
        export_run(RunFolder(tmp_path / "none"), tmp_path / "atoms", ExportOptions("0.1.0"))


def test_a_run_without_a_best_epoch_is_named(finished_run, tmp_path):
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (folder / "best.pt").unlink()
    with pytest.raises(ModelError, match=r"best\.pt: not found"):
        export_run(RunFolder(folder), tmp_path / "atoms", ExportOptions("0.1.0"))


def test_the_reference_is_a_package_without_positions(reference_run, tmp_path, rng):
    done = export_run(RunFolder(reference_run), tmp_path / "atomid", ExportOptions("0.1.0"))
    loaded = load_package(done.folder)
    assert (loaded.name, loaded.task) == ("atomid", "atoms")
    assert [output.id for output in loaded.outputs] == ["confidence", "spacing_px"]
    result = analyse(Scan(rng.normal(size=(64, 80)).astype(np.float32)), "atoms", model=done.folder, device="cpu")
    assert result.model.name == "atomid"


def test_calibrated_scores_are_in_the_graph_and_in_the_description(finished_run, package, tmp_path):
    knots = Calibration((-2.0, 0.3, 2.0), (0.0, 0.2, 1.0))
    done = export_run(RunFolder(finished_run), tmp_path / "atoms", ExportOptions("0.1.0", calibration=knots))
    spm = yaml.safe_load((done.folder / "rdf.yaml").read_text(encoding="utf-8"))["config"]["spm"]
    assert spm["calibration"] == {"raw": [-2.0, 0.3, 2.0], "probability": [0.0, 0.2, 1.0]}
    inputs, after = load_package(done.folder).test_tensors()
    network, _ = trained_network(RunFolder(finished_run))
    with torch.no_grad():
        raw = network(torch.from_numpy(inputs["image"])).confidence.numpy()
    np.testing.assert_allclose(after["confidence"], np.interp(raw, knots.raw, knots.probability), atol=1e-4)
    assert "calibrated" in (done.folder / "README.md").read_text(encoding="utf-8")
    assert "no probability" in (package / "README.md").read_text(encoding="utf-8")


def test_a_second_network_goes_into_the_same_package(finished_run, tiny, run_fit, tmp_path):
    run_fit(tiny("training.epochs=1", name="scale"), tmp_path / "scale")
    options = ExportOptions("0.1.0", attachments={"scale": RunFolder(tmp_path / "scale")})
    folder = export_run(RunFolder(finished_run), tmp_path / "atoms", options).folder
    loaded = load_package(folder)
    assert loaded.attachments == {"scale": folder.resolve() / "scale.onnx"}
    second = loaded.attached["scale"]
    assert self_test(Session(second, "cpu")) < 1e-4
    assert [output.id for output in second.outputs] == ["logits"]
    assert second.training["recipe"] == "scale"
    assert loaded.reference.sha256 != loaded.sha256
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))
    assert rdf["attachments"] == [{"source": "scale.onnx", "sha256": second.sha256}]
    (folder / "scale.onnx").write_bytes(b"something else")
    with pytest.raises(ModelIntegrityError, match=r"scale\.onnx: sha256 is"):
        Session(second, "cpu")


def test_a_scale_network_alone_is_no_package(tiny, run_fit, tmp_path):
    run_fit(tiny("training.epochs=1", name="scale"), tmp_path / "scale")
    with pytest.raises(ParameterError, match="--scale-run"):
        export_run(RunFolder(tmp_path / "scale"), tmp_path / "package", ExportOptions("0.1.0"))
    assert not (tmp_path / "package").exists()
