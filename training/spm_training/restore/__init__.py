"""Evaluation of what restores surfaces under bad tips: metrics, scenes, scores, reports and pictures.

`metrics` and `score` judge, `scenes` draws what is judged, `evaluate` runs restorers over it, `report`, `compare` and `pictures`
write what people read; `spm_training.peers.restore` has the methods of others to compare with.
"""
