"""How much memory a model takes, worked out from the numbers of its config: pure functions of its shape.

    parameters(shape).total                    how many numbers it has
    need(shape, kind="int8", tokens=2048)      bytes of weights, keys and values, activations, and what loading takes besides

What is measured here and not worked out has the command beside it. Bytes everywhere.
"""

from collections.abc import Iterator
from typing import NamedTuple

from unmask.context.pool import PAGE, pages_for
from unmask.errors import unknown
from unmask.models.shape import Shape

TOKENS = 2048  # of a row, prompt and answer, where no length is named
BLOCK = 32  # rows of a forward that are projected to the vocabulary, where the model has no block length of its own
GROUP = 32  # inputs of a matrix that share a scale as int4 (models/quantise.py)
SIZES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}  # bytes of a number, by the short name of its type
QUANTISED = ("int8", "int4", "fp8")
RUNTIME = 500_000_000  # Python, torch and transformers: resident after loading unmask-tiny (tests/models/test_memory.py)


class Matrix(NamedTuple):
    """Matrices of one size."""

    outputs: int
    inputs: int
    many: int


class Parameters(NamedTuple):
    """A network's numbers, by what may be done to them.

    Attributes:
        matrices: of attention and of feed-forward parts, experts included; these alone are quantised.
        embedding: one row per token.
        head: the output matrix; 0 where it is the embedding.
        others: norms, biases and routers.
    """

    matrices: int
    embedding: int
    head: int
    others: int

    @property
    def total(self) -> int:
        return sum(self)


class Need(NamedTuple):
    """Bytes that a model takes.

    Attributes:
        weights: as they are kept.
        keys_values: of all rows.
        activations: of the largest forward, logits and decision included.
        loading: beside the weights, while they are loaded and laid out.
    """

    weights: int
    keys_values: int
    activations: int
    loading: int

    @property
    def total(self) -> int:
        """The most at one time."""
        return self.weights + max(self.loading, self.keys_values + self.activations)


def matrices(shape: Shape) -> Iterator[Matrix]:
    """The matrices that may be quantised.

    >>> from unmask.models.toy import toy
    >>> next(matrices(toy().network.shape))
    Matrix(outputs=32, inputs=32, many=4)
    """
    moe = shape.moe
    mixed = 0 if moe is None else sum(moe.layers)
    yield Matrix(shape.attended, shape.width, shape.layers * 2)  # q, and o the other way round
    yield Matrix(shape.remembered, shape.width, shape.layers * 2)  # k, v
    yield Matrix(shape.mlp, shape.width, (shape.layers - mixed) * 3)  # gate, up, and down the other way round
    if moe is not None:
        yield Matrix(moe.mlp, shape.width, mixed * moe.experts * 3)
        yield Matrix(moe.shared, shape.width, mixed * 3)


def parameters(shape: Shape) -> Parameters:
    """How many numbers a network of this shape has.

    >>> import unmask
    >>> network = unmask.load("unmask-tiny").network
    >>> parameters(network.shape).total == sum(tensor.numel() for tensor in network.parameters())
    True
    """
    moe = shape.moe
    mixed = 0 if moe is None else sum(moe.layers)
    dense = shape.layers - mixed
    norms = (2 * shape.layers + 1) * shape.width + (2 * shape.layers * shape.head_size if shape.qk_norm else 0)
    biases = shape.layers * (shape.attended + 2 * shape.remembered) if shape.qkv_bias else 0
    if shape.bias:
        biases += shape.layers * shape.width + dense * (2 * shape.mlp + shape.width)
        biases += mixed * (2 * moe.shared + shape.width) if moe is not None and moe.shared else 0
        biases += 0 if shape.tied else shape.vocab
    routers = 0 if moe is None else mixed * moe.experts * (shape.width + (1 if moe.biased else 0))
    table = shape.vocab * shape.width
    return Parameters(
        matrices=sum(matrix.outputs * matrix.inputs * matrix.many for matrix in matrices(shape)),
        embedding=table,
        head=0 if shape.tied else table,
        others=norms + biases + routers,
    )


