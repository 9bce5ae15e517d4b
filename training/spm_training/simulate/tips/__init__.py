"""Surfaces as a tip shows them: clean heights, the tip, the image, and where the tip touched."""

from __future__ import annotations

from spm_training.simulate.tips.disturb import Disturbance
from spm_training.simulate.tips.scene import (
    FAMILIES,
    SPLITS,
    SURFACES,
    Modality,
    Split,
    TipScene,
    scene_rng,
    simulate_tip_scene,
)
from spm_training.simulate.tips.shapes import SIDE_PX

__all__ = [
    "FAMILIES",
    "SIDE_PX",
    "SPLITS",
    "SURFACES",
    "Disturbance",
    "Modality",
    "Split",
    "TipScene",
    "scene_rng",
    "simulate_tip_scene",
]
