"""Geometry: pixels to rays through a lens, and to cells on the ground."""
