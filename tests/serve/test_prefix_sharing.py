"""What a server's clients see of shared prefixes: usage, metrics, and nothing of other keys' prompts."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.serve.live import Live, Serving
from unmask.engine.engine import Limits
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy
from unmask.serve.options import Options

PROMPT = [place % 7 for place in range(40)]  # two pages and a half


@pytest.fixture(scope="module")
def block_causal() -> Denoiser:
    return toy("sdar", seed=5, sharpness=3)


def asked(live: Live, prompt: Sequence[int] = PROMPT, *, key: str = "none", **fields: Any) -> tuple[int, list[str]]:
    """Cached tokens of an answer's usage, and the choices' ends."""
    response = live.client(key).completions.create(model=live.model.name, prompt=list(prompt), max_tokens=8, seed=1, **fields)
    assert response.usage is not None
    assert response.usage.prompt_tokens == len(prompt)
    assert response.usage.prompt_tokens_details is not None
    return response.usage.prompt_tokens_details.cached_tokens or 0, [choice.finish_reason for choice in response.choices]


def test_usage_and_metrics_say_what_was_saved(serving: Serving, block_causal: Denoiser) -> None:
    with serving(block_causal) as live:
        assert asked(live)[0] == 0
        assert asked(live)[0] == 32
        assert asked(live, [*PROMPT[:20], 9])[0] == 16
        cached, ends = asked(live, n=3)
        assert (cached, len(ends)) == (32, 3)  # of one prompt, and the prompt counts once
        with live.http() as client:
            lines = dict(line.split() for line in client.get("/metrics").text.splitlines() if line[0] != "#")
        assert float(lines["unmask_cached_tokens_total"]) == 32 + 16 + 3 * 32
        assert float(lines["unmask_pool_kept_pages"]) == live.engine.load.kept_pages > 0


@pytest.mark.parametrize(("across", "cached"), [(False, 0), (True, 32)])
def test_keys_share_only_where_the_operator_says_so(
    serving: Serving, block_causal: Denoiser, across: bool, cached: int
) -> None:
    options = Options(api_keys=("first", "second"), share_prefix_across_keys=across)
    with serving(block_causal, options=options) as live:
        assert asked(live, key="first")[0] == 0
        assert asked(live, key="second")[0] == cached
        assert asked(live, key="first")[0] == 32


def test_it_can_be_off(serving: Serving, block_causal: Denoiser) -> None:
    with serving(block_causal, Limits(prefix_cache=False)) as live:
        assert [asked(live)[0] for _ in range(2)] == [0, 0]
        assert live.engine.load.kept_pages == 0
