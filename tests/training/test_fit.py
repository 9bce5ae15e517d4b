"""The trainer: what it leaves, and that it goes on as if nothing had happened."""

import itertools
import json
import signal

import pytest
import torch

from spm_runtime.errors import DeviceError, ModelError, ParameterError
from spm_training.checkpoint import load_checkpoint
from spm_training.fit import Trainer
from spm_training.run import RunFolder
from spm_training.trained import trained_network


def assert_equal(a, b, where="state"):
    """Equal in every tensor, bit for bit, and in every number."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_equal_runs(a, b):
    for name in ("last.pt", "best.pt"):
        states = [load_checkpoint(folder / name) for folder in (a, b)]
        # The recipe is the one of the moment; its length may have been changed for the resume.
        lengths = [state["recipe"]["training"].pop("epochs") for state in states]
        assert min(lengths) > 0
        assert_equal(*states, name)
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in RunFolder(folder).metrics()]
        for folder in (a, b)
    ]
    assert rows[0] == rows[1]


def test_what_a_run_leaves(finished_run, tiny):
    run = RunFolder(finished_run)
    assert run.recipe() == tiny()
    rows = run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"train_loss", "val_loss", "val_f1", "val_spacing_error", "lr", "seconds"} <= rows[0].keys()
    facts = run.facts()
    assert facts["device"] == "cpu"
    assert facts["flop_per_step"] > 0
    assert facts["versions"]["torch"] == torch.__version__
    best = load_checkpoint(run.best)
    assert best["metrics"]["loss"] == min(row["val_loss"] for row in rows)
    assert list(run.tensorboard.glob("events.out.tfevents.*"))
    assert not list(finished_run.glob("*.tmp"))


def test_tensorboard_holds_curves_and_pictures(finished_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(RunFolder(finished_run).tensorboard)).Reload()
    assert {"val/loss", "train/loss", "lr", "val/f1"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("val/loss")] == [1, 2]
    assert events.Tags()["images"] == ["image_target_confidence"]


def test_a_resumed_training_equals_an_uninterrupted_one(tiny, run_fit, tmp_path):
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    run_fit(tiny("training.epochs=4"), straight)
    run_fit(tiny("training.epochs=2"), halves)
    outcome = run_fit(tiny("training.epochs=4"), halves, resume=True)
    assert outcome.epochs == 4
    assert_equal_runs(straight, halves)


@pytest.mark.parametrize("every", [0, 2])
def test_a_training_killed_within_an_epoch_loses_nothing_but_time(tiny, run_fit, tmp_path, monkeypatch, every):
    recipe = tiny("training.epochs=3", "data.steps_per_epoch=5", f"training.checkpoint_every_steps={every}")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run_fit(recipe, straight)
    step, seen = Trainer._step, []

    def dying(self, batch):
        seen.append(1)
        if len(seen) == 9:  # the fourth step of the second epoch
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run_fit(recipe, killed)
    monkeypatch.undo()
    state = load_checkpoint(killed / "last.pt")
    assert (state["epoch"], state["step"]) == (1, 2 if every else 0)
    run_fit(recipe, killed, resume=True)
    assert_equal_runs(straight, killed)


def test_ctrl_c_saves_after_the_step_and_ends_cleanly(tiny, run_fit, tmp_path, monkeypatch):
    recipe = tiny("training.epochs=2", "data.steps_per_epoch=5")
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    run_fit(recipe, straight)
    step, seen = Trainer._step, []

    def interrupted(self, batch):
        seen.append(1)
        if len(seen) == 7:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "_step", interrupted)
    outcome = run_fit(recipe, stopped)
    monkeypatch.undo()
    assert (outcome.stopped, outcome.epochs) == ("interrupted", 1)
    assert signal.getsignal(signal.SIGINT) is handler
    state = load_checkpoint(stopped / "last.pt")
    assert (state["epoch"], state["step"]) == (1, 2)
    assert run_fit(recipe, stopped, resume=True).stopped == "finished"
    assert_equal_runs(straight, stopped)


def test_the_same_recipe_trains_the_same_network_and_another_seed_another(tiny, run_fit, finished_run, tmp_path):
    run_fit(tiny(), tmp_path / "same")
    run_fit(tiny("training.seed=5"), tmp_path / "other")
    assert_equal_runs(finished_run, tmp_path / "same")
    first, other = (load_checkpoint(folder / "last.pt")["model"] for folder in (finished_run, tmp_path / "other"))
    assert not torch.equal(first["confidence_head.weight"], other["confidence_head.weight"])


def test_without_an_average_the_trained_weights_are_the_best(tiny, run_fit, tmp_path):
    run_fit(tiny("training.ema_decay=0", "training.epochs=1"), tmp_path / "run")
    last, best = load_checkpoint(tmp_path / "run" / "last.pt"), load_checkpoint(tmp_path / "run" / "best.pt")
    assert last["average"] is None
    assert_equal(last["model"], best["weights"])


def test_standing_still_lowers_the_rate_and_ends_the_training(tiny, run_fit, tmp_path):
    recipe = tiny(
        "training.epochs=12",
        "early_stopping.patience_epochs=4",
        "early_stopping.min_delta=100",
        "plateau.patience_epochs=0",
        "plateau.factor=0.5",
        "optimiser.lr=1e-12",
        "plateau.lr_min=0",
        "training.ema_decay=0",
    )
    outcome = run_fit(recipe, tmp_path / "run")
    # The first epoch is better than nothing; four more bring no 100.
    assert (outcome.stopped, outcome.epochs) == ("early", 5)
    rates = [row["lr"] for row in RunFolder(tmp_path / "run").metrics()]
    assert rates[0] == 1e-12
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


def test_a_folder_is_never_overwritten(tiny, run_fit, finished_run, tmp_path):
    with pytest.raises(ParameterError, match="--resume"):
        run_fit(tiny(), finished_run)
    (tmp_path / "thesis.txt").write_text("irreplaceable", encoding="utf-8")
    with pytest.raises(ParameterError, match="exists already"):
        run_fit(tiny(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_only_a_run_of_the_same_recipe_is_resumed(tiny, run_fit, finished_run, tmp_path):
    with pytest.raises(ParameterError, match=r"differs in data\.batch, optimiser\.lr"):
        run_fit(tiny("data.batch=2", "optimiser.lr=1e-4"), finished_run, resume=True)
    with pytest.raises(ParameterError, match=r"no recipe\.toml"):
        run_fit(tiny(), tmp_path / "nothing", resume=True)


def test_a_run_may_begin_with_the_weights_of_another(tiny, run_fit, finished_run, tmp_path):
    """With a rate of next to nothing the weights stay what they were; the card counts both trainings."""
    recipe = tiny("training.epochs=1", "optimiser.lr=1e-12", "optimiser.weight_decay=0", "training.ema_decay=0")
    run_fit(recipe, tmp_path / "second", start=RunFolder(finished_run))
    first, second = (trained_network(RunFolder(folder)) for folder in (finished_run, tmp_path / "second"))
    for (name, a), b in zip(first[0].named_parameters(), second[0].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-9), name
    assert second[1]["images_seen"] == first[1]["images_seen"] + 12
    assert f"{first[1]['epoch']} epochs" in second[1]["start"]
    with pytest.raises(ParameterError, match="another network"):
        run_fit(tiny("network.base_width=3"), tmp_path / "third", start=RunFolder(finished_run))


def test_a_loss_that_is_no_number_stops_the_training(tiny, run_fit, tmp_path, monkeypatch):
    step = Trainer._step
    monkeypatch.setattr(
        Trainer, "_step", lambda self, batch: {name: value * float("nan") for name, value in step(self, batch).items()}
    )
    with pytest.raises(ModelError, match="expected a finite number"):
        run_fit(tiny(), tmp_path / "run")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_cuda_is_not_replaced_by_the_cpu(tiny, tmp_path):
    from spm_training.fit import fit

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(DeviceError, match="no CUDA device"):
        fit(tiny(), RunFolder(tmp_path / "run"), device="cuda", report=lambda line: None)
    with pytest.raises(ParameterError, match="auto, cpu or cuda"):
        fit(tiny(), RunFolder(tmp_path / "run"), device="tpu", report=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_torch_is_left_as_it_was(tiny, run_fit, tmp_path):
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    run_fit(tiny("training.epochs=1"), tmp_path / "run")
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == before


def test_lines_beyond_the_checkpoint_are_dropped(tmp_path):
    run = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "val_loss": 1 / epoch})
    run.truncate_metrics(2)
    assert [json.loads(line)["epoch"] for line in run.metrics_file.read_text(encoding="utf-8").splitlines()] == [1, 2]


def test_the_cost_is_counted_from_the_network(tiny):
    """Two operations per multiply-add: checked against a count by hand of the convolutions."""
    from spm_training.cost import cost_of

    recipe = tiny("network.base_width=4", "network.depth=1", "data.crop_px=32", "data.batch=1")
    full, quarter = 32 * 32, 16 * 16
    macs = full * 9 * (1 * 4 + 4 * 4) + quarter * 9 * (4 * 8 + 8 * 8)  # down
    macs += (
        full * 8 * 4 + full * 9 * (8 * 4 + 4 * 4) + full * 4
    )  # up: each output pixel of the 2×2 transposed conv takes 8·4
    macs += full * (9 * 4 * 4 + 4 * 3)  # position head
    macs += 8 * 8 + 8 * 8 + 8  # spacing head
    cost = cost_of(recipe)
    assert cost.flop_per_image == pytest.approx(2 * macs)
    assert 2.5 < cost.flop_per_step / cost.flop_per_image < 3.1
    assert cost.flop_total == pytest.approx(
        recipe.training.epochs * (recipe.data.steps_per_epoch * cost.flop_per_step + 4 * cost.flop_per_image)
    )
