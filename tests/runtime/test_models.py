"""Model packages: what is read, what is refused."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest
import yaml

from spm_runtime import models
from spm_runtime.errors import ModelError, ModelIntegrityError, ParameterError
from spm_runtime.models import default_model, find_model, list_models, load_package

SHIPPED = Path(__file__).resolve().parents[2] / "exported_models" / "atoms"


@pytest.fixture
def package(tmp_path):
    """A copy of the shipped package that a test may damage."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "atoms"))


def installed():
    """The shipped package where this installation has it: in the wheel, or in the source tree."""
    return (models.model_roots()[0] / "atoms").resolve()


def edit(folder, change):
    file = folder / "rdf.yaml"
    rdf = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(rdf)
    file.write_text(yaml.safe_dump(rdf, sort_keys=False), encoding="utf-8")


def test_the_shipped_package_is_found_by_name_and_by_folder(package):
    assert default_model("atoms").folder == installed()
    assert find_model(package).folder == package.resolve()
    assert "atoms" in [folder.name for folder in list_models()]


def test_an_unknown_name_never_becomes_another_model(tmp_path):
    with pytest.raises(ModelError, match=r"'atom'.*atoms"):
        find_model("atom")
    with pytest.raises(ModelError, match=r"no rdf\.yaml"):
        find_model(tmp_path)


def test_a_folder_in_the_current_directory_never_replaces_an_installed_model(package, monkeypatch):
    monkeypatch.chdir(package.parent)
    assert find_model("atoms").folder == installed()
    assert default_model("atoms").folder == installed()
    assert find_model("./atoms").folder == package.resolve()
    assert find_model(Path("atoms")).folder == package.resolve()


def test_a_folder_of_the_environment_comes_first(package, monkeypatch):
    monkeypatch.setenv("SPM_MODELS", str(package.parent))
    assert find_model("atoms").folder == package.resolve()
    assert models.model_roots()[0] == package.parent


