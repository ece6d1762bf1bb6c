"""Packed attention: one call for all lengths or one per length, with a loop in place of torch's kernel."""

import pytest
import torch
from torch import Tensor

import unmask
from tests.together import attend_together
from unmask.context.plan import assemble, entire
from unmask.kernels import varlen
from unmask.kernels.varlen import packed_attention
from unmask.models.toy import toy

Given = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The starts of each call."""
    return attend_together(monkeypatch, padded=False)


@pytest.mark.parametrize("groups", [1, 2])
def test_one_call_is_as_one_per_length(groups: int, calls: list[list[int]]) -> None:
    q, k, v = torch.randn(13, 4, 8), torch.randn(13, groups, 8), torch.randn(13, groups, 8)
    lengths = [(2, 4), (1, 5)]
    alone = packed_attention(q, k, v, lengths, None)
    assert calls == []
    together = packed_attention(q, k, v, lengths, torch.tensor([0, 4, 8, 13], dtype=torch.int32))
    assert calls == [[0, 4, 8, 13]]
    torch.testing.assert_close(together, alone)


def test_an_older_torch_has_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of 2.11 takes fewer key heads as they are, and never splits."""
    taken = []

    def plain(query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int) -> Tensor:
        taken.append((max_q, max_k))
        return torch.zeros_like(query)

    monkeypatch.setattr(varlen, "together", lambda x: True)
    monkeypatch.setattr(varlen, "_varlen", lambda: plain)
    q, k = torch.zeros(5, 4, 8), torch.zeros(5, 2, 8)
    packed_attention(q, k, k, [(1, 2), (1, 3)], torch.tensor([0, 2, 5], dtype=torch.int32))
    assert taken == [(3, 3)]


def test_a_plan_says_where_its_sequences_begin(calls: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a forward on a GPU; its queries lie by length."""
    queries = [entire([1] * length, 0, length) for length in (5, 3, 5)]
    _, plan = assemble(queries, device=torch.device("meta"))
    assert [len(run) for run in plan.starts] == [4]
    assert assemble(queries, device=torch.device("cpu"))[1].starts == ()
    model = toy("llada")
    tokens, plan = assemble(queries, device=model.device)
    expected = model.forward(tokens, plan, None)
    found = model.forward(tokens, plan._replace(starts=(torch.tensor([0, 3, 8, 13], dtype=torch.int32),)), None)
    assert calls == [[0, 3, 8, 13]] * model.network.shape.layers
    torch.testing.assert_close(found, expected)


def test_torch_has_the_function_and_it_takes_what_we_give() -> None:
    """Where its arguments change, the constant names show what is expected, and plain attention goes on."""
    assert varlen._varlen() is not None
    assert varlen.together(torch.zeros(1, device="meta", dtype=torch.bfloat16))
    assert not varlen.together(torch.zeros(1, device="meta"))


def test_another_signature_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", lambda query, key, value, cu_seq: None)
    varlen._varlen.cache_clear()
    try:
        assert varlen._varlen() is None
        assert unmask.generate(toy("llada"), [[1, 2, 3]], max_new_tokens=8)[0].token_ids
    finally:
        varlen._varlen.cache_clear()
