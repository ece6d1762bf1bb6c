"""The official client against a live server: answers are those of `unmask.generate`, whatever else is being served."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

import unmask
from tests.serve.live import CHAT, QUESTION, Live
from unmask.methods import TABLE

ANSWER = "Mia starts with 23 apples. On Monday Mia buys 8, so 23 + 8 = 31. So Mia has 31 apples. The answer is 31."


def alone(live: Live, prompt: str | list[int] = QUESTION, **options: Any) -> unmask.Completion:
    return unmask.generate(live.model, [prompt], **options)[0]


def test_a_chat_is_answered_and_its_cost_reported(live: Live) -> None:
    response = live.client().chat.completions.create(model="unmask-tiny", messages=CHAT, max_tokens=64)
    expected = alone(live, max_new_tokens=64)
    assert response.choices[0].message.content == expected.text == ANSWER
    assert response.choices[0].message.role == "assistant"
    assert response.choices[0].finish_reason == "stop"
    assert (response.object, response.model) == ("chat.completion", "unmask-tiny")
    usage = response.usage
    assert usage is not None
    prompt = len(live.model.tokenizer.encode(QUESTION)) + 2  # the user's mark and the assistant's
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, expected.tokens)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.forwards == expected.forwards
    assert usage.tokens_per_forward == pytest.approx(expected.tokens_per_forward)


def test_an_answer_goes_back_as_a_turn_of_the_next_request(live: Live) -> None:
    client = live.client()
    first = client.chat.completions.create(model="unmask-tiny", messages=CHAT, max_tokens=64).choices[0].message
    again = {"role": "user", "content": [{"type": "text", "text": "And how many "}, {"type": "text", "text": "pears?"}]}
    response = client.chat.completions.create(model="unmask-tiny", messages=[*CHAT, first.model_dump(), again], max_tokens=32)
    turns = [*CHAT, {"role": "assistant", "content": first.content}, {"role": "user", "content": "And how many pears?"}]
    text = live.model.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = live.model.tokenizer.encode(text, add_special_tokens=False)
    assert response.choices[0].message.content == alone(live, ids, max_new_tokens=32).text


@pytest.mark.parametrize("name", TABLE)
def test_every_preset_for_one_request_alone(live: Live, name: str) -> None:
    response = live.client().chat.completions.create(
        model="unmask-tiny", messages=CHAT, max_tokens=64, extra_body={"diffusion": {"method": name}}
    )
    expected = alone(live, method=name, max_new_tokens=64)
    assert response.choices[0].message.content == expected.text
    assert response.usage is not None
    assert response.usage.forwards == expected.forwards


@pytest.mark.parametrize(
    ("diffusion", "method"),
    [
        ({"method": "r2-dllm", "threshold": 0.6, "cache": "prefix"}, unmask.method("r2-dllm", threshold=0.6, cache="prefix")),
        ({"method": "fast-dllm", "draft_steps": 3}, unmask.method("fast-dllm", draft_steps=3)),
        ({"method": unmask.method("streaming-dllm").to_dict()}, unmask.method("streaming-dllm")),
        (
            {"method": "r2-dllm", "max_new_tokens": 32, "temperature": 1.0},
            unmask.method("r2-dllm", max_new_tokens=32, temperature=1.0),
        ),
    ],
)
def test_settings_for_one_request_alone(live: Live, diffusion: dict[str, Any], method: unmask.Method) -> None:
    response = live.client().chat.completions.create(
        model="unmask-tiny", messages=CHAT, seed=4, extra_body={"diffusion": diffusion}
    )
    expected = alone(live, method=method, seed=4)
    assert response.choices[0].message.content == expected.text
    assert response.usage is not None
    assert response.usage.forwards == expected.forwards


def test_a_completion_goes_on_with_any_prompt_as_it_is(live: Live) -> None:
    ids = live.model.tokenizer.encode("Mia has 4 apples.")
    other = live.model.tokenizer.encode("Ben finds 2 pears and 3 plums.")
    expected = {tuple(prompt): alone(live, prompt, max_new_tokens=32).text for prompt in (ids, other)}
    client = live.client()
    for prompt, wanted in [
        ("Mia has 4 apples.", [ids]),
        (["Mia has 4 apples.", "Ben finds 2 pears and 3 plums."], [ids, other]),
        (ids, [ids]),
        ([other, ids], [other, ids]),
    ]:
        response = client.completions.create(model="unmask-tiny", prompt=prompt, max_tokens=32)
        assert response.object == "text_completion"
        assert [choice.text for choice in response.choices] == [expected[tuple(one)] for one in wanted]
        assert [choice.index for choice in response.choices] == list(range(len(wanted)))
        assert response.usage is not None
        assert response.usage.prompt_tokens == sum(map(len, wanted))


def test_n_choices_are_those_of_n_seeds(live: Live) -> None:
    response = live.client().completions.create(
        model="unmask-tiny", prompt=["Mia", "Ben has"], n=3, seed=7, temperature=1.5, top_p=0.9, max_tokens=32
    )
    expected = [
        alone(live, live.model.tokenizer.encode(prompt), temperature=1.5, top_p=0.9, seed=seed, max_new_tokens=32).text
        for prompt in ("Mia", "Ben has")
        for seed in (7, 8, 9)
    ]
    assert [choice.text for choice in response.choices] == expected
    assert len(set(expected)) > 2
    assert response.usage is not None
    assert response.usage.prompt_tokens == sum(len(live.model.tokenizer.encode(prompt)) for prompt in ("Mia", "Ben has"))


def test_without_a_seed_samples_differ(live: Live) -> None:
    create = live.client().completions.create
    texts = {create(model="unmask-tiny", prompt="Mia", temperature=2.0, max_tokens=32).choices[0].text for _ in range(8)}
    assert len(texts) > 1


@pytest.mark.parametrize("limit", [1, 7, 31, 33, 100])
def test_max_tokens_is_any_number(live: Live, limit: int) -> None:
    """The canvas is rounded up to whole blocks, the answer is cut where it was asked."""
    response = live.client().chat.completions.create(model="unmask-tiny", messages=CHAT, max_completion_tokens=limit)
    whole = alone(live, max_new_tokens=-(-limit // 32) * 32)
    assert response.usage is not None
    assert response.usage.completion_tokens == min(limit, whole.tokens)
    assert response.choices[0].finish_reason == ("stop" if whole.tokens < limit else "length")
    assert whole.text.startswith(response.choices[0].message.content or "")
    assert response.usage.forwards <= whole.forwards


def test_a_hundred_concurrent_clients_of_any_kind_get_what_they_would_get_alone(live: Live) -> None:
    rng = random.Random(1)
    kinds = [
        {
            "prompt": rng.choice(["Mia has 4 apples.", "Ben finds 2 pears and 3 plums.", "Ada", QUESTION]),
            "seed": rng.randrange(1000),
            "temperature": rng.choice([0.0, 0.7, 1.5]),
            "max_tokens": rng.choice([32, 64]),
            "method": rng.choice(list(TABLE)),
        }
        for _ in range(100)
    ]

    async def all_at_once() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(
                *(
                    client.completions.create(
                        model="unmask-tiny",
                        **{name: value for name, value in kind.items() if name != "method"},
                        extra_body={"diffusion": {"method": kind["method"]}},
                    )
                    for kind in kinds
                )
            )

    for kind, response in zip(kinds, asyncio.run(all_at_once()), strict=True):
        expected = alone(
            live,
            live.model.tokenizer.encode(kind["prompt"]),
            method=kind["method"],
            seed=kind["seed"],
            temperature=kind["temperature"],
            max_new_tokens=kind["max_tokens"],
        )
        assert response.choices[0].text == expected.text
        assert response.usage.forwards == expected.forwards


def test_the_model_is_listed_and_known_by_its_name(live: Live) -> None:
    client = live.client()
    assert [model.id for model in client.models.list()] == ["unmask-tiny"]
    assert client.models.retrieve("unmask-tiny").owned_by == "unmask"
    for ask in (
        lambda: client.models.retrieve("gpt-4o"),
        lambda: client.chat.completions.create(model="gpt-4o", messages=CHAT),
    ):
        with pytest.raises(openai.NotFoundError, match=r"no model 'gpt-4o' here: this server has 'unmask-tiny'"):
            ask()


def test_threads_of_one_client_share_it(live: Live) -> None:
    client = live.client()

    def ask(seed: int) -> str | None:
        response = client.chat.completions.create(model="unmask-tiny", messages=CHAT, seed=seed, temperature=1.0, max_tokens=64)
        return response.choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(ask, [1, 2, 3, 4] * 4))
    assert texts == [alone(live, seed=seed, temperature=1.0, max_new_tokens=64).text for seed in (1, 2, 3, 4)] * 4
