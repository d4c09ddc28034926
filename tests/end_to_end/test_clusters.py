"""Clusters of real Rays: what may join, who listens where, and what a user is told."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.ray

Nodes = Any

SPEC = """
name: tiny
problem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 20}
sweep: {grid: {update_rule.learning_rate: [0.005, 0.01]}, seeds: 2}
"""


def outside_ray(**more: str) -> dict[str, str]:
    """This environment without anything that concerns Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | more


@pytest.fixture(scope="module")
def guarded(ray_nodes: Callable[..., Any]) -> Iterator[Nodes]:
    """A cluster that asks for a token."""
    with ray_nodes() as nodes:
        nodes.start_head("--num-cpus=2")
        yield nodes


@pytest.fixture(scope="module")
def with_jobs(ray_nodes: Callable[..., Any]) -> Iterator[Nodes]:
    """A cluster that takes jobs."""
    with ray_nodes(loopback=True) as nodes:
        nodes.start_head("--num-cpus=2", dashboard=True)
        yield nodes


@pytest.fixture
def cli(make_cli: Callable[[], Any], tmp_path: Path) -> Any:
    made = make_cli()
    (made.folder / "tiny.yaml").write_text(SPEC)
    made.environment = {k: v for k, v in made.environment.items() if not k.startswith("RAY_")} | {"HOME": str(tmp_path)}
    return made


def test_a_cluster_with_a_token_is_joined_with_it_alone(guarded: Nodes, cli: Any, tmp_path: Path):
    def run(code: int) -> str:
        return str(cli("run", "tiny.yaml", "--address", guarded.address, code=code, timeout_s=120).stderr)

    assert "the cluster asks for a token and there is none here" in run(3)
    token = tmp_path / "token"
    token.write_text("0" * 64)
    token.chmod(0o600)
    cli.environment["RAY_AUTH_TOKEN_PATH"] = str(token)
    assert f"the cluster refuses the token of file {token}" in run(3)
    token.write_text(guarded.token)
    said = run(0)
    assert "4 done" in said
    assert "insecure" not in said


def test_a_cluster_of_another_python_is_refused_with_both_versions(guarded: Nodes, cli: Any):
    cli.environment["RAY_AUTH_TOKEN"] = guarded.token
    code = (
        "import json, sys; from ray._raylet import GcsClient; from ray._private import ray_constants as c\n"
        "client = GcsClient(address=sys.argv[1]); space = c.KV_NAMESPACE_CLUSTER\n"
        "known = json.loads(client.internal_kv_get(b'CLUSTER_METADATA', space))\n"
        "other = json.dumps({**known, 'python_version': sys.argv[2] or known['python_version']})\n"
        "client.internal_kv_put(b'CLUSTER_METADATA', other.encode(), True, space)"
    )

    def pretend(version: str) -> None:
        command = [sys.executable, "-c", code, guarded.address, version]
        subprocess.run(command, env=guarded.environment, check=True, timeout=60)

    pretend("3.9.1")
    try:
        said = cli("run", "tiny.yaml", "--address", guarded.address, code=3, timeout_s=120).stderr
    finally:
        pretend(".".join(map(str, sys.version_info[:3])))
    assert "on Python 3.9.1, this machine Ray" in said
    assert "use an environment of Python 3.9.1 here" in said


HOLD = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=2)
class Holder:
    def up(self): return True
