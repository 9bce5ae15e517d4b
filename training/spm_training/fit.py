"""The trainer: a plain torch loop that can be stopped at any step and goes on as if it had not been.

On the CPU with one process a resumed training equals an uninterrupted one bit for bit: samples are pure functions of their
keys (`spm_training.loading`), everything else is in ``last.pt``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from spm_runtime.errors import ModelError, ParameterError
from spm_training.checkpoint import load_checkpoint, save_checkpoint
from spm_training.cost import cost_of
from spm_training.distributed import (
    World,
    any_rank,
    average_buffers,
    check_equal_weights,
    share_cores,
    sum_over_ranks,
    world,
)
from spm_training.loading import train_loader, validation_batches
from spm_training.optimisation import build_optimiser, build_schedule
from spm_training.recipe import Recipe
from spm_training.run import RunFolder
from spm_training.stop import StopRequest
from spm_training.tasks import Batch, task_of
from spm_training.trained import trained_network

__all__ = ["Outcome", "fit"]

#: Steps between two looks at the running loss (and, on several ranks, at a stop request of another rank).
_LOOK_EVERY_STEPS = 10


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Parameters
    ----------
    epochs
        Epochs done.
    best_loss
        Lowest validation loss.
    stopped
        ``finished``, ``early`` (no progress) or ``interrupted`` (Ctrl-C; resume to go on).
    """

    epochs: int
    best_loss: float
    stopped: str


def fit(
    recipe: Recipe,
    run: RunFolder,
    *,
    resume: bool = False,
    start: RunFolder | None = None,
    anew: tuple[str, ...] = (),
    device: str = "auto",
    report: Callable[[str], None],
) -> Outcome:
    """Train.

    Parameters
    ----------
    recipe
        The resolved recipe.
    run
        Where the run is kept; must be new or empty unless resuming.
    resume
        Go on from ``last.pt``.
    start
        A run whose best weights this one begins with, in place of random ones; of the same network.
    anew
        Layers that begin with random weights all the same, and may have another size, by the beginnings of their names.
    device
        ``auto``, ``cpu`` or ``cuda``.
    report
        Takes one line for a person.

    Returns
    -------
    Outcome

    Raises
    ------
    ParameterError
        If the folder is taken, the run cannot be resumed, or the batch cannot be shared among the ranks.
    ModelError
        If the loss is no longer finite or a checkpoint cannot be read.
    DeviceError
        If CUDA was asked for and is not there.
    """
    with world(device) as place, _torch_settings(place.device):
        if recipe.data.batch % place.size:
            raise ParameterError(
                f"data.batch {recipe.data.batch}: cannot be shared by {place.size} processes; expected a multiple. "
                "Set data.batch or start another number of processes."
            )
        if resume:
            run.check_resumable(recipe)
        elif place.is_first:
            run.create(recipe)
        cost = cost_of(recipe)
        weights, facts = (None, None) if start is None else trained_network(start)
        if place.is_first:
            run.write_recipe(recipe)
            run.write_facts(cost, device=str(place.device), processes=place.size, start=facts)
            report(f"{recipe.name}: {cost}")
            report(f"run folder {run.path}, {place.size} process(es) on {place.device.type}")
        # The trainer lives in a call of its own: what it holds of the process group must be gone before the group is.
        return _train(recipe, run, place, report, resume=resume, weights=weights, anew=anew)


def _train(
    recipe: Recipe,
    run: RunFolder,
    place: World,
    report: Callable[[str], None],
    *,
    resume: bool,
    weights: nn.Module | None,
    anew: tuple[str, ...],
) -> Outcome:
    trainer = Trainer(recipe, run, place, report)
    if resume:
        trainer.restore()
    elif weights is not None:
        trainer.begin_with(weights, anew)
    with StopRequest() as stop:
        return trainer.train(stop)


