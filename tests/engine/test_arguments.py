"""What `generate` is given by mistake is refused in one line before anything is decoded."""

from typing import Any

import pytest

import unmask
from unmask.models.toy import toy


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "unmask-tiny"}, r"unmask\.load\('unmask-tiny'\)"),
        ({"model": None}, "the first argument is a model"),
        ({"method": 3}, "method must be"),
        ({"method": {"tresh": 0.5}}, "tresh"),
        ({"observer": 3}, "observer must be a function"),
    ],
)
def test_a_wrong_kind_of_argument_says_what_is_right(arguments: dict[str, Any], said: str) -> None:
    given = {"model": toy(), "prompts": [[1, 2]], "max_new_tokens": 32, **arguments}
    with pytest.raises(unmask.ConfigError, match=said):
        unmask.generate(given.pop("model"), **given)


def test_settings_stand_for_a_method_as_in_a_file() -> None:
    method = unmask.method("fast-dllm")
    one, other = (unmask.generate(toy(), [[1, 2]], method=given, max_new_tokens=32) for given in (method, method.to_dict()))
    assert one[0].token_ids == other[0].token_ids