def weights(shape: Shape, kind: str, *, rest: str = "bf16") -> int:
    """Bytes of a network's weights.

    Args:
        kind: the type of its matrices: fp32, bf16, fp16, fp64; or quantised: int8, int4, fp8.
        rest: with quantised matrices the type of everything else.

    >>> from unmask.models.shelf import find
    >>> [round(weights(find("llada-8b").shape, kind) / 1e9, 1) for kind in ("bf16", "int8", "int4")]
    [16.0, 9.1, 6.4]
    """
    found = parameters(shape)
    if kind in SIZES:
        return found.total * SIZES[kind]
    if kind not in QUANTISED:
        raise unknown("type of weights", kind, (*SIZES, *QUANTISED))
    size = SIZES[rest]
    return (found.total - found.matrices) * size + sum(_quantised(matrix, kind) for matrix in matrices(shape))


def _quantised(matrix: Matrix, kind: str) -> int:
    """Bytes of matrices: their numbers and a scale per output in fp32; as int4 a scale and a zero per group in bf16."""
    values = matrix.outputs * matrix.inputs * matrix.many
    return values // 2 + 4 * -(-values // GROUP) if kind == "int4" else values + 4 * matrix.outputs * matrix.many


def keys_values(shape: Shape, tokens: int, *, rows: int = 1, kind: str = "bf16") -> int:
    """Bytes of the keys and values of so many rows of so many tokens each, in whole pages, and of the page that no row has."""
    slots = (pages_for(tokens) * rows + 1) * PAGE
    return 2 * shape.layers * shape.remembered * slots * SIZES[kind]


def activations(shape: Shape, tokens: int, *, rows: int = 1, read: int = BLOCK, kind: str = "bf16") -> int:
    """Bytes of a forward over whole rows at its widest layer, and of the logits of the `read` tokens of each row.

    A decision makes a copy of the logits, without the mask, and the probabilities in fp32.
    """
    size, precise = SIZES[kind], max(4, SIZES[kind])
    moe = shape.moe
    hidden = max(shape.mlp, 0 if moe is None else moe.chosen * (moe.mlp + shape.width))
    states = 3 * shape.width * size + 2 * shape.width * precise  # residual, normed, and the norm's own
    attention = 2 * (shape.attended + 2 * shape.remembered) * size + 2 * shape.attended * precise
    widest = states + max(attention, 2 * hidden * size)
    logits = shape.vocab * (2 * size + precise)
    return rows * (tokens * widest + read * logits)


def need(
    shape: Shape,
    *,
    kind: str = "bf16",
    rest: str = "bf16",
    tokens: int = TOKENS,
    rows: int = 1,
    read: int = BLOCK,
    packed: bool = False,
) -> Need:
    """What a model takes to answer `rows` prompts of `tokens` tokens each, answers included.

    Args:
        kind, rest: as of `weights`.
        read: tokens of each row whose logits a forward makes: a block.
        packed: whether its matrices are laid out for a CPU's kernels (models/packed.py), one after the other.

    >>> from unmask.models.shelf import find
    >>> made = need(find("sdar-1.7b").shape, kind="int8")
    >>> [round(part / 1e9, 2) for part in (*made, made.total)]
    [2.66, 0.24, 0.16, 0.62, 3.28]
    """
    computing = kind if kind in SIZES else rest
    table = shape.vocab * shape.width * SIZES[computing]
    kept = weights(shape, kind, rest=rest) + (table if packed and shape.tied else 0)
    largest = max(table, *(matrix.outputs * matrix.inputs * SIZES[computing] for matrix in matrices(shape)))
    return Need(
        weights=kept,
        keys_values=keys_values(shape, tokens, rows=rows, kind=computing),
        activations=activations(shape, tokens, rows=rows, read=read, kind=computing),
        loading=largest,
    )
