"""The Fast DDS profile that lets whole camera images through.

Needs neither ROS nor any other package, so launch tools, the demo and the tests can all use it.
"""

import os
from collections.abc import Mapping

from drive_seg.files import share_file

PROFILE = "config/fastdds_large_images.xml"
# Jazzy reads the first name; Kilted both, the first with a warning that it is old.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def large_image_environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to add to ``env`` for a process that publishes images over Fast DDS.

    Empty where the user has set either variable: a profile of theirs is never replaced.
    Raises FileNotFoundError where the profile was not installed.
    """
    if any(env.get(name) for name in PROFILE_VARIABLES):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(share_file(PROFILE)))
