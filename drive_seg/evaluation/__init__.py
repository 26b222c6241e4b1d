"""Evaluation: what labelled data and recordings say about a model, and about the node.

Only ``scorer`` may import rclpy.

``dataset`` scores a model on labelled images, ``deterministic`` on a recording, ``live`` what a node published;
``judge`` turns frames into figures, ``page`` draws the report. ``demo`` plays, labels, records and
scores in one command.
"""