holder = Holder.remote()
ray.get(holder.up.remote())
print("held", flush=True)
sys.stdin.read()
"""


def test_what_another_job_holds_is_waited_for_aloud_and_used_when_it_is_given_back(guarded: Nodes, cli: Any):
    (cli.folder / "tiny.yaml").write_text(SPEC.replace("steps: 20", "steps: 1000000, checkpoint_every: 1000"))
    cli.environment["RAY_AUTH_TOKEN"] = guarded.token
    command = [sys.executable, "-c", HOLD, guarded.address]
    holder = subprocess.Popen(
        command, env=guarded.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process = None
    try:
        assert holder.stdout is not None
        assert "held\n" in iter(holder.stdout.readline, "")
        process = cli.start("run", "tiny.yaml", "--address", guarded.address)
        status = wait_for(lambda: waiting_line(cli))
        holder.communicate("", timeout=60)
        said = []
        for line in iter(process.stderr.readline, ""):
            said.append(line)
            if "the waiting workers now have a place" in line:
                process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    finally:
        holder.kill()
        if process is not None:
            process.kill()
    assert "only 0 of 2 CPUs are free, the rest is taken by other jobs" in status
    assert any("waiting for 0.5 CPUs (2 trainers): only 0 of 2 CPUs are free" in line for line in said)
    assert any("the waiting workers now have a place" in line for line in said)
    assert process.returncode == 130


def waiting_line(cli: Any) -> str:
    command = [sys.executable, "-m", "sweeper", "status", "runs/tiny"]
    shown = subprocess.run(command, cwd=cli.folder, env=cli.environment, capture_output=True, text=True, timeout=60)
    return "".join(line for line in shown.stdout.splitlines() if "waiting for" in line)


def test_an_open_cluster_is_refused_unless_it_is_accepted(ray_nodes: Callable[..., Any], cli: Any):
    with ray_nodes(guarded=False) as nodes:
        nodes.start_head("--num-cpus=2")
        refused = cli("run", "tiny.yaml", "--address", nodes.address, code=3).stderr
        assert "does not ask for a token" in refused
        assert "--insecure-cluster" in refused
        said = cli("run", "tiny.yaml", "--address", nodes.address, "--insecure-cluster").stderr
        assert "insecure: anybody who reaches" in said
        assert "4 done" in said


def test_a_local_ray_listens_on_the_loopback_has_a_token_and_no_dashboard_and_writes_no_token(cli: Any, tmp_path: Path):
    (cli.folder / "tiny.yaml").write_text(SPEC.replace("steps: 20", "steps: 1000000, checkpoint_every: 1000"))
    cli.environment["SOME_API_KEY"] = secret = "a3f9-not-for-any-file-77c1"
    process = cli.start("run", "tiny.yaml")
    try:
        (head,) = wait_for(lambda: named(process, "gcs_server"))
        token = head.environ()["RAY_AUTH_TOKEN"]
        wait_for(lambda: named(process, "ray::TrainerActor"))
        listening = {
            (child.name(), connection.laddr.ip, connection.laddr.port)
            for child in [psutil.Process(process.pid), *children_of(process)]
            for connection in child.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        }
        (gcs,) = {f"127.0.0.1:{port}" for name, _, port in listening if name == "gcs_server"}
        command = [sys.executable, "-m", "sweeper.cluster.probe", gcs, "60"]
        stranger = subprocess.run(
            command, env=outside_ray(RAY_AUTH_MODE="disabled"), capture_output=True, text=True, timeout=120
        )
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=120)
        finally:
            process.kill()
    assert {name for name, _, _ in listening} >= {"gcs_server", "raylet"}
    assert {entry for entry in listening if not loopback(entry[1])} == set()
    assert 8265 not in {port for _, _, port in listening}
    assert '"problem": "token"' in stranger.stdout
    assert not (tmp_path / ".ray").exists()
    assert head.pid not in psutil.pids()
    written = [path for path in cli.folder.rglob("*") if path.is_file()]
    assert {"environment.json", "journal.jsonl", "driver.log", "raylet.out"} <= {path.name for path in written}
    for name in (secret, "SOME_API_KEY", token):
        assert [path for path in written if name.encode() in path.read_bytes()] == []


def loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    assert process.poll() is None, process.communicate()
    return psutil.Process(process.pid).children(recursive=True)


def named(process: subprocess.Popen[str], beginning: str) -> list[psutil.Process]:
    """The process's offspring of a name."""
    found = []
    for child in children_of(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if child.name().startswith(beginning) else []
    return found


def ended(process: subprocess.Popen[str]) -> bool:
    """Never: a process that ends before its time fails the test with what it said."""
    if process.poll() is not None:
        pytest.fail(f"exit {process.returncode}: {process.communicate()}")
    return False


def wait_for(found: Callable[[], Any], timeout_s: float = 600) -> Any:
    """What is found in the end."""
    until = time.monotonic() + timeout_s
    while not (result := found()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.2)
    return result


OWN = """
from pathlib import Path
import ray
from trainers.problems.deep_linear import deep_linear

def mine(*, seed, device, log):
    node = ray.get_runtime_context().get_node_id()
    (Path(log) / node).touch()
    return deep_linear(layers=3, width=48, samples=512, batch_size=128, seed=seed, device=device)
"""

OWN_SPEC = """
name: own
problem: {{use: "of_mine:mine", log: "{log}"}}
update_rule: {{learning_rate: 0.01}}
train: {{steps: 2400, checkpoint_every: 400}}
sweep: {{grid: {{update_rule.learning_rate: [0.005, 0.01]}}, seeds: 6}}
resources: {{trainers: {{count: 4, cpus: 1}}}}
"""


def test_a_sweep_of_ones_own_code_spreads_over_four_nodes_and_the_report_says_who_did_what(
    ray_nodes: Callable[..., Any], cli: Any, tmp_path: Path
):
    log = tmp_path / "seen"
    log.mkdir()
    (cli.folder / "of_mine.py").write_text(OWN)
    (cli.folder / "own.yaml").write_text(OWN_SPEC.format(log=log))
    with ray_nodes() as nodes:
        nodes.start_head("--num-cpus=1")
        for name in ("second", "third", "fourth"):
            nodes.add(name)
        cli.environment["RAY_AUTH_TOKEN"] = nodes.token
        cli("run", "own.yaml", "--address", nodes.address)
    document = json.loads(cli("report", "runs/own", "--format", "json").stdout)
    nodes = document["nodes"]
    assert len(nodes) == 4
    assert {node["node"] for node in nodes} == {path.name[:8] for path in log.iterdir()}
    assert sum(node["steps"] for node in nodes) == 12 * 2400
    assert sum(node["share"] for node in nodes) == pytest.approx(1)
    assert all(node["trials"] >= 1 and node["train_s"] > 0 for node in nodes)
    for style in ("table", "md"):
        shown = cli("report", "runs/own", "--format", style).stdout
        assert all(f"({node['node']})" in shown for node in nodes)


LONG_SPEC = OWN_SPEC.replace("steps: 2400, checkpoint_every: 400", "steps: 1000000, checkpoint_every: 500")


def test_a_detached_sweep_is_followed_cancelled_from_elsewhere_and_gone_on_with(
    with_jobs: Nodes, cli: Any, tmp_path: Path
):
    log = tmp_path / "seen"
    log.mkdir()
    (cli.folder / "of_mine.py").write_text(OWN)
    (cli.folder / "own.yaml").write_text(LONG_SPEC.format(log=log).replace("count: 4, cpus: 1", "count: 1, cpus: 1"))
    cli.environment["RAY_AUTH_TOKEN"] = with_jobs.token
    document = json.loads(cli("run", "own.yaml", "--address", with_jobs.address, "--detach", "--json").stdout)
    status = json.loads(cli("status", "runs/own", "--json").stdout)
    assert status["driver"]["job"] == document["job"]
    refused = cli("run", "own.yaml", "--address", with_jobs.job_server, "--detach", code=2).stderr
    assert f"pid {status['driver']['pid']} on {socket.gethostname()} is running this sweep" in refused
    follower = cli.start("attach", "runs/own")
    try:
        wait_for(lambda: ended(follower) or json.loads(cli("status", "runs/own", "--json").stdout)["steps_done"])
        said = cli("cancel", "runs/own").stderr
        _, followed = follower.communicate(timeout=120)
    finally:
        follower.kill()
    assert f"asked pid {status['driver']['pid']}" in said
    assert "stopping: trials checkpoint at their next step" in followed
    assert follower.returncode == 130
    stopped = json.loads(cli("status", "runs/own", "--json").stdout)
    assert stopped["driver"] is None
    assert 0 < stopped["steps_done"] < 2_000_000
    # The same trials, shorter, on the way that is open from outside the cluster; and Ctrl-C in the foreground.
    process = cli.start("run", "own.yaml", "--address", with_jobs.client)
    try:
        wait_for(lambda: ended(process) or json.loads(cli("status", "runs/own", "--json").stdout)["live"])
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "to stop; interrupt again to stop waiting for it" in said
    assert process.returncode == 130
    assert json.loads(cli("status", "runs/own", "--json").stdout)["steps_done"] >= stopped["steps_done"]


def test_a_sweep_through_a_job_server_ends_with_the_tables_and_exit_code_of_any_other(
    with_jobs: Nodes, cli: Any, tmp_path: Path
):
    cli.environment["RAY_AUTH_TOKEN"] = with_jobs.token
    said = cli("run", "tiny.yaml", "--address", with_jobs.job_server, "--json")
    assert json.loads(said.stdout)["counts"] == {"done": 4}
    assert "read them with `clipsweep report runs/tiny`" in said.stderr
    assert "4 done" in cli("run", "tiny.yaml", "--address", "local").stderr
    # What the driver refuses inside is said outside, with its exit code.
    (cli.folder / "tiny.yaml").write_text(SPEC.replace("steps: 20", "steps: 30"))
    refused = cli("run", "tiny.yaml", "--address", with_jobs.job_server, code=2).stderr
    assert "--accept-change" in refused
    assert "4 done" in cli("run", "tiny.yaml", "--address", with_jobs.job_server, "--accept-change").stderr


@pytest.mark.slow
def test_a_job_whose_driver_dies_is_not_taken_for_one_that_ended(with_jobs: Nodes, cli: Any):
    (cli.folder / "tiny.yaml").write_text(SPEC.replace("steps: 20", "steps: 1000000, checkpoint_every: 500"))
    cli.environment["RAY_AUTH_TOKEN"] = with_jobs.token
    cli("run", "tiny.yaml", "--address", with_jobs.job_server, "--detach")
    follower = cli.start("attach", "runs/tiny")
    try:
        wait_for(lambda: json.loads(cli("status", "runs/tiny", "--json").stdout)["live"])
        os.kill(json.loads(cli("status", "runs/tiny", "--json").stdout)["driver"]["pid"], signal.SIGKILL)
        _, said = follower.communicate(timeout=120)
    finally:
        follower.kill()
    assert follower.returncode == 2
    assert "disappeared without a message" in said
    assert "run the same command to continue" in said


def test_what_takes_no_jobs_is_told_so(guarded: Nodes, cli: Any):
    cli.environment["RAY_AUTH_TOKEN"] = guarded.token
    said = cli("run", "tiny.yaml", "--address", guarded.address, "--detach", code=3).stderr
    assert "without --include-dashboard=false" in said
    said = cli("run", "tiny.yaml", "--detach", code=2).stderr
    assert "a local Ray ends with its driver" in said


FRACTIONS = """
import ray
from sweeper.protocol.interleaving import interleaved
ray.init(num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False)
@ray.remote(num_cpus=0)
class Worker:
    def gpu(self): return ray.get_gpu_ids()[0]
share = {"trainer": 0.1, "estimator": 0.45}
kinds = list(interleaved(2, 4))
workers = [Worker.options(num_gpus=share[kind]).remote() for kind in kinds]
print(*(ray.get(worker.gpu.remote(), timeout=60) for worker in workers))
"""


def test_ray_fills_a_gpu_before_the_next_as_placement_assumes():
    """With GPUs that are not there: Ray only counts them."""
    done = subprocess.run(
        [sys.executable, "-c", FRACTIONS], env=outside_ray(), check=True, timeout=120, text=True, stdout=subprocess.PIPE
    )
    assert done.stdout.split() == ["0", "0", "0", "1", "1", "1"]
