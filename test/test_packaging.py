"""What is installed where, by pip and as ros2 expects it, and the environment that make builds."""

import json
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import drive_seg

EXECUTABLES = {
    "segmentation_node": "drive_seg.node.segmentation_node",
    "player": "drive_seg.recordings.player",
    "recorder": "drive_seg.recordings.recorder",
}
SOURCES = ("drive_seg", "launch", "config", "models", "scripts", "resource")
FILES = ("setup.py", "pyproject.toml", "package.xml", "LICENSE")


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the source tree, built from a copy so that the checkout gets no build folder."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        shutil.copytree(checkout / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(checkout / name, tree / name)
    output = tmp_path_factory.mktemp("wheel")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*pip, "--quiet", "--wheel-dir", str(output), str(tree)], check=True, timeout=300)
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed in a prefix of its own, with nothing it depends on."""
    folder = tmp_path_factory.mktemp("prefix")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-compile"]
    options = ["--quiet", "--ignore-installed", "--prefix", str(folder)]
    subprocess.run([*pip, *options, str(wheel)], check=True, timeout=300)
    return folder


def test_the_share_folder_holds_what_the_source_tree_has(checkout: Path, prefix: Path) -> None:
    share = prefix / "share" / "drive_seg"
    kinds = (
        ("launch", "*.launch.py"),
        ("config", "*.yaml"),
        ("config", "*.xml"),
        ("config", "*.json"),
        ("config", "*.rviz"),
        ("models", "*.safetensors"),
    )
    wanted = {p.relative_to(checkout) for folder, kind in kinds for p in (checkout / folder).rglob(kind)}
    assert Path("launch/camera.launch.py") in wanted
    assert Path("config/fastdds_large_images.xml") in wanted
    assert Path("config/rviz/drive_seg.rviz") in wanted
    assert {path for path in wanted if not (share / path).is_file()} == set()
    for path in wanted:
        assert (share / path).read_bytes() == (checkout / path).read_bytes()
    assert (share / "package.xml").read_text() == (checkout / "package.xml").read_text()
    assert (prefix / "share/ament_index/resource_index/packages/drive_seg").is_file()


@pytest.mark.parametrize("name", EXECUTABLES)
def test_executables_keep_their_run_bit_and_prefer_the_python_beside_them(prefix: Path, name: str) -> None:
    executable = prefix / "lib" / "drive_seg" / name
    assert executable.stat().st_mode & stat.S_IXUSR
    python = prefix / "bin" / "python3"
    try:
        python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        python.chmod(0o755)
        answer = subprocess.run(
            [executable, "--ros-args", "a b"], capture_output=True, text=True, check=True, timeout=60
        )
    finally:
        python.unlink()
    assert answer.stdout.splitlines() == ["-P", "-m", EXECUTABLES[name], "--ros-args", "a b"]


def test_executables_take_the_path_s_python_where_none_lies_beside_them(prefix: Path, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\necho "from the path: $3"\n')
    python.chmod(0o755)
    answer = subprocess.run(
        [prefix / "lib" / "drive_seg" / "player"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert answer.stdout == "from the path: drive_seg.recordings.player\n"


def test_the_one_console_script_is_the_command_line(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        scripts = archive.read("drive_seg-0.1.0.dist-info/entry_points.txt").decode()
    # One of an executable's name would be put over the wrapper by colcon.
    assert scripts.split() == ["[console_scripts]", "drive-seg", "=", "drive_seg.cli:main"]


def test_an_installed_package_finds_its_share_folder_by_itself(prefix: Path, tmp_path: Path) -> None:
    site = next(prefix.glob("lib*/python*/site-packages"))
    code = "import drive_seg.files as f; print(f.__file__, f.share_file('config/fastdds_large_images.xml'))"
    module, found = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    assert Path(module) == site / "drive_seg" / "files.py"
    assert Path(found) == prefix / "share" / "drive_seg" / "config" / "fastdds_large_images.xml"


@pytest.mark.parametrize("overlay", ["", "kilted", "oldest"])
def test_constraints_pin_everything_that_is_asked_for_inside_its_range(
    checkout: Path, wheel: Path, overlay: str
) -> None:
    pins = pinned(checkout / "constraints.txt")
    if overlay:
        replaced = pinned(checkout / f"constraints-{overlay}.txt")
        pins |= replaced
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read("drive_seg-0.1.0.dist-info/METADATA").decode())
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    assert len(asked) >= 20
    for requirement in asked:
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} excludes the pinned {version}"


def pinned(path: Path) -> dict[str, str]:
    """Version by canonical name; fails on a line that is no exact pin, and on a package pinned twice."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line).groups() for line in lines]
    pins = {canonicalize_name(name): version for name, version in pairs}
    assert len(pins) == len(lines)
    return pins


