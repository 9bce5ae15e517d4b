"""``spm-infer``: what users of the acquisition PC type."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import yaml

from spm_runtime._version import __version__
from spm_runtime.demo import DEMO_PIXEL_NM, demo_scans
from spm_runtime.doctor import examine
from spm_runtime.engine.batch import run_batch
from spm_runtime.engine.cluster import run_on_cluster
from spm_runtime.engine.ledger import Order
from spm_runtime.engine.merge import merge_shards
from spm_runtime.engine.service import Service
from spm_runtime.engine.settings import Settings
from spm_runtime.engine.shards import Shard, run_shard
from spm_runtime.engine.status import retry_scans, status_lines, status_of
from spm_runtime.engine.watch import watch as watch_folder
from spm_runtime.errors import AdatomError, ModelError, ParameterError, ScanError
from spm_runtime.methods import Method
from spm_runtime.models import list_models, load_package
from spm_runtime.pipelines import BUILT_IN
from spm_runtime.readers import find_reader, read_scans
from spm_runtime.results import Task
from spm_runtime.session import Device

__all__ = ["main"]

#: Exit codes of every command.
ALL_DONE, SOME_FAILED, USAGE, ENVIRONMENT = 0, 1, 2, 3

_TASKS = ("atoms", "defects", "restore", "denoise", "strain")
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"]
_FOLDER = click.Path(file_okay=False, path_type=Path)


class _Group(click.Group):
    """Turns errors raised on purpose into one line and the right exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AdatomError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            if isinstance(error, ParameterError):
                ctx.exit(USAGE)
            ctx.exit(SOME_FAILED if isinstance(error, ScanError) else ENVIRONMENT)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 all done, 1 some scans failed, 2 usage, 3 model or environment.",
)
@click.version_option(__version__, prog_name="spm-infer")
def main() -> None:
    """Finds atoms and defects in STM, AFM and HAADF-STEM scans, restores surfaces and denoises, with exported networks."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the console's code page lacks must not end a batch: Windows writes logs in such a code page.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _analysis_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that run and watch share."""
    options = [
        click.option("--out", required=True, type=_FOLDER, help="Folder of the results; made when it is not there."),
        click.option(
            "--task", "tasks", multiple=True, type=click.Choice(_TASKS),
            help="What to look for; repeat for several. By default it follows from the modality of the scan.",
        ),
        click.option("--model", metavar="NAME|FOLDER", help="Model package; by default the one named after the task. "
            "'classical' restores surfaces without a network."),
        click.option(
            "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
            help="Where the networks run; auto takes a GPU that truly works, else the CPU.",
        ),
        click.option("--require-gpu", is_flag=True, help="Fail rather than run on the CPU."),
        click.option("--channel", metavar="NAME", help="Channel to analyse; by default the topography."),
        click.option(
            "--pixel-size-nm", type=click.FloatRange(min=0, min_open=True), metavar="X",
            help="Pixel size in nanometres, in place of the file's own.",
        ),
        click.option("--param", "given", multiple=True, metavar="NAME=VALUE", help="A model parameter; repeatable."),
        click.option(
            "--params", "params_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="File of model parameters (YAML or JSON: a mapping of names to numbers).",
        ),
        click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Scans analysed at once."),
        click.option("--gwy", is_flag=True, help="Also write all maps into one Gwyddion file per scan."),
    ]  # fmt: skip
    return _with(options, _service_options(command))


