"""Fine-tuning at home: a model package of defects goes on learning from a user's own scans, which nobody has labelled.

Scans of one kind of surface have no truth, so truth is made: defects of the simulator are planted into the scans themselves,
where the shipped network sees nothing. The patch autoencoders need no truth at all. Scans that nothing is learned from judge;
what does not win on them, or forgets too much of what the simulated surfaces have taught, is not kept.
"""
