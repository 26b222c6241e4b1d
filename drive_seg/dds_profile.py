"""Where the package's shared files lie, and the Fast DDS profile that lets whole camera images through.

Needs neither ROS nor any other package, so launch tools, the demo and the tests can all use it.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "drive_seg"
PROFILE = "config/fastdds_large_images.xml"
# Jazzy reads the first name; Kilted both, the first with a warning that it is old.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def share_file(name: str) -> Path:
    """Absolute path of a file or folder of the package's share folder; ``name`` is relative to it
    (``"config/segmentation.param.yaml"``).

    A source tree (also of an editable install) is asked first, so that what was just edited is what runs;
    then the share folders of the prefix this module is installed in, of AMENT_PREFIX_PATH and of this Python.

    Raises FileNotFoundError, naming the folders tried, where none of them has it.
    """
    tried = list(dict.fromkeys(_share_folders()))
    for folder in tried:
        if (folder / name).exists():
            return folder / name
    places = ", ".join(str(folder) for folder in tried) or "no share folder of the package was found"
    raise FileNotFoundError(f"{PACKAGE} has no shared file '{name}' (looked in: {places}); reinstall the package")


def large_image_environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to add to ``env`` for a process that publishes images over Fast DDS.

    Empty where the user has set either variable: a profile of theirs is never replaced.
    Raises FileNotFoundError where the profile was not installed.
    """
    if any(env.get(name) for name in PROFILE_VARIABLES):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(share_file(PROFILE)))


def _share_folders() -> Iterator[Path]:
    package_folder = Path(__file__).resolve().parent
    if (package_folder.parent / "package.xml").is_file():
        yield package_folder.parent
    prefixes = [*package_folder.parents]
    ament_prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes += [Path(prefix) for prefix in ament_prefixes if prefix]
    prefixes.append(Path(sys.prefix))
    for prefix in prefixes:
        share = prefix / "share" / PACKAGE
        if (share / "package.xml").is_file():
            yield share
