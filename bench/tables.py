"""What does a record of `make bench` say, as tables for a page in Markdown?

    python bench/tables.py RECORD.jsonl

Every row that README.md shows is one of these, to the letter. Figures of others are in times of gpupeak's, round by
round: above 1 they took longer.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from record import Row

LIBRARIES = ("decord", "torchcodec", "OpenCV", "PyAV")
NINE_SETS = 12_799  # samples
_CLIP = re.compile(r"([a-z0-9]+)_(\d+x\d+)_(\d+)fps_(\d+)s_g(\d+)_b(\d)_c(\d+)_s(\d+)")


def readable(name: str) -> str:
    """The name of a drawn clip in words."""
    if (found := _CLIP.fullmatch(name)) is None:
        return name
    codec, size, rate, seconds, gop, between, cuts, _ = found.groups()
    codec = {"h264": "H.264", "hevc": "HEVC", "vp9": "VP9", "mpeg4": "MPEG-4"}[codec]
    more = [f"{between} B frames"] * (between != "0") + [f"{cuts} scene cuts"] * (cuts != "0")
    return ", ".join([f"{codec} {size}", f"{seconds} s of {rate} fps", f"key frames {gop} apart", *more])


def of_decoding(row: Row) -> list[str]:
    """Our milliseconds; each library in its fastest way that gives the right frames; what bounds it."""
    ours = row["seconds"]["gpupeak"]["median_s"]
    cells = [f"{1000 * ours:.1f}"]
    for library in LIBRARIES:
        ways = {name: judged for name, judged in row["judged"].items() if name.split()[0] == library}
        right = [name for name, judged in ways.items() if "failed" not in judged and not judged["wrong"]]
        measured = [row["ratios"][name]["median"] for name in right if name in row["ratios"]]
        once = [ways[name]["once_s"] / ours for name in right]
        if measured:
            cells.append(f"{min(measured):.2f}")
        else:
            cells.append(f"{min(once):.1f}" if once else "wrong frames" if ways else "-")
    return [*cells, f"{row['ratios']['bound']['median']:.2f}"]


def of_line(row: Row) -> list[str]:
    """Our seconds a sample, and the baseline in times of them."""
    ratio = row["ratios"]["baseline"]
    ours = f"{row['s_a_sample']['gpupeak']:.3g}"
    hours = NINE_SETS * row["s_a_sample"]["gpupeak"] / 3600
    return [ours, f"{hours:.1f}", f"{ratio['median']:.2f}", f"{ratio['least']:.2f}-{ratio['most']:.2f}"]


def of_encoding(row: Row) -> list[str]:
    """Our images a second, and the others in times of what we take."""
    names = ("open_clip", "transformers")
    return [f"{row['images_per_s']['gpupeak']:.3g}", *(f"{row['ratios'][name]['median']:.2f}" for name in names)]


TABLES = {
    "decoding": ("clip | gpupeak, ms | decord | torchcodec | OpenCV | PyAV | bound", of_decoding),
    "end to end": ("encoder, clip | gpupeak, s a sample | h for the nine sets | baseline | least and most", of_line),
    "encoding": ("tower | gpupeak, images/s | open_clip | transformers", of_encoding),
}


def tables(rows: dict[str, Row]) -> Iterator[str]:
    """The tables, line by line."""
    for part, (header, cells) in TABLES.items():
        yield f"| {header} |"
        yield "| --- " + "| ---: " * header.count("|") + "|"
        for name, row in rows.items():
            if name.startswith(f"{part}: ") and "ratios" in row:
                yield f"| {readable(name.removeprefix(f'{part}: '))} | {' | '.join(cells(row))} |"
        yield ""


if __name__ == "__main__":
    lines = map(json.loads, Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()[1:])
    print("\n".join(tables({f"{row['part']}: {row['row']}": row for row in lines})))
