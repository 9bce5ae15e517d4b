"""A wheel built from the repository and installed elsewhere carries the exported models and finds them."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROBE = """
import json, spm_runtime
from spm_runtime.models import default_model, list_models
from spm_runtime.session import Session, self_test
package = default_model("atoms")
print(json.dumps({
    "runtime": spm_runtime.__file__,
    "model": str(package.folder),
    "models": [folder.name for folder in list_models()],
    "error": self_test(Session(package, "cpu")),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("build", reason="build comes with the extra `dev`")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("adatom-*.whl"))


def test_a_wheel_finds_its_models_elsewhere(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {key: value for key, value in os.environ.items() if key != "SPM_MODELS"}
    environment["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert Path(seen["runtime"]).is_relative_to(site)
    assert Path(seen["model"]).is_relative_to(site.resolve())
    assert sorted(seen["models"]) == sorted(path.parent.name for path in (ROOT / "exported_models").glob("*/rdf.yaml"))


def test_a_wheel_holds_the_packages_and_no_rubbish(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"spm_kernels", "spm_runtime", "spm_training"} <= tops
    assert all(top.startswith(("spm_", "adatom-")) for top in tops)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pt", ".pyc"))]
    for needed in (
        "spm_runtime/exported_models/atoms/weights.onnx",
        "spm_runtime/py.typed",
        "spm_training/recipes/atoms.toml",
    ):
        assert needed in names
