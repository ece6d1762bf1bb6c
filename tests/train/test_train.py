"""Noise, loss, tokenizer, problems, and a training that goes on after a kill as if nothing had happened."""

import itertools
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from unmask.tasks import arithmetic, sums
from unmask.tasks.problem import Split
from unmask.train import noise
from unmask.train.data import batch, drill
from unmask.train.loss import masked_loss, row_weights
from unmask.train.pretrain import PretrainConfig, pretrain
from unmask.train.tokenizer import EOS, build

TOKENIZER = build(arithmetic.words() | sums.words(), model_max_length=512)


def small(output: Path, steps: int = 6) -> PretrainConfig:
    return PretrainConfig(
        output=str(output),
        width=32,
        layers=1,
        heads=2,
        mlp=32,
        steps=steps,
        tokens_per_step=512,
        warmup=2,
        checkpoint_every=3,
        threads=1,
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 10), st.integers(0, 2**31))
def test_noise_hides_answers_only_and_something_of_each(rows: int, answer: int, prompt: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    answer_BT = torch.zeros(rows, prompt + answer, dtype=torch.bool)
    answer_BT[:, prompt:] = True
    rates = noise.stratified(rows, generator)
    assert ((rates > 0) & (rates <= 1)).all()
    uniform = noise.bernoulli(answer_BT, rates, generator)
    hidden, inside = noise.block(answer_BT, 8, rates, generator)
    for mask in (uniform, hidden, inside):
        assert not (mask & ~answer_BT).any()
        assert mask.any(dim=1).all()
    assert not (inside & ~hidden).any()
    for row in range(rows):
        places = inside[row].nonzero()[:, 0] - prompt
        first, last = int(places.min()) // 8, int(places.max()) // 8
        assert first == last
        later = hidden[row, prompt + (first + 1) * 8 :]
        assert later.all()
        assert not hidden[row, : prompt + first * 8].any()


def test_loss_of_parts_is_the_loss_of_the_whole() -> None:
    """Accumulated == big batch, because every part is divided by the rows of the whole."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 10, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 10, (4, 6), generator=generator)
    hidden = torch.rand(4, 6, generator=generator) < 0.5
    hidden[:, 0] = True
    weights = row_weights(hidden)

    def loss(rows: slice) -> torch.Tensor:
        mask = hidden[rows]
        return masked_loss(logits[rows][mask], targets[rows][mask], weights[rows][mask], 4)

    torch.testing.assert_close(loss(slice(0, 1)) + loss(slice(1, 4)), loss(slice(0, 4)))
    assert loss(slice(0, 4)).item() == pytest.approx(
        sum(
            torch.nn.functional.cross_entropy(logits[row][hidden[row]].float(), targets[row][hidden[row]]).item()
            for row in range(4)
        )
        / 4
    )


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_any_text_becomes_known_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert all(0 <= token < len(TOKENIZER) for token in ids)
    assert isinstance(TOKENIZER.decode(ids), str)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_problems_survive_the_tokenizer_and_their_own_verifier(seed: int, steps: int) -> None:
    word = arithmetic.sample(random.Random(seed), steps)
    for text in (word.question, word.worked, sums.sheet(random.Random(seed), steps)):
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
        assert not any(token.startswith("<0x") for token in TOKENIZER.tokenize(text))
    assert arithmetic.verify(word.worked, word.key)
    assert not arithmetic.verify(word.worked, word.key + 1)
    last = word.worked.rsplit("= ", 1)[1].split(".")[0]
    assert int(last) == word.key
    assert len(TOKENIZER.encode(word.worked)) < 128


def test_splits_share_no_question() -> None:
    def some(split: Split) -> set[str]:
        return {problem.question for problem in itertools.islice(arithmetic.problems(split, seed=0, steps=(1,)), 2000)}

    assert not some("train") & some("test")


def test_a_batch_is_prompts_answers_and_eos() -> None:
    source = arithmetic.problems("train", seed=0, steps=(2,))
    data = batch(TOKENIZER, source, random.Random(3), tokens=1024, block_length=32, longest=128)
    again = arithmetic.problems("train", seed=0, steps=(2,))
    assert data.tokens_BT.shape == data.answer_BT.shape
    for row, mask in zip(data.tokens_BT, data.answer_BT, strict=True):
        problem = next(again)
        answer = row[mask].tolist()
        assert len(answer) % 32 == 0
        assert TOKENIZER.decode([token for token in answer if token != EOS]) == problem.worked
        assert answer[-1] == EOS


def test_a_drill_hides_results_only() -> None:
    data = drill(TOKENIZER, random.Random(0), tokens=500, count=3)
    for row, mask in zip(data.tokens_BT, data.answer_BT, strict=True):
        sheet = TOKENIZER.decode(row.tolist())
        results = [part.split("= ")[1] for part in sheet.rstrip(".").split(". ")]
        assert TOKENIZER.convert_ids_to_tokens(row[mask].tolist()) == list("".join(results))


class Killed(Exception):
    """Stands for a power cut."""


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole: list[float] = []
    pretrain(small(tmp_path / "whole"), lambda step, measured: whole.append(measured["loss"]))
    parts: dict[int, float] = {}

    def until(last: int) -> None:
        def report(step: int, measured: dict[str, float]) -> None:
            parts[step] = measured["loss"]
            if step == last:
                raise Killed

        pretrain(small(tmp_path / "parts"), report)

    with pytest.raises(Killed):
        until(4)  # one step after the checkpoint of step 3 is lost, and made again
    until(99)
    assert [parts[step] for step in range(6)] == whole
    one, other = [unmask.load(tmp_path / name) for name in ("whole", "parts")]
    for left, right in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(left, right)
    assert one.tokenizer.decode(one.tokenizer.encode("Mia has 23 apples.")) == "Mia has 23 apples."
    with pytest.raises(unmask.ConfigError, match="other settings"):
        pretrain(small(tmp_path / "whole", steps=9))


def test_unknown_training_option() -> None:
    with pytest.raises(unmask.ConfigError, match="stepz"):
        PretrainConfig.from_dict({"output": "x", "stepz": 3})
