"""Evaluation of what finds atoms: scores, reports, comparisons with the methods of others, real annotated images.

`evaluate` runs finders over simulated images, `report` and `compare` write the tables, `run` is a whole evaluation;
`spm_training.peers` has the methods of others to compare with.
"""
