"""Replicas behind one address, on Ray Serve: each has a model, an engine and the application of `unmask serve`.

    unmask serve --replicas 2                                                  # a Ray of its own on this machine
    serve run unmask.serve.deploy:app model=GSAI-ML/LLaDA-8B-Instruct replicas=2    # on any Ray
    serve run configs/serve/llada-8b.yaml

Ray's proxy sends requests that begin alike to the same replica, unless another is much less busy (routing.py). Ray replaces
a replica that died, and adds and removes replicas as the load changes where `max_replicas` allows it.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.engine.engine import Engine, Limits
from unmask.errors import ConfigError, unknown
from unmask.methods.method import whole
from unmask.models.loading import folders, load
from unmask.serve.affinity import SHARES
from unmask.serve.cluster import cluster
from unmask.serve.front import PATH
from unmask.serve.options import Options

if TYPE_CHECKING:
    from ray.serve import Application

NAME = "unmask"
# Requests besides those that decode or wait: /health, /metrics, refusals. Ray counts them, the engine does not.
_BESIDE = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is deployed.

    Attributes:
        model: an embedded model, a checkpoint folder that all machines have, or a Hugging Face id.
        dtype: of its weights.
        weights, adapter: as for `unmask.load`; all machines have the adapter's folder.
        graphs: whether forwards are replayed as CUDA graphs.
        kv_dtype: of keys and values, as for `unmask.load`.
        chat_template, add_bos: how texts become prompts, as for `unmask.load`.
        replicas: models that answer in parallel; with `max_replicas` the fewest of them.
        max_replicas: the most of them, while requests fill the rows of all; None: always `replicas`.
        gpus: of each replica, 0.5 to share one; None: one if the cluster has any, else none.
        cpus: of each replica; a model on a CPU computes with as many threads.
        drain_seconds: longest time that running requests may take when their replica is to end.
        options: how each replica's server behaves.
        limits: what each replica's engine may use.
    """

    model: str = "unmask-tiny"
    dtype: str = "auto"
    weights: str | None = None
    adapter: str | None = None
    graphs: bool = True
    kv_dtype: str | None = None
    chat_template: bool = True
    add_bos: bool = False
    replicas: int = 1
    max_replicas: int | None = None
    gpus: float | None = None
    cpus: int = 1
    drain_seconds: int = 60
    options: Options = field(default_factory=Options)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        whole("replicas", self.replicas, 1, required=True)
        whole("max_replicas", self.max_replicas, self.replicas)
        whole("cpus", self.cpus, 1, required=True)
        whole("drain_seconds", self.drain_seconds, 0, required=True)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Plan":
        """From the arguments of `serve run`, which include the fields of `options` and `limits`.

        Raises ConfigError that names an unknown field or a wrong value.

        >>> Plan.read({"replicas": "2", "rows": "8"}).limits.rows
        8
        """
        hints = {kind: get_type_hints(kind) for kind in (Plan, Options, Limits)}
        homes = {name: kind for kind, names in hints.items() for name in names if name not in ("options", "limits")}
        parts: dict[type, dict[str, Any]] = {kind: {} for kind in hints}
        for name, value in given.items():
            if name not in homes:
                raise unknown("argument", name, homes)
            kind = homes[name]
            try:
                parts[kind][name] = TypeAdapter(hints[kind][name]).validate_python(value)
            except ValidationError as error:
                raise ConfigError(f"{name} = {value!r}: {error.errors()[0]['msg']}") from None
        return Plan(**parts[Plan], options=Options(**parts[Options]), limits=Limits(**parts[Limits]))

    def settings(self, gpus: float) -> dict[str, Any]:
        """Ray Serve's settings of the deployment, on a cluster with that many GPUs.

        A replica takes what its engine decodes or keeps waiting, and refuses the rest itself.
        """
        number: dict[str, Any] = {"num_replicas": self.replicas}
        if self.max_replicas is not None:
            scale = {"min_replicas": self.replicas, "max_replicas": self.max_replicas}
            number = {"autoscaling_config": {**scale, "target_ongoing_requests": self.limits.rows}}
        return {
            **number,
            "request_router_config": {
                "request_router_class": "unmask.serve.routing:PrefixRouter",
                "request_router_kwargs": {"slack": self.limits.rows // 2},
            },
            "ray_actor_options": {"num_cpus": self.cpus, "num_gpus": min(1, gpus) if self.gpus is None else self.gpus},
            "max_ongoing_requests": self.limits.rows + self.options.queue + _BESIDE,
            "max_queued_requests": self.options.queue,
            "health_check_period_s": 5,
            "graceful_shutdown_timeout_s": self.drain_seconds,
            "graceful_shutdown_wait_loop_s": 0.5,
        }


def app(arguments: dict[str, Any]) -> "Application":
    """What `serve run` and `serve deploy` build; the arguments are those of `Plan`, `Options` and `Limits`.

    API keys may also be in UNMASK_API_KEY, separated by spaces. Raises ConfigError.
    """
    import ray

    keys = os.environ.get("UNMASK_API_KEY", "").split()
    return build(Plan.read({"api_keys": keys, **arguments}), ray.cluster_resources())


def build(plan: Plan, resources: Mapping[str, float]) -> "Application":
    """The plan as an application of Ray Serve for a cluster that has these resources."""
    from ray import serve

    settings = plan.settings(resources.get("GPU", 0))
    device = "cuda" if settings["ray_actor_options"]["num_gpus"] else "cpu"
    replica = serve.ingress(lambda: _application(plan, device))(Replica)
    return serve.deployment(name=NAME, **settings)(replica).bind()


class Replica:
    """What Ray needs of a replica besides requests."""

    app: FastAPI  # of `_application`; Ray's wrapper has it

    async def record_routing_stats(self) -> dict[str, bool]:
        """What Ray asks a replica now and then for its request router."""
        return {SHARES: self.app.state.service.shares_prefixes}

    async def check_health(self) -> None:
        """Raises where the engine has died or a forward does not end: then Ray puts a new replica in this one's place."""
        health = self.app.state.service.health
        if health.status in ("failed", "stuck"):
            raise RuntimeError(f"the engine is {health.status}")


def _application(plan: Plan, device: str) -> FastAPI:
    """The application, made in the replica's process."""
    from ray import get_runtime_context

    ray = get_runtime_context()
    numbers = Path(ray.get_temp_dir(), ray.get_session_name(), "unmask-metrics")
    numbers.mkdir(exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(numbers)  # read when prometheus_client is imported, which is now:
    from unmask.serve.app import create_app
    from unmask.serve.log import log_to_stderr

    log_to_stderr()
    model = load(
        plan.model,
        device=device,
        dtype=plan.dtype,
        weights=plan.weights,
        adapter=plan.adapter,
        graphs=plan.graphs,
        kv_dtype=plan.kv_dtype,
        chat_template=plan.chat_template,
        add_bos=plan.add_bos,
    )
    made = create_app(Engine(model, plan.limits), plan.options)
    made.add_middleware(_Disconnects)
    return made


class _Disconnects:
    """Turns Ray's exception for a client that has left, which Ray sometimes raises, into ASGI's message."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from ray.exceptions import TaskCancelledError

        async def receive_or_disconnect() -> Message:
            try:
                return await receive()
            except TaskCancelledError:
                return {"type": "http.disconnect"}

        await self._app(scope, receive_or_disconnect, send)


def run(plan: Plan, host: str, port: int, *, ready: Callable[[], None]) -> None:
    """Deploy on a Ray of our own on this machine, call `ready`, and serve until SIGTERM or Ctrl-C; then finish what runs.

    A second signal ends it at once. Raises ConfigError where the machine has too little, ModelError where there is no such
    model, and RuntimeError where the replicas do not start.
    """
    folders(plan.model, plan.adapter)  # a mistake is reported before Ray starts, and a download is done once
    # Without a niceness of 0 Ray's workers give way to all other processes.
    os.environ |= {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": PATH, "RAY_worker_niceness": "0"}
    with cluster(logs=True) as ray:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # from here on like Ctrl-C
        resources = ray.cluster_resources()
        _fits(plan, resources)
        quiet: Any = {"log_level": "WARNING", "enable_access_log": False}
        http: Any = {
            "host": host,
            "port": port,
            "request_timeout_s": plan.options.seconds + 30,
        }  # the server's own limit comes first
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
        try:
            serve.run(build(plan, resources), name=NAME, logging_config=quiet)
        except RuntimeError:
            message = serve.status().applications[NAME].deployments[NAME].message
            last = message.strip().splitlines()[-1]  # of the replica's traceback
            raise RuntimeError(f"the replicas do not start: {last}") from None
        try:
            ready()
            while True:
                signal.pause()
        except KeyboardInterrupt:
            serve.delete(NAME, _blocking=False)
            while NAME in serve.status().applications:
                time.sleep(0.2)


def _fits(plan: Plan, resources: Mapping[str, float]) -> None:
    wanted = plan.settings(resources.get("GPU", 0))["ray_actor_options"]
    for name, each in (("CPU", wanted["num_cpus"]), ("GPU", wanted["num_gpus"])):
        if plan.replicas * each > resources.get(name, 0):
            raise ConfigError(
                f"{plan.replicas} replicas need {plan.replicas * each:g} {name}s and this machine has "
                f"{resources.get(name, 0):g}: use fewer"
            )
