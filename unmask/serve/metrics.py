"""The metrics that Prometheus reads at /metrics. prometheus_client is imported here and nowhere else.

Replicas on one machine share their metrics through files where PROMETHEUS_MULTIPROC_DIR names a folder (`deploy`
sets it); then /metrics of any replica is that of all.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from unmask.engine.engine import Load
from unmask.engine.request import Completion
from unmask.models.denoiser import Denoiser

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "unmask_requests", "Requests by endpoint and HTTP status.", ["endpoint", "status"], registry=registry
        )
        self._choices = Counter("unmask_choices", "Answers by how they ended.", ["finish_reason"], registry=registry)
        self._prompt_tokens = Counter("unmask_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._cached_tokens = Counter(
            "unmask_cached_tokens",
            "Tokens of prompts that a choice did not compute because another had, by choice.",
            registry=registry,
        )
        self._tokens = Counter("unmask_completion_tokens", "Tokens of answers, to the first EOS or stop.", registry=registry)
        self._forwards = Counter(
            "unmask_forwards", "Forwards in which answers took part, refreshes included.", registry=registry
        )
        self._commits = Counter("unmask_commits", "Tokens written, by the rule that did.", ["rule"], registry=registry)
        self._tokens_per_forward = Histogram(
            "unmask_tokens_per_forward", "Of each answer.", buckets=(0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32), registry=registry
        )
        self._seconds = Histogram(
            "unmask_request_seconds", "From the request to its last byte.", ["endpoint"], buckets=_SECONDS, registry=registry
        )
        self._first_text = Histogram(
            "unmask_first_text_seconds", "From the request to the first text of a choice.", buckets=_SECONDS, registry=registry
        )
        self._batch = Histogram("unmask_batch_rows", "Rows that share a forward.", buckets=_ROWS, registry=registry)
        self._forward_seconds = Histogram(
            "unmask_forward_seconds", "Of a forward and what it leads to.", buckets=(0.001, *_SECONDS), registry=registry
        )
        self._grammars = Counter(
            "unmask_grammars", "Requests whose answers are held to a grammar, by its kind.", ["kind"], registry=registry
        )
        self._grammar_seconds = Histogram(
            "unmask_grammar_seconds",
            "Of making such a request: of compiling its grammar, where that is not kept from an earlier one.",
            buckets=(0.001, *_SECONDS),
            registry=registry,
        )
        self._broken = Counter(
            "unmask_broken_answers", "Answers that ended because the model's logits were no numbers.", registry=registry
        )
        self._models = _gauge("unmask_models", "Models that answer, by the type of their weights.", registry, ["weights"])
        self._fallbacks = _gauge(
            "unmask_fallbacks", "What was given up for its plain, slower form: graphs, kernels, memory.", registry, ["what"]
        )
        self._waiting = _gauge("unmask_waiting_requests", "Rows that wait for memory or a place.", registry)
        self._running = _gauge("unmask_running_requests", "Rows that are being decoded.", registry)
        self._pages = _gauge("unmask_pool_used_pages", "Pages of key/value memory in use.", registry)
        self._kept_pages = _gauge("unmask_pool_kept_pages", "Pages kept for requests that begin alike, and free.", registry)
        self._all_pages = _gauge("unmask_pool_pages", "Pages of key/value memory.", registry)

    def model(self, model: Denoiser) -> None:
        """Say what the weights of the model that answers are."""
        self._models.labels(model.weights or str(model.dtype).removeprefix("torch.")).set(1)

    def load(self, load: Load) -> None:
        """Set the gauges of the engine's load."""
        self._waiting.set(load.waiting)
        self._running.set(load.running)
        self._pages.set(load.pages)
        self._kept_pages.set(load.kept_pages)
        self._all_pages.set(load.all_pages)
        for what, count in load.fallbacks.items():
            self._fallbacks.labels(what).set(count)

    def forward(self, rows: int, seconds: float) -> None:
        """Count a forward of the engine; called from its thread."""
        self._batch.observe(rows)
        self._forward_seconds.observe(seconds)

    def grammar(self, kind: str, seconds: float) -> None:
        """Count a request whose answers are held to a grammar; called from any thread."""
        self._grammars.labels(kind.lower().replace(" ", "_")).inc()
        self._grammar_seconds.observe(seconds)

    def broken(self) -> None:
        """Count an answer that ended because its logits were no numbers."""
        self._broken.inc()

    def first_text(self, seconds: float) -> None:
        self._first_text.observe(seconds)

    def answered(self, prompt_tokens: int, completions: Sequence[Completion]) -> None:
        """Count a request whose choices are all complete."""
        self._prompt_tokens.inc(prompt_tokens)
        for completion in completions:
            self._choices.labels(completion.finish_reason).inc()
            self._cached_tokens.inc(completion.cached_tokens)
            self._tokens.inc(completion.tokens)
            self._forwards.inc(completion.forwards)
            self._tokens_per_forward.observe(completion.tokens_per_forward)
            for rule, tokens in completion.commits.items():
                self._commits.labels(rule).inc(tokens)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that has ended, with whatever status."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        registry = self._registry
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            _drop_dead_gauges(Path(folder))
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _drop_dead_gauges(folder: Path) -> None:
    """Drop the gauges of replicas that have ended, killed ones too, which could not do so themselves."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _gauge(name: str, text: str, registry: CollectorRegistry, labels: Sequence[str] = ()) -> Gauge:
    # The sum over the replicas that are alive.
    return Gauge(name, text, labels, registry=registry, multiprocess_mode="livesum")
