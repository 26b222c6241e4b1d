"""Frames on a GPU: CUDA graphs of the path of a frame, batches in flight, the device's streams and pools."""
