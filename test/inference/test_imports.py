"""What a vehicle computes with knows nothing of recordings, synthetic drives, training or the command line."""

import ast
from pathlib import Path

import pytest

import drive_seg

ROOT = Path(drive_seg.__file__).parent
OTHERS = {"bench", "cli", "datasets", "evaluation", "node", "recordings", "segmenter", "synth", "training"}
FILES = sorted((ROOT / "inference").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_inference_stands_on_labels_images_networks_and_checkpoints_alone(file):
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    rooms = {name.split(".")[1] for name in names if name.startswith("drive_seg.")}
    assert not rooms & OTHERS