def test_package_xml_agrees_with_the_package(checkout: Path) -> None:
    root = ElementTree.parse(checkout / "package.xml").getroot()
    assert root.get("format") == "3"
    assert root.findtext("name") == "drive_seg"
    assert root.findtext("version") == drive_seg.__version__
    assert root.findtext("license") == "Apache-2.0"
    assert root.findtext("export/build_type") == "ament_python"
    keys = {element.text for element in root.iter("exec_depend")}
    assert keys >= {
        *("rclpy", "sensor_msgs", "std_msgs", "diagnostic_msgs", "vision_msgs", "cv_bridge"),
        *("python3-numpy", "python3-opencv", "launch_ros", "ros2launch"),
    }
    messages = {name for name in imported_packages(checkout / "drive_seg") if name.endswith(("_msgs", "_interfaces"))}
    assert messages - keys == set(), "imported but not in package.xml"


def imported_packages(folder: Path) -> set[str]:
    pattern = re.compile(r"^\s*(?:from|import)\s+([a-z0-9_]+)", re.MULTILINE)
    return {name for path in folder.rglob("*.py") for name in pattern.findall(path.read_text())}


def test_the_node_runs_without_what_only_desk_and_lab_need() -> None:
    code = "import json, sys; import drive_seg.node.segmentation_node; print(json.dumps(list(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    loaded = {name.partition(".")[0] for name in json.loads(answer.stdout)}
    assert "rclpy" in loaded
    assert loaded & {"lightning", "pytorch_lightning", "matplotlib", "rosbags", "typer", "rich", "tensorboard"} == set()


@pytest.fixture
def make(checkout: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs make in the checkout with these arguments."""
    if shutil.which("make") is None:
        pytest.skip("needs make")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=checkout,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_make_names_what_it_needs_where_no_python_will_do(make: Callable, tmp_path: Path) -> None:
    answer = make("test", f"VENV={tmp_path / 'env'}", "PYTHON=")
    assert answer.returncode != 0
    assert "drive_seg needs Python 3.11 to 3.14" in answer.stderr
    assert not (tmp_path / "env").exists()


def test_make_has_one_environment_for_each_set_of_versions(make: Callable, tmp_path: Path) -> None:
    assert ".venv-kilted/bin/pytest test/node" in make("-n", "test", "ROS=kilted", "TESTS=test/node").stdout
    assert ".venv-kilted-oldest/bin/pytest" in make("-n", "test", "ROS=kilted", "LIBS=oldest").stdout
    unknown = make("-n", "test", "ROS=foxy")
    assert unknown.returncode != 0
    assert "constraints-foxy.txt" in unknown.stderr


def test_make_demo_passes_its_variables_on(make: Callable) -> None:
    plain = make("-n", "demo").stdout.replace("\\\n", "").split()
    assert plain[-2:] == ["-m", "drive_seg.evaluation.demo"]
    given = make("-n", "demo", "INPUT=my clip.mp4", "MODEL=models/x.safetensors", "FRAMES=40").stdout
    assert '--input "my clip.mp4" --model "models/x.safetensors"' in given
    assert "--frames 40" in given
