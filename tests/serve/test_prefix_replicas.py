"""Two replicas of a block-causal model in processes of their own: what begins alike goes to the same one."""

from pathlib import Path
from typing import Any

import pytest

from tests.serve.live import until
from tests.serve.test_replicas import ROOT, Replicated

pytestmark = pytest.mark.slow

MODEL = str(ROOT / "tests" / "golden_block" / "models" / "sdar-seed7")


def ask(server: Replicated, prompt: list[int]) -> int:
    """Its cached tokens."""
    answer = server.client.completions.create(model=MODEL, prompt=prompt, max_tokens=8)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    return answer.usage.prompt_tokens_details.cached_tokens or 0


def test_requests_that_begin_alike_go_to_the_same_replica(tmp_path: Path) -> None:
    server = Replicated(tmp_path, MODEL)
    try:

        def ended() -> list[tuple[int, dict[str, Any]]]:
            return [(pid, about) for pid, about in server.log() if about["path"] == "/v1/completions"]

        def same(beginning: int) -> bool:
            """Whether eight requests of a new beginning go to one replica, and all but the first find it there."""
            before = len(ended())
            cached = [ask(server, [beginning] * 128 + [10 + place] * 9) for place in range(8)]
            until(lambda: len(ended()) == before + 8)
            return len({pid for pid, _ in ended()[before:]}) == 1 and min(cached[1:]) == 128

        beginnings = iter(range(20, 250))
        until(lambda: same(next(beginnings)))  # once Ray has asked the replicas whether they share
        assert all(same(next(beginnings)) for _ in range(4))
        for beginning in range(10):  # each of another beginning: both are used
            ask(server, [beginning] * 200)
        until(lambda: {pid for pid, _ in ended()} == server.replicas())
    finally:
        server.end()
