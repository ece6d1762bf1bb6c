"""A dataset's lines: what each asks, and that whatever is wrong with one is its answer and nothing else's trouble."""

import contextlib
import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import unmask
from unmask.engine.generate import answer as complete
from unmask.engine.generate import make_request
from unmask.engine.state import RequestState
from unmask.models.toy import toy
from unmask.serve.lines import ANSWER, KEYS, OPTIONS, QUESTIONS, Job, answer, label, parse, refusal, request, scan

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
TOY, TINY = toy(), unmask.load()


@pytest.fixture
def model() -> unmask.Denoiser:
    return TINY


def job(**changes: Any) -> Job:
    return Job(**{"model": "unmask-tiny", "method": unmask.method("vanilla"), **changes})


def test_a_prompt_and_a_chat_of_one_turn_ask_the_same(model: unmask.Denoiser) -> None:
    asked = make_request(model, QUESTION, method="vanilla")
    assert request(model, {"prompt": QUESTION}, job()) == asked
    assert request(model, {"messages": [{"role": "user", "content": QUESTION}]}, job()) == asked
    assert request(model, {"token_ids": list(asked.prompt)}, job()) == asked


def test_a_line_wins_over_the_command_and_the_command_over_the_method() -> None:
    settings = unmask.method("fast-dllm", temperature=0.7, max_new_tokens=96)
    made = request(
        TOY, {"token_ids": [1], "top_k": 3, "seed": 5, "max_new_tokens": None}, job(method=settings, top_p=0.5, seed=4)
    )
    assert (made.temperature, made.max_new_tokens, made.top_p, made.top_k, made.seed) == (0.7, 96, 0.5, 3, 5)
    assert made.method.commit == settings.commit
    made = request(TOY, {"token_ids": [1], "method": "r2-dllm", "max_new_tokens": 32}, job(method=settings, temperature=0.2))
    assert (made.method.name, made.temperature, made.max_new_tokens) == ("r2-dllm", 0.2, 32)
    made = request(TOY, {"token_ids": [1], "method": {"commit": {"rule": "threshold", "threshold": 0.6}}}, job())
    assert made.method.commit == unmask.method("fast-dllm", threshold=0.6).commit


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "not JSON"),
        ('{"prompt": "a"', "not JSON"),
        ("[" * 10**5, "not JSON"),
        ("[1]", r'expected an object such as {"prompt": "..."}, got \[1\]'),
        ("{}", "one of prompt, messages, token_ids, canvas; this one has none"),
        ('{"prompt": "a", "token_ids": [1]}', "this one has prompt and token_ids"),
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"prompt": [1, 2]}', r"prompt must be a string, got \[1, 2\]; token ids go under token_ids"),
        ('{"prompt": "<|mask|>"}', "mask id"),
        (json.dumps({"prompt": "apples " * 600}), "exceed the model's 512"),
        ('{"prompt": "a\\ud800b"}', "half a letter"),
        ('{"token_ids": "abc"}', "token_ids must be a list of whole numbers"),
        ('{"token_ids": [1, true]}', "token_ids must be a list of whole numbers"),
        ('{"token_ids": []}', "the prompt is empty"),
        ('{"token_ids": [999999]}', "the id 999999: ids run from 0"),
        ('{"messages": []}', "the chat holds no text"),
        ('{"messages": [{"role": "user"}]}', r'messages must be a list of {"role": "...", "content": "..."}'),
        ('{"prompt": "a", "temperature": "hot"}', "temperature must be a number"),
        ('{"prompt": "a", "seed": -1}', "seed must be a whole number"),
        ('{"prompt": "a", "stop": "x"}', "stop must be a list of strings"),
        ('{"prompt": "a", "stop": 3}', "stop must be a list of strings"),
        ('{"prompt": "a", "method": "r2dllm"}', "did you mean 'r2-dllm'"),
        ('{"prompt": "a", "method": "mine.yaml"}', "unknown method 'mine.yaml'"),
        ('{"prompt": "a", "method": 3}', "method must be a preset or a mapping"),
        ('{"prompt": "a", "method": {"treshold": 1}}', "treshold"),
        ('{"prompt": "a", "regex": "a(b"}', r"a \( is not closed"),
        ('{"prompt": "a", "regex": "a", "choice": ["a", "b"]}', "regex and choice: an answer can be held to one of them"),
        ('{"prompt": "a", "json_schema": {"not": {}}}', r"at \$: not is not supported"),
        ('{"prompt": "a", "regex": "a{400}", "max_new_tokens": 32}', "needs at least"),
        ('{"canvas": ["a", {"hole": 2}], "regex": "a"}', "canvas"),
    ],
)
def test_a_bad_line_says_what_is_wrong_with_it(model: unmask.Denoiser, line: str, words: str) -> None:
    with pytest.raises(unmask.UnmaskError, match=words) as raised:
        RequestState.start(request(model, parse(line.encode()), job()), model)
    assert len(refusal(raised.value)["error"].splitlines()) == 1


