"""Class weights and groups by how often each class occurs: equations 2 and 3 of DSNet."""

from __future__ import annotations

import math

import numpy as np


def frequency_weights(frequency: np.ndarray, c: float = 1.02) -> np.ndarray:
    """DSNet eq. 2, the object frequency weight alpha = omega / max(omega) with omega = 1 / ln(f + c).

    Args:
        frequency: float64 [C], each class's share of all valid pixels. A class that never occurs (0) gets weight 1
            and does not take part in the maximum, so that it does not flatten the others.
        c: the constant of ENet's weighting.

    Returns:
        float64 [C] in (0, 1].
    """
    frequency = np.asarray(frequency, np.float64)
    omega = 1.0 / np.log(frequency + c)
    seen = frequency > 0
    if not seen.any():
        return np.ones_like(omega)
    return np.where(seen, omega / omega[seen].max(), 1.0)


def frequency_orders(frequency: np.ndarray) -> np.ndarray:
    """DSNet eq. 3, the order of magnitude gamma = floor(log10(f / min f)) that sorts classes into groups.

    Args:
        frequency: float64 [C], each class's share of all valid pixels; the minimum is taken over classes that occur,
            and a class that does not occur belongs to the rarest group, 0.

    Returns:
        int64 [C], >= 0.
    """
    frequency = np.asarray(frequency, np.float64)
    seen = frequency > 0
    if not seen.any():
        return np.zeros(len(frequency), np.int64)
    smallest = frequency[seen].min()
    # log10 of an exact power of ten may land a hair below the integer; the nudge is far below any real ratio's gap.
    return np.array([math.floor(math.log10(f / smallest) + 1e-12) if f > 0 else 0 for f in frequency], np.int64)
