"""The commands `spm-train study …`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

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


START = "A run of the recipe ae1 to begin with: of latent-size its convolutions, of suggestions all of it."
TRAINED = (
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override of the recipe ae1. Repeatable."
    ),
    click.option("--from", "start", type=FOLDER, metavar="RUN", help=START),
    click.option("--resume", is_flag=True, help="Go on with what is in --out."),
    click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to compute."),
)


@study.command("latent-size")
@OUT
@click.option(
    "--size", "sizes", multiple=True, type=click.IntRange(1), help="Only this size. Repeatable.  [default: all five]"
)
@TRAINED[0]
@TRAINED[1]
@TRAINED[2]
@TRAINED[3]
@SMOKE
def latent_size(
    out: Path,
    sizes: tuple[int, ...],
    overrides: tuple[str, ...],
    start: Path | None,
    resume: bool,
    device: str,
    smoke: bool,
) -> None:
    """How many numbers describe a patch: the first autoencoder at 16 to 256, each with as many patch-steps.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.run import RunFolder
    from spm_training.studies.latent_size import LatentSizeOptions, study_latent_size

    options = LatentSizeOptions(overrides=overrides)
    if smoke:
        options = LatentSizeOptions((4, 8), overrides, windows=64, pca_windows=160, smoke=True)
    if sizes:
        options = dataclasses.replace(options, sizes=tuple(sorted(set(sizes))))
    if start is not None:
        options = dataclasses.replace(options, start=RunFolder(start))
    _finish(study_latent_size(out, options, resume=resume, device=device, report=click.echo))


@study.command("suggestions")
@OUT
@click.option("--images", type=click.IntRange(2), help="Images of each family of surfaces.  [default: 12]")
@TRAINED[0]
@TRAINED[1]
@TRAINED[2]
@TRAINED[3]
@SMOKE
def suggestions(
    out: Path,
    images: int | None,
    overrides: tuple[str, ...],
    start: Path | None,
    resume: bool,
    device: str,
    smoke: bool,
) -> None:
    """What the UCL report suggests, each tried: symmetry, contrast, two scales, pseudo-labels.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.run import RunFolder
    from spm_training.studies.suggestions import SuggestionsOptions, study_suggestions

    options = SuggestionsOptions(overrides)
    if smoke:
        small = ("data.crop_px=96", "surfaces.image_px=112", "data.steps_per_epoch=1")
        options = SuggestionsOptions((*small, *overrides), images=2, windows_per_image=6, windows=36, smoke=True)
    if images is not None:
        options = dataclasses.replace(options, images=images)
    if start is not None:
        options = dataclasses.replace(options, start=RunFolder(start))
    _finish(study_suggestions(out, options, resume=resume, device=device, report=click.echo))


@study.command("restore-losses")
@OUT
@click.option("--images", type=click.IntRange(1), help="Scans of each family and microscope that decide.  [default: 8]")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override of the recipe restore. Repeatable."
)
@TRAINED[2]
@TRAINED[3]
@SMOKE
def restore_losses(
    out: Path, images: int | None, overrides: tuple[str, ...], resume: bool, device: str, smoke: bool
) -> None:
    """What a restorer should learn: MAE, SSIM and slopes at several weights, each with as many steps.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.restore.scenes import RestoreOptions
    from spm_training.studies.restore_losses import RestoreLossesOptions, study_restore_losses

    options = RestoreLossesOptions(overrides=overrides)
    if smoke:
        options = dataclasses.replace(options, scans=RestoreOptions(images=1, side_px=64), smoke=True)
    if images is not None:
        options = dataclasses.replace(options, scans=dataclasses.replace(options.scans, images=images))
    _finish(study_restore_losses(out, options, resume=resume, device=device, report=click.echo))


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
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of the printed epochs.",
)
@click.option("--images", type=click.IntRange(1), default=20, show_default=True, help="Images of each lattice.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override of the recipe. Repeatable.")
@TRAINED[2]
@TRAINED[3]
@SMOKE
def lattices(
    out: Path,
    network: Literal["cae-a", "cae-b"],
    lattices: tuple[str, ...],
    configurations: tuple[str, ...],
    target: Literal["noisy", "clean"],
    budget: float,
    images: int,
    overrides: tuple[str, ...],
    resume: bool,
    device: str,
    smoke: bool,
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
    options = LatticesOptions(network, images=images, budget=budget, target=target, overrides=overrides, smoke=smoke)
    if lattices:
        options = dataclasses.replace(options, lattices=lattices)
    if configurations:
        options = dataclasses.replace(options, configurations=configurations)
    _finish(study_lattices(out, options, resume=resume, device=device, report=click.echo))


BUDGET = click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of the epochs of the recipes.",
)


