"""Replicas on Ray: the plan as pure values; test_replicas.py has them running."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from unmask.cli import main
from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine
from unmask.errors import ConfigError
from unmask.models.toy import toy
from unmask.serve.app import create_app
from unmask.serve.deploy import Plan, Replica
from unmask.serve.options import Options

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "serve").glob("*.yaml"))


def test_a_replica_takes_what_its_engine_decodes_and_keeps_waiting() -> None:
    plan = Plan.read({"replicas": "3", "rows": "8", "queue": "32", "drain_seconds": "5"})
    settings = plan.settings(gpus=0)
    assert settings["num_replicas"] == 3
    assert settings["max_ongoing_requests"] > 8 + 32
    assert settings["max_queued_requests"] == 32
    assert settings["graceful_shutdown_timeout_s"] == 5
    assert "autoscaling_config" not in settings


def test_replicas_come_and_go_between_two_numbers() -> None:
    settings = Plan.read({"replicas": 1, "max_replicas": 4, "rows": 48}).settings(gpus=4)
    assert settings["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 48}
    assert "num_replicas" not in settings


@pytest.mark.parametrize(
    ("given", "there", "each"), [({}, 0, 0), ({}, 8, 1), ({"gpus": 0}, 8, 0), ({"gpus": "0.5"}, 8, 0.5), ({"gpus": 1}, 0, 1)]
)
def test_a_replica_has_a_gpu_where_there_are_some(given: dict[str, Any], there: float, each: float) -> None:
    assert Plan.read(given).settings(there)["ray_actor_options"] == {"num_cpus": 1, "num_gpus": each}


def test_arguments_are_those_of_the_server_and_the_engine() -> None:
    plan = Plan.read({"method": "vanilla", "settings": {"block_length": 16}, "api_keys": ["one"], "memory": "1024"})
    assert plan.options == Options(method="vanilla", settings={"block_length": 16}, api_keys=("one",))
    assert plan.limits.memory == 1024
    assert Plan.read({}) == Plan()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"replica": 2}, "unknown argument 'replica': did you mean 'replicas'?"),
        ({"replicas": "two"}, "replicas = 'two': "),
        ({"replicas": 0}, "replicas must be a whole number of at least 1"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas must be a whole number of at least 3"),
        ({"rows": 0}, "rows must be"),
        ({"method": "vanila"}, "unknown method 'vanila': did you mean 'vanilla'?"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        Plan.read(given)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_files_for_ray_have_arguments_that_are_there(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    (application,) = config["applications"]
    assert application["import_path"] == "unmask.serve.deploy:app"
    plan = Plan.read(application["args"])
    assert config["http_options"]["request_timeout_s"] > plan.options.seconds


@pytest.mark.slow
def test_ray_takes_the_files_and_the_settings() -> None:
    program = """
import json, sys, yaml
from ray.serve.schema import ServeDeploySchema
from unmask.serve.deploy import Plan, build
made = []
for path in sys.argv[1:]:
    application, = ServeDeploySchema(**yaml.safe_load(open(path))).applications
    one = build(Plan.read(application.args), {"GPU": 4})._bound_deployment
    made.append([one.name, one.ray_actor_options["num_gpus"], one.max_ongoing_requests])
print(json.dumps(made))
"""
    made = subprocess.run([sys.executable, "-c", program, *CONFIGS], capture_output=True, text=True, cwd=ROOT)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.splitlines()[-1]) == [["unmask", 1, 384], ["unmask", 1, 368]]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--device", "cuda:1"], "--device cuda:1: Ray gives each replica its GPU"),
        (["--model", "unmask-tinny"], "no model 'unmask-tinny'"),
        (["--replicas", "0"], "Invalid value for '--replicas'"),
    ],
)
def test_a_wrong_command_ends_before_ray_starts(
    extra: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # to import it would be another error
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--replicas", "2", "--port", "0", *extra])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {words}")


def test_a_replica_whose_engine_has_died_is_not_healthy() -> None:
    engine = Engine(toy())
    replica = Replica()
    replica.app = create_app(engine)

    async def live_and_die() -> None:
        running = AsyncEngine(engine)
        replica.app.state.service.start(running)
        await replica.check_health()
        await running.close()
        await replica.check_health()

    with pytest.raises(RuntimeError, match="the engine is failed"):
        asyncio.run(live_and_die())
