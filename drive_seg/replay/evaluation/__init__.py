"""Replay evaluation: what a recording says about a model and about the node. No rclpy.

``judge`` turns frames into figures, wherever their masks come from; ``deterministic`` lets a checkpoint label every
frame of a source; ``page`` draws the report.
"""
