"""`spm-train` as a person types it."""

import subprocess
import sys
from pathlib import Path

import pytest

from spm_training import cli as module
from spm_training.cli import cli, main
from spm_training.recipe import recipe_names
from spm_training.run import RunFolder


def call(monkeypatch, capsys, *words):
    """Exit code, stdout and stderr of the entry point."""
    monkeypatch.setattr(sys, "argv", ["spm-train", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_every_command_and_option_is_explained():
    assert set(cli.commands) >= {"list", "fit", "export", "evaluate", "simulate"}
    for command in cli.commands.values():
        assert command.help
        for option in command.params:
            if option.param_type_name == "option" and option.name != "help":
                assert option.help or option.name == "device", f"{command.name} {option.name}"


def test_list_says_what_on_what_data_and_how_long(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "list")
    assert code == 0
    for name in recipe_names():
        assert name in out
    for word in ("simulated", "parameters", "FLOP", " h at "):
        assert word in out


def test_smoke_from_fit_to_package(monkeypatch, capsys, tmp_path):
    """The whole path with the recipe's own smoke settings; off a terminal one line per epoch and no bar."""
    run = tmp_path / "run"
    code, out, err = call(
        monkeypatch, capsys, "fit", "atoms", "--smoke", "--out", run, "--device", "cpu", "--set", "training.threads=1"
    )
    assert code == 0
    assert out.index("FLOP") < out.index("epoch 1/2") < out.index("epoch 2/2")
    assert "it/s" not in err
    assert RunFolder(run).recipe().training.threads == 1
    code, out, _ = call(
        monkeypatch, capsys, "fit", "atoms", "--resume", "--out", run, "--device", "cpu", "--set", "training.epochs=3"
    )
    assert code == 0
    assert "resuming at epoch 3" in out
    code, out, _ = call(monkeypatch, capsys, "export", run, "--to", tmp_path / "atoms", "--no-evaluate")
    assert code == 0
    assert "differ by at most" in out
    results = tmp_path / "results"
    words = ("--images", 1, "--side-px", 48, "--spacing-px", 8, 10, "--family", "square", "--out", results)
    code, out, _ = call(monkeypatch, capsys, "evaluate", tmp_path / "atoms", *words)
    assert code == 0
    assert "| noise: low |" in out
    files = ["evaluation-atoms-reliability.png", "evaluation-atoms.json", "evaluation-atoms.md"]
    assert sorted(path.name for path in results.iterdir()) == files


def test_simulate(monkeypatch, capsys, tmp_path):
    words = ("--count", 1, "--shape", 40, 48, "--family", "square", "--out", tmp_path / "scenes")
    code, out, _ = call(monkeypatch, capsys, "simulate", "columns", *words)
    assert code == 0
    assert "1 scenes" in out
    assert {path.suffix for path in (tmp_path / "scenes").iterdir()} == {".tif", ".csv", ".png", ".json"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("fit", "atom"), 2, "'atom': not found"),
        (("fit", "atoms", "--set", "data.bath=3"), 2, "data.bath"),
        (("fit", "atoms", "--data", "."), 2, "reads none"),
        (("fit", "atoms", "--resume"), 2, "--out: missing"),
        (("fit",), 2, "Missing argument 'RECIPE'"),
        (("fit", "atoms", "--device", "tpu"), 2, "auto, cpu or cuda"),
        (("export", "nowhere", "--to", "there"), 2, "recipe.toml"),
        (("evaluate", "no-such-model"), 3, "no package of this name"),
        (("evaluate", "atoms", "--images", "0"), 2, "nothing to score"),
        (("evaluate", "atoms", "--family", "cubic"), 2, "--family cubic"),
        (("evaluate", "atoms", "--images", "0", "--real", "nowhere"), 2, "no such folder"),
        (("evaluate", "atoms", "atoms"), 2, "two packages of the same name"),
        (("simulate", "galaxies", "--out", "there"), 2, "galaxies"),
        (("simulate", "columns", "--out", "there", "--family", "cubic"), 2, "cubic"),
        (("simulate", "columns", "--out", "there", "--spacing-px", "9", "3"), 2, "--spacing-px 9 3"),
        (("simulate", "columns", "--out", "there", "--spacing-nm", "0"), 2, "--spacing-nm 0"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_mistakes_are_named_and_have_their_exit_code(monkeypatch, capsys, tmp_path, words, code, said):
    monkeypatch.chdir(tmp_path)
    seen, _, err = call(monkeypatch, capsys, *words)
    assert seen == code
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_recipe_is_not_resumed(monkeypatch, capsys, finished_run, tmp_path):
    from spm_training.recipe import to_toml

    other = tmp_path / "other.toml"
    other.write_text(to_toml(RunFolder(finished_run).recipe().model_copy(update={"name": "other"})), encoding="utf-8")
    code, _, err = call(monkeypatch, capsys, "fit", other, "--resume", "--out", finished_run)
    assert code == 2
    assert "is a run of recipe atoms" in err


def test_an_interrupted_training_has_its_own_exit_code(monkeypatch, capsys, tmp_path):
    from spm_training import fit

    stopped = fit.Outcome(1, 0.5, "interrupted")
    monkeypatch.setattr(fit, "fit", lambda *args, **kwargs: stopped)
    code, _, _ = call(monkeypatch, capsys, "fit", "atoms", "--out", tmp_path / "run")
    assert code == module.EXIT_INTERRUPTED == 130


def test_help_needs_no_torch():
    """The command answers at once: heavy packages are imported where they are used."""
    code = "import sys; from spm_training.cli import cli; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_default_run_folder_is_named_by_recipe_and_time(monkeypatch, capsys, tmp_path):
    from spm_training import fit

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    seen = []
    monkeypatch.setattr(
        fit, "fit", lambda recipe, run, **kwargs: seen.append(run.path) or fit.Outcome(1, 0.5, "finished")
    )
    monkeypatch.setattr(sys, "argv", ["spm-train", "fit", "atoms"])
    with pytest.raises(SystemExit):
        main()
    assert seen[0].parent == Path("runs")
    assert seen[0].name.startswith("atoms-")
