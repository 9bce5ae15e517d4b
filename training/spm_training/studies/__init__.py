"""Studies: what a choice costs and what it gives, as reports of one HTML file each, with pictures and one recommendation.

==================  =================================================================================================
`clusters`          how many clusters, of which kind, in the latents of the patch autoencoders
`latent_size`       how many numbers describe a patch
`suggestions`       what the UCL report suggests to improve the first autoencoder, each at the same budget
==================  =================================================================================================

Every study writes ``NAME.html`` (nothing else is needed to read it) and ``NAME.json`` (its numbers). What a study decides is
measured on the validation split; the evaluation split stays unseen.
"""
