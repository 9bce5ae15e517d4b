"""The network that judges how blunt an estimated tip is, from what blunter and sharper ones would mean for the surface."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spm_runtime.pipelines.tip_candidates import FACTORS, FACTS
from spm_runtime.pipelines.tip_drawn import CODE_WIDTH

__all__ = ["JUDGED_WIDTH", "TOLD_WIDTH", "JudgeNet"]

#: Length of its input: `spm_runtime.pipelines.tip_candidates.candidate_facts`, then the code of the tip.
JUDGED_WIDTH = FACTS + CODE_WIDTH
#: Length of what a network that restores is told: the code of the tip, then the errors that the judge foresees.
TOLD_WIDTH = CODE_WIDTH + len(FACTORS)
#: Facts further from their mean, in standard deviations, say no more.
_FAR = 5.0


class JudgeNet(nn.Module):
    """Several small perceptrons whose mean counts.

    Parameters
    ----------
    hidden
        Width of the first hidden layer; the second is half as wide.
    members
        Number of perceptrons.
    dropout
        Share of the hidden units that are left out in training.
    """

    def __init__(self, hidden: int = 192, members: int = 4, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(JUDGED_WIDTH, affine=False)
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(dropout / 3),
                nn.Linear(JUDGED_WIDTH, hidden),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden // 2),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden // 2, len(FACTORS)),
            )
            for _ in range(members)
        )

    def forward(self, facts: Tensor) -> Tensor:
        """Judge.

        Parameters
        ----------
        facts
            ``(B, JUDGED_WIDTH)``.

        Returns
        -------
        ``(B, members, len(FACTORS))``: decimal logarithm of the mean squared error of the eroded surface over that of the
        image, for each candidate.
        """
        scaled = self.scale(facts.float()).clamp(-_FAR, _FAR)
        return torch.stack([member(scaled).float() for member in self.members], dim=1)
