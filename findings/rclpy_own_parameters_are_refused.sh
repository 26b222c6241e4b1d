#!/bin/bash
# A node of rclpy refuses to be given back the parameters that it just told: setting one that is read-only to the value that it
# has counts as a change, and every node has such a parameter, start_type_description_service.
#
# Versions: ros-rclpy 7.1.6 (ROS 2 Jazzy) from the Python package index, CPython 3.11, x86-64.
# Seen: of all parameters of an empty node, set to their own values, start_type_description_service fails with
#   "Trying to set a read-only parameter: start_type_description_service."
# Source: rclpy/node.py, _set_parameters_atomically_common of that version; seen by running this, 2026-12-01.
# Why it matters: "ros2 param dump" followed by "ros2 param load" is how the tuned parameters of a camera node are kept with a
#   recording and brought back for a replay; the load reports failures although nothing would change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    ros-rclpy==7.1.6 ros-rmw-fastrtps-cpp==8.4.3 ros-rcl-interfaces==2.0.3 ros-rosgraph-msgs==2.0.3 ros-rcl-action==9.2.8 ros-fastrtps==2.14.5
cat > "$folder/give_back.py" <<'PY'
import rclpy
from rclpy.parameter import Parameter

rclpy.init()
node = rclpy.create_node("camera")
own = [Parameter(name, value=node.get_parameter(name).value) for name in sorted(node._parameters)]
refused = [
    f"{given.name}: {result.reason}"
    for given, result in zip(own, node.set_parameters(own), strict=True)
    if not result.successful
]
print(len(own), "parameters, refused:", *refused, sep="\n")
node.destroy_node()
rclpy.shutdown()
assert any(text.startswith("start_type_description_service: ") and "read-only" in text for text in refused), refused
PY
ROS_DOMAIN_ID=87 "$folder/venv/bin/python" "$folder/give_back.py"
