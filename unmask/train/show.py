"""One example as the model sees it in training: who speaks, what is masked, and what the model is asked for."""

import itertools
from typing import Literal, NamedTuple

import torch

from unmask.errors import ConfigError
from unmask.models import loading
from unmask.models.denoiser import Denoiser
from unmask.train.dataset import LeftOut, Sample, samples
from unmask.train.noise import Hidden
from unmask.train.rows import lay_out
from unmask.train.sft import SFTConfig

State = Literal["given", "hidden", "learned", "asked", "later"]


class Run(NamedTuple):
    """Neighbouring tokens of one role in one state, and their text.

    The model never learns to write what is "given" or, masked in this draw, "hidden". What it does learn is "learned" where
    this draw shows it, "asked" where the draw masks and asks it, and "later" where it is masked for other draws to ask.
    """

    role: str
    state: State
    tokens: int
    text: str


def show(config: SFTConfig, number: int) -> tuple[str, list[Run]]:
    """What there is to say about an example, and its tokens under one draw of masks; the first example is number 1.

    Raises ConfigError if there are fewer.
    """
    model = loading.load(config.model, device="cpu", dtype=config.dtype)
    seen, found = 0, samples(config, model, block_length=config.block(model.spec), seed=config.seed)
    for sample in found:
        if isinstance(sample, LeftOut):
            continue
        seen += 1
        if seen == number:
            return _shown(config, model, sample, number)
    raise ConfigError(f"example {number}: the data has {seen}")


def _shown(config: SFTConfig, model: Denoiser, sample: Sample, number: int) -> tuple[str, list[Run]]:
    spec, example, block = model.spec, sample.encoded, config.block(model.spec)
    on_grid = spec.block is not None
    width = example.width(block, on_grid=on_grid)
    rows = lay_out([example], length=width, block_length=block, eos_id=spec.eos_ids[0], on_grid=on_grid)
    hidden = config.hide(rows, spec, torch.Generator().manual_seed(config.seed + number))
    roles = [piece.role for piece in sample.pieces for _ in piece.tokens]
    roles += ["filler"] * (width - len(roles))
    states = _states(rows.answer_BT[0].tolist(), hidden)
    runs, place = [], 0
    for (role, state), some in itertools.groupby(zip(roles, states, strict=True)):
        end = place + len(list(some))
        runs.append(Run(role, state, end - place, _text(model, rows.tokens_BT[0, :end].tolist(), place)))
        place = end
    learned = int(rows.answer_BT.sum())
    kind = "block-causal" if on_grid else "full attention"
    return f"{sample.where}: {width} tokens, {learned} of them learned; blocks of {block}, {kind}", runs


def _states(answer: list[bool], hidden: Hidden) -> list[State]:
    masked, asked = hidden.hidden_BT[0].tolist(), (hidden.weight_BT[0] > 0).tolist()
    return [
        ("asked" if asks else "later" if masks else "learned") if learns else "hidden" if masks else "given"
        for learns, masks, asks in zip(answer, masked, asked, strict=True)
    ]


def _text(model: Denoiser, tokens: list[int], begin: int) -> str:
    """The text of the last tokens, from `begin` on, as it stands behind the others: with its spaces."""
    part = tokens[begin:]
    if model.tokenizer is None:
        return " ".join(map(str, part))
    if len(set(part)) == 1 and len(part) > 2:
        return f"{model.tokenizer.decode(part[:1])} x {len(part)}"
    before, after = model.tokenizer.decode(tokens[:begin]), model.tokenizer.decode(tokens)
    return str(after[len(before) :] if after.startswith(before) else model.tokenizer.decode(part))
