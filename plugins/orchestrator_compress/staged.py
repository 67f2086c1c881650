"""One forward pass of a block in which each layer is solved on inputs that the solved layers before it made.

The layers of a block are solved in the order in which a pass reaches them (`true_sequential` of the GPTQ code for
LLaMA): q, k, v; then o, on the attention of the quantized q, k, v; and so on. Running the block anew for each stage
costs a pass per stage; collecting all inputs from the dense block and then running the quantized one costs two. Here
the batches of a block go through it together, each a coroutine that waits where a layer is about to be called until
that layer is solved. Every layer is called once per batch, whatever the architecture: one pass.

    a batch     ... norm -> [q k v | waits] q, k, v, attention -> [o | waits] o, norm -> [gate up | waits] ...
    the caller  starts all, H(qkv) complete -> solve q, k, v -> wakes all, H(o) complete -> solve o -> ...

A forward pass is plain calls, not a generator, so each runs on a stack of its own (greenlet); all share one thread,
because threads would each have workers and memory of their own. Batches run in their order, so that sums are the same
in every run. What waits holds what its frames hold: for a Llama block, over all calibration tokens, about 5 times the
hidden states at the attention's output, and 2 and the inner activations at the MLP's.

A pass that reaches no layer of a group (experts without tokens) gives it no inputs. A layer that is reached after its
group was solved, in another order than in other batches, is counted in `late`, and its inputs are missing from that H.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from .linears import LinearView
from .moments import without_padding
from .precision import as_given, as_read, kept
from .sums import Sums


@dataclass(frozen=True, slots=True)
class Run:
    """The forward pass of one batch: what runs it, its shard, and which of its tokens are no padding (None: all)."""

    forward: Callable[[], Tensor]
    shard: int = 0
    real: Tensor | None = None


class StagedPass:
    """The passes of one block: who waits where, and what they have shown of the inputs so far.

    `groups` are names that read one input, as `moments.shared_inputs` returns them, and `sums` what is known of each;
    `runs` runs the block over one batch each, in the order of shards. Use as a context manager, which ends all passes;
    then, for each group in turn: take its sum, change the weights of its layers, `go_on`.
    """

    def __init__(
        self,
        views: Mapping[str, LinearView],
        groups: Sequence[Sequence[str]],
        runs: Sequence[Run],
        sums: Sequence[Sums],
    ):
        self._first = [views[names[0]] for names in groups]
        self._runs = {greenlet(run.forward): run for run in runs}
        self._sums = sums
        self._outputs: dict[greenlet, Tensor] = {}
        self.late = 0
        self._caller = getcurrent()
        self._waiting: dict[greenlet, int] = {}
        self._solved = [False] * len(groups)
        self._stack = ExitStack()

    def __enter__(self) -> StagedPass:
        """Run every pass up to where it first waits."""
        # Passes enter and leave `no_grad` in no order of nesting; within this one they all do nothing.
        self._stack.enter_context(torch.no_grad())
        self._stack.enter_context(kept(self._first[0].device))
        for place, view in enumerate(self._first):
            hook = view.module.register_forward_pre_hook(
                lambda _module, args, place=place: self._reached(place, args[0])
            )
            self._stack.callback(hook.remove)
        self._stack.callback(self._unwind)
        try:
            for one in self._runs:
                self._wake(one)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """End the passes that an error elsewhere left waiting, so that their frames let go of what they hold."""
        self._stack.close()

    def go_on(self, place: int) -> None:
        """Wake those that wait for a group, now that it is solved."""
        self._solved[place] = True
        for one in self._runs:
            if self._waiting.get(one) == place:
                self._wake(one)

    def outputs(self) -> list[Tensor]:
        """Return what the runs returned, once every group is solved."""
        return [self._outputs[one] for one in self._runs]

    def _reached(self, place: int, inputs: Tensor) -> None:
        """Note the inputs of a group and let its pass wait; called within the pass."""
        if self._solved[place]:
            self.late += inputs.numel() // inputs.shape[-1]
            return
        run = self._runs[getcurrent()]
        self._sums[place].add(run.shard, as_read(inputs if run.real is None else without_padding(inputs, run.real)))
        # Who goes on meanwhile, in the same thread, must not find this pass's type of products.
        with as_given(inputs.device):
            self._waiting[getcurrent()] = place
            self._caller.switch()

    def _unwind(self) -> None:
        for one in self._runs:
            if not one.dead:
                one.throw()  # GreenletExit, which ends it and is raised nowhere

    def _wake(self, one: greenlet) -> None:
        self._waiting.pop(one, None)
        result = one.switch()
        if one.dead:
            self._outputs[one] = result
