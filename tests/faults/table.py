"""What does a record of `make faults` say, as a table for a page in Markdown?

    python tests/faults/table.py RECORD.json [--language en|zh]

docs/reliability.md shows what this prints, to the letter.
"""

# ruff: noqa: RUF001 - Chinese is written with Chinese punctuation

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADS = {
    "en": "What happened | Samples lost | Files torn | Workers left over | Most memory, MiB | Seed | As promised",
    "zh": "发生了什么 | 丢失的样本 | 残缺的文件 | 遗留的进程 | 最多内存，MiB | 种子 | 符合承诺",
}
ROWS = {
    "kills": {
        "en": "{kills} kills by SIGKILL, {runs} runs over {clips:,} clips",
        "zh": "{kills} 次 SIGKILL，{clips:,} 个片段上的 {runs} 次运行",
    },
    "disk": {
        "en": "{faults_met} faults of disk, files and descriptors",
        "zh": "{faults_met} 次磁盘、文件和描述符故障",
    },
    "signals": {
        "en": "{signals} signals, clock jumps and second runs",
        "zh": "{signals} 次信号、时钟跳变和重复运行",
    },
    "load": {
        "en": "{samples:,} samples of {datasets} datasets, {samples_per_s:.0f} a second",
        "zh": "{datasets} 个数据集的 {samples:,} 个样本，每秒 {samples_per_s:.0f} 个",
    },
    "plan": {
        "en": "{listed:,} listed samples planned in {seconds:.0f} s",
        "zh": "在 {seconds:.0f} 秒内规划 {listed:,} 个列出的样本",
    },
    "soak": {
        "en": "{minutes:.0f} minutes with {faults_met} faults drawn by lot, {runs} runs",
        "zh": "{minutes:.0f} 分钟内随机的 {faults_met} 次故障，{runs} 次运行",
    },
    "media": {
        "en": "{mutants:,} hostile videos, the longest {longest_s:.0f} s",
        "zh": "{mutants:,} 个恶意视频，最长 {longest_s:.0f} 秒",
    },
    "data": {
        "en": "{files:,} hostile data files, the longest {longest_s:.1f} s",
        "zh": "{files:,} 个恶意数据文件，最长 {longest_s:.1f} 秒",
    },
}
NOTES = {
    "en": """
- Manifest lines that say `kept`: {kept}, over all kills and faults. Samples that failed because two workers were killed
  on them, and were made by the next run: {again}.
- Memory is that of the run and its workers together, what they share counted more than once; of the videos, that of one
  worker.
- In the second half of the nine datasets a sample took {cpu:.2f} times the processor time of the first, memory at
  most {memory:.2f} times as much; open files {files}, threads {threads}.
  Planning took {planned:,.0f} bytes a sample.""",
    "zh": """
- 清单中 `kept` 的行：所有杀死和故障总共 {kept} 行。
  因两个工作进程先后在其上被杀死而失败、由下一次运行完成的样本：{again} 个。
- 内存是运行及其工作进程之和，共享的部分被重复计算；对视频而言是一个工作进程的内存。
- 九个数据集的后一半，每个样本的处理器时间是前一半的 {cpu:.2f} 倍，内存最多是 {memory:.2f} 倍；
  打开的文件 {files}，线程 {threads}。规划时每个样本占 {planned:,.0f} 字节。""",
}
YES = {"en": ("yes", "no"), "zh": ("是", "否")}


def table(record: dict[str, Any], language: str = "en") -> Iterator[str]:
    """The lines of the table, a row for each part of the record; one that was not measured has none."""
    head = HEADS[language]
    yield f"| {head} |"
    yield "| --- |" + " ---: |" * head.count("|")
    for name, texts in ROWS.items():
        part = record["parts"].get("load" if name == "plan" else name)
        if part is None or not _measured(part):
            continue
        figures = {"load": part.get("extraction"), "plan": part.get("plan")}.get(name) or part
        memory = next((figures[key] for key in ("peak_mib", "worst_worker_mib") if key in figures), None)
        cells = [
            texts[language].format(**figures),
            _number(figures.get("lost_samples")),
            _number(figures.get("torn_files")),
            _number(figures.get("orphans")),
            "-" if memory is None else f"{memory:.0f}",
            str(part["seed"]),
            YES[language][not figures["ok"]],
        ]
        yield f"| {' | '.join(cells)} |"


def notes(record: dict[str, Any], language: str = "en") -> str:
    """What else the record says; nothing where the load was not measured."""
    parts = record["parts"]
    if "load" not in parts or not _measured(parts["load"]):
        return ""
    figures, planning = parts["load"]["extraction"], parts["load"]["plan"]
    return NOTES[language].format(
        kept=sum(part.get("kept_lines", 0) for part in parts.values()),
        again=sum(part.get("failed_and_made_again", 0) for part in parts.values()),
        cpu=figures["cpu_second_over_first"],
        memory=figures["memory_second_over_first"],
        files=f"{figures['files_first']}, {figures['files_second']}",
        threads=f"{figures['threads_first']}, {figures['threads_second']}",
        planned=planning["bytes_a_sample"],
    )


def _measured(part: dict[str, Any]) -> bool:
    """Not if it broke off: what it says then is why."""
    return len(part.keys() - {"seed", "ok", "faults", "scale", "took_s", "commit"}) > 0


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    given = parser.parse_args()
    record = json.loads(given.record.read_text())
    print(*table(record, given.language), notes(record, given.language), sep="\n")


if __name__ == "__main__":
    main()
