"""A training step's own machine code: what a CPU with bfloat16 spends its time on beside convolutions, in few passes.

PyTorch takes a pass over memory, or several, for each of Batch Norm, ReLU, un-pooling, shuffle, softmax and loss, and
torch.compile's code for them is no faster on a CPU. The kernels need a C++ compiler; without one, on other processors,
on a GPU and in fp32 the same networks and losses run by PyTorch.
"""
