"""A Ray job: the bytes of a plain run, one outcome a sample whatever ends an actor, one line for what cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from faults.harness import look
from ray.cluster_utils import Cluster
from samples import ENCODER, of_demo, sample, words
from synthetic_lines import SyntheticLine, assert_stops, make_liar, make_line, make_no_line, names

import gpupeak
from gpupeak.demo.corpus import DemoCorpus
from gpupeak.errors import ConfigError, DeviceError, RunError
from gpupeak.lines import Recipe
from gpupeak.lines.cluster import Actors
from gpupeak.lines.ray import RayLine
from gpupeak.storage.places import local
from gpupeak.types import Failed, Outcome, Saved

ROOT = Path(gpupeak.__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, where the driver is, and two workers of one CPU each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        with ray.init(address=cluster.address, log_to_driver=False):
            yield cluster
        cluster.shutdown()


def run(recipe: Recipe, samples: Iterable[Any], tell: Callable[[str], None] = print, **options: Any) -> list[Outcome]:
    with closing(RayLine(recipe, tell, **options)) as line:
        return list(line.run(samples))


def test_an_actor_killed_in_the_middle_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "plain").mkdir()
    samples = [sample(tmp_path, "third" if i == 30 else f"clip {i}") for i in range(80)]
    line = RayLine((make_line, ("cpu", 0.02, tmp_path / "pids")), print)
    outcomes = line.run(samples)
    seen = [next(outcomes)]
    before = {int(path.name) for path in (tmp_path / "pids").iterdir()}
    os.kill(min(before), signal.SIGKILL)
    seen += outcomes
    line.close()
    assert ray.is_initialized(), "somebody else's connection is left as it was"
    assert names(seen) == sorted(one.name for one in samples)
    assert all(isinstance(outcome, Saved) for outcome in seen)
    assert len(list((tmp_path / "pids").iterdir())) == 3, "another process went on"
    for outcome in SyntheticLine().run([sample(tmp_path / "plain", one.name) for one in samples]):
        target = local(outcome.sample.target)
        assert target.read_bytes() == (tmp_path / target.name).read_bytes()


@pytest.mark.slow
def test_a_node_that_is_lost_takes_no_sample_with_it(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    node = cluster.add_node(num_cpus=1)
    line = RayLine((make_line, ("cpu", 0.02, tmp_path / "pids")), print, actors="3")
    outcomes = line.run([sample(tmp_path, "third" if i == 30 else f"clip {i}") for i in range(160)])
    seen = [next(outcomes) for _ in range(40)]  # "third" is one only if all nodes have begun
    cluster.remove_node(node, allow_graceful=False)
    seen += outcomes
    line.close()
    assert all(isinstance(outcome, Saved) for outcome in seen)
    assert names(seen) == sorted(path.stem for path in tmp_path.glob("*.npy")) and len(seen) == 160
    cluster.wait_for_nodes()  # the others' tests count those that Ray believes to live


@pytest.mark.slow
def test_a_sample_that_kills_its_actor_fails_and_nothing_else_does(cluster: Cluster, tmp_path: Path) -> None:
    samples = [sample(tmp_path, "deadly" if i == 17 else f"clip {i}") for i in range(40)]
    outcomes = run((make_line, ("cpu", 0.0, None)), samples, actors="1")
    assert names(outcomes) == sorted(one.name for one in samples)
    (failed,) = (outcome for outcome in outcomes if isinstance(outcome, Failed))
    assert (failed.sample.name, failed.stage) == ("deadly", "decode")
    assert "twice on this sample" in failed.reason


@pytest.mark.slow
def test_stopping_leaves_the_rest_without_an_outcome(cluster: Cluster, tmp_path: Path) -> None:
    line = RayLine((make_line, ("cpu", 0.01, None)), print, actors="1")
    assert_stops(line, [sample(tmp_path, str(i)) for i in range(3000)], tmp_path, most=1000)


@pytest.mark.slow
def test_stopping_before_there_is_an_actor_leaves_nothing_behind(cluster: Cluster, tmp_path: Path) -> None:
    stop = threading.Event()
    outcomes = RayLine((make_line, ("cpu", 0.0, None)), print, workers=2).run([sample(tmp_path, "a")], stop)
    threading.Timer(3.0, stop.set).start()  # no node has two CPUs: Ray goes on looking for one
    assert list(outcomes) == []


@pytest.mark.slow
def test_what_the_lines_tell_is_told_once(cluster: Cluster, tmp_path: Path) -> None:
    told: list[str] = []
    run((make_line, ("cpu", 0.0, None)), [sample(tmp_path, str(i)) for i in range(40)], told.append, actors="1:2")
    assert told == [
        "on the CPU: Ray shows no GPU; by Ray, in 1 to 2 actors with 1 CPU, over 3 nodes",
        "a synthetic line",
    ]


@pytest.mark.slow
def test_a_line_that_cannot_be_built_ends_the_job_at_once(cluster: Cluster, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DeviceError, match=r"^node \S+: there is no such GPU$"):
        run((make_no_line, ()), [sample(tmp_path, str(i)) for i in range(5000)], actors="1")
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_directories_that_a_node_does_not_see_are_one_error(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"^node \S+: {tmp_path}/gone is not there, and the driver sees it: .* URLs$"):
        run((make_line, ("cpu", 0.0, None)), [sample(tmp_path / "gone", str(i)) for i in range(100)], actors="1")
    with pytest.raises(RunError, match=rf"has saved {tmp_path}/\d+.npy, and here it is not: the output has to be"):
        run((make_liar, ()), [sample(tmp_path, str(i)) for i in range(100)], actors="1")


@pytest.mark.slow
def test_gpus_that_ray_does_not_show_are_one_line(cluster: Cluster) -> None:
    for options in ({"device": "cuda"}, {"gpus_per_actor": 0.5}):
        with pytest.raises(DeviceError, match="Ray shows no GPU"):
            run((make_line, ("cpu", 0.0, None)), [], **options)


def command(corpus: DemoCorpus, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """gpupeak extract in a process of its own, which is connected to no cluster."""
    config = of_demo(corpus, out, encoder=ENCODER, engine="ray", device="auto")
    return subprocess.run(
        [sys.executable, "-m", "gpupeak", "extract", *words(config), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=out.parent,
    )


@pytest.mark.slow
def test_a_cluster_of_its_own_makes_the_bytes_of_a_plain_run_and_prints_one_object(
    corpus: DemoCorpus, tmp_path: Path
) -> None:
    assert gpupeak.extract(of_demo(corpus, tmp_path / "plain", encoder=ENCODER)).exit_code == 0
    ended = command(corpus, tmp_path / "ray", "--json", "--quiet")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["saved"], told["failed"], told["device"]) == (5, 0, "cpu")
    assert all(line.startswith(("on the CPU: Ray shows no GPU", "warning: ")) for line in ended.stderr.splitlines())
    places = {file.parent.relative_to(tmp_path / "plain") for file in (tmp_path / "plain").rglob("*.npy")}
    for place in places:
        assert look(tmp_path / "ray" / place) == look(tmp_path / "plain" / place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--address", "127.0.0.1:1"), 3, "no Ray cluster answers at 127.0.0.1:1: Connection"),
        (("--workers", "60"), 3, "--workers 60: this machine has "),
        (("--weights", "/no/such/weights"), 2, "weights '/no/such/weights': no such file or directory"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    corpus: DemoCorpus, tmp_path: Path, options: tuple[str, ...], code: int, told: str
) -> None:
    ended = command(corpus, tmp_path / "out", "--quiet", *options)
    assert ended.returncode == code
    (line,) = (line for line in ended.stderr.splitlines() if not line.startswith("warning: "))
    assert told in line


@pytest.mark.parametrize(
    ("nodes", "asked", "chosen"),
    [
        ([(8, 0)], {}, (1, 1, 8, 0)),
        ([(8, 0), (8, 0)], {}, (2, 2, 8, 0)),
        ([(0, 0), (4, 0), (8, 0)], {}, (3, 3, 4, 0)),
        ([(8, 0)], {"actors": "3"}, (3, 3, 2, 0)),
        ([(8, 0), (8, 0)], {"actors": "2:4"}, (2, 4, 4, 0)),
        ([(2, 0)], {"actors": "5"}, (5, 5, 1, 0)),
        ([(8, 0)], {"workers": 3}, (2, 2, 3, 0)),
        ([(64, 8), (32, 4)], {}, (12, 12, 8, 1.0)),
        ([(64, 8)], {"gpus_per_actor": 0.5}, (16, 16, 4, 0.5)),
        ([(64, 8), (16, 0)], {"device": "cpu"}, (5, 5, 16, 0)),
        ([(64, 8)], {"device": "cuda", "actors": "1:8"}, (1, 8, 8, 1.0)),
    ],
)
def test_actors_fill_the_nodes(
    nodes: list[tuple[float, float]], asked: dict[str, Any], chosen: tuple[int, int, int, float]
) -> None:
    options = {"device": "auto", "actors": None, "gpus_per_actor": None, "workers": None, **asked}
    actors, _ = Actors.choose(nodes, **options)
    assert actors == Actors(*chosen)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--engine ray needs Ray .*: pip install 'gpupeak\[ray\]'"):
        RayLine((make_line, ("cpu", 0.0, None)), print)


def test_a_cluster_that_asks_for_a_token_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*where: str, **options: object) -> None:
        raise ConnectionError("InvalidAuthToken: this cluster wants one")

    fake = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(DeviceError, match=r"^--address auto: that cluster asks for another token; .* RAY_AUTH_TOKEN"):
        RayLine((make_line, ("cpu", 0.0, None)), print, address="auto")
