"""In which proportions minimal paths of a HammingMesh carry a uniform all-to-all best.

Minimal paths of a pair differ only in the order of their hops, and an even split over all orders sends too much through
the corners of boards. Credit-based routing shifts load from full ports to free ones; its best case is the split that
minimises the largest load of any link. We look for it among splits in proportion to the product of link weights,

    share of path P  ~  product over links l of P of exp(-price_l),

which is what the linear program of the best split becomes with a little entropy added (its dual variables are the
prices), so nothing better is left out in the limit of sharp prices. Prices rise with load:

    price_l += step * load_l / (largest load)

Links that the symmetry of the machine maps onto each other (`link_classes`) share a price, so the hosts of one board
stand for all. An iteration costs links x hosts of a board.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from orchestrator_network.graph import Network
from orchestrator_network.routes import minimal_link_loads

if TYPE_CHECKING:
    from orchestrator_network.hamming_mesh import HammingMesh

_ROUNDS = 40
_FIRST_STEP, _SLOWING = 3.0, 0.1  # of the prices; any few units work, they only have to fall slowly
_SAMPLE_BOARDS = 16  # a side; what the links of a board carry hardly depends on how many more there are


def link_classes(mesh: HammingMesh, network: Network) -> np.ndarray:
    """Return the class of every link: equal for links that permuting boards maps onto each other, int64 [links].

    Permutations act on whole boards (and whole leaves), so a class is known by the places of both ends on their boards,
    and for switches by the place of their line.
    """
    on_board = mesh.board_rows * mesh.board_columns
    kinds: dict[tuple[str, int, str], int] = {}
    kind = np.empty(network.nodes, np.int64)
    kind[: mesh.hosts] = np.arange(mesh.hosts) % on_board
    for node, name in enumerate(network.names[mesh.hosts :], start=mesh.hosts):
        line, tier = name.split(".")
        axis = "row" if line.startswith("row") else "column"
        place = int(line[len(axis) :]) % (mesh.board_rows if axis == "row" else mesh.board_columns)
        kind[node] = on_board + kinds.setdefault((axis, place, tier.rstrip("0123456789")), len(kinds))
    pairs = kind[network.source] * (on_board + len(kinds)) + kind[network.target]
    return np.unique(pairs, return_inverse=True)[1].ravel()


def class_loads(network: Network, classes: np.ndarray, senders: np.ndarray) -> np.ndarray:
    """Return the load of every link when all hosts send 1 to all others, float64 [links].

    ``senders`` are one host of every class of hosts, each class as large as the next.
    """
    loads = minimal_link_loads(network, senders, lambda origins: np.ones((network.hosts, len(origins))))
    copies = network.hosts // len(senders)
    return np.asarray((np.bincount(classes, loads) * copies / np.bincount(classes))[classes])


def balanced_weights(mesh: HammingMesh, network: Network) -> np.ndarray:
    """Return weights of the links of ``network``, that of ``mesh``, float64 [links]; 1 on a mesh that needs none.

    They are found on a machine of the same boards, few of them.
    """
    sample = replace(
        mesh,
        routing="even",
        grid_rows=min(mesh.grid_rows, _SAMPLE_BOARDS),
        grid_columns=min(mesh.grid_columns, _SAMPLE_BOARDS),
    )
    prices = _prices(sample)
    kind_of = _kinds_by_ends(mesh, network)
    return np.asarray(np.exp(-np.array([prices.get(kind, 0.0) for kind in kind_of])))


def _prices(mesh: HammingMesh) -> dict[tuple[int, int], float]:
    network = mesh.network
    classes, senders = link_classes(mesh, network), np.arange(mesh.board_rows * mesh.board_columns)
    price, best, lowest = np.zeros(network.links), np.zeros(network.links), np.inf
    for number in range(_ROUNDS):
        loads = class_loads(replace(network, route_weight=np.exp(-price)), classes, senders)
        if loads.max() < lowest * (1 - 1e-9):
            best, lowest = price, loads.max()
        price = _centred(network, price + _FIRST_STEP / (1 + number * _SLOWING) * loads / loads.max())
    return dict(zip(_kinds_by_ends(mesh, network), best.tolist(), strict=True))


def _centred(network: Network, price: np.ndarray) -> np.ndarray:
    """Return prices with mean 0 for every kind of link.

    Minimal paths of a pair have equally many links of each kind, so no split changes, and products stay in range.
    """
    kinds, kind = np.unique(network.route_cost, return_inverse=True)
    mean = np.bincount(kind, price, len(kinds)) / np.bincount(kind)
    return np.asarray(price - mean[kind])


def _kinds_by_ends(mesh: HammingMesh, network: Network) -> list[tuple[int, int]]:
    """Return (place on the board of the source, of the target) of every link; a switch is -1 for rows, -2 for columns."""
    on_board = mesh.board_rows * mesh.board_columns
    switch = [-1 if name.startswith("row") else -2 for name in network.names[mesh.hosts :]]
    kind = np.concatenate([np.arange(mesh.hosts) % on_board, np.array(switch, np.int64)])
    return list(zip(kind[network.source].tolist(), kind[network.target].tolist(), strict=True))
