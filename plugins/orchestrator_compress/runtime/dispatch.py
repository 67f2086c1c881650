"""Which module serves a compressed layer: a table of kernels that are asked in order, each with its reason for no.

Every entry fulfils the Protocol of the component kind `kernel`: `supports(weight, policy)` and a call with weight,
bias and policy that returns the module. A policy may name kernels that are asked first: of this table, or components
of that kind from any plugin, which are looked up only then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import ServingError
from ..weights import LayerWeight
from .base import PREFILL
from .codes import CodesLinear, quantized
from .csr import CSRLinear, density
from .dequantized import DequantizedLinear
from .int4 import Int4Linear

COMPUTE = ("exact", "fast")
# Entries of 6 bytes beat a dense float32 layer below this density, at one token (docs/benchmarks.md).
_SPARSE_BELOW = 0.4
# Bits of an entry: 16 of its column, 32 of its value.
_ENTRY_BITS = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Say how compressed layers are served.

    `compute`: "exact" decompresses once to float32, bit by bit what was evaluated; "fast" takes kernels that read the
    compressed form. `small_batch`: up to how many tokens they are used (None: to where each was measured to win).
    `sparse_below`: the density below which entries are served (None: where they were measured to win). `prefill`: whether
    dense copies for more tokens are kept ("cache") or made in pieces ("chunk"). `kernels`: names that are asked first.
    """

    compute: str = "fast"
    small_batch: int | None = None
    sparse_below: float | None = None
    prefill: str = "chunk"
    kernels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.compute not in COMPUTE or self.prefill not in PREFILL:
            raise ServingError(
                f"compute={self.compute!r}, prefill={self.prefill!r}; compute is one of {COMPUTE}, prefill of {PREFILL}"
            )
        if self.small_batch is not None and self.small_batch < 0:
            raise ServingError(f"small_batch={self.small_batch}; it is a number of tokens, 0 for no kernels at all")
        if self.sparse_below is not None and not 0 <= self.sparse_below <= 1:
            raise ServingError(f"sparse_below={self.sparse_below}; a density is between 0 and 1")

    def options(self) -> dict[str, Any]:
        """Return what modules with kernels for few tokens are built with."""
        few = {} if self.small_batch is None else {"few_tokens": self.small_batch}
        return {**few, "prefill": self.prefill}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """Serve with one module class where `fits` has no objection."""

    build: Callable[..., nn.Module]
    fits: Callable[[LayerWeight, Policy], bool | str]

    def supports(self, weight: LayerWeight, policy: Policy) -> bool | str:
        """Tell whether the layer can be served like this, or why not."""
        return self.fits(weight, policy)

    def __call__(self, weight: LayerWeight, bias: Tensor | None, policy: Policy) -> nn.Module:
        """Return the module."""
        return self.build(weight, bias, **policy.options())


def _sparse(weight: LayerWeight, policy: Policy) -> bool | str:
    own = quantized(weight)
    limit = policy.sparse_below
    if limit is None:
        limit = _SPARSE_BELOW if own is None else own.grid.bits / _ENTRY_BITS
    share = density(weight)
    if share >= limit:
        return f"density {share:.3g} is not below {limit:.3g}"
    return CSRLinear.supports(weight)


#: Asked in this order; `aten_int4` only by name, because `codes` was measured to be faster and more exact.
KERNELS: dict[str, Kernel] = {
    "csr": Kernel(build=CSRLinear, fits=_sparse),
    "codes": Kernel(build=CodesLinear, fits=lambda weight, _policy: CodesLinear.supports(weight)),
    "aten_int4": Kernel(build=Int4Linear, fits=lambda weight, _policy: Int4Linear.supports(weight)),
    "dequantized": Kernel(
        build=lambda weight, bias, **_options: DequantizedLinear(weight, bias), fits=lambda _weight, _policy: True
    ),
}
_BY_NAME_ONLY = ("aten_int4",)


def choose(weight: LayerWeight, bias: Tensor | None, policy: Policy) -> tuple[nn.Module, dict[str, str]]:
    """Return the module that serves a layer, and why the kernels before it did not, by name."""
    refused: dict[str, str] = {}
    for name, kernel in _candidates(policy):
        answer = kernel.supports(weight, policy)
        if answer is True:
            return kernel(weight, bias, policy), refused
        refused[name] = str(answer)
    raise AssertionError("decompression serves every layer")


def _candidates(policy: Policy) -> Iterator[tuple[str, Any]]:
    if policy.compute == "exact":
        yield "dequantized", KERNELS["dequantized"]
        return
    for name in policy.kernels:
        if name in KERNELS:
            yield name, KERNELS[name]
        else:
            from orchestrator import component

            yield name, component("kernel", name)
    yield from ((name, kernel) for name, kernel in KERNELS.items() if name not in _BY_NAME_ONLY)
