"""Optimiser and learning rate against their formulas."""

import math

import pytest
import torch

from spm_training.optimisation import build_optimiser, build_schedule


def rates(recipe, *, losses=None):
    """The rate of every step, as the trainer asks for it."""
    network = torch.nn.Linear(2, 1)
    optimiser = build_optimiser(recipe, network)
    schedule = build_schedule(recipe, optimiser)
    seen = []
    for epoch in range(recipe.training.epochs):
        for _ in range(recipe.data.steps_per_epoch):
            seen.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.after_step()
        schedule.after_epoch(losses[epoch] if losses else 1.0)
    return seen


def test_the_optimiser_is_the_named_one(tiny):
    network = torch.nn.Linear(2, 1)
    assert type(build_optimiser(tiny(), network)) is torch.optim.AdamW
    adam = build_optimiser(tiny("optimiser.kind=adam", "optimiser.lr=0.5", "optimiser.weight_decay=0.25"), network)
    assert type(adam) is torch.optim.Adam
    assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (0.5, 0.25)


def test_steps_fall_after_whole_epochs(tiny):
    recipe = tiny("schedule.kind=step", "schedule.every_epochs=2", "training.epochs=5", "optimiser.lr=1e-3")
    expected = [1e-3] * 6 + [1e-4] * 6 + [1e-5] * 3
    assert rates(recipe) == pytest.approx(expected)


def test_a_plateau_falls_when_the_loss_stands_still(tiny):
    words = ("schedule.patience_epochs=0", "schedule.factor=0.5", "training.epochs=4", "optimiser.lr=1e-3")
    recipe = tiny("schedule.kind=plateau", *words)
    assert rates(recipe, losses=[3.0, 2.0, 2.5, 1.0])[::3] == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4])


def test_a_cosine_rises_shortly_and_falls_to_its_floor_at_the_last_step(tiny):
    recipe = tiny(
        "schedule.kind=cosine",
        "schedule.warmup_epochs=2",
        "schedule.lr_min=1e-5",
        "training.epochs=6",
        "optimiser.lr=1e-3",
    )
    warm_up, total = 6, 18
    expected = [1e-3 * (step + 1) / (warm_up + 1) for step in range(warm_up)]
    for step in range(warm_up, total):
        share = (step - warm_up) / (total - 1 - warm_up)
        expected.append(1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * share)) / 2)
    assert rates(recipe) == pytest.approx(expected)
    assert rates(recipe)[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize("kind", ["plateau", "step", "cosine"])
def test_a_state_taken_up_goes_on(tiny, kind):
    recipe = tiny(f"schedule.kind={kind}", "training.epochs=6")
    pairs = []
    for _ in range(2):
        optimiser = build_optimiser(recipe, torch.nn.Linear(2, 1))
        pairs.append((optimiser, build_schedule(recipe, optimiser)))
    (first, schedule), (second, taken_up) = pairs
    for _ in range(4):
        first.step()
        schedule.after_step()
        schedule.after_epoch(1.0)
    second.load_state_dict(first.state_dict())
    taken_up.load_state_dict(schedule.state_dict())
    for optimiser, one in pairs:
        optimiser.step()
        one.after_step()
        one.after_epoch(1.0)
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]
