"""Replay: recordings as a source of frames, the player and recorder nodes, and the demo.

Only ``player``, ``recorder``, ``scorer`` and ``demo`` may import rclpy: ``sources`` and ``video`` serve the
offline evaluator and the command line too.
"""