@dataclass
class Progress:
    """Where a training stands; `step` counts within the epoch that is under way."""

    epoch: int = 0
    step: int = 0
    best_loss: float = float("inf")
    stale_epochs: int = 0
    train_sums: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Model, optimiser and progress of one training on one rank."""

    def __init__(self, recipe: Recipe, run: RunFolder, place: World, report: Callable[[str], None]) -> None:
        self.recipe, self.run, self.place, self.report = recipe, run, place, report
        torch.manual_seed(recipe.training.seed)
        self.task = task_of(recipe)
        model = self.task.build_network()
        if place.size > 1 and place.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model = model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = self.model
        if place.size > 1:
            # Buffers are averaged before they are used (see spm_training.distributed), not copied from rank 0.
            self.parallel = DistributedDataParallel(
                self.model, [place.device] if place.device.type == "cuda" else None, broadcast_buffers=False
            )
        decay = recipe.training.ema_decay
        self.average: AveragedModel | None = None
        if decay:
            average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.optimiser = build_optimiser(recipe, self.model)
        self.schedule = build_schedule(recipe, self.optimiser)
        self.progress = Progress()
        share = {"rank": place.rank, "world_size": place.size}
        on_gpu = place.device.type == "cuda"
        workers, threads = share_cores(
            recipe.data.num_workers, recipe.training.threads, cores=place.cores, on_gpu=on_gpu
        )
        torch.set_num_threads(threads)
        self.loader, self.sampler = train_loader(self.task, workers=workers, pin_memory=on_gpu, **share)
        self.validation = validation_batches(self.task, **share)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and exported: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def begin_with(self, network: nn.Module, anew: tuple[str, ...] = ()) -> None:
        """Take over the weights of a trained network of the same shape, or of one that sees fewer channels.

        New channels come after the old ones and have no say at first. Layers whose names begin as `anew` says keep their
        random weights.

        Raises
        ------
        ParameterError
            If it is another network.
        """
        own = self.model.state_dict()
        kept = {name: value for name, value in own.items() if name.startswith(anew)} if anew else {}
        state = _widened(network.state_dict(), own) | kept
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise ParameterError(
                f"--from: the weights are of another network ({str(error).splitlines()[-1].strip()}); expected that of recipe "
                f"{self.recipe.name}. Set [network] as that run did."
            ) from error
        if self.average is not None:
            self.average.module.load_state_dict(state)

    def train(self, stop: StopRequest) -> Outcome:
        """Run epochs until the end, the patience's end, or a request to stop."""
        total = self.recipe.training.epochs
        patience = self.recipe.early_stopping.patience_epochs
        writer = SummaryWriter(str(self.run.tensorboard)) if self.place.is_first else None
        try:
            while self.progress.epoch < total and self.progress.stale_epochs < patience:
                started = time.perf_counter()
                if not self._train_epoch(stop):
                    self._report(
                        f"stopped in epoch {self.progress.epoch + 1}; go on with --resume --out {self.run.path}"
                    )
                    return self._outcome("interrupted")
                self._end_epoch(writer, time.perf_counter() - started)
        finally:
            if writer is not None:
                writer.close()
        early = self.progress.epoch < total
        self._report(f"{'no progress any more' if early else 'done'}: best loss {self.progress.best_loss:.6g}")
        return self._outcome("early" if early else "finished")

    def _train_epoch(self, stop: StopRequest) -> bool:
        """Steps up to the end of the epoch; False when stopped before it, the state saved."""
        progress, device = self.progress, self.place.device
        self.sampler.epoch, self.sampler.first_step = progress.epoch, progress.step
        self.model.train()
        sums = {name: torch.tensor(value, device=device) for name, value in progress.train_sums.items()}
        every = self.recipe.training.checkpoint_every_steps
        with self._bar() as bar:
            for batch in self.loader:
                for name, value in self._step(batch.to(device)).items():
                    sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
                progress.step += 1
                bar.update()
                last = progress.step == self.recipe.data.steps_per_epoch
                due = bool(every) and progress.step % every == 0
                look = self.place.size == 1 or progress.step % _LOOK_EVERY_STEPS == 0
                stopping = look and not last and any_rank(stop.requested, device)
                if last or due or stopping or progress.step % _LOOK_EVERY_STEPS == 0:
                    progress.train_sums = {name: float(value) for name, value in sums.items()}
                    self._check_finite()
                    bar.set_postfix(loss=f"{progress.train_sums['loss'] / progress.step:.5f}")
                if (due and not last) or stopping:
                    self._average_buffers()  # all ranks take part
                    self.save()
                if stopping:
                    return False
        return True

    def _step(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        precision = self.recipe.training.precision
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            output = self.parallel(self.task.inputs(batch))
        terms = self.task.loss(output, batch)
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        limit = self.recipe.optimiser.grad_clip_norm
        if limit:
            nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.schedule.after_step()
        return terms

    def _end_epoch(self, writer: SummaryWriter | None, seconds: float) -> None:
        """Validate, lower the learning rate where due, save and report."""
        progress = self.progress
        check_equal_weights(self.model)
        self._average_buffers()
        metrics = self._validate()
        loss = metrics["loss"]
        names = list(progress.train_sums)
        mine = torch.tensor([progress.train_sums[name] for name in names], dtype=torch.float64)
        summed = sum_over_ranks(mine.to(self.place.device))
        train = {
            name: float(value) / (progress.step * self.place.size) for name, value in zip(names, summed, strict=True)
        }
        learning_rate = self.optimiser.param_groups[0]["lr"]
        self.schedule.after_epoch(loss)
        improved = loss < progress.best_loss - self.recipe.early_stopping.min_delta
        progress.stale_epochs = 0 if improved else progress.stale_epochs + 1
        if improved:
            progress.best_loss = loss
        progress.epoch, progress.step, progress.train_sums = progress.epoch + 1, 0, {}
        if not self.place.is_first:
            return
        row = {"epoch": progress.epoch, "seconds": round(seconds, 2), "lr": learning_rate}
        row |= {f"train_{name}": value for name, value in train.items()}
        row |= {f"val_{name}": value for name, value in metrics.items()}
        self.run.append_metrics(row)
        if improved:
            save_checkpoint(self.run.best, self._best_state(metrics))
        self.save()
        if writer is not None:
            self._plot(writer, row)
        shown = "  ".join(f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in self.task.shown)
        self._report(
            f"epoch {progress.epoch}/{self.recipe.training.epochs}  train {train['loss']:.6f}  val {loss:.6f}  "
            f"{shown}  lr {learning_rate:.1e}  {seconds:.0f} s{'  best' if improved else ''}"
        )

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        network = self.evaluated.eval()
        sums = torch.zeros(len(self.task.sum_names), dtype=torch.float64)
        for batch in self.validation:
            moved = batch.to(self.place.device)
            output = network(self.task.inputs(moved))
            sums += torch.tensor(self.task.validation_sums(output, moved), dtype=torch.float64)
        return self.task.validation_metrics(sum_over_ranks(sums.to(self.place.device)).tolist())

    def _average_buffers(self) -> None:
        average_buffers(self.model)
        if self.average is not None:
            average_buffers(self.average)

    def _check_finite(self) -> None:
        loss = self.progress.train_sums["loss"]
        if not abs(loss) < float("inf"):
            raise ModelError(
                f"{self.run.path}: the loss is {loss} in epoch {self.progress.epoch + 1}, step {self.progress.step}; expected a "
                "finite number. Lower optimiser.lr or optimiser.grad_clip_norm, or use training.precision=float32."
            )

    def save(self) -> None:
        """Write ``last.pt``, on rank 0; the buffers are averaged already."""
        if not self.place.is_first:
            return
        progress = self.progress
        state = {
            "recipe": self.recipe.model_dump(mode="json"),
            "epoch": progress.epoch,
            "step": progress.step,
            "best_loss": progress.best_loss,
            "stale_epochs": progress.stale_epochs,
            "train_sums": progress.train_sums,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.schedule.state_dict(),
            # Nothing draws from it today; a layer such as dropout would.
            "torch_rng": torch.get_rng_state(),
        }
        save_checkpoint(self.run.last, state)

    def restore(self) -> None:
        """Take up the state of ``last.pt``."""
        state = load_checkpoint(self.run.last, self.place.device)
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["torch_rng"].cpu())
        self.progress = Progress(
            state["epoch"], state["step"], state["best_loss"], state["stale_epochs"], state["train_sums"]
        )
        if self.place.is_first:
            self.run.truncate_metrics(self.progress.epoch)
        self._report(f"resuming at epoch {self.progress.epoch + 1}, step {self.progress.step}")

    def _best_state(self, metrics: dict[str, float]) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "epoch": self.progress.epoch,
            "metrics": metrics,
            "weights": self.evaluated.state_dict(),
        }

    @torch.no_grad()
    def _plot(self, writer: SummaryWriter, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name.replace("_", "/", 1), value, int(row["epoch"]))
        if (int(row["epoch"]) - 1) % self.recipe.training.pictures_every_epochs == 0:
            batch = self.validation[0].to(self.place.device)
            pictures = self.task.pictures(self.evaluated(self.task.inputs(batch)), batch)
            for name, picture in pictures.items():
                writer.add_image(name, picture, int(row["epoch"]), dataformats="HW")

    def _bar(self) -> tqdm[Any]:
        quiet = not self.place.is_first or not sys.stderr.isatty()
        return tqdm(
            total=self.recipe.data.steps_per_epoch,
            initial=self.progress.step,
            desc=f"epoch {self.progress.epoch + 1}/{self.recipe.training.epochs}",
            unit="step",
            leave=False,
            disable=quiet,
        )

    def _report(self, line: str) -> None:
        if self.place.is_first:
            self.report(line)

    def _outcome(self, stopped: str) -> Outcome:
        return Outcome(self.progress.epoch, self.progress.best_loss, stopped)


def _widened(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights with zeros for the input channels that they lack."""
    widened = dict(state)
    for name, values in state.items():
        like = wanted.get(name)
        if like is None or values.dim() != 4 or values.dim() != like.dim():
            continue
        more = like.shape[1] - values.shape[1]
        if more > 0 and values.shape[:1] + values.shape[2:] == like.shape[:1] + like.shape[2:]:
            zeros = torch.zeros(values.shape[0], more, *values.shape[2:], dtype=values.dtype, device=values.device)
            widened[name] = torch.cat([values, zeros], dim=1)
    return widened


@contextmanager
def _torch_settings(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms on the CPU, the fastest ones on CUDA; leaves torch's global settings as they were."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.get_num_threads()
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.backends.cudnn.benchmark = device.type == "cuda"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        torch.set_num_threads(before[2])
