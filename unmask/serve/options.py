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
        hosts: names under which clients may reach the server, beside any address; none: any name. A page of another site can
            give its own name the address 127.0.0.1, and then read what a server without a key answers.
        share_prefix_across_keys: whether requests of different API keys share keys and values of equal beginnings too.
        queue: choices that may wait for the engine; further requests get a 429.
        choices: of one request, `n` of each of its prompts.
        draft_steps: of a request's method.
        body_bytes: size of the largest body, in bytes.
        seconds: longest time of a request, waiting included.
        forward_seconds: longest time of a forward, after which the server is no longer healthy; None: 120, but less than
            `seconds`, after which no request can be answered.
        first_forward_seconds: likewise of the first one, which may compile; None: 600, but less than `seconds`.
        header_seconds: longest time until a connection has sent a request's header, and between two requests.
        connections: open at once; further ones get a 503.
    """

    name: str | None = None
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int | None = None
    api_keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    share_prefix_across_keys: bool = False
    queue: int = 256
    choices: int = 128
    draft_steps: int = 16
    body_bytes: int = 2**20
    seconds: float = 600.0
    forward_seconds: float | None = None
    first_forward_seconds: float | None = None
    header_seconds: float = 15.0
    connections: int = 1000

    def __post_init__(self) -> None:
        whole("max_new_tokens", self.max_new_tokens, 1)
        for name in ("queue", "choices", "draft_steps", "body_bytes", "connections"):
            whole(name, getattr(self, name), 1, required=True)
        for name in ("seconds", "forward_seconds", "first_forward_seconds", "header_seconds"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name} must be more than 0, got {value!r}")
        if not all(self.api_keys):
            raise ConfigError("an API key is empty")
        if self.method is not None:
            load(self.method, **self.settings)  # a mistake is reported at the server's start

    @property
    def forward_limits(self) -> tuple[float, float]:
        """Seconds of a forward, and of the first one."""
        most = 0.9 * self.seconds
        return self.forward_seconds or min(120.0, most), self.first_forward_seconds or min(600.0, most)

    @property
    def preset(self) -> str:
        """What decodes where a request names no method."""
        return self.method or DEFAULT_METHOD

    def of(self, model: Denoiser) -> Self:
        """The same options with this model's own method and length where none is named."""
        method, length = self.method or default_method(model), self.max_new_tokens or default_new_tokens(model)
        return replace(self, method=method, max_new_tokens=length)
