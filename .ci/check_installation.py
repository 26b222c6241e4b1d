"""Does an installation of drive_seg work as ROS 2 will use it? ``check_installation.py PREFIX``

PREFIX is a virtual environment after ``pip install .`` or colcon's install/drive_seg, with its environment set up. Its
files must be where ros2 looks, and the node, started as ``ros2 run`` starts it, must find the default model by name,
become active, answer an image with a label of the same stamp, and end cleanly on Ctrl-C. Imports nothing of drive_seg.
"""

import array
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

PATIENCE_S = 120.0
SHARE = (
    "package.xml",
    *(f"launch/{name}.launch.py" for name in ("camera", "surround", "replay")),
    *("config/segmentation.param.yaml", "config/fastdds_large_images.xml"),
    *(f"models/{name}.safetensors" for name in ("dsnet_synth19", "dsnet_camvid11")),
)
EXECUTABLES = ("segmentation_node", "player", "recorder")


def main(prefix: Path) -> None:
    """Check the files, then the node; ends the program with a sentence where something is wrong."""
    files = [prefix / "share/ament_index/resource_index/packages/drive_seg"]
    files += [prefix / "share/drive_seg" / name for name in SHARE]
    if missing := [str(path) for path in files if not path.is_file()]:
        sys.exit(f"not installed: {', '.join(missing)}")
    executables = [prefix / "lib/drive_seg" / name for name in EXECUTABLES]
    if unfit := [str(path) for path in executables if not os.access(path, os.X_OK)]:
        sys.exit(f"not installed as executable: {', '.join(unfit)}")
    process = subprocess.Popen([executables[0], "--ros-args", "-p", "device:=cpu"])
    try:
        segment_one_image(process)
        process.send_signal(signal.SIGINT)
        if code := process.wait(timeout=PATIENCE_S):
            sys.exit(f"the node ended with code {code} on Ctrl-C")
    finally:
        process.kill()
    print(f"{prefix} is installed and its node segments")


def segment_one_image(process: subprocess.Popen) -> None:
    """Publish images until the node answers one."""
    rclpy.init()
    node = Node("check_installation")
    labels: list[Image] = []
    node.create_subscription(Image, "camera/segmentation/label", labels.append, 10)
    camera = node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
    image = Image(height=48, width=64, encoding="bgr8", step=3 * 64)
    image.data = array.array("B", bytes(3 * 48 * 64))
    image.header.frame_id = "camera_optical"
    image.header.stamp.sec, image.header.stamp.nanosec = 12, 345
    deadline = time.monotonic() + PATIENCE_S
    while not labels:
        if process.poll() is not None:
            sys.exit(f"the node ended with code {process.returncode}")
        if time.monotonic() > deadline:
            sys.exit(f"no label within {PATIENCE_S:.0f} s")
        camera.publish(image)
        rclpy.spin_once(node, timeout_sec=0.2)
    label = labels[0]
    if label.header != image.header or (label.height, label.width, label.encoding) != (48, 64, "mono8"):
        sys.exit(f"the label does not fit the image: {label.header}, {label.height}x{label.width} {label.encoding}")
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
