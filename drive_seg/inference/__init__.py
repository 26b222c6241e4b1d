"""Inference: the path of a frame through a network, who executes it, and checks of what comes out."""