def test_a_line_may_say_what_its_answer_is_to_be_and_comes_before_the_command(model: unmask.Denoiser) -> None:
    said = {"regex": "[0-9]{3}", "json_schema": {"type": "boolean"}, "choice": ["yes", "no"]}
    for name, value in said.items():
        made = request(model, {"prompt": "a", name: value}, job(regex="a+"))
        assert made.constraint is not None
        assert made.constraint.possible([model.spec.mask_id] * 32)
        assert made.constraint.automaton is not request(model, {"prompt": "a"}, job(regex="a+")).constraint.automaton  # type: ignore[attr-defined]
    assert request(model, {"prompt": "a"}, job()).constraint is None


def test_what_the_model_lacks_is_said() -> None:
    with pytest.raises(unmask.RequestError, match="toy-llada has no chat template: give a plain prompt or token ids"):
        request(TOY, {"messages": [{"role": "user", "content": "a"}]}, job())
    with pytest.raises(unmask.ConfigError, match="toy-llada has no tokenizer"):
        request(TOY, {"prompt": "a"}, job())


def test_the_word_of_a_chat_template_is_passed_on(model: unmask.Denoiser) -> None:
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('turns must alternate') }}"
    picky = dataclasses.replace(model, tokenizer=tokenizer)
    with pytest.raises(unmask.RequestError, match="the model's chat template refuses the turns: turns must alternate"):
        request(picky, {"messages": [{"role": "user", "content": "a"}]}, job())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "rule", "commit"]), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(QUESTIONS), st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
@example("prompt", {"method": {"commit": {"rule": []}}})
@example("prompt", {"stop": 3})
@example("token_ids", {"token_ids": [10**30]})
@example("canvas", {"canvas": [{"hole": 2**62}, "a", [10**30]], "method": {"block_length": 2**62}})
@example("canvas", {"prompt": 3})
@example("canvas", {"canvas": [{"hole": []}], "blind": 3})
@example("prompt", {"max_new_tokens": 10**30})
@example("prompt", {"method": {"commit": {"rule": "quota", "steps": 10**30}}})
def test_any_line_is_a_request_or_a_mistake_of_the_user(kind: str, row: dict[str, Any]) -> None:
    """Whatever JSON stands under our keys: nothing but our own errors, so that no line can end a run."""
    model = TOY if kind == "token_ids" else TINY
    sound = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "token_ids": [1], "canvas": ["a", {"hole": 2}]}[
        kind
    ]
    with contextlib.suppress(unmask.UnmaskError):
        RequestState.start(request(model, parse(json.dumps({kind: sound, **row}).encode()), job()), model)


