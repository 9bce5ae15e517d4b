"""Terraces of a stepped surface: where the steps are, and the surface levelled terrace by terrace.

Steps come first: a tilt, a line offset or a network that does not know of them takes them for something else. The parts:
`_rows` aligns the lines and finds tilt and bow in spite of steps, `_edges` measures how much the surface rises across every
pixel, `_regions` cuts the image into basins of that map and merges them where no step lies between, `_adsorbates` takes out
what only stands on a terrace.
"""

from spm_runtime.terraces._find import LEAST_STEP_NM, Terraces, find_terraces

__all__ = ["LEAST_STEP_NM", "Terraces", "find_terraces"]
