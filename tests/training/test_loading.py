"""Loaders leave no trace and are stopped by the trainer alone; sharing out of batches is tested with the tasks."""

import signal

import pytest
import torch

from spm_training import loading
from spm_training.data import Split
from spm_training.loading import BatchSampler, train_loader, validation_batches
from spm_training.tasks import task_of


def test_every_sample_of_an_epoch_is_seen_once(tiny):
    options = tiny("data.batch=4", "data.steps_per_epoch=3").data
    seen = []
    for rank in range(4):
        sampler = BatchSampler(options, rank=rank, world_size=4)
        sampler.epoch = 2
        seen += [key for batch in sampler for key in batch]
    assert sorted(seen) == [(2, index) for index in range(12)]


def test_a_pass_takes_nothing_from_the_global_generators(tiny):
    """A resumed training would differ from a straight one by every number that a pass had drawn."""
    task = task_of(tiny("data.steps_per_epoch=1", "data.validation_images=2"))
    loader, _ = train_loader(task)
    before = torch.random.get_rng_state()
    list(loader)
    validation_batches(task)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_validation_set_is_that_of_its_split(tiny):
    task = task_of(tiny("data.batch=2", "data.validation_images=3"))
    batches = validation_batches(task)
    assert [len(batch.image) for batch in batches] == [2, 1]
    dataset = task.dataset(Split.VALIDATION)
    for number, image in enumerate(torch.cat([batch.image for batch in batches])):
        assert torch.equal(image, dataset[0, number][0])


@pytest.fixture
def untouched():
    """Put the process back as it was."""
    handler, strategy = signal.getsignal(signal.SIGINT), torch.multiprocessing.get_sharing_strategy()
    yield
    signal.signal(signal.SIGINT, handler)
    torch.multiprocessing.set_sharing_strategy(strategy)


@pytest.mark.usefixtures("untouched")
def test_a_worker_leaves_an_interrupt_to_the_trainer():
    loading._start_worker(0)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if "file_system" in torch.multiprocessing.get_all_sharing_strategies():
        assert torch.multiprocessing.get_sharing_strategy() == "file_system"
