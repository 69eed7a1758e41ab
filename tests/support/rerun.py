"""What stands in for CUDA graphs where there is no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_unflatten

from hicmae.graphs import Recorded, _Recording, copies_of


class Rerun(Recorded):
    """Runs again what a GPU would launch, and copies it to where the first run wrote.

    So it keeps what the users of a graph have to put up with: a launch reads and writes where all
    others do.
    """

    def _record(self, leaves: Sequence[Any], spec: Any) -> Any:
        places = copies_of(leaves)
        learning = [each for each in self._parameters if each.requires_grad]

        def run() -> Any:
            with torch.enable_grad():  # a launch is within a function of autograd
                return self._compute(*tree_unflatten(places, spec))

        state = torch.get_rng_state()
        results = run()
        sources = [source for source in self._learns(results) if source.requires_grad]
        given = [torch.ones_like(source) for source in sources]
        found = torch.autograd.grad(sources, learning, given, allow_unused=True) if sources else ()
        torch.set_rng_state(state)
        learnt = [
            (parameter, gradient.clone())
            for parameter, gradient in zip(learning, found, strict=False)
            if gradient is not None
        ]
        newest: list[Any] = []

        def forward() -> None:
            newest[:] = [run()]
            for place, value in zip(tree_leaves(results), tree_leaves(newest[0]), strict=True):
                if isinstance(place, Tensor):
                    place.data.copy_(value.data)

        def backward() -> None:
            fresh = [source for source in self._learns(newest[0]) if source.requires_grad]
            parameters = [parameter for parameter, _ in learnt]
            for (_, place), value in zip(
                learnt, torch.autograd.grad(fresh, parameters, given), strict=True
            ):
                place.copy_(value)

        return _Recording(places, results, sources, given, learnt, (forward, backward))
