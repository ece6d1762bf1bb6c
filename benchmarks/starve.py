"""What one heavy request does to a light one beside it, on `unmask serve` with unmask-tiny.

    python -m benchmarks.starve              # some minutes; --quick: fewer repeats

Each row starts one heavy request, asks the light one again and again until it is measured, and leaves. Printed: the light
request's median and longest time, how many times its time alone that is, and what the heavy one was answered.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
LIGHT = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32}
ONE_BLOCK = {"block_length": 448, "cache": "none"}
HEAVY: dict[str, dict[str, Any]] = {
    "n=128, vanilla": {"n": 128, "diffusion": {"method": "vanilla"}},
    "n=128, quota, block_length 1, cache none": {
        "n": 128,
        "diffusion": {"method": "vanilla", "block_length": 1, "cache": "none"},
    },
    "n=64, freedave, 16 drafts, cache none": {
        "n": 64,
        "diffusion": {"method": "freedave", "draft_steps": 16, "cache": "none"},
    },
    "n=128, drafts and trace, one block, cache none": {
        "n": 128,
        "stream": True,
        "diffusion": {"method": "vanilla", "drafts": True, "trace": True, **ONE_BLOCK},
    },
    "n=16, vanilla, 16 stops of 1,000 letters": {
        "n": 16,
        "stop": [letter + "x" * 999 for letter in "abcdefghijklmnop"],
        "diffusion": {"method": "vanilla"},
    },
    "n=16, vanilla, 16 stops of 60,000 letters": {
        "n": 16,
        "stop": [letter + "x" * 59_999 for letter in "abcdefghijklmnop"],
        "diffusion": {"method": "vanilla"},
    },
    "n=1, 2 drafts, one block, cache none": {"diffusion": {"method": "freedave", "draft_steps": 2, **ONE_BLOCK}},
    "n=1, 17 drafts, one block, cache none": {"diffusion": {"method": "freedave", "draft_steps": 17, **ONE_BLOCK}},
}


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """`unmask serve` until the block is left; its address."""
    command = [sys.executable, "-m", "unmask", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"http://[\d.]+:\d+", process.stderr.readline())
            assert found is not None, "the server did not start"
            threading.Thread(target=process.stderr.read, daemon=True).start()
            while True:
                try:
                    httpx2.get(f"{found[0]}/health")
                    break
                except httpx2.TransportError:
                    time.sleep(0.05)
            yield found[0]
        finally:
            process.kill()


def timed(url: str, repeats: int) -> list[float]:
    """Seconds of each light request, one after the other."""
    seconds = []
    with httpx2.Client(base_url=url, timeout=120) as client:
        for _ in range(repeats):
            began = time.perf_counter()
            response = client.post("/v1/chat/completions", json=LIGHT)
            assert response.status_code == 200, response.text
            seconds.append(time.perf_counter() - began)
    return seconds


def beside(url: str, heavy: dict[str, Any], repeats: int) -> tuple[list[float], str]:
    """Seconds of each light request beside a heavy one, which is broken off afterwards; what that one was told."""
    said, over = ["still running"], threading.Event()

    def ask() -> None:
        body = {"messages": LIGHT["messages"], "max_tokens": 448, **heavy}
        client = httpx2.Client(base_url=url, timeout=2)
        end = time.monotonic() + 300
        with client.stream("POST", "/v1/chat/completions", json=body, timeout=300) as response:
            if response.status_code != 200:
                said[0] = f"{response.status_code}: {json.loads(response.read())['error']['message']}"
                return
            for _ in response.iter_raw():
                if over.is_set() or time.monotonic() > end:
                    return
            said[0] = "answered"

    def ask_until_it_ends() -> None:
        with suppress(httpx2.TransportError):  # the server is ended before its answer
            ask()

    threading.Thread(target=ask_until_it_ends, daemon=True).start()
    time.sleep(1.0)
    seconds = timed(url, repeats)
    over.set()
    return seconds, said[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    given = parser.parse_args()
    repeats = 10 if given.quick else 50
    print(f"{'beside':50} {'median':>8} {'longest':>8} {'times':>6}  the heavy request", flush=True)
    for name, heavy in HEAVY.items():
        if given.only not in name:
            continue
        with server() as url:
            timed(url, 3)
            alone = statistics.median(timed(url, repeats))
            seconds, said = beside(url, heavy, repeats)
        median = statistics.median(seconds)
        print(f"{name:50} {median:8.3f} {max(seconds):8.3f} {median / alone:6.1f}  {said:.90}", flush=True)


if __name__ == "__main__":
    main()
