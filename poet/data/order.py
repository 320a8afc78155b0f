"""Orders and draws that are functions of (seed, counter): nothing to save, nothing to replay.

A task walks through its records in epochs. Each epoch is a bijection of [0, n) of its own, computed
for any position alone (a Feistel network over the bits of n - 1, walked until it lands below n), so
that position 10^9 costs what position 0 costs and memory does not grow with n.

Everything is integer arithmetic of fixed width: equal on every machine and library version.
"""

import functools
import hashlib

import numpy as np

_NUM_ROUNDS = 8
_MASK_64 = (1 << 64) - 1


def uniform_at(seed: int, stream: str, counters) -> np.ndarray:
    """Float64 draws in [0, 1), one a counter; streams of different names are unrelated."""
    counters = np.asarray(counters, np.uint64)
    words = _mix(_mix(_word(seed), _name_word(stream)), counters.reshape(-1))
    draws = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return draws.reshape(counters.shape)


def index_at(seed: int, stream: str, positions, num_items: int) -> np.ndarray:
    """Int64 item of each position: positions [k n, (k+1) n) visit every item of n once.

    Args:
      seed: the run's seed.
      stream: what is ordered, for example a split and a task; other names give other orders.
      positions: non-negative integers, any shape.
      num_items: n, at least 1.
    """
    positions = np.asarray(positions, np.int64)
    if num_items < 1 or (positions.size and positions.min() < 0):
        raise ValueError(
            f"Expected positions from 0 on over at least one item, got {num_items} items and"
            f" positions {positions}. Leave out tasks that have no records."
        )
    epochs, offsets = np.divmod(positions.reshape(-1), num_items)
    keys = _mix(_mix(_word(seed), _name_word(stream)), epochs.astype(np.uint64))
    items = _permute(offsets.astype(np.uint64), keys, num_items)
    return items.astype(np.int64).reshape(positions.shape)


def _permute(items, keys, num_items):
    """A bijection of [0, num_items), another one for every key."""
    num_bits = (num_items - 1).bit_length()
    items = _rounds(items, keys, num_bits)
    # The rounds permute [0, 2^num_bits); walking on from a number outside [0, n) reaches one
    # inside, and two starts never reach the same one.
    outside = np.flatnonzero(items >= num_items)
    while outside.size:
        items[outside] = _rounds(items[outside], keys[outside], num_bits)
        outside = outside[items[outside] >= num_items]
    return items


def _rounds(items, keys, num_bits):
    """Alternately scrambles the upper half by the lower one and the lower by the upper."""
    num_low = (num_bits + 1) // 2
    low_mask = np.uint64((1 << num_low) - 1)
    high_mask = np.uint64((1 << (num_bits - num_low)) - 1)
    low, high = items & low_mask, items >> np.uint64(num_low)
    for number in range(_NUM_ROUNDS):
        # Far above the bits of an item, or rounds would share inputs to the hash.
        round_keys = keys ^ np.uint64(number << 56)
        if number % 2:
            high = high ^ (_mix(round_keys, low) & high_mask)
        else:
            low = low ^ (_mix(round_keys, high) & low_mask)
    return (high << np.uint64(num_low)) | low


def _mix(state, word):
    """One step of a 64-bit hash (the finalizer of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _word(seed: int) -> np.uint64:
    return np.uint64(seed & _MASK_64)


@functools.lru_cache(maxsize=4096)
def _name_word(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
