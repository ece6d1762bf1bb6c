"""Scores of given answers: exact where they are said to be, and within their own error where they are drawn."""

import math

import pytest
import torch

import unmask
from unmask.context.plan import assemble, entire
from unmask.models.denoiser import Denoiser
from unmask.models.toy import MASK, toy

PROMPTS, ANSWERS = [[1, 2, 3], [4], [5] * 9], [[6, 7, 8, 9], [2], [3, 1, 4, 1, 5, 9]]


def chain(model: Denoiser, prompt: list[int], answer: list[int]) -> list[float]:
    """Each token given those before it, one forward per token."""
    found = []
    for place, token in enumerate(answer):
        row = [*prompt, *answer[:place], *[MASK] * (len(answer) - place)]
        query = entire(row, len(prompt) + place, len(prompt) + place + 1, block=model.spec.block)
        logits_RV = model.forward(*assemble([query], device=model.device), None)
        found.append(logits_RV.log_softmax(-1)[0, token].item())
    return found


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_left_to_right_is_the_chain_over_the_answers_beginnings(family: str) -> None:
    model = toy(family, seed=3, sharpness=2, dtype=torch.float64)
    with torch.inference_mode():
        expected = [chain(model, prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    found = unmask.score(model, PROMPTS, ANSWERS, order="left-to-right", batch_size=4)
    for score, one in zip(found, expected, strict=True):
        assert score.logprobs == pytest.approx(one)
        assert score.sum == pytest.approx(sum(one))
        assert score.standard_error == 0.0
    whole = [unmask.score(model, [prompt], [answer])[0].sum for prompt, answer in zip(PROMPTS[1:2], ANSWERS[1:2], strict=True)]
    assert whole == pytest.approx([sum(expected[1])])  # one token has one order


def test_samples_agree_with_all_masks_within_their_error() -> None:
    model = toy("llada", seed=3, sharpness=2, dtype=torch.float64)
    exact = unmask.score(model, PROMPTS, ANSWERS, samples=63)
    assert [score.standard_error for score in exact] == [0.0] * 3
    drawn = [unmask.score(model, PROMPTS[2:], ANSWERS[2:], samples=40, seed=seed)[0] for seed in range(30)]
    errors = [(score.sum - exact[2].sum) / score.standard_error for score in drawn]
    assert max(map(abs, errors)) < 4
    assert sum(errors) / len(errors) == pytest.approx(0.0, abs=0.6)
    means = [sum(score.logprobs[place] for score in drawn) / len(drawn) for place in range(6)]
    assert means == pytest.approx(exact[2].logprobs, rel=0.25)
    assert all(score.sum == pytest.approx(sum(score.logprobs)) for score in drawn)


def test_a_score_does_not_depend_on_its_batch() -> None:
    model = toy("llada", seed=3, dtype=torch.float64)
    together = unmask.score(model, PROMPTS, ANSWERS, samples=5, seed=7, batch_size=6)
    for prompt, answer, score in zip(PROMPTS, ANSWERS, together, strict=True):
        (alone,) = unmask.score(model, [prompt], [answer], samples=5, seed=7, batch_size=1)
        assert alone.logprobs == pytest.approx(score.logprobs)
        assert alone.standard_error == pytest.approx(score.standard_error)


def test_strings_are_a_chat_and_its_answer() -> None:
    model = unmask.load("unmask-tiny")
    question = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
    right, wrong = unmask.score(
        model, [question] * 2, ["Mia starts with 23 apples.", "Mia starts with 87 apples."], order="left-to-right"
    )
    assert right.sum > wrong.sum + 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples must be a whole number of at least 1"),
        ({"order": "sideways"}, "order must be one of None, left-to-right"),
        ({"answers": [[1]]}, "as many answers"),
        ({"answers": [[1], [2], [MASK]]}, "mask id"),
        ({"answers": ["a", [2], [3]]}, "no tokenizer"),
    ],
)
def test_what_cannot_be_scored_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(unmask.UnmaskError, match=words):
        unmask.score(**{"model": toy(), "prompts": PROMPTS, "answers": ANSWERS, **options})  # type: ignore[arg-type]


def test_an_answer_of_no_tokens_is_sure() -> None:
    for order in (None, "left-to-right"):
        (found,) = unmask.score(toy(), [[1]], [[]], order=order)
        assert (found.logprobs, found.sum, found.standard_error) == ([], 0.0, 0.0)
    assert math.isinf(unmask.score(toy(), [[1]], [[1, 2, 3]], samples=1)[0].standard_error)
