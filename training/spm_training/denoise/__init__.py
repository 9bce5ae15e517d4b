"""Evaluation of what takes noise away: scenes, scores, comparison with classical methods, pictures.

`scenes` draws lattices that no training uses, `evaluate` scores methods on them side by side, `report` and `compare` make the
tables, `pictures` the page, `tuning` chooses the settings of the peers, and `run` does all of it for the command.
"""
