"""DSNet on a processor by kernels of its own: convolutions that read their channels wherever they lie.

``program`` says a folded DSNet as steps, each with the ``channels`` that it reads, ``kernels.cpp`` carries them out,
``library`` compiles that, ``calibration`` finds what a byte stands for. Other networks are for the other runtimes.
"""
