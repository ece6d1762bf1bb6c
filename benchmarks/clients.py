"""Clients of a server for `load.py`: requests of every kind, and whether the server answers as `unmask.generate` does."""

import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

import unmask
from unmask import tasks
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request's body, and the right answer: text, tokens, forwards, finish reason."""

    body: dict[str, Any]
    right: tuple[str, int, int, str]


def cases(model: Denoiser, count: int, seed: int) -> Iterator[Case]:
    """Requests of every kind, no two of them alike."""
    rng, methods = random.Random(seed), itertools.cycle(TABLE)
    for problem in itertools.islice(tasks.problems(dict.fromkeys(tasks.TASKS, 1.0), "test", seed), count):
        method, length = next(methods), rng.choice((64, 96, 128))
        temperature, sample = rng.choice((0.0, 0.0, 0.7, 1.2)), rng.randrange(1000)
        stop = rng.choice((None, None, None, ["."], [" is ", "7"]))
        alone = unmask.generate(
            model,
            [problem.question],
            method=method,
            max_new_tokens=length,
            temperature=temperature,
            seed=sample,
            stop=stop,
        )[0]
        body = {
            "messages": [{"role": "user", "content": problem.question}],
            "max_tokens": length,
            "temperature": temperature,
            "seed": sample,
            "stop": stop,
            "diffusion": {"method": method},
        }
        if rng.random() < 0.5:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        yield Case(body=body, right=(alone.text, alone.tokens, alone.forwards, alone.finish_reason))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """When a right answer was asked for and complete, when the first text of a stream came, and its number of tokens."""

    began: float
    ended: float
    first: float | None
    tokens: int

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def share(self, end: float) -> float:
        """The share of its time that falls before `end`.

        >>> Answer(began=1.0, ended=5.0, first=None, tokens=9).share(4.0)
        0.75
        """
        return min(1.0, max(0.0, end - self.began) / self.seconds)


class Wrong(Exception):
    """The response is not the right answer, or there is none."""


async def ask(http: httpx2.AsyncClient, case: Case) -> Answer:
    """One request. Raises Wrong or httpx2.HTTPError."""
    began, first, text, reason, usage = time.perf_counter(), None, "", None, None
    async with http.stream("POST", "/v1/chat/completions", json=case.body) as response:
        if response.status_code != 200:
            raise Wrong(f"status {response.status_code}: {(await response.aread()).decode(errors='replace')}")
        if "stream" not in case.body:
            answer = json.loads(await response.aread())
            choice = answer["choices"][0]
            usage, text, reason = answer["usage"], choice["message"]["content"], choice["finish_reason"]
        else:
            async for line in response.aiter_lines():
                if not line or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise Wrong(event["error"]["message"])
                usage = event.get("usage", usage)
                for choice in event["choices"]:
                    fresh = choice["delta"].get("content", "")
                    first = time.perf_counter() if fresh and first is None else first
                    text, reason = text + fresh, choice["finish_reason"]
    if usage is None:
        raise Wrong("the stream broke off")
    got = (text, usage["completion_tokens"], usage["forwards"], reason)
    if got != case.right:
        raise Wrong(f"expected {case.right}, got {got} for {json.dumps(case.body)}")
    return Answer(began=began, ended=time.perf_counter(), first=first, tokens=usage["completion_tokens"])
