"""CUDA graphs: a network's forward and backward pass, recorded once and launched as a whole.

A step of pretraining launches some 3,000 kernels, which takes longer than they run unless batches
are very large: a step of base of 64 clips took 100 ms on an H200, of which its kernels ran 40, and
41 ms where one graph held both passes. The kernels, and so the results, are the same. What is here
has not run on a GPU itself; ``tests/hicmae/test_graphs.py`` and ``hicmae bench gpu`` try it on one.

PyTorch has two recorders. ``torch.compile(mode="reduce-overhead")`` compiles for minutes before it
records. ``torch.cuda.make_graphed_callables`` asks for the gradients of all that a function
returns, of predictions too that only pictures are drawn of; gives gradients that the next pass
overwrites, so that batches cannot be accumulated; and records in a mode that forbids other threads
to pin memory meanwhile.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

# Runs before a recording: libraries choose kernels and take their memory in them.
_WARM_RUNS = 3
# Recordings that are kept, each with its memory: stages of a run, an epoch's last batch.
_MOST = 4


class Recorded:
    """A function of a network that is recorded on a GPU the first time that it meets its arguments.

    Arguments and results are tensors, other values that decide what is computed, and tuples, named
    tuples and dictionaries of both. What it returns is overwritten by the next call. It runs as it
    is on a CPU, and where its arguments differ from all of the first few calls'.

    Args:
        compute: The function. It draws random numbers of the device's own generator alone, and
            waits for the device nowhere.
        network: Whose parameters learn from it.
        learns: Picks out of the results the tensors that gradients come back through; none: no
            gradients are asked for.
    """

    def __init__(
        self,
        compute: Callable[..., Any],
        network: nn.Module,
        learns: Callable[[Any], Sequence[Tensor]],
    ) -> None:
        self._compute = compute
        self._network = network
        self._learns = learns
        self._parameters: tuple[nn.Parameter, ...] = ()
        self._recordings: dict[Any, _Recording] = {}

    def __call__(self, *given: Any) -> Any:
        """Call the function, or launch what was recorded of it.

        Raises: ValueError: it cannot be recorded, since the host waits for the device in it.
        """
        leaves, spec = tree_flatten(given)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors or not _can_record(tensors[0]):
            return self._compute(*given)
        self._parameters = self._parameters or tuple(self._network.parameters())
        if any(hasattr(each, "ds_id") for each in self._parameters[:1]):
            return self._compute(*given)  # ZeRO 3: they lie elsewhere in each step
        key = self._key(leaves, spec)
        recording = self._recordings.get(key)
        if recording is None:
            if len(self._recordings) == _MOST:
                return self._compute(*given)
            recording = self._recordings[key] = self._record(leaves, spec)
        for place, leaf in zip(recording.given, leaves, strict=True):
            if isinstance(leaf, Tensor) and place is not leaf:
                place.copy_(leaf)
        return recording.launch()

    def _key(self, leaves: Sequence[Any], spec: TreeSpec) -> Any:
        """All that decides what is computed, and where parameters lie."""
        places: dict[int, int] = {}  # one tensor may be given twice
        parts = [
            (leaf.shape, leaf.dtype, places.setdefault(id(leaf), len(places)))
            if isinstance(leaf, Tensor)
            else leaf
            for leaf in leaves
        ]
        weights = [(each.data_ptr(), each.requires_grad) for each in self._parameters]
        formats = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        modes = torch.is_grad_enabled(), self._network.training
        return str(spec), *parts, *weights, *formats, *modes

    def _record(self, leaves: Sequence[Any], spec: TreeSpec) -> _Recording:
        places = copies_of(leaves)
        learning = [each for each in self._parameters if each.requires_grad]

        def forward() -> Any:
            with _uncached_autocast():
                return self._compute(*tree_unflatten(places, spec))

        def sources_of(results: Any) -> list[Tensor]:
            found = {id(tensor): tensor for tensor in self._learns(results) if tensor.requires_grad}
            return list(found.values())

        def backward(sources: list[Tensor], gradients: list[Tensor]) -> Sequence[Tensor | None]:
            if not sources:
                return ()
            return torch.autograd.grad(sources, learning, gradients, allow_unused=True)

        _warm(forward, lambda results: backward(sources := sources_of(results), _like(sources)))
        pool = torch.cuda.graph_pool_handle()
        with _recording(pool) as first:
            results = forward()
        sources = sources_of(results)
        gradients = _like(sources)
        learnt: list[tuple[nn.Parameter, Tensor]] = []
        launches = [first.replay]
        if sources:
            with _recording(pool) as second:
                found = backward(sources, gradients)
            launches.append(second.replay)
            pairs = zip(learning, found, strict=True)
            learnt += [(each, gradient) for each, gradient in pairs if gradient is not None]
        return _Recording(places, results, sources, gradients, learnt, launches)


@dataclass(eq=False)
class _Recording:
    """Where a recorded pass reads and writes, and what launches it."""

    given: Sequence[Any]
    results: Any
    sources: list[Tensor]
    gradients: list[Tensor]  # of the sources
    learnt: list[tuple[nn.Parameter, Tensor]]  # parameters and their gradients
    launches: Sequence[Callable[[], None]]  # forward; backward, where there are sources

    def launch(self) -> Any:
        """Run the forward pass, and give its results."""
        if self.sources:
            live = _Launch.apply(self, *(parameter for parameter, _ in self.learnt))
        else:
            self.launches[0]()
            live = ()
        leaves, spec = tree_flatten(self.results)
        found: dict[int, Any] = dict(zip(map(id, self.sources), live, strict=True))
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                found.setdefault(id(leaf), leaf.detach())
        return tree_unflatten([found.get(id(leaf), leaf) for leaf in leaves], spec)

    def launch_backward(self, given: Sequence[Tensor | None]) -> Iterator[Tensor]:
        """Run the backward pass, and give the parameters' gradients."""
        for place, gradient in zip(self.gradients, given, strict=True):
            if gradient is None:
                place.zero_()
            else:
                place.copy_(gradient)
        for parameter, place in self.learnt:
            # Autograd keeps what it is given: the sum so far may lie where the next is written.
            if parameter.grad is not None and parameter.grad.data_ptr() == place.data_ptr():
                parameter.grad = parameter.grad.clone()
        self.launches[1]()
        return (place.detach() for _, place in self.learnt)


