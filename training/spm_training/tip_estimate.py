"""Trained networks that estimate tips, as the training of the networks that go on from the tip asks them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.relief import TIP_PX, ReliefView, tip_heights
from spm_runtime.pipelines.tip_candidates import candidate_facts, chosen_factor
from spm_runtime.pipelines.tip_drawn import tip_code, with_second_apex
from spm_training.checkpoint import load_checkpoint
from spm_training.networks.judge import JudgeNet
from spm_training.networks.tip import TipNet
from spm_training.options import NetworkOptions
from spm_training.recipe import JudgeNetworkOptions, TipNetworkOptions, read_recipe

__all__ = ["TipEstimator", "digest_of"]

Network = TypeVar("Network", bound=nn.Module)

#: Files of a run; `spm_training.run` cannot be imported here, for it imports the tasks.
RECIPE, BEST = "recipe.toml", "best.pt"


def digest_of(*folders: str) -> str:
    """What tells the weights of runs from those of other ones; empty names are left out.

    Raises
    ------
    ParameterError
        If a run has no weights.
    """
    digest = hashlib.sha256()
    for folder in filter(None, folders):
        best = Path(folder) / BEST
        if not best.is_file():
            raise ParameterError(
                f"tips {folder}: {best} not found; expected the run of a recipe of the network 'tip' or 'judge'. "
                "Train it first: spm-train fit tip, then spm-train fit judge."
            )
        digest.update(best.read_bytes())
    return digest.hexdigest()


class TipEstimator:
    """The networks of one or two runs; one object for each pair and process, by `of`.

    Parameters
    ----------
    tip_run
        Run of the network that draws tips.
    judge_run
        Run of the network that judges how blunt they are; empty takes them as they are drawn.
    """

    def __init__(self, tip_run: str, judge_run: str = "") -> None:
        options = _options(tip_run)
        if not isinstance(options, TipNetworkOptions):
            raise _wrong(tip_run, options.kind, "tip")
        self.network = _with_weights(TipNet(options.base_width, options.depth), tip_run)
        self.judge: JudgeNet | None = None
        if judge_run:
            judging = _options(judge_run)
            if not isinstance(judging, JudgeNetworkOptions):
                raise _wrong(judge_run, judging.kind, "judge")
            self.judge = _with_weights(JudgeNet(judging.hidden, judging.members), judge_run)

    @staticmethod
    @functools.lru_cache(maxsize=2)
    def of(tip_run: str, judge_run: str, digest: str) -> TipEstimator:
        """The estimator of runs whose weights have this digest."""
        return TipEstimator(tip_run, judge_run)

    def __call__(
        self, view: ReliefView, evidence: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Ask the networks.

        Parameters
        ----------
        view
            The scan; sides in multiples of 8.
        evidence
            As `spm_runtime.pipelines.relief.tip_evidence` makes it.

        Returns
        -------
        tip
            ``(TIP_PX, TIP_PX)`` float32 heights in units of the relief.
        code
            ``(CODE_WIDTH,)`` float32; with a judge ``(TOLD_WIDTH,)``: then the errors that it foresees.
        """
        with torch.no_grad():
            found = self.network.estimate(torch.from_numpy(view.image)[None, None], torch.from_numpy(evidence)[None])
            second = found.second[0].flatten().softmax(dim=0).reshape(TIP_PX, TIP_PX).numpy()
            visible = with_second_apex(found.visible.sigmoid()[0, 0].numpy(), second, evidence)
            tip = tip_heights(visible, view.local)
            code = tip_code(found.families.softmax(dim=1)[0].numpy(), evidence, visible)
            if self.judge is None:
                return tip, code
            facts = torch.from_numpy(np.concatenate([candidate_facts(view, tip), code]))
            errors = self.judge(facts[None]).mean(dim=1)[0].numpy()
        return np.float32(chosen_factor(errors)) * tip, np.concatenate([code, errors])


def _options(folder: str) -> NetworkOptions:
    return read_recipe(Path(folder) / RECIPE).network


def _wrong(folder: str, kind: str, expected: str) -> ParameterError:
    return ParameterError(
        f"tips {folder}: trained a network of the kind {kind!r}; expected {expected!r}. Name another run."
    )


def _with_weights(network: Network, folder: str) -> Network:
    network.load_state_dict(load_checkpoint(Path(folder) / BEST)["weights"])
    network.eval()
    return network
