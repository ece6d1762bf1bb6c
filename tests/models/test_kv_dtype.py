"""Keys and values in 8 bits: half the memory, nearly the same answers, and one line where that cannot be."""

import pytest
import torch

import unmask
from unmask.context.pool import KVPool
from unmask.kernels.paged import write
from unmask.models import loading
from unmask.models.toy import toy

PROMPTS = ["Mia has 7 apples. On Monday Mia buys 5. How many apples does Mia have?"] * 2


def test_what_is_stored_is_read_within_three_bits_of_mantissa() -> None:
    pool = KVPool(
        layers=1, pages=1, kv_heads=2, head_size=8, dtype=torch.float32, device=torch.device("cpu"), stored=torch.float8_e4m3fn
    )
    assert pool.take(1) == (0,)
    x = torch.randn(2, 2, 8) * 4
    x[0, 0, 0], x[1, 1, 7] = 1e6, -1e6
    slots = torch.tensor([3, 9])
    for memory in (pool.keys[0], pool.values[0]):
        write(memory, x, slots)
    keys, values = pool.read(0, slots[None])
    seen, _ = pool.view(0, begin=9, slots=1)
    assert keys.dtype == seen.dtype == torch.float32
    assert torch.equal(keys, values)
    assert torch.equal(seen[0, :, 0], keys[0, :, 1])
    torch.testing.assert_close(keys[0].transpose(0, 1), x.clamp(-448, 448), rtol=2**-4, atol=2**-9)
    pool.clear((0,))
    assert not pool.keys[0].float().any()


@pytest.mark.parametrize("name", ["unmask-tiny", "unmask-tiny-block"])
def test_an_embedded_model_still_answers_right(name: str) -> None:
    plain, small = unmask.load(name), unmask.load(name, kv_dtype="fp8")
    assert 2 * small.page_bytes <= plain.page_bytes
    assert small.pool(2).keys[0].dtype == torch.float8_e4m3fn
    for one, other in zip(unmask.generate(plain, PROMPTS), unmask.generate(small, PROMPTS), strict=True):
        assert other.text.strip().endswith("12") == one.text.strip().endswith("12")


def test_batch_is_single() -> None:
    model = toy("sdar", sharpness=3)
    small = type(model)(**{**vars(model), "kv": torch.float8_e4m3fn})
    asked = [[1, 2, 3], [4] * 9]
    together = [one.token_ids for one in unmask.generate(small, asked, max_new_tokens=16)]
    assert together == [unmask.generate(small, [prompt], max_new_tokens=16)[0].token_ids for prompt in asked]


def test_other_types_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(unmask.ConfigError, match="kv_dtype must be fp8, .* got 'int3'"):
        unmask.load("unmask-tiny", kv_dtype="int3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(unmask.ConfigError, match=r"capability 8\.9 or newer, which cuda:0 is not"):
        loading.memory_type("fp8", torch.device("cuda:0"))
