"""DSNet and SwiftNet on a processor by kernels of this package: convolutions that read channels wherever they lie.

``program`` is a folded network as steps: ``dsnet`` and ``swiftnet`` list them layer by layer, ``assembly`` lays out
their weights and memory, ``channels`` says what each reads. ``kernels.cpp`` carries them out, ``library`` compiles
that, ``calibration`` finds what a byte stands for. Other networks are for the other runtimes.
"""
