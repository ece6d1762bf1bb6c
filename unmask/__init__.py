"""unmask: fast decoding for masked diffusion language models.

    import unmask
    model = unmask.load("unmask-tiny")
    print(unmask.generate(model, ["Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"])[0].text)

Names are resolved on first use, so that `unmask --help` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from unmask import _transformers
from unmask.errors import (
    ConfigError,
    EmptyPrompt,
    LogitsError,
    MaskInPrompt,
    ModelError,
    PromptTooLong,
    RequestError,
    UnmaskError,
)

if TYPE_CHECKING:
    from unmask.engine.generate import generate
    from unmask.engine.holes import canvas, hole
    from unmask.engine.request import Completion, StepRecord
    from unmask.engine.score import Score, score
    from unmask.methods import load as method
    from unmask.methods.method import Method
    from unmask.models.denoiser import Denoiser, ModelSpec
    from unmask.models.loading import load

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "ConfigError",
    "Denoiser",
    "EmptyPrompt",
    "LogitsError",
    "MaskInPrompt",
    "Method",
    "ModelError",
    "ModelSpec",
    "PromptTooLong",
    "RequestError",
    "Score",
    "StepRecord",
    "UnmaskError",
    "canvas",
    "generate",
    "hole",
    "load",
    "method",
    "score",
]

_LAZY = {
    "Completion": "unmask.engine.request:Completion",
    "Denoiser": "unmask.models.denoiser:Denoiser",
    "Method": "unmask.methods.method:Method",
    "ModelSpec": "unmask.models.denoiser:ModelSpec",
    "Score": "unmask.engine.score:Score",
    "StepRecord": "unmask.engine.request:StepRecord",
    "canvas": "unmask.engine.holes:canvas",
    "generate": "unmask.engine.generate:generate",
    "hole": "unmask.engine.holes:hole",
    "load": "unmask.models.loading:load",
    "method": "unmask.methods:load",
    "score": "unmask.engine.score:score",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    module, attribute = _LAZY[name].split(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


_transformers.install()
