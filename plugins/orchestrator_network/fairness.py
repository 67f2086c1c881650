"""Max-min fair rates by progressive filling.

Notation: activity a crosses trunk l with weight w_al >= 0 (bits on l per bit of a); trunk l carries c_l bits per
second. A feasible allocation x (sum_a w_al x_a <= c_l) is max-min fair iff every activity has a bottleneck: a full
trunk on which no other activity has a higher rate (Bertsekas and Gallager, Data Networks, 6.5). Plain filling
raises all rates together and freezes one bottleneck at a time. Here every trunk whose fair share is the smallest
for all of its activities is frozen at once: filling can only raise the share of the others, so these are exactly
the trunks it would find, in fewer rounds.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

_TIE = 1e-12  # relative; shares closer than this are the same bottleneck


def max_min_rates(weights: csr_array, capacity_bps: np.ndarray) -> np.ndarray:
    """Return the max-min fair rate of every activity in bits per second, float64 [activities].

    ``weights`` [activities, trunks]; ``capacity_bps`` float64 [trunks]. An activity that crosses no trunk is a
    ValueError.
    """
    count = weights.shape[0]
    trunk, weight = weights.indices, weights.data
    owner = np.repeat(np.arange(count), np.diff(weights.indptr))
    used = weight > 0
    trunk, weight, owner = trunk[used], weight[used], owner[used]
    if count and len(np.unique(owner)) < count:
        free = np.setdiff1d(np.arange(count), owner)[0]
        raise ValueError(f"activity {free} crosses no trunk, so nothing bounds its rate")
    # Trunks that nothing crosses would only widen the arrays below.
    touched, trunk = np.unique(trunk, return_inverse=True)
    remaining = capacity_bps[touched].astype(float)
    rates = np.zeros(count)
    while len(owner):
        demand = np.bincount(trunk, weight, minlength=len(touched))
        share = np.full(len(touched), np.inf)
        np.divide(remaining, demand, out=share, where=demand > 0)
        lowest = np.full(count, np.inf)
        np.minimum.at(lowest, owner, share[trunk])
        slowest = np.full(len(touched), np.inf)
        np.minimum.at(slowest, trunk, lowest[owner])
        bottleneck = slowest >= share * (1 - _TIE)
        frozen = np.zeros(count, bool)
        frozen[owner[bottleneck[trunk]]] = True
        rates[frozen] = lowest[frozen]
        stays = ~frozen[owner]
        remaining -= np.bincount(trunk[~stays], (weight * rates[owner])[~stays], minlength=len(touched))
        np.maximum(remaining, 0.0, out=remaining)
        trunk, weight, owner = trunk[stays], weight[stays], owner[stays]
    return rates


def alone_rates(weights: csr_array, capacity_bps: np.ndarray) -> np.ndarray:
    """Return the rate that each activity would have with the network to itself, float64 [activities]."""
    rates = np.full(weights.shape[0], np.inf)
    owner = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    np.minimum.at(rates, owner, capacity_bps[weights.indices] / weights.data)
    return rates
