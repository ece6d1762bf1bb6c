"""Records of every shape, through chat templates, to tokens of which the model learns the assistant's alone."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from unmask.data.layout import training
from unmask.data.records import records
from unmask.engine.prompt import chat
from unmask.errors import RequestError
from unmask.models.denoiser import Denoiser
from unmask.train.conversation import Turn, encode, turns

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 3 + 4?"},
    {"role": "assistant", "content": "It is 7."},
    {"role": "user", "content": "And 2 more?"},
    {"role": "assistant", "content": "It is 9."},
]
# ChatML, with a reasoning model's habits: thoughts before the last answer alone, and text behind the end of a turn.
THINKING = (
    "{% for m in messages %}<|user|>{{ m.role }}: {% if m.role == 'assistant' and loop.last %}Hm. {% endif %}"
    "{{ m.content }}<|eos|>\n{% endfor %}{% if add_generation_prompt %}<|user|>assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return unmask.load("unmask-tiny")


def templated(model: Denoiser, template: str | None) -> Denoiser:
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = template
    return Denoiser(network=model.network, tokenizer=tokenizer, name="m")


def said(model: Denoiser, values: dict[str, Any]) -> list[list[tuple[str, bool, str]]]:
    return [
        [(piece.role, piece.learned, model.tokenizer.decode(piece.tokens)) for piece in pieces]
        for pieces in encode(model, turns(values))
    ]


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "7"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "3 + "}, {"type": "text", "text": "4?"}]},
                      {"role": "assistant", "content": "7"}, {"role": "user", "content": "Thanks"}]},
        {"prompt": "3 + 4?", "completion": "7"},
        {"prompt": [{"role": "user", "content": "3 + 4?"}], "completion": [{"role": "assistant", "content": "7"}]},
        {"prompt": "3 + 4?", "response": "7", "source": "made up"},
        {"instruction": "3 + 4?", "input": "", "output": "7"},
        {"question": "3 + 4?", "answer": "7"},
    ],
)  # fmt: skip
def test_every_shape_is_the_same_conversation(values: dict[str, Any]) -> None:
    assert turns(values) == [Turn("user", "3 + 4?", False), Turn("assistant", "7", True)]


def test_what_belongs_to_a_shape() -> None:
    made = turns({"instruction": "Add.", "input": "3 and 4", "output": "7", "system": "Be brief."})
    assert [turn.content for turn in made] == ["Be brief.", "Add.\n\n3 and 4", "7"]
    weighted = copy.deepcopy(TALK)
    weighted[2]["weight"] = 0  # type: ignore[assignment]
    assert [turn.learned for turn in turns({"messages": weighted})] == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, 'expected "messages", or "prompt" and "completion"'),
        ({"text": "Hi"}, "got text"),
        ({"prompt": "Hi"}, "expected"),
        ({"messages": "Hi"}, "must be a list"),
        ({"messages": []}, "must be a list"),
        ({"messages": TALK[:2]}, "nothing to learn"),
        ({"messages": [*TALK[:2], {"role": "assistant", "content": None}]}, "must be text, got None"),
        ({"messages": [*TALK[:2], {"role": "assistant", "content": " "}]}, "is empty"),
        ({"messages": [{"content": "Hi"}]}, "must be a list of"),
        ({"prompt": "half \ud83d", "completion": "x"}, "half a letter"),
        ({"prompt": "Hi", "completion": 7}, "must be text, got 7"),
    ],
)
def test_a_broken_record_says_what_is_wrong(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        turns(values)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_every_answer_is_learned_to_the_end_of_its_turn(model: Denoiser) -> None:
    (pieces,) = said(model, {"messages": TALK})
    assert pieces == [
        ("system", False, "<|user|> Be brief."),
        ("user", False, "<|user|> What is 3 + 4?"),
        ("assistant", False, "<|assistant|>"),
        ("assistant", True, "It is 7.<|eos|>"),
        ("user", False, "<|user|> And 2 more?"),
        ("assistant", False, "<|assistant|>"),
        ("assistant", True, "It is 9."),  # EOS fills the row
    ]


def test_training_sees_the_tokens_that_decoding_sees(model: Denoiser) -> None:
    (pieces,) = encode(model, turns({"messages": TALK}))
    for answer in (3, 6):
        before = [token for piece in pieces[:answer] for token in piece.tokens]
        assert tuple(before) == chat(model, TALK[: 2 if answer == 3 else 4])


def test_a_template_that_rewrites_answers_makes_an_example_of_each(model: Denoiser) -> None:
    first, second = said(templated(model, THINKING), {"messages": TALK})
    assert [piece for piece in first if piece[1]] == [("assistant", True, "Hm. It is 7.")]
    assert [piece for piece in second if piece[1]] == [("assistant", True, "Hm. It is 9.")]
    assert "It is 7." in "".join(text for _, _, text in second)


def test_an_answer_ends_with_the_end_of_its_turn_where_that_is_not_the_filler(model: Denoiser) -> None:
    """As LLaDA-8B's <|eot_id|>, which its answers have before the EOS; here <|user|> stands for it."""
    template = (
        "{% for m in messages %}<|assistant|>{{ m.role }}: {{ m.content }}<|user|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>assistant: {% endif %}"
    )
    spec = replace(model.spec, turn_ids=(model.tokenizer.convert_tokens_to_ids("<|user|>"),))
    ending: Any = SimpleNamespace(spec=spec, tokenizer=templated(model, template).tokenizer, name="m")
    (pieces,) = said(ending, {"messages": TALK})
    assert [text for _, learned, text in pieces if learned] == ["It is 7.<|user|>", "It is 9.<|user|>"]


