"""The commands `spm-train study …`."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click

__all__ = ["study"]

#: Stopped by Ctrl-C, to be resumed: as for `spm-train fit`.
EXIT_INTERRUPTED = 130

FOLDER = click.Path(file_okay=False, path_type=Path)
OUT = click.option("--out", type=FOLDER, required=True, help="Folder of the report.")
SMOKE = click.option("--smoke", is_flag=True, help="The whole path in seconds; its numbers mean nothing.")
IMAGES = click.option("--images", type=click.IntRange(2), help="Images of each family of surfaces.  [default: 24]")


@click.group()
def study() -> None:
    """Answer a question in a report: one HTML file with pictures and one recommendation."""


class How(NamedTuple):
    """The options of every study that trains.

    Parameters
    ----------
    overrides
        ``KEY=VALUE`` for the recipe.
    resume
        Go on with what is there.
    device
        Where to compute.
    smoke
        The whole path in seconds.
    """

    overrides: tuple[str, ...]
    resume: bool
    device: str
    smoke: bool

    def run(self, study: Callable[..., Path | None], out: Path, options: object) -> None:
        """Run a study and say where the report is."""
        file = study(out, options, resume=self.resume, device=self.device, report=click.echo)
        if file is None:  # stopped by Ctrl-C
            sys.exit(EXIT_INTERRUPTED)
        click.echo(file)


def trains(recipe: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `How`, which it takes as ``how``; ``recipe`` is what --set changes, in words."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help=f"Override of {recipe}. Repeatable."
        )
        @click.option("--resume", is_flag=True, help="Go on with what is in --out.")
        @click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to compute.")
        @SMOKE
        @functools.wraps(command)
        def command_how(overrides: tuple[str, ...], resume: bool, device: str, smoke: bool, **others: Any) -> None:
            command(how=How(overrides, resume, device, smoke), **others)

        return command_how

    return with_options


def budget_option(default: float = 0.1, of: str = "the epochs of the recipes") -> Callable[[Any], Any]:
    """The option ``--budget``."""
    return click.option(
        "--budget",
        type=click.FloatRange(0, 1, min_open=True),
        default=default,
        show_default=True,
        help=f"Share of {of}.",
    )


@study.command("clusters")
@click.option("--ae1", type=FOLDER, required=True, metavar="RUN", help="A run of the recipe ae1.")
@click.option("--ae2", type=FOLDER, required=True, metavar="RUN", help="A run of the recipe ae2.")
@OUT
@IMAGES
@SMOKE
def clusters(ae1: Path, ae2: Path, out: Path, images: int | None, smoke: bool) -> None:
    """How many clusters, of which kind, in the latents of the two patch autoencoders."""
    from spm_training.run import RunFolder
    from spm_training.studies.clusters import ClustersOptions, study_clusters  # torch takes seconds to import

    options = ClustersOptions.smoke() if smoke else ClustersOptions()
    if images is not None:
        options = dataclasses.replace(options, images=images)
    click.echo(study_clusters(RunFolder(ae1), RunFolder(ae2), out, options, report=click.echo))


START = click.option(
    "--from",
    "start",
    type=FOLDER,
    metavar="RUN",
    help="A run of the recipe ae1 to begin with: of latent-size its convolutions, of suggestions all of it.",
)


@study.command("latent-size")
@OUT
@click.option(
    "--size", "sizes", multiple=True, type=click.IntRange(1), help="Only this size. Repeatable.  [default: all five]"
)
@START
@trains("the recipe ae1")
def latent_size(out: Path, sizes: tuple[int, ...], start: Path | None, how: How) -> None:
    """How many numbers describe a patch: the first autoencoder at 16 to 256, each with as many patch-steps.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.run import RunFolder
    from spm_training.studies.latent_size import LatentSizeOptions, study_latent_size

    options = LatentSizeOptions(overrides=how.overrides)
    if how.smoke:
        options = LatentSizeOptions((4, 8), how.overrides, windows=64, pca_windows=160, smoke=True)
    if sizes:
        options = dataclasses.replace(options, sizes=tuple(sorted(set(sizes))))
    if start is not None:
        options = dataclasses.replace(options, start=RunFolder(start))
    how.run(study_latent_size, out, options)