def _service_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of run and watch that no result depends on."""
    options = [
        _state_option(),
        click.option(
            "--attempts", default=3, show_default=True, type=click.IntRange(min=1),
            help="Crashes of one scan before it is put into quarantine.",
        ),
        click.option(
            "--memory-limit-mb", type=click.FloatRange(min=0, min_open=True), metavar="MB",
            help="Memory for one scan; by default half of the computer's, shared among the jobs.",
        ),
        click.option(
            "--time-limit-s", default=900.0, show_default=True, type=click.FloatRange(min=0, min_open=True), metavar="S",
            help="Seconds for one image.",
        ),
        click.option(
            "--min-free-mb", default=500.0, show_default=True, type=click.FloatRange(min=0), metavar="MB",
            help="Pause while a disk has less room than this.",
        ),
        click.option("--threads", type=click.IntRange(min=1), help="Threads of all jobs together; by default all cores for "
            "run, half of them for watch."),
        click.option(
            "--log", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
            help="Log file, old parts dropped; by default in the state folder.",
        ),
        click.option(
            "--metrics-port", type=click.IntRange(0, 65535), metavar="N",
            help="Serve Prometheus metrics on 127.0.0.1, port N.",
        ),
    ]  # fmt: skip
    return _with(options, command)


def _state_option() -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--state",
        type=_FOLDER,
        metavar="DIR",
        help="Folder on a local disk for ledger, log and copies; by default SPM_STATE, else your own for such things.",
    )


def _with(options: Iterable[Any], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(list(options)):
        command = option(command)
    return command


def _settings(options: Mapping[str, Any]) -> Settings:
    return Settings(
        tasks=cast("tuple[Task, ...]", options["tasks"]),
        model=options["model"],
        device=cast("Device", options["device"]),
        require_gpu=options["require_gpu"],
        channel=options["channel"],
        pixel_size_nm=options["pixel_size_nm"],
        params=_parameters(options["given"], options["params_file"]),
        jobs=options["jobs"],
        gwy=options["gwy"],
    )


def _service(options: Mapping[str, Any]) -> Service:
    return Service(**{field.name: options[field.name] for field in dataclasses.fields(Service)})


def _parameters(given: Iterable[str], file: Path | None) -> dict[str, float]:
    """Parameters of the file, then those of the command line on top."""
    values: dict[str, float] = {}
    if file is not None:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise click.BadParameter(f"{file} cannot be read: {error}", param_hint="--params") from error
        if not isinstance(content, Mapping):
            raise click.BadParameter(f"{file} holds no mapping of names to numbers", param_hint="--params")
        values.update({str(name): _number(name, value) for name, value in content.items()})
    for word in given:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.BadParameter(f"{word!r}: expected NAME=VALUE", param_hint="--param")
        values[name.strip()] = _number(name, value)
    return values


def _number(name: object, value: object) -> float:
    try:
        return float(cast("str", value))
    except (TypeError, ValueError):
        raise click.BadParameter(f"{name}={value!r} is not a number", param_hint="--param") from None


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@_analysis_options
@click.option("--again", is_flag=True, help="Analyse everything, also what is done already.")
@click.option("-v", "--verbose", is_flag=True, help="Also name the files that are no scans.")
@click.option(
    "--shard",
    "part",
    metavar="I/N",
    help="Only the I-th of N parts of the batch, counted from 1; afterwards `spm-infer merge` joins them.",
)
@click.option(
    "--dask",
    "address",
    metavar="ADDRESS",
    help="Let the workers of a Dask cluster do it: address of its scheduler, or its scheduler file (extra `cluster`).",
)
def run(
    paths: tuple[Path, ...],
    out: Path,
    again: bool,
    verbose: bool,
    part: str | None,
    address: str | None,
    **options: Any,
) -> None:
    """Analyse files and folders (recursively) and go on after a bad file; what is done already is kept."""
    if part is not None and address is not None:
        raise click.UsageError("--shard and --dask are two ways to divide a batch; give one of them")
    begin: Callable[..., int] = run_batch
    if part is not None:
        begin = partial(run_shard, shard=Shard.parse(part))
    elif address is not None:
        begin = partial(run_on_cluster, address=address)
    failed = begin(paths, out, _settings(options), service=_service(options), again=again, verbose=verbose)
    sys.exit(SOME_FAILED if failed else ALL_DONE)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=_FOLDER, metavar="DIR...")
def merge(folders: tuple[Path, ...]) -> None:
    """Join the shards of a batch: one summary.csv and index.html in the first DIR; an incomplete set is refused."""
    sys.exit(SOME_FAILED if merge_shards(folders) else ALL_DONE)


@main.command()
@click.argument("folder", type=_FOLDER)
@_analysis_options
@click.option("--once", is_flag=True, help="Analyse what is there, then end; only room on the disk is waited for.")
@click.option(
    "--since",
    type=click.DateTime(_TIMES),
    metavar="TIME",
    help="Leave files alone that are older, as 2026-01-31T08:00.",
)
@click.option(
    "--order",
    default="newest",
    show_default=True,
    type=click.Choice(["newest", "oldest"]),
    help="Which scan comes first when several wait.",
)
@click.option(
    "--poll-s",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.05),
    help="Seconds between two looks at the folder.",
)
@click.option(
    "--give-up-s",
    default=600.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that a file that cannot be read whole is given to change, before it counts as failed.",
)
def watch(
    folder: Path,
    out: Path,
    once: bool,
    since: datetime | None,
    order: Order,
    poll_s: float,
    give_up_s: float,
    **options: Any,
) -> None:
    """Analyse every new scan of a folder, sub-folders included, until stopped (Ctrl-C)."""
    failed = watch_folder(
        folder,
        out,
        _settings(options),
        service=_service(options),
        once=once,
        since=since,
        order=order,
        poll_s=poll_s,
        give_up_s=give_up_s,
    )
    sys.exit(SOME_FAILED if failed else ALL_DONE)


@main.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
@_state_option()
@click.option("--json", "as_json", is_flag=True, help="Everything that is known, every scan included, as JSON.")
def status(folder: Path, state: Path | None, as_json: bool) -> None:
    """Show what became of the scans of a folder of results, also while they are analysed."""
    facts = status_of(folder, state)
    if as_json:
        click.echo(json.dumps(facts, indent=2, allow_nan=False))
        return
    for line in status_lines(facts):
        click.echo(line)


@main.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.argument("scans", nargs=-1, metavar="[SCAN]...")
@_state_option()
def retry(folder: Path, scans: tuple[str, ...], state: Path | None) -> None:
    """Put failed scans of a folder of results back in line: those named as in its summary, or all."""
    for name in retry_scans(folder, scans, state):
        click.echo(f"waiting {name}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def info(file: Path) -> None:
    """Show what a scan file holds: channels, size, pixel size and unit, modality, warnings."""
    reader = find_reader(file)
    click.echo(f"{file}: {reader.name}")
    said: dict[str, None] = {}
    for scan in read_scans(file):
        height, width = scan.shape
        size = "not calibrated"
        if scan.pixel_size_nm is not None and scan.size_nm is not None:
            size = "{1:.5g} × {0:.5g} nm, pixel {3:.4g} × {2:.4g} nm".format(*scan.size_nm, *scan.pixel_size_nm)
        click.echo(f"  {scan.label:<32} {width} × {height} px  {size}  unit {scan.unit or '–'}  {scan.modality}")
        said.update(dict.fromkeys(scan.warnings))
    for warning in said:
        click.secho(f"  warning: {warning}", fg="yellow")


@main.command()
def models() -> None:
    """List the model packages (task, version, hash check, what they were trained on and how they score) and built-in methods."""
    count = 0
    broken = False
    for folder in list_models():
        count += 1
        try:
            package = load_package(folder)
            package.verified_weights()
            package.test_tensors()
        except ModelError as error:
            broken = True
            click.secho(f"{folder.name}: {error}", fg="red")
            continue
        click.echo(f"{package.name} {package.version}  task {package.task}  hashes right  {package.folder}")
        click.echo(f"  {package.description}")
        low, high = package.pixel_size_nm
        click.echo(f"  for {', '.join(package.modalities)}; pixel size {low:g} to {high:g} nm")
        for title, facts in (("trained", package.training), ("scores", package.metrics)):
            click.echo(f"  {title}: " + "; ".join(f"{key} {value}" for key, value in facts.items()))
        _say_of_use(package)
    for method in BUILT_IN.values():
        click.echo(f"{method.name} {method.version}  task {method.task}  built in")
        click.echo(f"  {method.description}")
        _say_of_use(method)
    if count == 0:
        raise ModelError("no model package found; install adatom again, or set SPM_MODELS to a folder of packages")
    sys.exit(ENVIRONMENT if broken else ALL_DONE)


def _say_of_use(method: Method) -> None:
    """What a user can change, and what is known to fail."""
    for parameter in method.parameters.values():
        click.echo(
            f"  --param {parameter.name}={parameter.default:g}  "
            f"({parameter.minimum:g} to {parameter.maximum:g}) {parameter.description}"
        )
    for failure in method.known_failures:
        click.echo(f"  known failure: {failure}")


@main.command()
@click.option("--out", default=Path("demo-out"), show_default=True, type=_FOLDER, help="Folder of the results.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]))
def demo(out: Path, device: str) -> None:
    """Do the whole job on three real STM images of Si(111)-7×7 (from the package SPIEPy)."""
    failed = 0
    for scan in demo_scans():
        settings = Settings(device=cast("Device", device), pixel_size_nm=DEMO_PIXEL_NM[scan.name])
        failed += run_batch([scan], out, settings)
    click.echo(f"Open {(out / 'index.html').resolve()} in a browser.")
    sys.exit(SOME_FAILED if failed else ALL_DONE)


@main.command()
@click.option("--warm", is_flag=True, help="Compile the kernels, so that the first scan does not wait.")
def doctor(warm: bool) -> None:
    """Examine the installation: versions, providers that truly load, kernel cache, a self-test of every model."""
    problems = 0
    for finding in examine(warm=warm):
        problems += finding.state == "problem"
        colour = {"ok": None, "note": "yellow", "problem": "red"}[finding.state]
        click.secho(f"{finding.state:<8}{finding.topic:<22}{finding.text}", fg=colour)
    sys.exit(ENVIRONMENT if problems else ALL_DONE)


if __name__ == "__main__":
    main()
