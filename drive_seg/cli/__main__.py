"""``python -m drive_seg.cli``."""

from drive_seg.cli import main

main()
