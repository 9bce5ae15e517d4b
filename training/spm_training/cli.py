"""The command `spm-train`."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import click

from spm_runtime.errors import AdatomError, ParameterError
from spm_training.recipe import load_recipe, recipe_names

__all__ = ["cli", "main"]

#: Exit codes, as for `spm-infer`: 2 usage, 3 model or environment; 130 stopped by Ctrl-C, to be resumed.
EXIT_USAGE, EXIT_MODEL, EXIT_INTERRUPTED = 2, 3, 130

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Train, score and export the models of Adatom.

    Exit codes: 0 done, 2 usage, 3 model or environment, 130 stopped by Ctrl-C (go on with --resume).
    """


@cli.command("list")
def list_recipes() -> None:
    """Show the recipes: what they train, on what data, how much computing."""
    from spm_training.cost import cost_of  # torch takes seconds to import: only where it is used

    for name in recipe_names():
        recipe = load_recipe(name)
        click.echo(f"{name}  (task {recipe.task})")
        click.echo(f"    {recipe.title}")
        click.echo(f"    data: {recipe.data_source}")
        click.echo(f"    cost: {cost_of(recipe)}")


@cli.command()
@click.argument("recipe_name", metavar="RECIPE")
@click.option("--data", "data", type=FOLDER, help="Folder of training data, for recipes that need one.")
@click.option("--out", "out", type=FOLDER, help="Run folder.  [default: runs/RECIPE-TIME]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--smoke", is_flag=True, help="The whole path in seconds, with the recipe's [smoke] settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, as data.batch=32. Repeatable.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to compute.")
def fit(
    recipe_name: str,
    data: Path | None,
    out: Path | None,
    resume: bool,
    smoke: bool,
    overrides: tuple[str, ...],
    device: str,
) -> None:
    """Train RECIPE, the name of a recipe or a .toml file.

    Ctrl-C saves and ends; --resume goes on from there. On several GPUs start it as
    `torchrun --nproc_per_node=N -m spm_training fit RECIPE --out DIR`.
    """
    from spm_training.fit import fit as run_fit
    from spm_training.run import RunFolder

    recipe = load_recipe(recipe_name, smoke=smoke, overrides=overrides)
    if data is not None:
        raise ParameterError(
            f"--data {data}: recipe {recipe.name} simulates its data and reads none. Leave --data out."
        )
    if out is None:
        if resume or "RANK" in os.environ:
            raise ParameterError("--out: missing; expected a run folder with --resume and under torchrun. Name it.")
        stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        out = Path("runs") / f"{recipe.name}-{stamp}"
    outcome = run_fit(recipe, RunFolder(out), resume=resume, device=device, report=click.echo)
    if outcome.stopped == "interrupted":
        sys.exit(EXIT_INTERRUPTED)


def main() -> None:
    """Entry point: errors become a line on stderr and an exit code."""
    try:
        cli(prog_name="spm-train")
    except ParameterError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except AdatomError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_MODEL)
