"""Examples as the rows of a training step: which examples a step takes, and how they become tensors.

Rows are filled up with EOS, which is supervised as part of the last answer, as LLaDA does it (arXiv 2502.09992, section 2.3):
either all to one length, or each step's to its longest. In the latter case a step takes examples of similar length, which
saves most of the filling; several examples in one row would see each other under full attention.

Under full attention the masks behind an answer are seen. If they always ended with it, the model would learn to fill whatever
room it is given, so now and then a step's rows are longer than need be.

Of a row with several answers a block-causal model is asked for all, each after the clean blocks before it; the block that
holds an answer's end shows how the next question begins. Under full attention a step asks for one (noise.draw_answer).
"""

import bisect
import functools
import hashlib
import itertools
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch

from unmask.errors import ConfigError
from unmask.train.batches import BatchConfig
from unmask.train.conversation import Piece
from unmask.train.objective import Rows

Fill = Literal["length", "step"]
POOL = 64  # batches among which examples are sorted by length
LONGER = 0.25  # share of the steps whose rows have more room than their longest answer needs


class Encoded(NamedTuple):
    """One example as tokens; the last of them ends an answer, and EOS is not among them.

    Attributes:
        tokens: ids; an array, since a data set has millions.
        answers: the spans of them that the assistant has written, and the model learns to write, in order.
        steps: the forward, from 1, that wrote each token of the last answer; empty where that is not known.
    """

    tokens: "array[int]"
    answers: tuple[tuple[int, int], ...]
    steps: tuple[int, ...] = ()

    @classmethod
    def of(cls, prompt: Sequence[int], answer: Sequence[int], steps: Sequence[int] = ()) -> Self:
        """One prompt and its answer.

        >>> Encoded.of([5, 6], [7])
        Encoded(tokens=array('i', [5, 6, 7]), answers=((2, 3),), steps=())
        """
        return cls(array("i", (*prompt, *answer)), ((len(prompt), len(prompt) + len(answer)),), tuple(steps))

    @classmethod
    def joined(cls, pieces: Sequence[Piece], steps: Sequence[int] = ()) -> Self:
        """The pieces of an example, one after the other."""
        tokens, answers = array("i"), list[tuple[int, int]]()
        for piece in pieces:
            if piece.learned:
                answers.append((len(tokens), len(tokens) + len(piece.tokens)))
            tokens.extend(piece.tokens)
        return cls(tokens, tuple(answers), tuple(steps))

    @property
    def last(self) -> int:
        """Where the last answer begins."""
        return self.answers[-1][0]

    def width(self, block_length: int, *, on_grid: bool) -> int:
        """Tokens of the row up to the end of the block that holds the first EOS behind the answer."""
        begin = self.last // block_length * block_length if on_grid else self.last
        return begin + ((len(self.tokens) - begin) // block_length + 1) * block_length


def lay_out(examples: Sequence[Encoded], *, length: int, block_length: int, eos_id: int, on_grid: bool = False) -> Rows:
    """Rows of `length` tokens: the example, EOS to the end. Answers and the whole blocks behind the last may be masked.

    With `on_grid` blocks are counted from position 0, as a block-causal model counts them, and the part that may be masked
    ends with the block of the first EOS: no such model decodes after it.

    Raises ConfigError for an example that does not end, EOS included, within the whole blocks of `length`.

    >>> rows = lay_out([Encoded.of([5, 6], [7, 8, 9])], length=7, block_length=2, eos_id=1)
    >>> rows.tokens_BT.tolist(), rows.answer_BT.long().tolist(), rows.blocks_B.tolist()
    ([[5, 6, 7, 8, 9, 1, 1]], [[0, 0, 1, 1, 1, 1, 0]], [2])
    """
    tokens_BT = torch.full((len(examples), length), eos_id)
    answer_BT = torch.zeros((len(examples), length), dtype=torch.bool)
    steps_BT = torch.zeros_like(tokens_BT)
    blocks = []
    for row, example in enumerate(examples):
        count, width = len(example.tokens), example.width(block_length, on_grid=on_grid)
        if width > length:
            raise ConfigError(f"example {row} has {count} tokens and leaves no block of {block_length} within length {length}")
        whole = width if on_grid else width + (length - width) // block_length * block_length
        tokens_BT[row, :count] = torch.tensor(example.tokens)
        steps_BT[row, example.last : example.last + len(example.steps)] = torch.tensor(example.steps)
        for begin, end in example.answers:
            answer_BT[row, begin:end] = True
        answer_BT[row, count:whole] = True
        begun = example.last % block_length if on_grid else 0
        blocks.append((width - example.last + begun) // block_length)
    return Rows(tokens_BT, answer_BT, torch.tensor(blocks), steps_BT)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """All examples of a training, and how a step lays its own out.

    Attributes:
        length: most tokens of a row.
        fill: "length" fills every row up to it; "step" to the longest of the step.
    """

    examples: Sequence[Encoded]
    length: int
    block_length: int
    eos_id: int
    on_grid: bool
    fill: Fill

    @functools.cached_property
    def widths(self) -> tuple[int, ...] | None:
        """The width of each example if a step is to take similar ones."""
        if self.fill == "length":
            return None
        return tuple(example.width(self.block_length, on_grid=self.on_grid) for example in self.examples)

    @functools.cached_property
    def blocks(self) -> tuple[int, ...]:
        """Blocks that the answers of each example fill, the first EOS included."""
        written = (sum(end - begin for begin, end in example.answers) for example in self.examples)
        return tuple(tokens // self.block_length + 1 for tokens in written)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that tell these examples from others."""
        found = hashlib.sha256()
        for example in self.examples:
            found.update(example.tokens.tobytes() + repr((example.answers, example.steps)).encode())
        return found.hexdigest()[:16]

    def rows(self, config: BatchConfig, step: int) -> Rows:
        """The rows of a step."""
        shares = self.blocks if config.draw == "blocks" else None
        picked = order(len(self.examples), config, step, self.widths, shares)
        length = self.length
        if self.widths is not None:
            least = max(self.widths[index] for index in picked)
            rng = random.Random(f"{config.seed}-{step}")
            longer = not self.on_grid and rng.random() < LONGER
            length = rng.randint(least, self.length) if longer else least
        chosen = [self.examples[index] for index in picked]
        return lay_out(chosen, length=length, block_length=self.block_length, eos_id=self.eos_id, on_grid=self.on_grid)


def order(
    count: int,
    config: BatchConfig,
    step: int,
    widths: tuple[int, ...] | None = None,
    shares: tuple[int, ...] | None = None,
) -> list[int]:
    """The examples of a step: epoch after epoch, each in its own shuffle.

    With `widths` a step takes similar ones; with `shares` an epoch takes each in proportion to its share.
    """
    found, size = list[int](), config.batch_size
    for place in range(step * size, (step + 1) * size):
        epoch, index = divmod(place, count)
        seed = f"{config.seed}-{epoch}"
        if widths is None:
            drawn = _shuffled(count, seed, shares)
        else:
            drawn = _similar(widths, seed, size, -epoch * count % size, shares)
        found.append(drawn[index])
    return found


@functools.lru_cache(maxsize=2)
def _shuffled(count: int, seed: str, shares: tuple[int, ...] | None) -> list[int]:
    rng = random.Random(seed)
    drawn = rng.sample(range(count), count)
    if shares is None:
        return drawn
    # So many points, evenly spaced over all shares laid end to end.
    ends, offset = list(itertools.accumulate(shares[index] for index in drawn)), rng.random()
    points = ((number + offset) * ends[-1] / count for number in range(count))
    spread = [drawn[bisect.bisect_right(ends, point)] for point in points]
    return rng.sample(spread, count)


@functools.lru_cache(maxsize=2)
def _similar(widths: tuple[int, ...], seed: str, batch_size: int, first: int, shares: tuple[int, ...] | None) -> list[int]:
    """A shuffle of batches of similar widths; the first `first` examples complete the batch of the epoch before."""
    drawn, pool = _shuffled(len(widths), seed, shares), POOL * batch_size
    pools = [sorted(drawn[begin : begin + pool], key=widths.__getitem__) for begin in range(0, len(drawn), pool)]
    near = [index for some in pools for index in some]
    batches = [near[begin : begin + batch_size] for begin in range(first, len(near), batch_size)]
    rest = batches.pop() if batches and len(batches[-1]) < batch_size else []
    random.Random(f"{seed}-batches").shuffle(batches)
    return [*near[:first], *(index for batch in batches for index in batch), *rest]
