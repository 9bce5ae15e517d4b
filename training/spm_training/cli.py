"""The command `spm-train`."""

from __future__ import annotations

import datetime
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from spm_runtime.errors import AdatomError, ParameterError
from spm_training.recipe import load_recipe, recipe_names
from spm_training.studies.command import study

if TYPE_CHECKING:
    from spm_runtime.session import Device

__all__ = ["cli", "main"]

#: Exit codes, as for `spm-infer`: 2 usage, 3 model or environment; 130 stopped by Ctrl-C, to be resumed.
EXIT_USAGE, EXIT_MODEL, EXIT_INTERRUPTED = 2, 3, 130

SPACING = "Mean nearest-neighbour spacing in pixels, drawn from this range."
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
@click.option(
    "--data",
    "data",
    type=FOLDER,
    help="With defects: go on from a model package on the scans of this folder, unlabelled.",
)
@click.option("--model", metavar="NAME|FOLDER", help="With --data: the package to begin with.  [default: defects]")
@click.option("--version", help="With --data: version of the new package.  [default: 0.1.0]")
@click.option(
    "--out", "out", type=FOLDER, help="Run folder, or with --data the new package.  [default: runs/RECIPE-TIME]"
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--from", "start", type=FOLDER, metavar="RUN", help="Begin with the best weights of another run.")
@click.option("--smoke", is_flag=True, help="The whole path in seconds, with the recipe's [smoke] settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, as data.batch=32. Repeatable.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to compute.")
def fit(
    recipe_name: str,
    data: Path | None,
    model: str | None,
    version: str | None,
    out: Path | None,
    resume: bool,
    start: Path | None,
    smoke: bool,
    overrides: tuple[str, ...],
    device: str,
) -> None:
    """Train RECIPE, the name of a recipe or a .toml file.

    Ctrl-C saves and ends; --resume goes on from there. On several GPUs start it as
    `torchrun --nproc_per_node=N -m spm_training fit RECIPE --out DIR`.

    With --data a model package of defects goes on learning from your own scans of one kind of surface, which nobody has to
    label: about ten minutes on a CPU. Scans that are held out judge; the new package and its report (before-after.html) are in
    --out.
    """
    from spm_training.fit import fit as run_fit
    from spm_training.run import RunFolder

    if data is not None:
        from spm_training.finetune.command import Home, fit_at_home

        if resume or start is not None:
            raise ParameterError("--data: begins with a model package; expected no --resume and no --from.")
        home = Home(data, out or _dated(recipe_name), version or "0.1.0", smoke, overrides, device)
        sys.exit(fit_at_home(recipe_name, model, home))
    if model is not None or version is not None:
        raise ParameterError("--model and --version: expected with --data alone. Leave them out.")
    if resume and out is not None and RunFolder(out).recipe_file.is_file():
        # What the run was started with counts, whatever the shipped recipe says by now; --set may lengthen the training.
        recipe = load_recipe(str(RunFolder(out).recipe_file), overrides=overrides)
        if load_recipe(recipe_name).name != recipe.name:
            raise ParameterError(
                f"--resume: {out} is a run of recipe {recipe.name}, not of {recipe_name}. Name that one."
            )
    else:
        recipe = load_recipe(recipe_name, smoke=smoke, overrides=overrides)
    if start is not None and resume:
        raise ParameterError("--from and --resume: a run that goes on has weights already. Leave one of them out.")
    if out is None:
        if resume or "RANK" in os.environ:
            raise ParameterError("--out: missing; expected a run folder with --resume and under torchrun. Name it.")
        out = _dated(recipe.name)
    begin = None if start is None else RunFolder(start)
    outcome = run_fit(recipe, RunFolder(out), resume=resume, start=begin, device=device, report=click.echo)
    if outcome.stopped == "interrupted":
        sys.exit(EXIT_INTERRUPTED)


def _dated(name: str) -> Path:
    """A new folder below ``runs``."""
    stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{name}-{stamp}"


@cli.command()
@click.argument("run", type=FOLDER)
@click.option("--to", "folder", type=FOLDER, required=True, help="Where the model package goes.")
@click.option("--version", default="0.1.0", show_default=True, help="Version of the package.")
@click.option("--half", is_flag=True, help="Store the weights as float16: half the size.")
@click.option("--evaluate/--no-evaluate", "score", default=True, show_default=True, help="Score it for its card.")
@click.option(
    "--images",
    default=4,
    show_default=True,
    type=click.IntRange(1),
    help="Images per family and noise level; of defects, per noise level.",
)
@click.option("--overwrite", is_flag=True, help="Replace the model package that is already there.")
@click.option("--scale-run", type=FOLDER, metavar="RUN", help="Of a finder of atoms: the network that reads the scale.")
@click.option("--ae1-run", type=FOLDER, metavar="RUN", help="Of a finder of defects: the first patch autoencoder.")
@click.option("--ae2-run", type=FOLDER, metavar="RUN", help="Of a finder of defects: the second patch autoencoder.")
@click.option(
    "--tip-run", type=FOLDER, metavar="RUN", help="Of a restorer: the tip network.  [default: the one it saw]"
)
@click.option(
    "--judge-run", type=FOLDER, metavar="RUN", help="Of a restorer: the judge of tips.  [default: the one it saw]"
)
@click.option(
    "--calibration",
    "knots",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file with the ascending lists raw and probability: scores become probabilities.",
)
def export(
    run: Path,
    folder: Path,
    version: str,
    half: bool,
    score: bool,
    images: int,
    overwrite: bool,
    scale_run: Path | None,
    ae1_run: Path | None,
    ae2_run: Path | None,
    tip_run: Path | None,
    judge_run: Path | None,
    knots: Path | None,
) -> None:
    """Export the best weights of RUN as an ONNX model package, with its card.

    The package is checked against torch through the runtime; nothing is left behind when they differ. Networks of further runs
    go into it too; what is learned from their latents stays beside these runs for the next export.
    """
    from spm_training.export import ExportOptions, evaluation_of, export_run
    from spm_training.graphs.base import read_calibration
    from spm_training.run import RunFolder

    further = {"scale": scale_run, "ae1": ae1_run, "ae2": ae2_run, "tip": tip_run, "judge": judge_run}
    attachments = {kind: RunFolder(path) for kind, path in further.items() if path is not None}
    calibration = None if knots is None else read_calibration(knots)
    options = ExportOptions(version, half=half, calibration=calibration, attachments=attachments)
    evaluation = evaluation_of(RunFolder(run), images) if score else None
    with _bar(evaluation.total if evaluation else 0, "scoring") as bar:
        done = export_run(
            RunFolder(run),
            folder,
            options,
            evaluation=evaluation,
            overwrite=overwrite,
            on_image=functools.partial(_advance, bar),
        )
    click.echo(f"{done.folder}: the runtime and torch differ by at most {done.difference:.1e}")
    if done.report is not None:
        click.echo(done.report.markdown(), nl=False)


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--peers", is_flag=True, help="Score other people's finders beside them, tuned on images of this kind.")
@click.option("--real", type=FOLDER, metavar="DIR", help="Score on the real annotated images of this folder too.")
@click.option("--out", type=FOLDER, default=Path("results"), show_default=True, help="Folder of the tables.")
@click.option(
    "--images",
    type=click.IntRange(0),
    help="Atoms: per family and noise level.  [default: 4]  Defects: per noise level, and as many empty ones.  [default: 8; 34 "
    "for --fit-calibration]  Restore: per family and microscope.  [default: 8]  Denoise: per lattice, and of other surfaces, "
    "and noise level.  [default: 4]  0: real images only.",
)
@click.option("--side-px", default=256, show_default=True, type=click.IntRange(32), help="Side of an image in pixels.")
@click.option(
    "--spacing-px", nargs=2, default=(4.0, 30.0), show_default=True, type=float, metavar="MIN MAX", help=SPACING
)
@click.option("--family", "families", multiple=True, help="Only this kind of surface. Repeatable.  [default: all]")
@click.option("--leave-out", "left_out", multiple=True, metavar="FAMILY", help="All but this kind. Repeatable.")
@click.option(
    "--fit-calibration",
    "knots",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Instead: fit score to probability on validation scenes and write what export --calibration reads.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
    help="Where the runtime computes.",
)
def evaluate(
    names: tuple[str, ...],
    peers: bool,
    real: Path | None,
    out: Path,
    images: int | None,
    side_px: int,
    spacing_px: tuple[float, float],
    families: tuple[str, ...],
    left_out: tuple[str, ...],
    knots: Path | None,
    device: Device,
) -> None:
    """Score model packages, each NAME the name or the folder of one, through the runtime's own pipeline.

    The word defects, restore or denoise scores the package of that name, or with --peers and without such a package the peers
    alone. The images are simulated from a seed that no training uses; finders of defects are also scored on the real images of
    SPIEPy, and what restores or denoises shows the scans of --real on a page of pictures. Tables are printed and written as JSON
    and Markdown.
    """
    from spm_training.atoms.evaluate import EvaluationOptions
    from spm_training.atoms.run import run_comparison
    from spm_training.calibration import fit_package, write_knots
    from spm_training.defects.run import DefectOptions, chosen_families, named_packages, run_calibration, run_defects
    from spm_training.denoise.run import denoise_options, denoise_packages, run_denoise
    from spm_training.denoise.scenes import KINDS
    from spm_training.restore.run import restore_options, restore_packages, run_restore
    from spm_training.simulate import surfaces, tips
    from spm_training.simulate.columns import FAMILIES

    _check_range("--spacing-px", spacing_px)
    denoisers = denoise_packages(names)
    if denoisers is not None:
        lattices = denoise_options(images, side_px, chosen_families(families, left_out, KINDS), knots)
        run_denoise(denoisers, lattices, out, peers=peers, real=real, device=device, bar=_bar, say=click.echo)
        return
    restorers = restore_packages(names)
    if restorers is not None:
        scans = restore_options(images, side_px, chosen_families(families, left_out, tips.FAMILIES), knots)
        run_restore(restorers, scans, out, peers=peers, real=real, device=device, bar=_bar, say=click.echo)
        return
    packages, defects = named_packages(names)  # all names are right before the first hour is spent
    if images == 0 and (knots is not None or (real is None and not defects)):
        raise ParameterError("--images 0: nothing to score; expected it with --real alone. Name a number of images.")
    chosen = chosen_families(families, left_out, tuple(surfaces.FAMILIES) if defects else FAMILIES)
    if defects:
        if spacing_px != EvaluationOptions().spacing_px:
            raise ParameterError("--spacing-px: expected with packages of 'atoms' alone. Leave it out.")
        count = images if images is not None else 8 if knots is None else 34
        shown = DefectOptions(count, side_px, chosen)
        if knots is not None:
            run_calibration(packages, shown, knots, device=device, bar=_bar, say=click.echo)
        else:
            run_defects(packages, shown, out, peers=peers, real=real, device=device, bar=_bar, say=click.echo)
        return
    options = EvaluationOptions(4 if images is None else images, side_px, spacing_px, chosen)
    if knots is None:
        run_comparison(packages, options, out, peers=peers, real=real, device=device, bar=_bar, say=click.echo)
        return
    if len(packages) > 1:
        raise ParameterError("--fit-calibration: several packages; expected one. Name one at a time.")
    with _bar(options.total, "calibrating") as bar:
        x, y = fit_package(packages[0], options, device, on_image=functools.partial(_advance, bar))
    write_knots(knots, x, y)
    click.echo(f"{len(x)} knots written: {knots}")


@cli.group()
def simulate() -> None:
    """Write images with ground truth, of the kind that the next word names."""


OUT = click.option("--out", type=FOLDER, required=True, help="New or empty folder.")
SHAPE = click.option(
    "--shape",
    nargs=2,
    default=(256, 256),
    show_default=True,
    type=click.IntRange(16),
    metavar="H W",
    help="Size in pixels.",
)
COUNT = click.option("--count", default=4, show_default=True, type=click.IntRange(1), help="Number of scenes.")
SEED = click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the set.")


@simulate.command("columns")
@OUT
@COUNT
@SHAPE
@click.option("--family", "families", multiple=True, help="Only this arrangement. Repeatable.  [default: all]")
@click.option(
    "--spacing-px", nargs=2, default=(4.0, 30.0), show_default=True, type=float, metavar="MIN MAX", help=SPACING
)
@click.option(
    "--detectability",
    nargs=2,
    default=(3.5, 60.0),
    show_default=True,
    type=float,
    metavar="MIN MAX",
    help="d\N{PRIME} of one column in the white noise, drawn from this range.",
)
@click.option("--spacing-nm", default=0.28, show_default=True, type=float, help="Spacing; it sets the pixel size.")
@SEED
def simulate_columns(
    out: Path,
    count: int,
    shape: tuple[int, int],
    families: tuple[str, ...],
    spacing_px: tuple[float, float],
    detectability: tuple[float, float],
    spacing_nm: float,
    seed: int,
) -> None:
    """Atom columns of many arrangements, with their disorder and the microscope's disturbances.

    TIFF (calibrated in nm), CSV of the positions, a picture and a manifest.
    """
    from spm_training.simulate.write import ColumnsOptions, write_columns

    _check_range("--spacing-px", spacing_px)
    _check_range("--detectability", detectability)
    if not spacing_nm > 0:
        raise ParameterError(f"--spacing-nm {spacing_nm:g}: expected a positive length.")
    options = ColumnsOptions(count, shape, families, spacing_px, detectability, spacing_nm, seed)
    _simulate(write_columns, options, out, count, "columns")


@simulate.command("lattice")
@OUT
@click.option("--type", "types", multiple=True, help="Only this lattice. Repeatable.  [default: all five]")
@click.option("--count", default=4, show_default=True, type=click.IntRange(1), help="Number of images of each type.")
@SHAPE
@click.option("--noise", default="medium", show_default=True, metavar="low|medium|high", help="Level of the noise.")
@click.option("--vacancies", default=0.0, show_default=True, type=float, help="Share of the atoms that are missing.")
@click.option("--adatoms", default=0.0, show_default=True, type=float, help="Share of the atoms with one on top.")
@click.option("--lattice-nm", default=0.4, show_default=True, type=float, help="Lattice unit; it sets the pixel size.")
@SEED
def simulate_lattice(
    out: Path,
    types: tuple[str, ...],
    count: int,
    shape: tuple[int, int],
    noise: str,
    vacancies: float,
    adatoms: float,
    lattice_nm: float,
    seed: int,
) -> None:
    """STM images of lattices cut by a tilted plane: cubic, bcc, fcc, hexagonal-1, hexagonal-2.

    TIFF with noise and without (calibrated in nm), CSV of the sites, a picture and a manifest.
    """
    from spm_training.simulate.stm_lattices import LATTICES
    from spm_training.simulate.write_lattices import LatticeOptions, write_lattices

    options = LatticeOptions(types, count, shape, noise, vacancies, adatoms, lattice_nm, seed)
    _simulate(write_lattices, options, out, count * len(types or LATTICES), "lattice", noun="images")


@simulate.command("surfaces")
@OUT
@COUNT
@SHAPE
@click.option("--family", "families", multiple=True, help="Only this kind of surface. Repeatable.  [default: all]")
@click.option(
    "--pixel-nm", type=click.FloatRange(0, min_open=True), help="Side of a pixel.  [default: drawn by family]"
)
@click.option("--noise", metavar="clear|medium|low", help="Level of the noise.  [default: all of them and quieter]")
@click.option("--defects/--no-defects", default=True, show_default=True, help="With point defects or without.")
@SEED
def simulate_surfaces(
    out: Path,
    count: int,
    shape: tuple[int, int],
    families: tuple[str, ...],
    pixel_nm: float | None,
    noise: str | None,
    defects: bool,
    seed: int,
) -> None:
    """STM images of surfaces with point defects, steps, tip and scanner artefacts.

    TIFF with noise and without (heights in nm, calibrated), CSV of the defects, mask of the steps, a picture and a manifest.
    """
    from spm_training.simulate.surfaces.write import SurfacesOptions, write_surfaces

    options = SurfacesOptions(count, shape, families, pixel_nm, noise, defects, seed)
    _simulate(write_surfaces, options, out, count, "surfaces")


@simulate.command("tips")
@OUT
@COUNT
@SHAPE
@click.option("--modality", default="afm", show_default=True, metavar="afm|stm", help="Whose surfaces.")
@click.option("--family", "families", multiple=True, help="Only this corruption. Repeatable.  [default: all]")
@click.option("--surface", "surfaces", multiple=True, help="Only this kind of surface. Repeatable.  [default: all]")
@click.option("--split", default="test", show_default=True, metavar="train|validation|test", help="Which set.")
@SEED
def simulate_tips(
    out: Path,
    count: int,
    shape: tuple[int, int],
    modality: str,
    families: tuple[str, ...],
    surfaces: tuple[str, ...],
    split: str,
    seed: int,
) -> None:
    """Scans with blunt and double tips, and with a blur: families blunt, double, hackathon, convolution.

    TIFF of the scan, of the surface, of the tip and of the pixels that it touched (calibrated in nm), a picture and a manifest.
    """
    from spm_training.simulate.tips.write import TipOptions, write_tips

    options = TipOptions(count, shape, modality, families, surfaces, split, seed)
    _simulate(write_tips, options, out, count, "tips")


cli.add_command(study)


def _simulate(
    write: Callable[..., Sequence[Path]], options: object, out: Path, count: int, what: str, *, noun: str = "scenes"
) -> None:
    """Write so many scenes, with a bar meanwhile."""
    with _bar(count, what) as bar:
        files = write(options, out, on_scene=functools.partial(_advance, bar))
    click.echo(f"{len(files)} {noun} in {out}")


def _check_range(option: str, given: tuple[float, float]) -> None:
    low, high = given
    if not 0 < low <= high:
        raise ParameterError(f"{option} {low:g} {high:g}: expected a positive range, smaller number first.")


def _advance(bar: tqdm[Any], _: object) -> None:
    bar.update(1)


def _bar(total: int, what: str) -> tqdm[Any]:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(total=total, desc=what, leave=False, disable=not total or not sys.stderr.isatty())


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
