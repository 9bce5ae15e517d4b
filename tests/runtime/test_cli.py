"""``spm-infer`` as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from spm_runtime.cli import main
from spm_runtime.demo import demo_scans
from spm_runtime.errors import AdatomError

SHIPPED = Path(__file__).resolve().parents[2] / "exported_models" / "atoms"


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The engine's own folder, away from the user's."""
    monkeypatch.setenv("SPM_STATE", str(tmp_path / "state"))


@pytest.fixture
def scans(tmp_path):
    """Two good scans, one of them in a sub-folder, and a damaged one."""
    y, x = np.mgrid[:96, :96]
    lattice = np.cos(2 * np.pi * y / 9) + np.cos(2 * np.pi * x / 9)
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    np.save(folder / "a.npy", lattice.astype(np.float32))
    np.save(folder / "sub" / "b.npy", lattice.T.astype(np.float64))
    (folder / "bad.npy").write_bytes((folder / "a.npy").read_bytes()[:1000])
    return folder


@pytest.mark.parametrize(
    "command", [(), ("run",), ("watch",), ("info",), ("models",), ("doctor",), ("demo",), ("status",), ("retry",)]
)
def test_help(command):
    done = invoke(*command, "--help")
    assert done.exit_code == 0
    assert "Usage:" in done.output


def test_run_goes_on_after_a_bad_file(scans, tmp_path):
    out = tmp_path / "out"
    done = invoke("run", scans, "--out", out, "--device", "cpu")
    assert done.exit_code == 1
    assert "bad.npy" in done.output
    for name in ("a.npy", "sub/b.npy"):
        document = json.loads((out / name / "result.json").read_text(encoding="utf-8"))
        assert document["tasks"]["atoms"]["counts"]["atoms"] > 50
        assert document["tasks"]["atoms"]["provider"] == "CPUExecutionProvider"
        assert {"atoms.csv", "confidence.tif", "overlay.png"} <= {file.name for file in (out / name).iterdir()}
    summary = (out / "summary.csv").read_text(encoding="utf-8-sig")
    assert summary.count("\n") == 4
    assert "truncated" in summary
    assert "bad.npy" in (out / "index.html").read_text(encoding="utf-8")


def test_run_of_good_files_ends_with_zero(scans, tmp_path):
    assert invoke("run", scans / "a.npy", "--out", tmp_path / "out", "--device", "cpu").exit_code == 0


def test_pixel_size_and_parameters_reach_the_result(scans, tmp_path):
    out = tmp_path / "out"
    params = tmp_path / "params.yaml"
    params.write_text("filter_lower_bound: 0.2\nspacing_px: 9\n", encoding="utf-8")
    words = ["--pixel-size-nm", "0.05", "--params", params, "--param", "filter_lower_bound=0.5"]
    assert invoke("run", scans / "a.npy", "--out", out, "--device", "cpu", *words).exit_code == 0
    document = json.loads((out / "a.npy" / "result.json").read_text(encoding="utf-8"))
    assert document["tasks"]["atoms"]["parameters"]["filter_lower_bound"] == 0.5
    assert document["tasks"]["atoms"]["parameters"]["spacing_px"] == 9
    rows = (out / "a.npy" / "atoms.csv").read_text(encoding="utf-8-sig").splitlines()
    assert rows[0] == "y_px,x_px,y_nm,x_nm,score,position_std_px,width_px,intensity,sublattice"
    y_px, _, y_nm, *_ = rows[1].split(",")
    assert float(y_nm) == pytest.approx(0.05 * float(y_px), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--param", "nonsense=1"], 2, "nonsense"),
        (["--param", "filter_lower_bound"], 2, "NAME=VALUE"),
        (["--param", "filter_lower_bound=high"], 2, "not a number"),
        (["--param", "filter_lower_bound=7"], 2, "out of range"),
        (["--task", "strain"], 2, "strain"),
        (["--model", "nonsense"], 3, "nonsense"),
        (["--device", "cpu", "--require-gpu"], 3, "GPU"),
    ],
)
def test_usage_and_environment_have_their_own_exit_codes(scans, tmp_path, words, code, reason):
    done = invoke("run", scans / "a.npy", "--out", tmp_path / "out", *words)
    assert done.exit_code == code, done.output
    assert reason in done.output
    assert "Traceback" not in done.output