def test_a_line_may_be_a_canvas_alone_or_as_the_answer_of_a_chat(model: unmask.Denoiser) -> None:
    parts = ["Mia has", {"hole": 2}, " apples.", {"hole": 9, "end": "early"}]
    for chat in ({}, {"prompt": QUESTION}, {"messages": [{"role": "user", "content": QUESTION}]}):
        asked = request(model, {"canvas": parts, **chat}, job(max_new_tokens=64))
        canvas = unmask.canvas(
            "Mia has", unmask.hole(2), " apples.", unmask.hole(9, end="early"), chat=QUESTION if chat else None
        )
        assert asked == make_request(model, canvas, method=job().method)
    with pytest.raises(unmask.ConfigError, match="max_new_tokens"):
        request(model, {"canvas": parts, "max_new_tokens": 32}, job())
    with pytest.raises(unmask.RequestError, match="token_ids and canvas"):
        request(model, {"canvas": parts, "token_ids": [3]}, job())
    (done,) = complete(model, [asked])
    assert answer(done)["holes"] == done.holes
    told = json.loads(json.dumps(answer(done, steps=True)))["steps"]
    assert told == [[step.forward, step.rule, step.confidence] for step in done.steps]
    assert "steps" in job(steps=True).to_dict()
    assert "steps" not in job().to_dict()


def test_an_answer_has_an_id_what_is_kept_and_the_fields_of_generate(model: unmask.Denoiser) -> None:
    assert label(6, {}, []) == {"id": 7}
    assert label(6, {"id": None}, ["x"]) == {"id": 7}
    assert label(6, {"id": "q", "x": [1], "y": 2}, ["x", "z"]) == {"id": "q", "x": [1]}
    done = unmask.generate(model, [QUESTION], max_new_tokens=32)[0]
    assert answer(done) == {name: getattr(done, name) for name in ANSWER}
    assert set(ANSWER) >= {"text", "token_ids", "forwards", "tokens_per_forward", "seconds", "finish_reason", "tokens"}


@given(
    st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=8).map(str.encode), max_size=6),
    st.booleans(),
)
def test_every_line_of_a_file_has_its_place(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool) -> None:
    path = tmp_path_factory.mktemp("lines") / "in.jsonl"
    text = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    path.write_bytes(text)
    source = scan(path, [])
    read = [text[begin:end] for begin, end in zip(source.starts, source.starts[1:], strict=False)]
    assert b"".join(read) == text
    assert len(read) == len(source) == text.count(b"\n") + (not text.endswith(b"\n") and text != b"")
    assert all(line.endswith(b"\n") for line in read[:-1])


def test_a_key_that_nobody_knows_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a", "label": 1}\nnot json\n{"prompt": "b", "temprature": 1}\n')
    with pytest.raises(unmask.ConfigError, match=r"in.jsonl:1: unknown key 'label'.*--keep label carries it along"):
        scan(path, [])
    with pytest.raises(unmask.ConfigError, match=r"in.jsonl:3: unknown key 'temprature': did you mean 'temperature'"):
        scan(path, ["label"])
    assert len(scan(path, ["label", "temprature"])) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep": ("text",)}, "keep text: every answer has a field of that name"),
        ({"keep": ("error",)}, "keep error"),
        ({"method": unmask.method("vanilla", steps=3)}, "steps 3 is not a multiple of the 4 blocks"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"regex": "a(b"}, "is not closed"),
        ({"json_schema": "{}", "regex": "a"}, "one of them"),
    ],
)
def test_a_mistake_of_the_command_is_told_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(unmask.UnmaskError, match=words):
        job(**changes).check(TOY)


def test_a_block_causal_model_answers_in_any_number_of_tokens() -> None:
    """Its last block is cut, so no block length of a preset has to divide the answer."""
    job(max_new_tokens=100).check(toy("sdar"))


def test_a_job_is_told_from_any_other() -> None:
    assert set(OPTIONS) <= set(job().to_dict())
    others = [job(seed=1), job(keep=("x",)), job(method=unmask.method("vanilla", block_length=16)), job(stop=("a",))]
    others.append(job(regex="a"))
    assert len({json.dumps(one.to_dict()) for one in [job(), *others]}) == 6
    assert "regex" not in job().to_dict()  # as journals from before there was one
