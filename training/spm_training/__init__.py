"""Simulation, training, export and scores of the models that `spm_runtime` runs; needs the extra ``train``."""
