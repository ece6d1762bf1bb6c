"""Numbers of several processes in one folder: prometheus_client chooses how it counts when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal
from unmask.engine.engine import Load
from unmask.serve.metrics import Metrics

def counts():
    lines = metrics.render().decode().splitlines()
    return sorted(line for line in lines if line.startswith(("unmask_running", "unmask_requests_total")))

metrics = Metrics()
done, tell = os.pipe()
other = os.fork()
if not other:
    metrics.load(Load(waiting=0, running=3, pages=0, all_pages=0))
    metrics.request("/health", 200, 0.1)
    os.write(tell, b"!")
    signal.pause()
os.read(done, 1)
metrics.load(Load(waiting=0, running=2, pages=0, all_pages=0))
metrics.request("/health", 200, 0.1)
print(counts())
os.kill(other, signal.SIGKILL)
os.waitpid(other, 0)
print(counts())
"""


def test_the_dead_keep_their_counts_and_lose_their_gauges(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    made = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=120)
    assert made.returncode == 0, made.stderr
    requests = 'unmask_requests_total{endpoint="/health",status="200"} 2.0'
    expected = [[requests, "unmask_running_requests 5.0"], [requests, "unmask_running_requests 2.0"]]
    assert made.stdout.splitlines() == [str(lines) for lines in expected]
