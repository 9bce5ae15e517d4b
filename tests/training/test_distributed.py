"""Two processes with gloo: together they do what one does."""

import contextlib
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from spm_runtime.errors import ParameterError
from spm_training.checkpoint import load_checkpoint
from spm_training.distributed import share_cores
from spm_training.loading import validation_batches
from spm_training.run import RunFolder
from spm_training.tasks import task_of

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")


def launch(processes, *words):
    """Run a module or script under torch's launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


#: Batch norm in evaluation mode: then the gradient of a batch is the mean of its shares' gradients, exactly.
STEPS = """
    import sys
    from pathlib import Path

    import torch

    from spm_runtime.errors import ModelError
    from spm_training.distributed import check_equal_weights, world
    from spm_training.fit import Trainer
    from spm_training.recipe import read_recipe
    from spm_training.run import RunFolder

    recipe, out = read_recipe(Path(sys.argv[1])), Path(sys.argv[2])
    with world("cpu") as place:
        trainer = Trainer(recipe, RunFolder(out), place, print)
        trainer.model.eval()
        for batch in trainer.loader:
            trainer._step(batch)
        check_equal_weights(trainer.model)
        torch.save(trainer.model.state_dict(), out / f"{place.size}-{place.rank}.pt")
        if place.size > 1:
            with torch.no_grad():
                next(trainer.model.parameters()).add_(1e-6 * place.rank)
            try:
                check_equal_weights(trainer.model)
            except ModelError:
                print("the drift was noticed")
        del trainer  # it holds the process group
"""


@pytest.mark.slow
def test_the_steps_of_two_ranks_equal_those_of_one(tiny, tmp_path):
    from spm_training.recipe import to_toml

    recipe = tiny("training.precision=float32", "data.num_workers=0")
    (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    script = tmp_path / "steps.py"
    script.write_text(textwrap.dedent(STEPS), encoding="utf-8")
    launch(1, script, tmp_path / "recipe.toml", tmp_path)
    assert launch(2, script, tmp_path / "recipe.toml", tmp_path).count("the drift was noticed") == 2
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    fresh = task_of(recipe).build_network().state_dict()
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-6)
    assert not torch.equal(alone["confidence_head.weight"], fresh["confidence_head.weight"])


@pytest.mark.slow
def test_a_run_on_two_ranks(tiny, tmp_path):
    """One folder, written by rank 0; its validation loss is that of the whole set; it can be resumed."""
    from spm_training.recipe import to_toml

    file, out = tmp_path / "recipe.toml", tmp_path / "run"
    file.write_text(to_toml(tiny("training.precision=float32", "data.num_workers=0")), encoding="utf-8")
    words = ("-m", "spm_training", "fit", file, "--out", out, "--device", "cpu")
    said = launch(2, *words)
    assert said.count("epoch 2/2") == 1
    launch(2, *words, "--resume", "--set", "training.epochs=3")
    run = RunFolder(out)
    rows = run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert run.facts()["processes"] == 2
    best = load_checkpoint(run.best)
    recipe = run.recipe()
    task = task_of(recipe)
    network = task.build_network()
    network.load_state_dict(best["weights"])
    sums = torch.zeros(len(task.sum_names), dtype=torch.float64)
    with torch.no_grad():
        for batch in validation_batches(task):
            sums += torch.tensor(task.validation_sums(network.eval()(batch.image), batch), dtype=torch.float64)
    metrics = task.validation_metrics(sums.tolist())
    for name in ("loss", "spacing_error", "f1"):
        assert best["metrics"][name] == pytest.approx(metrics[name], rel=1e-4), name


def test_a_batch_that_cannot_be_shared_is_refused(tiny, tmp_path, monkeypatch):
    from spm_training import fit as module
    from spm_training.distributed import World

    three = contextlib.nullcontext(World(0, 3, torch.device("cpu")))
    monkeypatch.setattr(module, "world", lambda device: three)
    with pytest.raises(ParameterError, match=r"data\.batch 4: cannot be shared by 3"):
        module.fit(tiny(), RunFolder(tmp_path / "run"), device="cpu", report=lambda line: None)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given to a process on Linux alone")
def test_a_process_that_may_use_one_core_counts_one():
    from spm_training.distributed import World

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert World(0, 1, torch.device("cpu")).cores == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("asked", "cores", "on_gpu", "expected"),
    [
        ((-1, 0), 1, False, (0, 1)),
        ((-1, 0), 2, False, (1, 1)),
        ((-1, 0), 16, False, (5, 11)),
        ((-1, 0), 16, True, (15, 1)),
        ((-1, 0), 64, True, (24, 40)),
        ((0, 0), 2, False, (0, 2)),
        ((3, 0), 2, False, (3, 1)),
        ((0, 7), 2, False, (0, 7)),
    ],
)
def test_cores_are_shared_between_simulating_and_training(asked, cores, on_gpu, expected):
    assert share_cores(*asked, cores=cores, on_gpu=on_gpu) == expected
