"""Projected crystal structures: lattice constants, the projection, and arrangements of several crystals."""
