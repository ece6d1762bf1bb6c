"""What the steps of a published shape would launch on a GPU: counted on meta tensors, without weights and without a GPU.

    python -m unmask.bench.audit         # a table of block steps and refreshes, beside the time that their bytes take

The real engine runs (runner, device state, network, decision) with tensors that have shapes and nothing else; every aten
operator that is not a view is a launch, and so is every launch of our kernels, whose launchers run as they are. A sort or a
top-k is several kernels, so that the counts are lower bounds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unmask.bench.workload import ANSWER, SHAPES
from unmask.context.pool import pages_for
from unmask.engine import graphs
from unmask.engine.graphs import OFTEN
from unmask.engine.request import Request
from unmask.engine.runner import Runner
from unmask.engine.state import RequestState
from unmask.kernels.gpu.launches import Launch, noted
from unmask.methods import load as load_method
from unmask.models.denoiser import Denoiser
from unmask.models.steps import steps

BANDWIDTH = 3.35e12  # bytes per second of an H100's memory (SXM)
PRODUCTS = ("linear", "mm", "addmm", "bmm", "_grouped_mm", "grouping.product", "matmul")
ATTENTION = ("scaled_dot_product", "_varlen_attn", "_flash_attention", "paged.")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_unique2")


class Op(NamedTuple):
    """One launch: its name, the bytes that it reads and writes, and those of its largest output."""

    name: str
    bytes: int
    made: int = 0


@dataclass
class Audit:
    """What was launched.

    Attributes:
        ops: in order.
        waits: what would have made the host wait for the device.
        shipped: copies from the host to the device; `told`: from the device to the host.
    """

    ops: list[Op] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    shipped: int = 0
    told: int = 0

    @property
    def launches(self) -> int:
        """All of them."""
        return len(self.ops)

    @property
    def products(self) -> int:
        """Products of matrices among them."""
        return sum(op.name in PRODUCTS for op in self.ops)

    @property
    def small_bytes(self) -> int:
        """Bytes moved by all that is neither a product nor attention."""
        return sum(op.bytes for op in self.ops if op.name not in PRODUCTS and not op.name.startswith(ATTENTION))

    @property
    def bytes(self) -> int:
        """All bytes."""
        return sum(op.bytes for op in self.ops)

    @property
    def largest(self) -> Op:
        """The op with the largest output that is no product's."""
        return max((op for op in self.ops if op.name not in PRODUCTS), key=lambda op: op.made)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A shape under a load."""

    shape: str
    method: str = "r2-dllm"
    rows: int = 1
    prompt: int = 1000
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None


def audit(case: Case, *, refresh: bool = False) -> Audit:
    """One step of all the case's rows, as a warm engine makes it: a block step, or a refresh in its bucket of tokens.

    What a graph would replay is counted too.

    >>> audit(Case(shape="LLaDA-30M")).waits
    []
    """
    runner, rows = _begun(case)
    watched = [False] * len(rows)
    with counted() as first:
        runner.launch(rows, watched)
    if refresh:
        return first
    for row in rows:
        row.block_forwards, row.kept = 1, row.window.start
    with counted():
        runner.launch(rows, watched)  # makes the buffers that stay
    with counted() as second:
        runner.launch(rows, watched)
    return second


def by_the_host(case: Case) -> Audit:
    """What the host launches of a refresh, where what can be replayed is: each replay is one launch.

    >>> [op.name for op in by_the_host(Case(shape="LLaDA-30M")).ops].count("graph")  # network, windows, decision
    3
    """
    with _replayed() as replays:
        runner, rows = _begun(case)
        for _ in range(OFTEN + 1):
            replays.clear()
            for row in rows:
                row.opened = False
            with counted() as found:
                runner.launch(rows, [False] * len(rows))
    found.ops += replays
    return found


def _begun(case: Case) -> tuple[Runner, list[RequestState]]:
    """An engine's runner and all the case's rows before their first forward."""
    model = _model(case.shape)
    model.running  # noqa: B018 - what is made once is not the step's
    request = Request(
        prompt=(5,) * case.prompt,
        method=load_method(case.method),
        max_new_tokens=ANSWER,
        temperature=case.temperature,
        top_p=case.top_p,
        top_k=case.top_k,
        seed=0,
    )
    rows = [RequestState.start(request, model) for _ in range(case.rows)]
    runner = Runner(model, pages=sum(pages_for(row.slots) for row in rows), rows=case.rows)
    for row in rows:
        runner.prepare(row)
        runner.allocate(row)
    return runner, rows


@contextmanager
def _replayed() -> Iterator[list[Op]]:
    """Within it whatever a GPU would capture is, and a replay computes nothing; all replays."""
    replays: list[Op] = []
    made, graphs.capturing = graphs.capturing, lambda device: lambda compute: lambda: replays.append(Op("graph", 0))
    try:
        yield replays
    finally:
        graphs.capturing = made


class _Replayable(Denoiser):
    """On meta tensors, which stand for a GPU's."""

    @property
    def replayable(self) -> bool:
        return True


