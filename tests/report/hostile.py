"""A corpus whose names, manifest and run.json are no friend of a page's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clips import write_clip
from samples import write_features

from gpupeak import ExtractConfig

NAMES = (
    *("<img src=x onerror=alert(1)>", "'\"><svg onload=alert(2)>", "样本 1", "plain", "<script>alert(4)<!--"),
    *("&lt;b&gt;&amp;", "{{7*7}}${7*7}", "javascript:alert(5)", "--><style>*{display:none}", "\u202egpj.exe", "`'"),
)
REFUSED, DATASET = "<marquee>", "mi<b>ne\"'"
SCRIPT = "</script><script>alert(3)</script><!--\u2028"
QUOTED = "\"'><img src=x onerror=alert(7)>/a\"b'c/<!--]]>"
INDICES = [0, 5, 18, 19, 20, 21, 22, 39]


def make_hostile(root: Path) -> ExtractConfig:
    """A sample for each of `NAMES`, one that failed and one that is missing; all but the first have a peak."""
    (root / "videos").mkdir()
    out = root / """o"u't<script>alert(6)<"""
    features = out / DATASET / "frame_CLIP_VIT_LARGE_emotion_peak_8frms"
    write_features(features, *NAMES)
    lines: list[dict[str, Any]] = [{"sample": REFUSED, "outcome": "failed", "stage": SCRIPT, "reason": QUOTED}]
    for number, name in enumerate(NAMES):
        write_clip(root / "videos" / f"{name}.mp4", frames=40, seed=number)
        found: dict[str, Any] = {"peak": {"index": 20, "source": SCRIPT}}
        if number == 0:
            found = {"fallback": {"reason": SCRIPT, "detail": QUOTED}, "warnings": [SCRIPT, "a single frame"]}
        entry = {"sample": name, "outcome": "saved", "indices": INDICES, "frames": 40, "codec": SCRIPT, "clamp": QUOTED}
        lines.append({**entry, **found, "seconds": {"plan": 0.1, "decode": 0.2}})
    (features / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    settings = {SCRIPT: SCRIPT, QUOTED: [SCRIPT], "weights": f"random:{SCRIPT}"}
    run = {"settings": settings, "device": QUOTED, QUOTED: SCRIPT}
    (features / "run.json").write_text(json.dumps(run))
    (root / "aus").mkdir()
    rows_of_units = "".join(f"{i + 1}, 1, {i % 21 / 4}\n" for i in range(40))
    (root / "aus" / "样本 1.csv").write_text(f"frame, success, AU12_r\n{rows_of_units}")
    (root / "list.json").write_text(json.dumps([*NAMES, REFUSED, "missing"]))
    return ExtractConfig(
        videos=root / "videos", name=DATASET, aus=root / "aus", samples=root / "list.json", output_root=out
    )
