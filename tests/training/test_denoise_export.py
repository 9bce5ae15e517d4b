"""From runs of networks that take noise away to packages, through the eyes of the runtime."""

import numpy as np
import pytest
import torch
import yaml

from spm_runtime.errors import ParameterError
from spm_runtime.models import load_package
from spm_runtime.pipelines import analyse
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_runtime.pipelines.fourier_wiener import with_filtered
from spm_runtime.scan import Scan
from spm_runtime.session import Session, self_test
from spm_training.data import Split
from spm_training.denoise.evaluate import package_denoiser
from spm_training.denoise.report import score_denoiser
from spm_training.denoise.scenes import DenoiseOptions
from spm_training.export import ExportOptions, evaluation_of, export_run
from spm_training.graphs.base import Calibration
from spm_training.peers.denoise import Gaussian
from spm_training.recipe import load_recipe
from spm_training.restore.report import Subject
from spm_training.run import RunFolder
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, simulate_lattice
from spm_training.tasks import task_of
from spm_training.trained import trained_network

NAMES = ("denoise", "cae-a", "cae-b", "cae-twin", "cae-vae")
SHORT = ("training.epochs=1", "data.steps_per_epoch=2", "training.threads=1")
FEW = DenoiseOptions(images=1, side_px=64, names=("cubic", "fcc"), defects=0.05)


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """Finished smoke runs by recipe, not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    for name in NAMES:
        trained(load_recipe(name, smoke=True, overrides=SHORT), folder / name)
    return {name: RunFolder(folder / name) for name in NAMES}


@pytest.fixture(scope="module")
def packages(runs, tmp_path_factory):
    """Their packages, not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    for name, run in runs.items():
        export_run(run, folder / name, ExportOptions("1.2.3", half=name == "denoise"))
    return {name: load_package(folder / name) for name in NAMES}


@pytest.fixture(scope="module")
def scene():
    """An image whose sides are no multiples of any stride."""
    return simulate_lattice(np.random.default_rng(5), "bcc", shape=(75, 93), noise=NOISE_LEVELS["medium"])


def scan_of(image):
    return Scan(image, unit="nm", pixel_size_nm=(0.03, 0.03), modality="stm", channel="Z")


@pytest.mark.parametrize("name", NAMES)
def test_the_runtime_opens_and_reproduces_it(name, packages):
    package = packages[name]
    assert (package.name, package.version, package.task) == (name, "1.2.3", "denoise")
    assert self_test(Session(package, "cpu")) < 1e-4
    inputs, outputs = package.test_tensors()
    shapes = {key: value.shape for key, value in (inputs | outputs).items()}
    side = {"cae-a": 17, "cae-b": 16, "cae-twin": 17, "cae-vae": 17}.get(name)
    if side is None:
        assert shapes == {"image": (1, 2, 96, 144), "denoised": (1, 1, 96, 144)}
        assert package.settings == {"kind": "image", "windows_px": [16]}
        assert (package.size_multiple, package.halo_px) == (16, task_graph(name).halo_px)
    else:
        twin = {"centred": (1, 1, side, side), "offset_yx_px": (1, 2)} if name == "cae-twin" else {}
        assert shapes == {"patch": (1, 1, side, side), "denoised": (1, 1, side, side), "latent": (1, 10), **twin}
        assert package.settings == {"kind": "patch", "patch_px": side, "stride_px": 4}
    assert next(iter(inputs.values())).std() > 0.05


def task_graph(name):
    task = task_of(load_recipe(name, smoke=True))
    return task.graph(task.build_network())


@pytest.mark.parametrize("name", NAMES)
def test_a_scan_goes_through_it_and_the_network_is_torchs(name, packages, runs, scene):
    """Of images the whole map is compared; of patches a patch alone, which nothing overlaps."""
    package = packages[name]
    found = {one.name: one for one in analyse(scan_of(scene.image), "denoise", model=package.folder, device="cpu").maps}
    assert found["denoised"].data.shape == scene.image.shape
    assert np.isfinite(found["denoised"].data).all()
    network = trained_network(runs[name])[0]
    if name == "denoise":
        image = scene.image[:64, :80]
        expected_of = network
    else:
        side = package.settings["patch_px"]
        image = scene.image[:side, :side]
        expected_of = lambda patch: network(patch).denoised  # noqa: E731
    view = denoise_view(image)
    with torch.no_grad():
        seen = with_filtered(view.image, tuple(package.settings.get("windows_px", ())))
        expected = view.restored(expected_of(torch.from_numpy(seen)[None])[0, 0].numpy())
    one = analyse(scan_of(image), "denoise", model=package.folder, device="cpu").maps[0].data
    np.testing.assert_allclose(one, expected, atol=(5e-3 if name == "denoise" else 1e-4) * view.scale)


