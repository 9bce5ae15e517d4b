"""What a training left: the network with its best weights, and the facts that a card states."""

from __future__ import annotations

from torch import nn

from spm_training.checkpoint import load_checkpoint
from spm_training.run import RunFolder
from spm_training.tasks import task_of

__all__ = ["trained_network"]


def trained_network(run: RunFolder) -> tuple[nn.Module, dict[str, object]]:
    """The network with the best weights of a run, and the facts of its training for the card.

    Where the run began with the weights of another one, images, FLOP and hours count both, and ``start`` names the first.

    Parameters
    ----------
    run
        The run.

    Raises
    ------
    ParameterError
        If the folder is no run.
    ModelError
        If the checkpoint cannot be read.
    """
    recipe, facts = run.recipe(), run.facts()
    state = load_checkpoint(run.best)
    task = task_of(recipe)
    network = task.build_network()
    network.load_state_dict(state["weights"])
    network.eval()
    start = dict(facts.get("start") or {"images_seen": 0, "flop": "0", "hours": 0.0})
    steps = int(state["epoch"]) * recipe.data.steps_per_epoch
    history = [row for row in run.metrics() if row["epoch"] <= state["epoch"]]
    training: dict[str, object] = {
        "data": recipe.data_source,
        "families": ", ".join(recipe.simulator.families) or "all",
        "recipe": recipe.name,
        "seed": recipe.training.seed,
        "commit": facts["git_commit"] or "unknown (trained outside a checkout)",
        "epoch": int(state["epoch"]),
        "images_seen": start["images_seen"] + steps * recipe.data.batch,
        "flop": f"{float(start['flop']) + steps * float(facts['flop_per_step']):.3g}",
        "hours": round(start["hours"] + sum(row["seconds"] for row in history) / 3600, 2),
        "budget": "CPU budget" if str(facts["device"]) == "cpu" else f"{facts['processes']} GPU(s)",
        "validation_loss": float(f"{state['metrics']['loss']:.6g}"),
        **{f"validation_{name}": round(float(state["metrics"][name]), 4) for name in task.shown},
    }
    if "commit" in start:
        training["start"] = f"a run of {start['epoch']} epochs at commit {start['commit']}"
    return network, training