def test_a_model_by_folder(scans, tmp_path):
    done = invoke("run", scans / "a.npy", "--out", tmp_path / "out", "--model", SHIPPED, "--device", "cpu")
    assert done.exit_code == 0


def test_a_missing_file_is_a_failed_scan(tmp_path):
    done = invoke("run", tmp_path / "nowhere.sxm", "--out", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 1
    assert "nowhere.sxm" in done.output


def test_watch_once(scans, tmp_path):
    words = ["--once", "--poll-s", "0.05", "--device", "cpu"]
    done = invoke("watch", scans, "--out", tmp_path / "out", *words)
    assert (tmp_path / "out" / "sub" / "b.npy" / "result.json").is_file()
    assert done.exit_code == 1  # the damaged file


def test_status_and_retry(scans, tmp_path):
    out, state = tmp_path / "out", tmp_path / "own state"
    assert invoke("run", scans, "--out", out, "--device", "cpu", "--state", state).exit_code == 1
    done = invoke("status", out, "--state", state)
    assert done.exit_code == 0
    assert "2 done, 1 failed" in done.output
    assert "bad.npy: " in done.output
    facts = json.loads(invoke("status", out, "--state", state, "--json").stdout)
    assert facts["counts"]["done"] == 2
    assert {scan["scan"] for scan in facts["scans"]} == {"a.npy", "sub/b.npy", "bad.npy"}
    assert invoke("retry", out, "nothing.npy", "--state", state).exit_code == 2
    assert invoke("retry", out, "--state", state).output == "waiting bad.npy\n"
    assert "1 waiting" in invoke("status", out, "--state", state).output
    again = invoke("run", scans, "--out", out, "--device", "cpu", "--state", state)
    assert again.output.count("was there already") == 2
    assert invoke("status", tmp_path / "elsewhere").exit_code == 3
    assert not (tmp_path / "state").exists()


def test_info(scans):
    done = invoke("info", scans / "a.npy")
    assert done.exit_code == 0
    assert "96 × 96 px" in done.output
    assert "not calibrated" in done.output
    failed = invoke("info", scans / "bad.npy")
    assert failed.exit_code == 1
    assert "bad.npy" in failed.output
    assert "expected" in failed.output


def test_models_lists_what_is_shipped():
    done = invoke("models")
    assert done.exit_code == 0
    for word in ("atoms", "hashes right", "trained", "scores", "known failure", "--param filter_lower_bound"):
        assert word in done.output


def test_models_says_which_package_is_damaged(tmp_path, monkeypatch):
    import shutil

    shutil.copytree(SHIPPED, tmp_path / "atoms")
    with (tmp_path / "atoms" / "weights.onnx").open("ab") as file:
        file.write(b"\0")
    monkeypatch.setenv("SPM_MODELS", str(tmp_path))
    for command in ("models", "doctor"):
        done = invoke(command)
        assert done.exit_code == 3
        assert "sha256" in done.output


def test_doctor_reproduces_the_models():
    done = invoke("doctor")
    assert done.exit_code == 0, done.output
    for word in ("onnxruntime", "model atoms", "reproduced on the CPU", "kernel cache", "formats"):
        assert word in done.output


def test_doctor_names_a_missing_cache(monkeypatch):
    monkeypatch.setattr("spm_kernels.cache_folder", lambda: None)
    done = invoke("doctor")
    assert done.exit_code == 0
    assert "NUMBA_CACHE_DIR" in done.output


def test_the_demo_needs_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AdatomError, match=r"adatom\[demo\]"):
        demo_scans()


def test_the_demo_does_the_whole_job(tmp_path):
    pytest.importorskip("spiepy", reason="SPIEPy comes with the extra `demo`", exc_type=ImportError)
    done = invoke("demo", "--out", tmp_path / "demo", "--device", "cpu")
    assert done.exit_code == 0, done.output
    documents = sorted((tmp_path / "demo").rglob("result.json"))
    assert len(documents) == 3
    counts = [json.loads(d.read_text(encoding="utf-8"))["tasks"]["atoms"]["counts"]["atoms"] for d in documents]
    assert min(counts) > 300
