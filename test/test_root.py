"""The package's root is its API."""

import subprocess
import sys

import pytest

import drive_seg


@pytest.mark.parametrize("name", drive_seg.__all__)
def test_root_hands_out_its_api_in_a_fresh_process(name: str) -> None:
    code = f"from drive_seg import {name}; print({name}.__name__)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.strip().split(".")[-1] == name


def test_importing_the_root_loads_nothing_heavy() -> None:
    code = "import sys, drive_seg; print(sorted({'torch', 'numpy', 'cv2', 'rclpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Segmentor'"):
        drive_seg.Segmentor  # noqa: B018
    assert "Segmenter" in dir(drive_seg)
