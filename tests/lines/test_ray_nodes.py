"""A Ray job on two nodes that only a network connects: two network namespaces, and what a cut between them costs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from samples import sample
from synthetic_lines import SyntheticLine

from gpupeak.storage.places import local

SAMPLES, CUT_AFTER = 160, 40
HEAD, OTHER = "10.231.7.1", "10.231.7.2"  # nobody else's: nothing but the other namespace is reached from there

DRIVER = f"""
import json, subprocess, sys
from pathlib import Path
from gpupeak.lines.ray import RayLine
from synthetic_lines import make_line
from samples import sample

address, out, pids, *cut = sys.argv[1:]
line = RayLine((make_line, ("cpu", 0.05, Path(pids))), lambda told: print(told, file=sys.stderr), address=address)
outcomes = []
for outcome in line.run([sample(Path(out), str(number)) for number in range({SAMPLES})]):
    outcomes.append(outcome)
    if cut and len(outcomes) == {CUT_AFTER}:
        subprocess.run(cut, check=True)
line.close()
print(json.dumps([[outcome.sample.name, type(outcome).__name__] for outcome in outcomes]))
"""


@dataclass(frozen=True)
class Nodes:
    """Two namespaces in which Ray runs; `other` is the one without the head."""

    head: str
    other: str
    link: str
    address: str
    environment: dict[str, str]

    def drive(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the driver beside the head."""
        command = ["ip", "netns", "exec", self.head, sys.executable, "-c", DRIVER, self.address, *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=250, env={**self.environment, **environment}
        )


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head and another node, with a CPU each and a token that both know; the last test cuts the link."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    head, other, near, far = (f"gp{os.getpid()}{letter}" for letter in "abcd")
    made = subprocess.run(["ip", "netns", "add", head], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    place = tempfile.mkdtemp(prefix="gpr")  # short: Unix sockets are in there
    environment = {
        **os.environ,
        "HOME": place,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_health_check_initial_delay_ms": "1000",  # a lost node is noticed in seconds, not in a minute
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "500",
        "RAY_health_check_failure_threshold": "4",
    }

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def ray(namespace: str, *words: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus", "1", *words]
        command = ["ip", "netns", "exec", namespace, *command]
        log = Path(place, f"{namespace}.log")  # not a pipe: the node would hold it open
        with log.open("w") as told:
            ended = subprocess.run(command, stdout=told, stderr=told, env=environment, timeout=120)
        assert ended.returncode == 0, log.read_text()

    try:
        ip("netns", "add", other)
        ip("link", "add", near, "type", "veth", "peer", "name", far)
        for namespace, link, address in ((head, near, HEAD), (other, far, OTHER)):
            ip("link", "set", link, "netns", namespace)
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "link", "set", link, "up")
        ray(
            head, "--head", f"--node-ip-address={HEAD}", "--port=6379", "--include-dashboard=false", "--temp-dir", place
        )
        ray(other, f"--address={HEAD}:6379", f"--node-ip-address={OTHER}")
        yield Nodes(head, other, far, f"{HEAD}:6379", environment)
    finally:
        for namespace in (head, other):
            there = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
            subprocess.run(["kill", "-9", *there], stderr=subprocess.DEVNULL)
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL)
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.slow
def test_a_token_that_is_missing_is_one_line(nodes: Nodes, tmp_path: Path) -> None:
    ended = nodes.drive(tmp_path, tmp_path, RAY_AUTH_MODE="disabled")
    *_, last = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert last.startswith(
        f"gpupeak.errors.DeviceError: --address {nodes.address}: that cluster asks for another token"
    )


@pytest.mark.slow
def test_a_node_that_is_cut_off_takes_no_sample_with_it(nodes: Nodes, tmp_path: Path) -> None:
    for name in ("plain", "ray", "pids"):
        (tmp_path / name).mkdir()
    cut = ("ip", "-n", nodes.other, "link", "set", nodes.link, "down")
    ended = nodes.drive(tmp_path / "ray", tmp_path / "pids", *cut)
    assert ended.returncode == 0, ended.stderr
    assert "in 2 actors with 1 CPU, over 2 nodes" in ended.stderr
    outcomes = json.loads(ended.stdout)  # and nothing of Ray's is there
    assert sorted(outcomes) == sorted([str(number), "Saved"] for number in range(SAMPLES))
    assert len(list((tmp_path / "pids").iterdir())) >= 2
    for one in SyntheticLine().run([sample(tmp_path / "plain", str(number)) for number in range(SAMPLES)]):
        target = local(one.sample.target)
        assert target.read_bytes() == (tmp_path / "ray" / target.name).read_bytes()