def test_what_the_decoders_say_is_in_the_units_of_training(packages, runs):
    task = task_of(runs["cae-twin"].recipe())
    batch = task.collate([task.dataset(Split.VALIDATION)[0, i] for i in range(5)])
    network = trained_network(runs["cae-twin"])[0]
    with torch.no_grad():
        expected = network(batch.image)
    found = Session(packages["cae-twin"], "cpu").run({"patch": batch.image.numpy()})
    for name in ("denoised", "latent", "centred", "offset_yx_px"):
        np.testing.assert_allclose(found[name], getattr(expected, name).numpy(), atol=1e-4)


def test_the_variational_network_answers_with_its_means(packages, runs):
    patch = np.random.default_rng(1).standard_normal((3, 1, 17, 17)).astype(np.float32)
    session = Session(packages["cae-vae"], "cpu")
    one, other = (session.run({"patch": patch}) for _ in range(2))
    np.testing.assert_array_equal(one["denoised"], other["denoised"])
    network = trained_network(runs["cae-vae"])[0].network
    with torch.no_grad():
        np.testing.assert_allclose(one["latent"], network.encode(torch.from_numpy(patch)).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["denoise", "cae-b"])
def test_other_tools_can_open_it_and_the_card_says_how_it_was_made(name, packages):
    folder = packages[name].folder
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))
    size = rdf["inputs"][0]["axes"][2]["size"]
    assert size == ({"min": 16, "step": 16} if name == "denoise" else 16)
    entry = rdf["inputs"][0]["id"]
    assert rdf["outputs"][0]["axes"][2]["size"] == {"tensor_id": entry, "axis_id": "y"}
    assert {"denoising", "stm"} <= set(rdf["tags"])
    training = rdf["config"]["spm"]["training"]
    assert training["families"] == "all"
    assert training["target"] == "the clean image"
    assert training["thermal"] == "0.03 to 0.5"
    card = (folder / "README.md").read_text(encoding="utf-8")
    words = {
        "denoise": ("Residual U-Net", "multiples of 16", "looks at most"),
        "cae-b": ("CAE-B of the USC study", "H and W 16", "10 latent numbers", "whole patch"),
    }
    for word in (*words[name], "1.2.3", *LATTICES, "keep their unit"):
        assert word in card


def test_values_are_not_calibrated_and_nothing_is_attached(runs, tmp_path):
    options = ExportOptions("0.1.0", calibration=Calibration((0.0, 1.0), (0.0, 1.0)))
    with pytest.raises(ParameterError, match=r"--calibration: cae-a takes noise away"):
        export_run(runs["cae-a"], tmp_path / "a", options)
    with pytest.raises(ParameterError, match=r"--tip-run"):
        export_run(runs["cae-a"], tmp_path / "b", ExportOptions("0.1.0", attachments={"tip": runs["denoise"]}))
    assert list(tmp_path.iterdir()) == []


def test_scores_go_into_the_card(runs, tmp_path):
    seen = []
    assert evaluation_of(runs["denoise"], 2).total == 2 * 3 * 6
    done = export_run(runs["denoise"], tmp_path / "m", ExportOptions("0.1.0"), evaluation=FEW, on_image=seen.append)
    assert len(seen) == FEW.total == 6
    assert load_package(done.folder).metrics == done.report.headline()
    assert done.report.markdown() in (done.folder / "README.md").read_text(encoding="utf-8")
    assert {"psnr_low", "psnr_gain_high", "ssim_medium", "vacancy_contrast_low"} <= done.report.headline().keys()


def test_the_scores_are_those_of_the_truth(packages):
    """What changes nothing gains nothing; a blur gains most where there is most noise and weakens the defects."""
    nothing = score_denoiser(lambda image, sigma: image, FEW)
    assert all(one.gain_db == 0 and one.before == one.after for one in nothing.scores)
    shares = [share for one in nothing.scores for share in (one.vacancy, one.adatom) if np.isfinite(share)]
    assert shares == pytest.approx(np.ones(len(shares)), abs=1e-3)
    blurred = score_denoiser(Gaussian(1.5), FEW).headline()
    assert blurred["psnr_gain_high"] > blurred["psnr_gain_low"]
    assert blurred["psnr_gain_high"] > 3
    assert blurred["vacancy_contrast_medium"] < 0.9
    # A residual network after two steps changes next to nothing.
    fresh = score_denoiser(package_denoiser(packages["denoise"]), FEW, subject=Subject.of(packages["denoise"]))
    assert abs(fresh.headline()["psnr_gain_medium"]) < 0.5
    # On a card, a number stands beside its command.
    assert fresh.markdown().startswith(f"`spm-train evaluate {packages['denoise'].name} --images {FEW.images}")
