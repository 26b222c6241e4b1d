"""Recordings: bags, videos, folders and drives as sources of frames; the player, the recorder and what writes bags.

Only ``player`` and ``recorder`` may import rclpy: ``sources``, ``reading`` and ``video`` serve the command line too.
"""