@study.command("suggestions")
@OUT
@click.option("--images", type=click.IntRange(2), help="Images of each family of surfaces.  [default: 12]")
@START
@trains("the recipe ae1")
def suggestions(out: Path, images: int | None, start: Path | None, how: How) -> None:
    """What the UCL report suggests, each tried: symmetry, contrast, two scales, pseudo-labels.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.run import RunFolder
    from spm_training.studies.suggestions import SuggestionsOptions, study_suggestions

    options = SuggestionsOptions(how.overrides)
    if how.smoke:
        small = ("data.crop_px=96", "surfaces.image_px=112", "data.steps_per_epoch=1")
        options = SuggestionsOptions((*small, *how.overrides), images=2, windows_per_image=6, windows=36, smoke=True)
    if images is not None:
        options = dataclasses.replace(options, images=images)
    if start is not None:
        options = dataclasses.replace(options, start=RunFolder(start))
    how.run(study_suggestions, out, options)


@study.command("restore-losses")
@OUT
@click.option("--images", type=click.IntRange(1), help="Scans of each family and microscope that decide.  [default: 8]")
@trains("the recipe restore")
def restore_losses(out: Path, images: int | None, how: How) -> None:
    """What a restorer should learn: MAE, SSIM and slopes at several weights, each with as many steps.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.restore.scenes import RestoreOptions
    from spm_training.studies.restore_losses import RestoreLossesOptions, study_restore_losses

    options = RestoreLossesOptions(overrides=how.overrides)
    if how.smoke:
        options = dataclasses.replace(options, scans=RestoreOptions(images=1, side_px=64), smoke=True)
    if images is not None:
        options = dataclasses.replace(options, scans=dataclasses.replace(options.scans, images=images))
    how.run(study_restore_losses, out, options)


@study.command("lattices")
@OUT
@click.option(
    "--network", type=click.Choice(["cae-a", "cae-b"]), default="cae-a", show_default=True, help="Which autoencoder."
)
@click.option("--lattice", "lattices", multiple=True, help="Only this lattice. Repeatable.  [default: cubic, bcc, fcc]")
@click.option(
    "--configuration",
    "configurations",
    multiple=True,
    help="Only this one, as Baseline. Repeatable.  [default: all seven]",
)
@click.option(
    "--target", type=click.Choice(["noisy", "clean"]), default="noisy", show_default=True, help="What is learned."
)
@budget_option(of="the printed epochs")
@click.option("--images", type=click.IntRange(1), default=20, show_default=True, help="Images of each lattice.")
@trains("the recipe")
def lattices(
    out: Path,
    network: Literal["cae-a", "cae-b"],
    lattices: tuple[str, ...],
    configurations: tuple[str, ...],
    target: Literal["noisy", "clean"],
    budget: float,
    images: int,
    how: How,
) -> None:
    """The seven configurations of the USC report on its three lattices, against its Table 2 and principal components.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.studies.lattices import CONFIGURATIONS, LatticesOptions, study_lattices

    unknown = sorted(set(configurations) - set(CONFIGURATIONS))
    if unknown:
        raise click.BadParameter(
            f"{', '.join(unknown)}: unknown; expected some of {', '.join(CONFIGURATIONS)}.",
            param_hint="--configuration",
        )
    options = LatticesOptions(
        network, images=images, budget=budget, target=target, overrides=how.overrides, smoke=how.smoke
    )
    if lattices:
        options = dataclasses.replace(options, lattices=lattices)
    if configurations:
        options = dataclasses.replace(options, configurations=configurations)
    how.run(study_lattices, out, options)


@study.command("lattice-latents")
@OUT
@click.option("--run", "folders", multiple=True, type=FOLDER, help="A finished run of an autoencoder. Repeatable.")
@click.option("--network", "networks", multiple=True, help="Only this one, as cae-a. Repeatable.  [default: all four]")
@budget_option()
@click.option(
    "--images", type=click.IntRange(2), help="Images of each lattice at each level of noise that decide.  [default: 20]"
)
@trains("the recipes")
def lattice_latents(
    out: Path,
    folders: tuple[Path, ...],
    networks: tuple[str, ...],
    budget: float,
    images: int | None,
    how: How,
) -> None:
    """Whether the latents of the patch autoencoders tell the lattices apart; what is not given as a run is trained.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.run import RunFolder
    from spm_training.studies.lattice_latents import LatticeLatentsOptions, study_lattice_latents

    runs: dict[str, RunFolder] = {}
    for run in map(RunFolder, folders):
        kind = str(run.recipe().network.kind)
        if kind in runs:
            text = f"{run.path}: a second run of {kind}, after {runs[kind].path}. Name one of each."
            raise click.BadParameter(text, param_hint="--run")
        runs[kind] = run
    options = LatticeLatentsOptions(runs=runs, budget=budget, overrides=how.overrides, smoke=how.smoke)
    if how.smoke:
        options = dataclasses.replace(options, images=3, side_px=96)
    if networks:
        options = dataclasses.replace(options, networks=networks)
    if images is not None:
        options = dataclasses.replace(options, images=images)
    how.run(study_lattice_latents, out, options)


