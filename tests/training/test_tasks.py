"""Every kind of network through the same trainer, and the batches that it is fed."""

import itertools
import typing

import pytest
import torch

from spm_training.data import Split
from spm_training.loading import BatchSampler, train_loader, validation_batches
from spm_training.options import NetworkOptions
from spm_training.recipe import load_recipe, recipe_names
from spm_training.run import RunFolder
from spm_training.tasks import task_of
from spm_training.trained import trained_network

FINDERS = ["atoms", "atomid"]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_every_kind_of_network_has_a_task():
    union = typing.get_args(NetworkOptions)[0]
    for options in typing.get_args(union):
        recipe = load_recipe("atomid", overrides=[f"network.kind={options().kind}"])
        task = task_of(recipe)
        assert sum(parameter.numel() for parameter in task.build_network().parameters()) > 0
        assert task.graph(task.build_network()).OUTPUTS


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - {"judge"}))  # which needs a run of another recipe
def test_what_a_task_says_of_itself_holds(tiny, name):
    """The shape that the cost is counted on, the terms, the sums and what is shown."""
    task = task_of(tiny(name=name))
    batch = task.collate([task.dataset(Split.VALIDATION)[0, i] for i in range(2)])
    inputs = task.inputs(batch)
    assert inputs.shape == (2, *task.input_shape)
    network = task.build_network().eval()
    with torch.no_grad():
        output = network(inputs)
    assert "loss" in task.loss(output, batch)
    sums = task.validation_sums(output, batch)
    assert len(sums) == len(task.sum_names)
    metrics = task.validation_metrics(sums)
    assert {"loss", *task.shown} <= metrics.keys()
    halves = [task.collate([task.dataset(Split.VALIDATION)[0, i]]) for i in range(2)]
    with torch.no_grad():
        parts = [task.validation_sums(network(task.inputs(half)), half) for half in halves]
    added = [sum(pair) for pair in zip(*parts, strict=True)]
    assert added == pytest.approx(sums, rel=1e-3, abs=1e-3)
    for picture in task.pictures(output, batch).values():
        assert picture.ndim == 2
        assert 0 <= picture.min() <= picture.max() <= 1


def test_the_reference_trains_resumes_and_is_the_first_of_the_same_seed(tiny, run_fit, tmp_path):
    """Its own network, Adam, and rates that fall by steps; two halves equal the whole."""
    words = ("schedule.kind=step", "schedule.every_epochs=1", "training.ema_decay=0.5")
    for folder, lengths in (("straight", [3]), ("halves", [2, 3])):
        for epochs in lengths:
            recipe = tiny(*words, f"training.epochs={epochs}", name="atomid")
            run_fit(recipe, tmp_path / folder, resume=epochs != lengths[0])
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in RunFolder(tmp_path / one).metrics()]
        for one in ("straight", "halves")
    ]
    assert rows[0] == rows[1]
    assert [row["lr"] for row in rows[0]] == pytest.approx([1e-3, 1e-4, 1e-5])
    networks = [trained_network(RunFolder(tmp_path / one))[0] for one in ("straight", "halves")]
    assert all(torch.equal(a, b) for a, b in zip(*(n.state_dict().values() for n in networks), strict=True))


def test_a_cosine_goes_on_within_an_epoch_and_its_length_is_fixed(tiny, run_fit, tmp_path, monkeypatch):
    from spm_runtime.errors import ParameterError
    from spm_training.fit import Trainer

    words = ("schedule.kind=cosine", "schedule.warmup_epochs=1", "training.checkpoint_every_steps=1")
    recipe = tiny(*words, "training.epochs=3")
    run_fit(recipe, tmp_path / "straight")
    step, count = Trainer._step, itertools.count(1)

    def dying(self, batch):
        if next(count) == 6:  # the last step of the second epoch
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run_fit(recipe, tmp_path / "killed")
    monkeypatch.undo()
    with pytest.raises(ParameterError, match=r"differs in training\.epochs"):
        run_fit(tiny(*words, "training.epochs=4"), tmp_path / "killed", resume=True)
    run_fit(recipe, tmp_path / "killed", resume=True)
    rows = [[row["lr"] for row in RunFolder(tmp_path / one).metrics()] for one in ("straight", "killed")]
    assert rows[0] == rows[1]
    networks = [trained_network(RunFolder(tmp_path / one))[0] for one in ("straight", "killed")]
    assert all(torch.equal(a, b) for a, b in zip(*(n.state_dict().values() for n in networks), strict=True))


def test_ranks_share_every_batch_and_a_resume_skips_what_was_seen(tiny):
    options = tiny("data.batch=6").data
    alone = BatchSampler(options, rank=0, world_size=1)
    alone.epoch = 3
    batches = list(alone)
    assert len(batches) == len(alone) == 3
    assert batches[0] == [(3, i) for i in range(6)]
    shares = []
    for rank in range(2):
        sampler = BatchSampler(options, rank=rank, world_size=2)
        sampler.epoch = 3
        shares.append(list(sampler))
    for step, batch in enumerate(batches):
        assert sorted(shares[0][step] + shares[1][step]) == batch
        assert len(shares[0][step]) == len(shares[1][step])
    alone.first_step = 2
    assert list(alone) == batches[2:]
    assert len(alone) == 1


@pytest.mark.parametrize("name", FINDERS)
def test_worker_processes_change_nothing(tiny, name):
    task = task_of(tiny(name=name))
    runs = []
    for workers in (0, 2):
        loader, sampler = train_loader(task, workers=workers)
        sampler.epoch = 1
        runs.append([*loader])
    assert len(runs[0]) == len(runs[1]) == 3
    assert all(same(a, b) for a, b in zip(*runs, strict=True))


def test_the_validation_set_is_fixed_and_shared_out_whole(tiny):
    task = task_of(tiny("data.validation_images=5"))
    whole = torch.cat([batch.image for batch in validation_batches(task)])
    again = torch.cat([batch.image for batch in validation_batches(task)])
    shares = [torch.cat([batch.image for batch in validation_batches(task, rank=r, world_size=2)]) for r in range(2)]
    assert torch.equal(whole, again)
    assert len(whole) == 5
    assert torch.equal(whole[0::2], shares[0])
    assert torch.equal(whole[1::2], shares[1])
