"""The profile that lets whole images through is found, valid, and never put in place of the user's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drive_seg.files import share_file
from drive_seg.node.dds import large_image_environment

BOTH = {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"}
SEGMENT = 64 * 2**20

# Sum of the shared memory of Fast DDS that a process with one participant has mapped.
MAPPED = """
import re, rclpy
rclpy.init()
node = rclpy.create_node("mapped")
sizes = [
    int(end, 16) - int(start, 16)
    for start, end in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*/dev/shm/fast", open("/proc/self/maps").read(), re.M)
]
print(max(sizes, default=0))
node.destroy_node()
rclpy.shutdown()
"""


def test_environment_names_the_profile_to_both_generations_of_fast_dds(checkout: Path) -> None:
    environment = large_image_environment({})
    assert set(environment) == BOTH
    (profile,) = set(environment.values())
    assert Path(profile).read_bytes() == (checkout / "config" / "fastdds_large_images.xml").read_bytes()


@pytest.mark.parametrize("name", sorted(BOTH))
def test_a_profile_of_the_users_stays(name: str) -> None:
    assert large_image_environment({name: "/mine.xml"}) == {}
    assert set(large_image_environment({name: ""})) == BOTH


@pytest.mark.parametrize("name", ["rmw_zenoh_cpp", "rmw_cyclonedds_cpp", "rmw_connextdds"])
def test_other_middleware_is_left_alone(name: str) -> None:
    assert large_image_environment({"RMW_IMPLEMENTATION": name}) == {}
    assert set(large_image_environment({"RMW_IMPLEMENTATION": "rmw_fastrtps_dynamic_cpp"})) == BOTH


def test_a_missing_shared_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no shared file 'models/none' \(looked in: /.+\)"):
        share_file("models/none")


@pytest.mark.skipif(
    not Path("/dev/shm").is_dir() or shutil.disk_usage("/dev/shm").free < 2 * SEGMENT,
    reason="needs 128 MiB in /dev/shm (docker: --shm-size)",
)
@pytest.mark.parametrize("with_profile", [True, False])
def test_fast_dds_takes_the_profile(ros_domain_id: int, with_profile: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in BOTH}
    environment |= large_image_environment({}) if with_profile else {}
    environment["RMW_IMPLEMENTATION"] = "rmw_fastrtps_cpp"
    answer = subprocess.run(
        [sys.executable, "-c", MAPPED],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    mapped = int(answer.stdout)
    assert (mapped >= SEGMENT) is with_profile
    assert "XMLPARSER" not in answer.stderr
