"""The limits of the machine: copy bandwidth beyond any cache, and matrix products, large and of a block forward's shape."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from unmask.bench.counting import Rates
from unmask.bench.measure import Side, rounds
from unmask.bench.workload import BLOCK, SHAPES, Load, Report
from unmask.models.shape import Shape


def floors(device: torch.device, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """One row for the copy and one per product."""
    report("copying memory")
    moved = 2 * load.copied
    timing = rounds([_copy(load.copied, device)], device, repeats=load.repeats, seconds=load.seconds)[0]
    yield {"what": "copy", "bytes": moved, "bytes_per_second": moved / timing.seconds} | asdict(timing)

    for dtype in (torch.bfloat16, torch.float32):
        for rows, inputs, outputs in products(load):
            report(f"matrix product [{rows}, {inputs}] x [{inputs}, {outputs}] in {name(dtype)}")
            side = _product(rows, inputs, outputs, dtype, device, spread=load.copied // 4)
            timing = rounds([side], device, repeats=load.repeats, seconds=load.seconds)[0]
            flops, weights = 2 * rows * inputs * outputs, inputs * outputs * dtype.itemsize
            yield {
                "what": "product",
                "dtype": name(dtype),
                "rows": rows,
                "inputs": inputs,
                "outputs": outputs,
                "flops_per_second": flops / timing.seconds,
                "weight_bytes_per_second": weights / timing.seconds,
            } | asdict(timing)


def products(load: Load) -> list[tuple[int, int, int]]:
    """Rows, inputs and outputs: the large square, then the widening matrix of the first shape for a block of each batch."""
    shape = _shape(load.shapes[0])
    return [(load.square,) * 3, *((BLOCK * batch, shape.width, shape.mlp) for batch in load.batches)]


def _copy(size: int, device: torch.device) -> Side:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    return partial(torch.empty_like(source).copy_, source)


def _shape(name: str) -> Shape:
    kind, config = SHAPES[name]
    with torch.device("meta"):
        return kind(config).shape


def _product(rows: int, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device, *, spread: int) -> Side:
    """A product with another matrix per call, so that weights are read from memory as in a network."""
    copies = max(1, min(64, spread // (inputs * outputs * dtype.itemsize)))
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    weights = itertools.cycle([torch.randn(inputs, outputs, device=device, dtype=dtype) for _ in range(copies)])
    return lambda: x @ next(weights)


def name(dtype: torch.dtype) -> str:
    """A type as the command line writes it.

    >>> name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def rates(rows: list[dict[str, Any]], dtype: torch.dtype) -> Rates:
    """The rates that forwards of this type are compared with: those of the copy and of the fastest product."""
    copies = [row["bytes_per_second"] for row in rows if row["what"] == "copy"]
    products = [row["flops_per_second"] for row in rows if row["what"] == "product" and row["dtype"] == name(dtype)]
    if not copies or not products:
        raise RuntimeError(f"there are no floors for {name(dtype)}")
    return Rates(bytes=max(copies), flops=max(products))
