"""Constant-current images of surfaces with point defects, and their truth."""

from spm_training.simulate.surfaces.materials import FAMILIES
from spm_training.simulate.surfaces.scene import (
    DEFECT_CLASSES,
    NOISE_LEVELS,
    REQUIRED_DETECTABILITY,
    Defects,
    SurfaceScene,
    white_noise_nm,
)
from spm_training.simulate.surfaces.simulate import simulate_surface

__all__ = [
    "DEFECT_CLASSES",
    "FAMILIES",
    "NOISE_LEVELS",
    "REQUIRED_DETECTABILITY",
    "Defects",
    "SurfaceScene",
    "simulate_surface",
    "white_noise_nm",
]