class _Launch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: _Recording, *parameters: Tensor) -> tuple[Tensor, ...]:
        recording.launches[0]()
        ctx.recording = recording
        ctx.set_materialize_grads(False)
        return tuple(source.detach() for source in recording.sources)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.recording.launch_backward(gradients)


def copies_of(leaves: Sequence[Any]) -> list[Any]:
    """Places for arguments: what was one tensor is one again."""
    kept: dict[int, Any] = {}
    return [
        kept.setdefault(id(leaf), leaf.clone() if isinstance(leaf, Tensor) else leaf)
        for leaf in leaves
    ]


def _can_record(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def _warm(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> None:
    """Run both passes beside the stream of the training; random draws do not count.

    Raises: ValueError: the host waits for the device in one.
    """
    state = torch.cuda.get_rng_state()
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for run in range(_WARM_RUNS):
            results = forward()
            backward(results)
            if run == 0:
                _look_for_waits(lambda: backward(forward()))
    torch.cuda.current_stream().wait_stream(beside)
    torch.cuda.set_rng_state(state)


def _look_for_waits(run: Callable[[], Any]) -> None:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it calls itself a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        problem = str(error).split("\n")[0]
        raise ValueError(
            f"hardware.cuda_graphs = true: the step cannot be recorded: {problem}; take "
            "hardware.cuda_graphs false"
        ) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _recording(pool: Any) -> Iterator[torch.cuda.CUDAGraph]:
    graph = torch.cuda.CUDAGraph()
    # Other threads may pin memory meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        yield graph


def _uncached_autocast() -> torch.autocast:
    """The autocast that is in force; weights that it has cast before are not cast in a recording,
    which would go on with them."""
    return torch.autocast(
        "cuda",
        torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    )


def _like(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [torch.ones_like(tensor) for tensor in tensors]