def test_text_behind_the_end_of_a_turn_is_not_learned(model: Denoiser) -> None:
    (pieces,) = said(templated(model, THINKING.replace("Hm. ", "")), {"messages": TALK})
    assert [text for _, learned, text in pieces if learned] == ["It is 7.<|eos|>", "It is 9."]
    assert any(text.startswith(("\n", " \n")) or text.strip() == "" for _, learned, text in pieces if not learned)


def test_without_a_template_a_pair_is_plain_text(model: Denoiser) -> None:
    plain = templated(model, None)
    assert said(plain, {"prompt": "3 + 4 is", "completion": "7."}) == [[("user", False, "3 + 4 is"), ("assistant", True, "7.")]]
    with pytest.raises(RequestError, match="no chat template"):
        said(plain, {"messages": TALK})


def test_what_a_model_cannot_take(model: Denoiser) -> None:
    with pytest.raises(RequestError, match=r"holds the mask token, <\|mask\|>"):
        said(model, {"prompt": "A <|mask|>?", "completion": "x"})
    for template, words in (
        ("{{ raise_exception('no system') }}", "refuses the turns"),
        ("{{ messages[0].content.nothing.more }}", "refuses the turns"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}!{% endif %}", "behind the prompt"),
    ):
        with pytest.raises(RequestError, match=words):
            said(templated(model, template), {"messages": TALK})


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text("ab 12.", min_size=1), st.text("ab 12.", min_size=1)), min_size=1, max_size=4))
def test_pieces_are_the_conversation_and_nothing_else(pairs: list[tuple[str, str]]) -> None:
    talk = [
        {"role": role, "content": text + "."} for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    model = unmask.load("unmask-tiny")
    (pieces,) = encode(model, turns({"messages": talk}))
    whole = model.tokenizer.apply_chat_template(talk, tokenize=False)
    assert [token for piece in pieces for token in piece.tokens] + [1] == model.tokenizer.encode(whole)
    assert sum(piece.learned for piece in pieces) == len(pairs)


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_and_folders(tmp_path: Path) -> None:
    row = {"prompt": "3 + 4?", "completion": "7", "system": None}
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n\n" + json.dumps(row).encode())
    (tmp_path / "a.json").write_text(json.dumps([row, 3]))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([row | {"messages": None}, {"messages": TALK}]), tmp_path / "deep" / "c.parquet"
    )
    (tmp_path / "notes.txt").write_text("not data")
    found = training(str(tmp_path))
    assert [path.name for path in found] == ["a.json", "b.jsonl", "c.parquet"]
    read = [record for path in found for record in records(path)]
    assert [record.where.removeprefix(f"{tmp_path}/") for record in read] == [
        "a.json: entry 1", "a.json: entry 2", "b.jsonl:1", "b.jsonl:3", "deep/c.parquet:1", "deep/c.parquet:2",
    ]  # fmt: skip
    assert [record.error is None for record in read] == [True, False, True, True, True, True]
    assert [len(turns(record.values)) for record in read if not record.error] == [2, 2, 2, 2, 5]
    assert training([str(tmp_path / "b.jsonl"), str(tmp_path / "a.json")]) == [tmp_path / "b.jsonl", tmp_path / "a.json"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(unmask.ConfigError, match="holds no file that ends in"):
        training(str(tmp_path / "empty"))
    (tmp_path / "a.json").write_text("[1, 2")
    with pytest.raises(unmask.ConfigError, match="begins like a JSON list"):
        list(records(tmp_path / "a.json"))
