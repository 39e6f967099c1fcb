"""What docs/clusters.md shows and examples/ holds can be run: scripts cover every shard, files are Ray's."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import REPOSITORY, raw_blocks, text

SCRIPTS = ["extract.sh", "ray.sh"]
BLOCKS = raw_blocks(text("docs/clusters.md")) + [("bash", text(f"examples/{name}")) for name in SCRIPTS]


def named(name: str) -> str:
    """The block whose first lines say that it is the file `name`."""
    (block,) = (block for _, block in BLOCKS if re.search(rf"\A(#!.*\n)?# {re.escape(name)}\b", block))
    return block


CLUSTERS = [name for kind, block in BLOCKS if kind == "yaml" for name in re.findall(r"\A# ([\w.]+)", block)]


assert CLUSTERS == ["aws.yaml", "own.yaml"]


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "bash"])
def test_every_shell_block_is_one(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH on which every program of the cluster notes how it was called, and succeeds."""
    programs = tmp_path / "bin"
    programs.mkdir()
    note = f"#!{sys.executable}\nimport json, os, sys\n"
    note += "with open(os.environ['CALLS'], 'a') as file:\n"
    note += "    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + '\\n')\n"
    shard = "from gpupeak.corpora.shards import slurm_shard\nshard, _ = slurm_shard(os.environ)\n"
    shard += "print(shard.index, shard.count)\n"
    run = "words = sys.argv[1:]\nwhile words[0].startswith('--'): words.pop(0)\nos.execvp(words[0], words)\n"
    for name, code in {
        "gpupeak": "if 'SLURM_ARRAY_TASK_ID' in os.environ:\n    " + shard.replace("\n", "\n    "),
        "srun": run,
        "ray": "",
        "python": "",
        "scontrol": "print('node1\\nnode2\\nnode3')\n",
    }.items():
        (programs / name).write_text(note + code)
        (programs / name).chmod(0o755)
    (tmp_path / "activate").write_text("")
    return tmp_path


def run(machine: Path, script: str, **environment: str) -> tuple[str, list[list[str]]]:
    """What a script prints, and the calls that it made."""
    calls = machine / "calls"
    calls.unlink(missing_ok=True)
    text = named(script).replace("/shared/gpupeak/.venv/bin/activate", shlex.quote(str(machine / "activate")))
    variables = {
        "PATH": f"{machine / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "PYTHONPATH": str(REPOSITORY),
        "SLURM_CPUS_PER_TASK": "16",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run(
        ["bash", "-c", f"{text}\nwait"],
        env={**kept, **variables, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in calls.read_text().splitlines()]


def test_the_array_covers_every_shard_once(machine: Path) -> None:
    (array,) = re.findall(r"^#SBATCH --array=(\d+)-(\d+)$", named("extract.sh"), re.MULTILINE)
    first, last = map(int, array)
    tasks = range(first, last + 1)
    told = {"SLURM_ARRAY_TASK_COUNT": str(len(tasks)), "SLURM_ARRAY_TASK_MIN": str(first), "SLURM_NTASKS": "1"}
    seen = []
    for task in tasks:
        step = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
        out, calls = run(machine, "extract.sh", SLURM_ARRAY_TASK_ID=str(task), **told, **step)
        seen.append(tuple(map(int, out.split())))
        assert [call[0] for call in calls] == ["srun", "gpupeak"]
    assert sorted(seen) == [(index, len(tasks)) for index in range(len(tasks))]


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_ray_script_starts_a_head_and_the_others_then_the_job(machine: Path, nodes: int) -> None:
    _, calls = run(machine, "ray.sh", SLURM_JOB_NODELIST="node[1-3]", SLURM_NNODES=str(nodes), SLURM_JOB_ID="1")
    steps = [call[1:] for call in calls if call[0] == "srun"]
    heads = [step for step in steps if "--head" in step]
    workers = [step for step in steps if "--head" not in step]
    assert [step[:3] for step in heads] == [["--nodes=1", "--ntasks=1", "--nodelist=node1"]]
    expected = [["--nodes=2", "--ntasks=2", "--exclude=node1"]] if nodes == 3 else []
    assert [step[:3] for step in workers] == expected
    assert all("--address=node1:6379" in step for step in workers)
    (job,) = (call for call in calls if call[0] == "gpupeak")
    assert job[1:2] == ["extract"]
    assert job[job.index("--engine") + 1] == "ray"
    assert job[job.index("--address") + 1] == "auto"
    waited = [i for i, call in enumerate(calls) if call[0] == "python"]
    assert max(waited) < calls.index(job)