@pytest.mark.parametrize("file", ["weights.onnx", "test_input.npy"])
def test_a_changed_file_is_refused(package, file):
    data = bytearray((package / file).read_bytes())
    data[len(data) // 2] ^= 1
    (package / file).write_bytes(data)
    loaded = load_package(package)
    load = loaded.verified_weights if file.endswith(".onnx") else loaded.test_tensors
    with pytest.raises(ModelIntegrityError, match=r"sha256 is .* expected"):
        load()


def test_a_missing_file_is_named(package):
    (package / "weights.onnx").unlink()
    with pytest.raises(ModelIntegrityError, match=r"weights\.onnx"):
        load_package(package).verified_weights()


@pytest.mark.parametrize("source", ["../weights.onnx", "/etc/passwd", "a/../../weights.onnx", "C:/weights.onnx"])
def test_a_path_that_leads_out_is_refused(package, source):
    edit(package, lambda rdf: rdf["weights"]["onnx"].update(source=source))
    with pytest.raises(ModelIntegrityError, match="leads out"):
        load_package(package)


def test_a_link_that_leads_out_is_refused(package, tmp_path):
    outside = tmp_path / "elsewhere.onnx"
    shutil.move(package / "weights.onnx", outside)
    try:
        (package / "weights.onnx").symlink_to(outside)
    except OSError:
        pytest.skip("this system does not let tests make links")
    with pytest.raises(ModelIntegrityError, match="leads out"):
        load_package(package)


def test_custom_operators_are_refused_although_the_hash_fits(package):
    # One more opset_import (field 8) of the domain my.ops; fields of a protobuf may be appended.
    extra = b"\x42\x0a\x0a\x06my.ops\x10\x01"
    weights = package / "weights.onnx"
    weights.write_bytes(weights.read_bytes() + extra)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    edit(package, lambda rdf: rdf["weights"]["onnx"].update(sha256=digest))
    with pytest.raises(ModelIntegrityError, match=r"my\.ops"):
        load_package(package).verified_weights()


@pytest.mark.parametrize("text", ["", "- a list", "name: [unclosed", "name: atoms\n"])
def test_an_incomplete_description_is_refused(package, text):
    (package / "rdf.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"rdf\.yaml"):
        load_package(package)


def test_a_missing_entry_is_named(package):
    edit(package, lambda rdf: rdf["config"]["spm"].pop("size_multiple"))
    with pytest.raises(ModelError, match="size_multiple"):
        load_package(package)


@pytest.mark.parametrize(
    ("key", "value"),
    [("size_multiple", 0), ("halo_px", -1), ("size_multiple", 1.5), ("spacing_px", {"minimum": 5, "maximum": 2})],
)
def test_numbers_that_make_no_sense_are_refused(package, key, value):
    edit(package, lambda rdf: rdf["config"]["spm"].update({key: value}))
    with pytest.raises(ModelError, match=r"rdf\.yaml"):
        load_package(package)


def test_parameters_are_checked():
    package = load_package(SHIPPED)
    assert package.resolve(None) == {name: p.default for name, p in package.parameters.items()}
    assert package.resolve({"filter_lower_bound": 0.5})["filter_lower_bound"] == 0.5
    with pytest.raises(ParameterError, match="filter_lower_bound"):
        package.resolve({"filter_lower_bound": 2.0})
    with pytest.raises(ParameterError, match=r"'threshold'.*filter_lower_bound"):
        package.resolve({"threshold": 0.5})


def test_a_package_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_package(SHIPPED).name = "other"


def attach(folder, name="scale"):
    """A second network: the first one's file under another name."""
    content = (folder / "weights.onnx").read_bytes()
    (folder / f"{name}.onnx").write_bytes(content)

    def change(rdf):
        tensors = {
            key: [{"id": t["id"], "test_tensor": t["test_tensor"]} for t in rdf[key]] for key in ("inputs", "outputs")
        }
        entry = {"source": f"{name}.onnx", "sha256": hashlib.sha256(content).hexdigest(), "training": {}, **tensors}
        rdf["config"]["spm"].setdefault("attachments", {})[name] = entry

    edit(folder, change)


def test_a_further_network_is_a_package_of_its_own_and_checked_like_one(package):
    edit(package, lambda rdf: rdf["config"]["spm"].pop("attachments"))
    plain = load_package(package)
    assert plain.attachments == {}
    assert plain.reference.sha256 == plain.sha256
    attach(package)
    loaded = load_package(package)
    assert loaded.attachments == {"scale": package.resolve() / "scale.onnx"}
    second = loaded.attached["scale"]
    assert second.name == f"{loaded.name}/scale"
    assert second.verified_weights() == (package / "scale.onnx").read_bytes()
    (package / "scale.onnx").write_bytes(b"something else")
    with pytest.raises(ModelIntegrityError, match=r"scale\.onnx: sha256 is"):
        second.verified_weights()


def test_a_package_is_another_when_any_of_its_networks_is(package):
    seen = {load_package(package).reference.sha256}
    attach(package)
    seen.add(load_package(package).reference.sha256)
    edit(package, lambda rdf: rdf["config"]["spm"]["attachments"]["scale"].update(sha256="0" * 64))
    seen.add(load_package(package).reference.sha256)
    attach(package, "other")
    seen.add(load_package(package).reference.sha256)
    assert len(seen) == 4


@pytest.mark.parametrize("missing", ["source", "sha256", "inputs", "outputs", "training"])
def test_an_attachment_that_is_described_badly_is_named(package, missing):
    attach(package)
    edit(package, lambda rdf: rdf["config"]["spm"]["attachments"]["scale"].pop(missing))
    with pytest.raises(ModelError, match=missing):
        load_package(package)


def test_an_attachment_never_leads_out_of_the_package(package):
    attach(package)
    edit(package, lambda rdf: rdf["config"]["spm"]["attachments"]["scale"].update(source="../scale.onnx"))
    with pytest.raises(ModelIntegrityError, match="leads out of the package"):
        load_package(package)
