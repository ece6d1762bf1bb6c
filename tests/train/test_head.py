"""Training a commit head: the states that it sees are those of decoding, it learns, and its file is found and refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from unmask.decode.commit_head import FACTS, logits
from unmask.decode.rules import Threshold
from unmask.models import commit_head, loading
from unmask.models.toy import CONFIGS, EOS, toy
from unmask.train import checkpoint
from unmask.train.head import Answer, HeadConfig, Lesson, fit, joined, measured, read_answers, train_head, walk
from unmask.train.tokenizer import build, save, vocabulary

MIXTURE = {"chain": 1.0}


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
@pytest.mark.parametrize("prompt", [5, 8])
def test_the_states_of_a_walk_are_those_of_a_decode(family: str, prompt: int) -> None:
    """Over vanilla's own answers a rule that takes the surest alone finds it right at every step, as vanilla did."""
    model = toy(family, seed=5, sharpness=3, dtype=torch.float64)
    method = unmask.method("vanilla", cache="none", **({} if model.spec.block else {"block_length": 8}))
    asked = [list(range(first, first + prompt)) for first in (0, 3)]
    answers = []
    for question, done in zip(asked, unmask.generate(model, asked, method=method, max_new_tokens=16), strict=True):
        end = done.token_ids.index(EOS) if EOS in done.token_ids else 15
        answers.append(Answer((*question, *done.token_ids), prompt, prompt + end))
    lessons = list(walk(model, Threshold(threshold=1.0), answers[:1], 8))
    assert len(lessons) == answers[0].end - prompt + 1
    for lesson in lessons:
        assert lesson.right_N[lesson.facts_NF[:, 0].argmax()]
    both = joined(list(walk(model, Threshold(threshold=1.0), answers, 8)))
    assert len(both.right_N) == sum(
        len(lesson.right_N) for answer in answers for lesson in walk(model, Threshold(threshold=1.0), [answer], 8)
    )


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_a_walk_ends_and_writes_only_the_answer(threshold: float) -> None:
    """Over an answer that the model would never give: a position goes at each step all the same, and none twice."""
    model = toy("llada", seed=5, sharpness=3)
    answer = Answer((1, 2, 3, 9, 4, 9, 4, 9, EOS, EOS, EOS), 3, 8)
    lessons = list(walk(model, Threshold(threshold=threshold), [answer], 4))
    counts = [len(lesson.right_N) for lesson in lessons]
    (second,) = (place for place in range(1, len(counts)) if counts[place] >= counts[place - 1])  # else fewer at each step
    assert (counts[0], counts[second]) == (4, 2)  # of the second block only what is needed up to EOS


def lesson(count: int, seed: int) -> Lesson:
    """What is final hangs on one number of the hidden state, which is far from the origin; confidences say nothing."""
    generator = torch.Generator().manual_seed(seed)
    hidden_NC = 50 + 20 * torch.randn(count, 6, generator=generator)
    return Lesson(hidden_NC, torch.randn(count, FACTS, generator=generator), hidden_NC[:, 2] > 50)


def test_a_head_learns_what_the_hidden_state_says() -> None:
    config = HeadConfig(model="", candidates="", width=8, steps=300, sample=256, learning_rate=0.02)
    weights, held = fit(lesson(2000, 0), config), lesson(1000, 1)
    said_N = logits(weights, held.hidden_NC, held.facts_NF) > 0
    assert (said_N == held.right_N).float().mean() > 0.95
    words = measured(weights, held, 0.9)
    assert words.startswith("takes ")
    assert "right; as many by confidence: " in words
    again = fit(lesson(2000, 0), config)
    assert all(torch.equal(*pair) for pair in zip(weights, again, strict=True))


@pytest.fixture(params=["LLaDAModelLM", "SDARForCausalLM"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An untrained checkpoint with a tokenizer."""
    tokenizer = build(vocabulary(MIXTURE), model_max_length=256)
    config = {**CONFIGS["llada" if "LLaDA" in request.param else "sdar"], "vocab_size": len(tokenizer)}
    config |= {"eos_token_id": 1, "mask_token_id": 2, "pad_token_id": 1, "embedding_size": len(tokenizer)}
    network = loading.build(config, Path(request.param)).to_empty(device="cpu")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    place = tmp_path / "checkpoint"
    checkpoint.export(dict(network.state_dict()), config, place)
    save(tokenizer, place)
    return place


def candidates(path: Path, weights: str, right: int = 20) -> Path:
    tokenizer = build(vocabulary(MIXTURE), model_max_length=256)
    lines: list[dict[str, Any]] = [{"provenance": {"weights": weights, "max_new_tokens": 32}}]
    for number in range(24):
        ids = tokenizer.encode(f"{number} + 2 = {number + 2}.")
        lines.append(
            {"id": number, "prompt": f"Compute {number} + 2.", "candidates": [{"right": number < right, "token_ids": ids}]}
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_training_writes_a_file_that_the_model_finds(folder: Path, tmp_path: Path) -> None:
    path = candidates(tmp_path / "candidates.jsonl", loading.fingerprint(folder))
    settings = {"model": str(folder), "candidates": str(path), "passes": 2, "steps": 3, "width": 4, "block_length": 16}
    said: list[str] = []
    made = train_head(HeadConfig.from_dict(settings), lambda done, text: said.append(text))
    assert made == folder / commit_head.FILE
    assert len(said) == 2
    model = unmask.load(folder)
    method = unmask.method("r2-dllm", commit={"rule": "learned", "threshold": 0.8}, block_length=16)
    if model.spec.block:
        method = unmask.method("r2-dllm", commit={"rule": "learned", "threshold": 0.8})
    assert unmask.generate(model, ["Compute 3 + 4."], method=method, max_new_tokens=32)[0].commits["learned"] > 0
    elsewhere = train_head(HeadConfig.from_dict(settings | {"output": str(tmp_path / "new" / "head.safetensors")}))
    assert elsewhere.read_bytes() == made.read_bytes()


def test_answers_of_other_weights_or_too_few_are_refused(folder: Path, tmp_path: Path) -> None:
    def config(path: Path) -> HeadConfig:
        return HeadConfig(model=str(folder), candidates=str(path))

    with pytest.raises(unmask.ConfigError, match="collect them with this model"):
        train_head(config(candidates(tmp_path / "other.jsonl", "0123456789abcdef")))
    with pytest.raises(unmask.ConfigError, match="15 prompts have a right answer: a head needs at least 16"):
        train_head(config(candidates(tmp_path / "few.jsonl", loading.fingerprint(folder), right=15)))
    kept = read_answers(config(candidates(tmp_path / "all.jsonl", "x")), unmask.load(folder), "x")
    assert len(kept) == 20
    assert kept[0].tokens[kept[0].end] == 1
    assert len(kept[0].tokens) == kept[0].prompt + 32


def test_bad_settings_are_named() -> None:
    for changes, said in (
        ({"limits": 3}, "did you mean 'limit'"),
        ({"passes": 0}, "passes"),
        ({"threshold": "x"}, "threshold"),
    ):
        with pytest.raises(unmask.ConfigError, match=said):
            HeadConfig.from_dict({"model": "m", "candidates": "c"} | changes)
