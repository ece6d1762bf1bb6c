"""Does the server hold under load, and how much does batching gain? Many clients on loopback against one, in one run.

    python benchmarks/load.py --clients 64 --seconds 120 -o benchmarks/results/DATE-serve-cpu.json

Starts `unmask serve` (or takes --url of a server of the same weights). Three things take turns, so that a busy moment of the
machine hits all of them: bare block forwards of the network at several batch sizes (what the machine allows), one client,
all clients. Requests differ in prompt, method, length, seed, temperature, stop strings and stream; each answer's text,
tokens, forwards and end are compared with `unmask.generate` of that request alone. All clients are one process, which
shares the cores with the server: the document says how much of them. Ctrl-C ends the run and writes what was measured.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import torch
from clients import Answer, Case, Wrong, ask, cases
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scaling import Forwards, in_words

import unmask
from unmask.files import write_atomically
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser

BARE_SECONDS = 2.0  # of bare forwards per round
SHOWN = 20  # complaints in the document; all of them are counted


@dataclass(kw_only=True)
class Phase:
    """A time in which some clients send one request after the other; the last ones are waited for.

    `client_cores` is this process's processor time divided by the phase's, that wait included.
    """

    clients: int
    began: float = field(default_factory=time.perf_counter)
    ended: float = 0.0
    client_cores: float = 0.0
    answers: list[Answer] = field(default_factory=list)


class Run:
    """One measurement: its requests and its results so far."""

    def __init__(self, model: Denoiser, asked: Sequence[Case], patience: float) -> None:
        self.model, self.asked, self.patience = model, asked, patience
        self.phases: list[Phase] = []
        self.bare = Forwards(model)
        self.faults: Counter[str] = Counter()  # "failed", "stuck", "wrong"
        self.complaints: list[str] = []

    async def measure(
        self, url: str, *, clients: int, rounds: int, seconds: float, progress: Progress, save: Callable[[], object]
    ) -> None:
        """All rounds, saved one by one: bare forwards, one client for half of a round's `seconds`, all of them for all."""
        lines = {number: itertools.cycle(self.asked) for number in (1, clients)}
        bar = progress.add_task("", total=rounds)
        async with httpx2.AsyncClient(
            base_url=url, timeout=None, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=clients)
        ) as http:
            for case in self.asked[:: max(1, len(self.asked) // 8)]:
                await self._one(http, case, Phase(clients=1))  # warm
            for number in range(1, rounds + 1):
                progress.update(bar, description=f"round {number}: bare forwards")
                self.bare.measure(BARE_SECONDS)
                for those, lasting in ((1, seconds / 2), (clients, seconds)):
                    progress.update(bar, description=f"round {number}: {those} client{'s' * (those > 1)}")
                    await self._phase(http, lines[those], those, lasting)
                progress.advance(bar)
                save()

    async def _phase(self, http: httpx2.AsyncClient, line: Iterator[Case], clients: int, seconds: float) -> None:
        phase, cpu = Phase(clients=clients), time.process_time()
        self.phases.append(phase)
        end = phase.began + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                await self._one(http, next(line), phase)

        try:
            await asyncio.gather(*(client() for _ in range(clients)))
        finally:
            now = time.perf_counter()
            phase.ended = min(end, now)
            phase.client_cores = (time.process_time() - cpu) / (now - phase.began)

    async def _one(self, http: httpx2.AsyncClient, case: Case, phase: Phase) -> None:
        try:
            async with asyncio.timeout(self.patience):
                phase.answers.append(await ask(http, case))
        except TimeoutError:
            self._complain("stuck", f"no answer after {self.patience:g} seconds to {json.dumps(case.body)}")
        except Wrong as error:
            self._complain("wrong", str(error))
        except httpx2.HTTPError as error:
            self._complain("failed", f"{type(error).__name__}: {error}")

    def _complain(self, kind: str, text: str) -> None:
        self.faults[kind] += 1
        if len(self.complaints) < SHOWN:
            self.complaints.append(f"{kind}: {text}")

    # --- results

    def summary(self, clients: int) -> dict[str, Any]:
        """The phases with this many clients, summed up; an answer beyond a phase's end counts by its share before it."""
        phases = [phase for phase in self.phases if phase.clients == clients]
        seconds = sum(phase.ended - phase.began for phase in phases)
        shares = [(answer, answer.share(phase.ended)) for phase in phases for answer in phase.answers]
        return {
            "clients": clients,
            "seconds": seconds,
            "answers": len(shares),
            "answers_per_second": sum(share for _, share in shares) / seconds if seconds else 0.0,
            "tokens_per_second": sum(answer.tokens * share for answer, share in shares) / seconds if seconds else 0.0,
            "seconds_of_an_answer": spread([answer.seconds for answer, _ in shares]),
            "seconds_to_first_text": spread([answer.first - answer.began for answer, _ in shares if answer.first is not None]),
            "client_cores": statistics.fmean(phase.client_cores for phase in phases) if phases else 0.0,
        }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Percentiles (the nearest value) and the largest.

    >>> spread([3.0, 1.0, 2.0])
    {'p50': 2.0, 'p99': 3.0, 'max': 3.0}
    """
    line = sorted(values)
    if not line:
        return None
    return {"p50": line[(len(line) - 1) // 2], "p99": line[-1 - (len(line) - 1) // 100], "max": line[-1]}


def document(run: Run, clients: int, **more: Any) -> dict[str, Any]:
    """All results, and the machine and versions that they belong to."""
    one, many = run.summary(1), run.summary(clients)
    return {
        "benchmark": "serve",
        "command": shlex.join(["python", *sys.argv]),
        **more,
        "model": run.model.name,
        "device": str(run.model.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"unmask": unmask.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "requests": len(run.asked),
        "streams": sum("stream" in case.body for case in run.asked),
        "methods": list(TABLE),
        "one": one,
        "many": many,
        "times": many["tokens_per_second"] / one["tokens_per_second"] if one["tokens_per_second"] else None,
        "bare_forwards": run.bare.summary(),
        "faults": {kind: run.faults[kind] for kind in ("failed", "stuck", "wrong")},
        "complaints": run.complaints,
    }


def show(results: dict[str, Any], console: Console) -> None:
    """The document as tables."""
    table = Table(title=f"{results['model']} on {results['device']}, {results['cores']} cores; seconds as p50, p99", box=None)
    for column in ("clients", "answers", "answers/s", "tokens/s", "an answer", "first text", "clients' cores"):
        table.add_column(column, justify="right")
    for side in (results["one"], results["many"]):
        spreads = [side["seconds_of_an_answer"], side["seconds_to_first_text"]]
        table.add_row(
            str(side["clients"]),
            str(side["answers"]),
            f"{side['answers_per_second']:.1f}",
            f"{side['tokens_per_second']:.0f}",
            *("" if found is None else f"{found['p50']:.2f}, {found['p99']:.2f}" for found in spreads),
            f"{side['client_cores']:.2f}",
        )
    console.print(table)
    console.print(f"\ntokens/s of all clients against one: {results['times'] or 0:.2f} times", highlight=False)
    console.print(f"rows/s of bare block forwards against one row: {in_words(results['bare_forwards'])}", highlight=False)
    console.print(f"faults: {', '.join(f'{count} {kind}' for kind, count in results['faults'].items())}", highlight=False)
    for complaint in results["complaints"][:3]:
        console.print(f"  {complaint}", highlight=False, markup=False)


# --- the server


@contextmanager
def serving(model: str, queue: int) -> Iterator[str]:
    """Run `unmask serve` as a separate process; yields its address."""
    command = [sys.executable, "-m", "unmask", "serve", "--model", model, "--port", "0", "--queue", str(queue)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file, subprocess.Popen(command, stderr=file) as process:
            try:
                yield _address(process, log)
            finally:
                process.terminate()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        found = re.search(r"http://[\d.]+:\d+", log.read_text())
        try:
            if found and httpx2.get(f"{found[0]}/health").status_code == 200:
                return found[0]
        except httpx2.TransportError:
            pass  # the socket is open before the server is ready
        time.sleep(0.1)
    raise SystemExit(f"the server did not start: {log.read_text()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unmask-tiny")
    parser.add_argument("--url", help="of a server that runs already, with the weights of --model; default: start one")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120, help="with all clients; one client gets half of them")
    parser.add_argument("--rounds", type=int, default=4, help="number of rounds that share the seconds")
    parser.add_argument("--requests", type=int, default=96, help="number of different requests")
    parser.add_argument("--patience", type=float, default=300, help="seconds after which a request counts as stuck")
    parser.add_argument("-o", "--output", type=Path, help="write the document to this file")
    given = parser.parse_args()
    if min(given.clients - 1, given.seconds, given.rounds, given.requests) <= 0:
        parser.error("--clients must be at least 2, --seconds, --rounds and --requests more than 0")
    console, busy = Console(stderr=True), os.getloadavg()[0]
    model = unmask.load(given.model)
    run, complete = Run(model, [], given.patience), False

    def save() -> dict[str, Any]:
        results = document(run, given.clients, complete=complete, load_before=busy)
        if given.output is not None:
            write_atomically(given.output, lambda partial: partial.write_text(json.dumps(results, indent=1) + "\n"))
        return results

    with Progress(console=console, disable=not console.is_terminal) as progress:
        try:
            asked = cases(model, given.requests, seed=0)
            run.asked = list(progress.track(asked, given.requests, description="right answers"))
            queue = max(256, given.clients)
            with serving(given.model, queue) if given.url is None else nullcontext(given.url) as url:
                shape = {"clients": given.clients, "rounds": given.rounds, "seconds": given.seconds / given.rounds}
                asyncio.run(run.measure(url, **shape, progress=progress, save=save))
            complete = True
        except KeyboardInterrupt:
            console.print("stopped; measured until now:")
    show(save(), Console())
    raise SystemExit(0 if complete and not run.faults else 1)


if __name__ == "__main__":
    main()
