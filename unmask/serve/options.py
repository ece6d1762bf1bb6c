"""How a server behaves: the one source of its defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from unmask.engine.own import DEFAULT_METHOD, default_method, default_new_tokens
from unmask.errors import ConfigError
from unmask.methods import load
from unmask.methods.method import whole
from unmask.models.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `unmask serve`.

    Attributes:
        name: of the model in the API; None: its own.
        method: of requests that name none: a preset, or a settings file; None: the model's own, which `of` fills in.
        settings: options of the preset that are changed, or settings of the file.
        max_new_tokens: tokens of an answer where neither the request nor the method gives a number; None: the model's own
            number, which `of` fills in.
        api_keys: any of them opens the API; where there is none, the API needs no key.
        share_prefix_across_keys: whether requests of different API keys share keys and values of equal beginnings too.
        queue: choices that may wait for the engine; further requests get a 429.
        body_bytes: size of the largest body, in bytes.
        seconds: longest time of a request, waiting included.
    """

    name: str | None = None
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int | None = None
    api_keys: tuple[str, ...] = ()
    share_prefix_across_keys: bool = False
    queue: int = 256
    body_bytes: int = 2**20
    seconds: float = 600.0

    def __post_init__(self) -> None:
        whole("max_new_tokens", self.max_new_tokens, 1)
        whole("queue", self.queue, 1, required=True)
        whole("body_bytes", self.body_bytes, 1, required=True)
        if self.seconds <= 0:
            raise ConfigError(f"seconds must be more than 0, got {self.seconds!r}")
        if not all(self.api_keys):
            raise ConfigError("an API key is empty")
        if self.method is not None:
            load(self.method, **self.settings)  # a mistake is reported at the server's start

    @property
    def preset(self) -> str:
        """What decodes where a request names no method."""
        return self.method or DEFAULT_METHOD

    def of(self, model: Denoiser) -> Self:
        """The same options with this model's own method and length where none is named."""
        method, length = self.method or default_method(model), self.max_new_tokens or default_new_tokens(model)
        return replace(self, method=method, max_new_tokens=length)
