"""Evaluation: what labelled data and recordings say about a model, and about the node.

``dataset`` scores a model on labelled images, ``deterministic`` on a recording, ``live`` what a node published;
``judge`` turns frames into figures, ``page`` draws the report. ``live_run`` plays through the node and
records, for a live replay and for ``demo``.
"""
