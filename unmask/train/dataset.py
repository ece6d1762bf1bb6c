"""The examples of a fine-tuning, from what `unmask train collect` wrote and from conversations.

Every example is known by its file and line. One that is broken or too long comes with what is wrong with it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, get_args

from unmask.data.layout import training
from unmask.data.records import records
from unmask.decode.settings import whole
from unmask.engine.prompt import encode as encode_prompt
from unmask.errors import ConfigError, RequestError, unknown
from unmask.models.denoiser import Denoiser
from unmask.train.conversation import Piece, encode, turns
from unmask.train.rows import Encoded, Fill
from unmask.train.selection import Example, Select, Spatial, collected, examples


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The settings of the data.

    Attributes:
        data: a file of `unmask train collect`, or JSONL, JSON or parquet files of conversations, or folders, or a data set on
            the hub (owner/name, of which the split train is read), or a list.
        select: which right answer per collected prompt: that of lowest or highest redundancy, or a random one.
        spatial, per_token: how redundancy is counted; see selection.score.
        length: most tokens of an example, EOS included; longer ones are left out.
        fill: how far rows are filled up with EOS: all to "length", or to the longest of their "step", which then takes
            examples of similar length. None: "length" for what `collect` wrote alone, as in the paper, otherwise "step".
    """

    data: str | Sequence[str]
    select: Select = "lowest"
    spatial: Spatial = "windows"
    per_token: bool = True
    length: int = 768
    fill: Fill | None = None

    def __post_init__(self) -> None:
        for name, known in (("select", Select), ("spatial", Spatial), ("fill", Fill)):
            value = getattr(self, name)
            if value not in get_args(known) and not (name == "fill" and value is None):
                raise unknown(name, str(value), get_args(known))
        whole("length", self.length, 1, required=True)
        listed = [self.data] if isinstance(self.data, str) else self.data
        if not isinstance(listed, Sequence) or not listed or not all(isinstance(place, str) for place in listed):
            raise ConfigError(f"data must be a path, or a list of paths, got {self.data!r}")


class Sample(NamedTuple):
    """One example: its place, its pieces and, of an answer that was collected, the forward that wrote each of its tokens."""

    where: str
    pieces: list[Piece]
    steps: tuple[int, ...] = ()

    @property
    def encoded(self) -> Encoded:
        return Encoded.joined(self.pieces, self.steps)


class LeftOut(NamedTuple):
    """The place of an example that cannot be used, and what is wrong with it."""

    where: str
    error: str

    def __str__(self) -> str:
        return f"{self.where}: {self.error}"


def samples(config: DataConfig, model: Denoiser, *, block_length: int, seed: int) -> Iterator[Sample | LeftOut]:
    """The examples in the order of the files, one after the other.

    Raises ConfigError for a path that does not exist, or a file that cannot be read at all.
    """
    on_grid = model.spec.block is not None
    for found in itertools.chain.from_iterable(_samples(path, config, model, seed) for path in training(config.data)):
        if isinstance(found, Sample):
            width = found.encoded.width(block_length, on_grid=on_grid)
            if width > config.length:
                count = sum(len(piece.tokens) for piece in found.pieces)
                error = f"{count} tokens in blocks of {block_length} need {width} and the length is {config.length}"
                found = LeftOut(found.where, error)
        yield found


def _samples(path: Path, config: DataConfig, model: Denoiser, seed: int) -> Iterator[Sample | LeftOut]:
    if collected(path):
        for example in chosen(path, config, seed):
            try:
                yield _own(example, model)
            except RequestError as error:
                yield LeftOut(example.where, str(error))
        return
    for record in records(path):
        if record.error is not None:
            yield LeftOut(record.where, record.error)
            continue
        try:
            found = encode(model, turns(record.values))
        except RequestError as error:
            yield LeftOut(record.where, str(error))
            continue
        for number, pieces in enumerate(found, start=1):
            yield Sample(record.where + (f" (answer {number})" if len(found) > 1 else ""), pieces)


def _own(example: Example, model: Denoiser) -> Sample:
    """A collected answer behind its prompt, asked as it was then. Raises RequestError where this model cannot take that."""
    asked = model.asked(**asdict(example.prompting))
    prompt = Piece("user", list(encode_prompt(asked, example.prompt)), False)
    return Sample(example.where, [prompt, Piece("assistant", list(example.answer), True)], example.steps)


def chosen(path: Path, config: DataConfig, seed: int) -> list[Example]:
    """The chosen answers of a collected file."""
    return examples(path, config.select, spatial=config.spatial, per_token=config.per_token, seed=seed)


def fill(config: DataConfig) -> Fill:
    """How far rows are filled up."""
    return config.fill or ("length" if all(map(collected, training(config.data))) else "step")


def count(config: DataConfig) -> int:
    """How many examples there are, those that are too long included: without a tokenizer that is not known."""
    total = 0
    for path in training(config.data):
        if collected(path):
            total += len(chosen(path, config, 0))
            continue
        for record in records(path):
            try:
                total += record.error is None and bool(turns(record.values))
            except RequestError:
                continue
    return total
