"""Evaluation of what finds defects on surfaces: scores, scenes, reports and real annotated images.

`score` judges, `scenes` draws what is judged, `evaluate` runs finders over it, `report` writes the tables;
`spm_training.peers.defects` has the methods of others to compare with.
"""
