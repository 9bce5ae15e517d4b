"""What `spm-train fit defects --data FOLDER` does."""

from __future__ import annotations

import click

from spm_runtime.errors import ParameterError
from spm_runtime.models import default_model, find_model
from spm_training.finetune.home import Home
from spm_training.finetune.home import fit_at_home as run

__all__ = ["Home", "fit_at_home"]

#: Stopped by Ctrl-C: as for the other trainings.
EXIT_INTERRUPTED = 130


def fit_at_home(recipe_name: str, model: str | None, home: Home) -> int:
    """Fine-tune a package on a user's scans; the exit code.

    Parameters
    ----------
    recipe_name
        What the user calls it.
    model
        Name or folder of the package to begin with; the installed one when None.
    home
        What the user asks for.

    Raises
    ------
    AdatomError
        If that cannot be done.
    """
    if recipe_name != "defects":
        raise ParameterError(
            f"--data {home.data}: recipe {recipe_name} simulates its data and reads none; expected it with defects. "
            "Leave --data out."
        )
    parent = default_model("defects") if model is None else find_model(model)
    try:
        file = run(parent, home, report=click.echo)
    except KeyboardInterrupt:
        click.echo("stopped: nothing was written", err=True)
        return EXIT_INTERRUPTED
    click.echo(f"{home.out}: the new package, for spm-infer --model; {file.name} in it says what has changed")
    return 0