def _model(name: str) -> Denoiser:
    kind, config = SHAPES[name]
    with torch.device("meta"):
        network = kind(config).to(torch.bfloat16).eval().requires_grad_(False)
    return _Replayable(network=network, tokenizer=None, name=name, steps=steps(network))


# --- counting ---------------------------------------------------------------------------------------------------------


@contextmanager
def counted() -> Iterator[Audit]:
    """Count what is launched within."""
    found = Audit()
    with _Counting(found), noted(lambda launch: found.ops.append(_of_kernel(launch))):
        yield found


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every aten operator on meta tensors."""

    def __init__(self, found: Audit) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = any(tensor.is_meta for tensor in read)
        if device and name in WAITS:
            self._found.waits.append(name)
        if device and str(kwargs.get("device")) == "cpu":
            self._found.told += 1
            return torch.zeros_like(read[0], device="cpu", dtype=kwargs.get("dtype"))
        made = func(*args, **kwargs)
        written = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor) and leaf.is_meta]
        if not written:
            return made
        if any(not tensor.is_meta and tensor.dim() for tensor in read):
            self._found.shipped += 1
        elif not _is_view(func, read, written) and not name.startswith(("empty", "new_empty")):
            self._found.ops.append(_of_aten(name, func, read, written))
        return made


def _is_view(func: Any, read: list[Tensor], written: list[Tensor]) -> bool:
    """Whether nothing is computed: what comes out is what went in, seen otherwise."""
    if func._schema.is_mutable:
        return False
    storages = {tensor.untyped_storage()._cdata for tensor in read}
    return all(tensor.untyped_storage()._cdata in storages for tensor in written)


def _of_aten(name: str, func: Any, read: list[Tensor], written: list[Tensor]) -> Op:
    made = [] if func._schema.is_mutable else written
    largest = max((size(tensor) for tensor in made), default=0)
    if name in ("index_copy_", "index_fill_", "index_copy"):
        moved = 2 * size(read[-1])
    elif name in ("embedding", "index_select", "gather", "index"):
        moved = 2 * sum(map(size, written))
    else:
        moved = sum(map(size, read)) + sum(map(size, made))
    return Op(name, moved, largest)


def _of_kernel(launch: Launch) -> Op:
    special = _SEEN.get(launch.name)
    return Op(launch.name, sum(map(size, launch.tensors.values())) if special is None else special(launch.given))


def size(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def _attended(given: dict[str, Any]) -> int:
    """Attention reads what its rows see, of which only the pages are known here, and writes its partial outputs."""
    slots = given["pages_BP"].numel() * given["PAGE"]
    moved: int = 2 * slots * size(given["keys_SGD"][0]) + size(given["q_BLHD"]) + size(given["partial_BLHCD"])
    return moved


def _turned(given: dict[str, Any]) -> int:
    """Queries and keys are read and written in place, and what is remembered of keys and values is written to the pool."""
    kept = given["remembered"] * (size(given["keys_SGD"][0]) + size(given["values_SGD"][0]) + size(given["v_NGD"][0]))
    moved: int = 2 * (size(given["q_NHD"]) + size(given["k_NGD"])) + kept + size(given["cos_NR"]) + size(given["sin_NR"])
    return moved


# Kernels that do not move each of their tensors once.
_SEEN: Mapping[str, Callable[[dict[str, Any]], int]] = {"paged.attend": _attended, "rotary.turn": _turned}


def show(cases: Sequence[Case]) -> None:
    """A table of what a block step and a refresh of each case launch."""
    print("| step | launches | products | GB | of small kernels | ms at 3.35 TB/s | largest output, MB |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        rows = "1 row" if case.rows == 1 else f"{case.rows} rows"
        for what, refresh in (("block step", False), ("refresh", True)) if case.rows == 1 else (("block step", False),):
            found = audit(case, refresh=refresh)
            numbers = f"{found.launches} | {found.products} | {found.bytes / 1e9:.2f} | {found.small_bytes / 1e9:.2f}"
            time = f"{found.bytes / BANDWIDTH * 1e3:.2f} | {found.largest.made / 1e6:.1f}"
            sampled = f", temperature {case.temperature}" if case.temperature else ""
            print(f"| {case.shape}, {what}, {rows}{sampled} | {numbers} | {time} |")


USUAL = [
    *(Case(shape=shape, rows=rows) for shape in ("LLaDA-8B", "Dream-7B") for rows in (1, 64)),
    *(Case(shape=shape, method="fast-dllm") for shape in ("SDAR-8B", "LLaDA2-mini")),
    Case(shape="LLaDA-8B", rows=64, temperature=0.7, top_p=0.9),
]

if __name__ == "__main__":
    show(USUAL)