@study.command("lattice-latents")
@OUT
@click.option("--run", "folders", multiple=True, type=FOLDER, help="A finished run of an autoencoder. Repeatable.")
@click.option("--network", "networks", multiple=True, help="Only this one, as cae-a. Repeatable.  [default: all four]")
@BUDGET
@click.option(
    "--images", type=click.IntRange(2), help="Images of each lattice at each level of noise that decide.  [default: 20]"
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override of the recipes. Repeatable.")
@TRAINED[2]
@TRAINED[3]
@SMOKE
def lattice_latents(
    out: Path,
    folders: tuple[Path, ...],
    networks: tuple[str, ...],
    budget: float,
    images: int | None,
    overrides: tuple[str, ...],
    resume: bool,
    device: str,
    smoke: bool,
) -> None:
    """Whether the latents of the patch autoencoders tell the lattices apart; what is not given as a run is trained.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.run import RunFolder
    from spm_training.studies.lattice_latents import LatticeLatentsOptions, study_lattice_latents

    runs = {str(run.recipe().network.kind): run for run in map(RunFolder, folders)}
    options = LatticeLatentsOptions(runs=runs, budget=budget, overrides=overrides, smoke=smoke)
    if smoke:
        options = dataclasses.replace(options, images=3, side_px=96)
    if networks:
        options = dataclasses.replace(options, networks=networks)
    if images is not None:
        options = dataclasses.replace(options, images=images)
    _finish(study_lattice_latents(out, options, resume=resume, device=device, report=click.echo))


@study.command("lattice-transfer")
@OUT
@click.option("--recipe", default="cae-a", show_default=True, help="What learns four lattices and five.")
@click.option(
    "--pair", "pairs", multiple=True, metavar="FROM:TO", help="Only these lattices. Repeatable.  [default: three pairs]"
)
@click.option("--all-pairs", is_flag=True, help="All twenty.")
@click.option("--part", type=click.Choice(["pairs", "unseen"]), help="Only this question.  [default: both]")
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    help="Share of the epochs of the recipes.",
)
@click.option(
    "--images", type=click.IntRange(1), help="Images of each lattice at each level of noise that decide.  [default: 4]"
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override of the recipes. Repeatable.")
@TRAINED[2]
@TRAINED[3]
@SMOKE
def lattice_transfer(
    out: Path,
    recipe: str,
    pairs: tuple[str, ...],
    all_pairs: bool,
    part: str | None,
    budget: float,
    images: int | None,
    overrides: tuple[str, ...],
    resume: bool,
    device: str,
    smoke: bool,
) -> None:
    """What a network that learned one lattice is worth on another, and how it denoises a lattice that it never saw.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.studies.lattice_transfer import ALL_PAIRS, LatticeTransferOptions, study_lattice_transfer

    options = LatticeTransferOptions(recipe, budget=budget, overrides=overrides, smoke=smoke)
    if smoke:
        options = dataclasses.replace(options, pairs=options.pairs[:1], unseen=("bcc",), pool=4, images=1, side_px=64)
    if pairs or all_pairs:
        options = dataclasses.replace(options, pairs=ALL_PAIRS if all_pairs else tuple(map(_pair, pairs)))
    if part == "pairs":
        options = dataclasses.replace(options, unseen=())
    if part == "unseen":
        options = dataclasses.replace(options, pairs=())
    if images is not None:
        options = dataclasses.replace(options, images=images)
    _finish(study_lattice_transfer(out, options, resume=resume, device=device, report=click.echo))


def _pair(text: str) -> tuple[str, str]:
    source, _, target = text.partition(":")
    if not source or not target or source == target:
        raise click.BadParameter(f"{text}: expected two lattices, as cubic:fcc.", param_hint="--pair")
    return source, target


@study.command("lattice-offsets")
@OUT
@click.option("--run", "folder", type=FOLDER, help="A finished run of the recipe cae-twin; without, one is trained.")
@BUDGET
@click.option(
    "--images", type=click.IntRange(1), help="Images of each lattice at each level of noise that decide.  [default: 3]"
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override of the recipe. Repeatable.")
@TRAINED[2]
@TRAINED[3]
@SMOKE
def lattice_offsets(
    out: Path,
    folder: Path | None,
    budget: float,
    images: int | None,
    overrides: tuple[str, ...],
    resume: bool,
    device: str,
    smoke: bool,
) -> None:
    """Atoms without supervision: every patch votes for the place of its nearest atom.

    Ctrl-C saves and ends; --resume goes on from there.
    """
    from spm_training.run import RunFolder
    from spm_training.studies.lattice_offsets import LatticeOffsetsOptions, study_lattice_offsets

    run = None if folder is None else RunFolder(folder)
    options = LatticeOffsetsOptions(run, budget, overrides=overrides, smoke=smoke)
    if smoke:
        options = dataclasses.replace(options, images=1, side_px=64)
    if images is not None:
        options = dataclasses.replace(options, images=images)
    _finish(study_lattice_offsets(out, options, resume=resume, device=device, report=click.echo))


def _finish(file: Path | None) -> None:
    """Say where the report is; None: stopped by Ctrl-C."""
    if file is None:
        sys.exit(EXIT_INTERRUPTED)
    click.echo(file)