@study.command("lattice-transfer")
@OUT
@click.option("--recipe", default="cae-a", show_default=True, help="What learns four lattices and five.")
@click.option(
    "--pair", "pairs", multiple=True, metavar="FROM:TO", help="Only these lattices. Repeatable.  [default: three pairs]"
)
@click.option("--all-pairs", is_flag=True, help="All twenty.")
@click.option("--part", type=click.Choice(["pairs", "unseen"]), help="Only this question.  [default: both]")
@budget_option(0.05)
@click.option(
    "--images", type=click.IntRange(1), help="Images of each lattice at each level of noise that decide.  [default: 4]"
)
@trains("the recipes")
def lattice_transfer(
    out: Path,
    recipe: str,
    pairs: tuple[str, ...],
    all_pairs: bool,
    part: str | None,
    budget: float,
    images: int | None,
    how: How,
) -> None:
    """What a network that learned one lattice is worth on another, and how it denoises a lattice that it never saw.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.studies.lattice_transfer import ALL_PAIRS, LatticeTransferOptions, study_lattice_transfer

    options = LatticeTransferOptions(recipe, budget=budget, overrides=how.overrides, smoke=how.smoke)
    if how.smoke:
        options = dataclasses.replace(options, pairs=options.pairs[:1], unseen=("bcc",), pool=4, images=1, side_px=64)
    if pairs or all_pairs:
        options = dataclasses.replace(options, pairs=ALL_PAIRS if all_pairs else tuple(map(_pair, pairs)))
    if part == "pairs":
        options = dataclasses.replace(options, unseen=())
    if part == "unseen":
        options = dataclasses.replace(options, pairs=())
    if images is not None:
        options = dataclasses.replace(options, images=images)
    how.run(study_lattice_transfer, out, options)


def _pair(text: str) -> tuple[str, str]:
    source, _, target = text.partition(":")
    if not source or not target or source == target:
        raise click.BadParameter(f"{text}: expected two lattices, as cubic:fcc.", param_hint="--pair")
    return source, target


@study.command("lattice-offsets")
@OUT
@click.option("--run", "folder", type=FOLDER, help="A finished run of the recipe cae-twin; without, one is trained.")
@budget_option()
@click.option(
    "--images", type=click.IntRange(1), help="Images of each lattice at each level of noise that decide.  [default: 3]"
)
@trains("the recipe")
def lattice_offsets(out: Path, folder: Path | None, budget: float, images: int | None, how: How) -> None:
    """Atoms without supervision: every patch votes for the place of its nearest atom.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.run import RunFolder
    from spm_training.studies.lattice_offsets import LatticeOffsetsOptions, study_lattice_offsets

    run = None if folder is None else RunFolder(folder)
    options = LatticeOffsetsOptions(run, budget, overrides=how.overrides, smoke=how.smoke)
    if how.smoke:
        options = dataclasses.replace(options, images=1, side_px=64)
    if images is not None:
        options = dataclasses.replace(options, images=images)
    how.run(study_lattice_offsets, out, options)
