"""The Fast DDS profile that lets whole camera images through. Other middleware is left alone: see docs/distros.md.

Needs neither ROS nor any other package, so launch tools, the demo and the tests can all use it.
"""

import os
from collections.abc import Mapping

from drive_seg.files import share_file

PROFILE = "config/fastdds_large_images.xml"
# Fast DDS 2 (Jazzy) reads the first name, Fast DDS 3 (Kilted, Lyrical) the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def is_fast_dds(rmw: str) -> bool:
    """Whether the profile is for an implementation of this name; "" is the default one, which is Fast DDS."""
    return not rmw or "fastrtps" in rmw


def large_image_environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to add to ``env`` for a process that publishes images over Fast DDS.

    Empty where the user has set either variable (a profile of theirs is never replaced), or another RMW_IMPLEMENTATION.
    Raises FileNotFoundError where the profile was not installed.
    """
    if any(env.get(name) for name in PROFILE_VARIABLES) or not is_fast_dds(env.get("RMW_IMPLEMENTATION", "")):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(share_file(PROFILE)))
