"""`unmask serve`: the engine behind OpenAI's API."""

import ipaddress
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli.choose import (
    Adapter,
    AddBos,
    Device,
    Dtype,
    KvDtype,
    Model,
    Settings,
    Template,
    TensorParallel,
    Weights,
    loaded,
    own_method,
    read_settings,
)
from unmask.errors import ConfigError, install

if TYPE_CHECKING:
    from unmask.serve.deploy import Plan


def command(
    model: Model = "unmask-tiny",
    method: Annotated[
        str | None, typer.Option(help="Preset or settings file of requests that name no method; default: the model's own.")
    ] = None,
    settings: Settings = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens per answer if the request gives no number; default: the model's own, or 128."),
    ] = None,
    chat_template: Template = True,
    add_bos: AddBos = False,
    host: Annotated[str, typer.Option(help="127.0.0.1: this machine alone; 0.0.0.0: the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8000,
    name: Annotated[str | None, typer.Option(help="The model's name in the API; default: its own.")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="UNMASK_API_KEY", help="A key that the API accepts, repeatable; safer in UNMASK_API_KEY."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that clients use, repeatable; default: any, or localhost alone where no key is needed there."
        ),
    ] = None,
    share_prefix_across_keys: Annotated[
        bool, typer.Option(help="Let requests of different API keys share what their prompts begin with.")
    ] = False,
    prefix_cache: Annotated[
        bool, typer.Option(help="Share keys and values of equal beginnings, where attention is block-causal.")
    ] = True,
    memory: Annotated[float | None, typer.Option(help="GiB of key/value memory.")] = None,
    rows: Annotated[int, typer.Option(help="Answers that are decoded at once.")] = 64,
    tokens: Annotated[
        int | None, typer.Option(help="Most tokens per forward, of one answer too; default: 8192 on a GPU, else 1024.")
    ] = None,
    share: Annotated[
        int | None, typer.Option(help="Of these for all answers of one request together; default: a quarter.")
    ] = None,
    refresh: Annotated[
        int | None, typer.Option(help="Of these for refreshes and prompts in one step; default: 2048 on a GPU, else all.")
    ] = None,
    queue: Annotated[int, typer.Option(help="Choices that may wait; further requests get a 429.")] = 256,
    choices: Annotated[int, typer.Option(help="Most answers of one request: n, times its prompts.")] = 128,
    draft_steps: Annotated[int, typer.Option(help="Most draft steps of a request's method.")] = 16,
    body_bytes: Annotated[int, typer.Option(help="Largest request body, in bytes.")] = 2**20,
    seconds: Annotated[float, typer.Option(help="Time limit of a request, waiting included.")] = 600.0,
    forward_seconds: Annotated[
        float | None, typer.Option(help="A longer forward turns /health; default: 120, or less than --seconds.")
    ] = None,
    first_forward_seconds: Annotated[
        float | None, typer.Option(help="Likewise the first forward, which may compile; default: 600, or less than --seconds.")
    ] = None,
    header_seconds: Annotated[float, typer.Option(help="Time limit of a connection without a request.")] = 15.0,
    connections: Annotated[int, typer.Option(help="Most connections at once.")] = 1000,
    drain_seconds: Annotated[int, typer.Option(help="Time limit of running requests after SIGTERM or Ctrl-C.")] = 60,
    replicas: Annotated[int, typer.Option(min=1, help="Models that answer in parallel, each on a GPU or a core; on Ray.")] = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    adapter: Adapter = None,
    kv_dtype: KvDtype = None,
    tensor_parallel: TensorParallel = False,
    graphs: Annotated[bool, typer.Option(help="On CUDA, replay forwards as CUDA graphs.")] = True,
) -> None:
    """Serve a model: OpenAI's API under /v1, a page that shows decodes at /, /health and /metrics."""
    from unmask.engine.engine import Engine, Limits

    try:
        from unmask.serve.app import create_app
        from unmask.serve.deploy import Plan
        from unmask.serve.log import log_to_stderr
        from unmask.serve.options import Options
        from unmask.serve.server import listen, run
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving needs {error.name}: {install('serve')}") from None

    options = Options(
        name=name,
        method=method or own_method(model),
        settings=read_settings(settings),
        max_new_tokens=max_new_tokens,
        api_keys=tuple(api_key or ()),
        hosts=_hosts(host, allowed_host or [], keyless=not api_key),
        share_prefix_across_keys=share_prefix_across_keys,
        queue=queue,
        body_bytes=body_bytes,
        seconds=seconds,
        choices=choices,
        draft_steps=draft_steps,
        forward_seconds=forward_seconds,
        first_forward_seconds=first_forward_seconds,
        header_seconds=header_seconds,
        connections=connections,
    )
    limits = Limits(
        memory=None if memory is None else int(memory * 2**30),
        rows=rows,
        tokens=tokens,
        share=share,
        refresh=refresh,
        prefix_cache=prefix_cache,
    )
    if replicas > 1:
        if tensor_parallel:
            raise ConfigError("--replicas and --tensor-parallel: a replica is one process, so use one of them")
        plan = Plan(
            model=model,
            dtype=dtype,
            weights=weights,
            adapter=None if adapter is None else str(adapter),
            graphs=graphs,
            kv_dtype=kv_dtype,
            chat_template=chat_template,
            add_bos=add_bos,
            replicas=replicas,
            gpus=_gpus(device),
            drain_seconds=drain_seconds,
            options=options,
            limits=limits,
        )
        return _run_replicas(plan, host, port)
    whole = loaded(
        model,
        device=device,
        dtype=dtype,
        weights=weights,
        adapter=adapter,
        tensor_parallel=tensor_parallel,
        graphs=graphs,
        kv_dtype=kv_dtype,
        chat_template=chat_template,
        add_bos=add_bos,
    )
    with whole as denoiser, listen(host, port) as socket:
        log_to_stderr()
        _announce(denoiser.name, host, socket.getsockname()[1], keyless=not options.api_keys)
        run(create_app(Engine(denoiser, limits), options), socket, drain_seconds=drain_seconds)


def _run_replicas(plan: "Plan", host: str, port: int) -> None:
    from unmask.serve import deploy
    from unmask.serve.server import listen

    with listen(host, port) as socket:  # reports a taken port more clearly than Ray does
        port = socket.getsockname()[1]
    what = f"{plan.replicas} replicas of {plan.options.name or plan.model}"
    deploy.run(plan, host, port, ready=lambda: _announce(what, host, port, keyless=not plan.options.api_keys))


def _hosts(host: str, allowed: list[str], *, keyless: bool) -> tuple[str, ...]:
    """The names under which clients may reach the server; none: any.

    >>> _hosts("127.0.0.1", [], keyless=True), _hosts("0.0.0.0", [], keyless=True)
    (('localhost',), ())
    """
    own = ["localhost"] if keyless and _is_loopback(host) else []
    return tuple(name.lower() for name in [*own, *allowed])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _announce(what: str, host: str, port: int, *, keyless: bool) -> None:
    from rich.console import Console

    place = f"http://{host}:{port}"
    text = f"{what} at {place} (the page), {place}/v1 (the API); Ctrl-C ends it"
    if keyless and not _is_loopback(host):
        text += f"\nwarning: {host} is reached from other machines too, and no key is needed: set UNMASK_API_KEY"
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def _gpus(device: str) -> int | None:
    """GPUs per replica."""
    known = {"auto": None, "cpu": 0, "cuda": 1}
    if device not in known:
        raise ConfigError(f"--device {device}: Ray gives each replica its GPU, so write auto, cpu or cuda")
    return known[device]
