"""Second moments of layer inputs: the H of every objective, collected once for all readers of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from .errors import CalibrationError
from .experts import token_places
from .linears import LinearView
from .moment_kernel import GROUP, moment_kernel
from .precision import as_given

# Rows of H computed in one product: few enough to leave out most of the half below the diagonal, enough for a product
# at full speed.
_PANEL = 256
# Tokens whose products are summed in float32: their rounding is that of one product over as many rows.
_SPAN = 2048


class Moments:
    """Accumulate X^T X of the inputs [..., C] that reach a layer: in float32 for `_SPAN` tokens, beyond in float64.

    Only what lies on and above the diagonal is computed and kept, in panels of `_PANEL` rows: C / 2 + `_PANEL` / 2
    multiplications per element instead of C. The whole is exactly symmetric.
    """

    def __init__(self, columns: int, device: torch.device | None = None):
        self._columns = columns
        self._device = device
        # Either is made when first needed: one span has no sums in float64, and a sum of parts has no span.
        self._panels: list[Tensor] | None = None
        self._recent: list[Tensor] | None = None
        self._recent_tokens = 0
        self.tokens = 0

    def _empty(self, dtype: torch.dtype) -> list[Tensor]:
        wide = self._columns
        return [
            torch.zeros((min(_PANEL, wide - start), wide - start), dtype=dtype, device=self._device)
            for start in range(0, wide, _PANEL)
        ]

    def add(self, inputs: Tensor) -> None:
        """Add a batch of inputs; products of half-precision inputs are those of the widened ones, as their squares overflow.

        Raises ValueError for inputs of another width.
        """
        rows = inputs.detach().reshape(-1, inputs.shape[-1])
        if rows.shape[1] != self._columns:
            raise ValueError(f"inputs of {rows.shape[1]} columns for moments of {self._columns}")
        if self._recent_tokens >= _SPAN:
            self._settle()
        if self._recent is None:
            self._recent = self._empty(torch.float32)
        kernel = moment_kernel() if _for_kernel(rows, self._recent[0]) else None
        if kernel is not None:
            kernel.add(rows, self._recent, _PANEL)
        else:
            wide = rows.to(torch.float32)
            with as_given(rows.device):
                for start, recent in zip(range(0, self._columns, _PANEL), self._recent, strict=True):
                    recent.addmm_(wide[:, start : start + _PANEL].T, wide[:, start:])
        self.tokens += len(rows)
        self._recent_tokens += len(rows)

    def _settle(self) -> list[Tensor]:
        """Move the span that is being summed into the sums, and return these."""
        if self._panels is None:
            self._panels = self._empty(torch.float64)
        if self._recent is not None and self._recent_tokens:
            for panel, recent in zip(self._panels, self._recent, strict=True):
                panel.add_(recent)
                recent.zero_()
        self._recent_tokens = 0
        return self._panels

    def merge(self, other: Moments) -> None:
        """Add what another one has summed of as many columns."""
        own = self._settle()
        # What is a single span there is not widened first: the sum is the same.
        parts = other._recent if other._panels is None and other._recent is not None else other._settle()
        for panel, part in zip(own, parts, strict=True):
            panel.add_(part)
        self.tokens += other.tokens

    def panels(self) -> list[Tensor]:
        """Return the sums in float64, in panels on and above the diagonal: what workers send one another."""
        return self._settle()

    @property
    def columns(self) -> int:
        """Return C."""
        return self._columns

    def hessian(self) -> Tensor:
        """Return X^T X / N, so that tr(D H D^T) is the squared output error per token whatever the number of tokens."""
        panels = self._settle()
        whole = panels[0].new_empty((self._columns, self._columns))
        for start, panel in zip(range(0, self._columns, _PANEL), panels, strict=True):
            stop = start + len(panel)
            whole[start:stop, start:] = panel
            whole[stop:, start:stop] = panel[:, len(panel) :].T
            # A product's own diagonal block is symmetric only up to the rounding of its sums.
            corner = panel[:, : len(panel)]
            whole[start:stop, start:stop] = torch.triu(corner) + torch.triu(corner, 1).T
        return whole.div_(max(1, self.tokens))


def _for_kernel(rows: Tensor, sums: Tensor) -> bool:
    here = rows.device.type == sums.device.type == "cpu"
    return here and rows.dtype == torch.bfloat16 and rows.shape[1] % GROUP == 0


def shared_inputs(linears: Mapping[str, LinearView], run: Callable[[], object]) -> list[list[str]]:
    """Group the names of the linears that read the very same tensor while `run` executes their block.

    In a Llama block those are q, k, v and gate, up. Groups stand in the order of first use. Linears that are never
    called (experts without tokens) form groups of their own at the end.
    """
    readers: dict[tuple[object, ...], list[str]] = {}
    kept: list[Tensor] = []  # a tensor that is held keeps its address from being used again

    def note(name: str, inputs: Tensor) -> None:
        kept.append(inputs)
        key = (inputs.data_ptr(), tuple(inputs.shape), inputs.stride(), inputs._version)
        if not any(name in names for names in readers.values()):
            readers.setdefault(key, []).append(name)

    with ExitStack() as stack:
        for name, linear in linears.items():
            hook = linear.module.register_forward_pre_hook(lambda _module, args, name=name: note(name, args[0]))
            stack.callback(hook.remove)
        run()
    reached = {name for names in readers.values() for name in names}
    return [*readers.values(), *([name] for name in linears if name not in reached)]


class Collected(Exception):
    """End a forward pass once every group has its input."""


def collect(
    linears: Mapping[str, LinearView],
    groups: Sequence[Sequence[str]],
    run: Callable[[], Tensor],
    add: Callable[[int, Tensor], None],
    *,
    stop: bool = False,
) -> Tensor | None:
    """Give `add` the place and the inputs of each group that `run` feeds through the block; return what `run` returns.

    With `stop` the pass ends where the last group has its input, and nothing is returned: the layers after it, often
    the largest, need not run.
    """
    waiting = set(range(len(groups)))

    def note(place: int, inputs: Tensor) -> None:
        add(place, inputs)
        waiting.discard(place)
        if stop and not waiting:
            raise Collected

    with ExitStack() as stack:
        for place, names in enumerate(groups):
            module = linears[names[0]].module
            hook = module.register_forward_pre_hook(lambda _module, args, place=place: note(place, args[0]))
            stack.callback(hook.remove)
        try:
            return run()
        except Collected:
            return None


def without_padding(inputs: Tensor, real: Tensor) -> Tensor:
    """Return the inputs [n, C] of tokens that are no padding; CalibrationError where inputs are not in their places."""
    places = token_places(inputs)
    if places is not None:
        return inputs[real.to(inputs.device).reshape(-1)[places]]
    if inputs.shape[:-1] == (real.numel(),):  # beside experts, blocks flatten sequences
        return inputs[real.to(inputs.device).reshape(-1)]
    if inputs.shape[:-1] != real.shape:
        raise CalibrationError(
            f"a layer reads {list(inputs.shape)} where tokens are {list(real.shape)}: which of its inputs are padding "
            "cannot be told; calibrate on sequences without padding"
        )
    return inputs[real.to(inputs.device)]
