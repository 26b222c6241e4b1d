"""Ids of the 19 Cityscapes classes by name, and seeded random generators."""

import numpy as np

from drive_seg.labels import CITYSCAPES19

_ID = {name: i for i, name in enumerate(CITYSCAPES19.names)}

ROAD = _ID["road"]
SIDEWALK = _ID["sidewalk"]
BUILDING = _ID["building"]
WALL = _ID["wall"]
FENCE = _ID["fence"]
POLE = _ID["pole"]
TRAFFIC_LIGHT = _ID["traffic light"]
TRAFFIC_SIGN = _ID["traffic sign"]
VEGETATION = _ID["vegetation"]
TERRAIN = _ID["terrain"]
SKY = _ID["sky"]
PERSON = _ID["person"]
RIDER = _ID["rider"]
CAR = _ID["car"]
TRUCK = _ID["truck"]
BUS = _ID["bus"]
TRAIN = _ID["train"]
MOTORCYCLE = _ID["motorcycle"]
BICYCLE = _ID["bicycle"]

_KEY_OFFSET = 1 << 24


def derived_rng(seed: int, *keys: int) -> np.random.Generator:
    """Return a generator that depends on `seed` and `keys` (ints, negative ones too) alone."""
    return np.random.default_rng([seed, *(int(key) + _KEY_OFFSET for key in keys)])
