"""Builds the site: `python docs/build_site.py [OPTIONS OF MKDOCS BUILD]`, which is what `make docs` does.

The pages are those that GitHub shows, but for two things: the link to the other language is the site's menu, and
`<!-- ::: name -->` is that name's docstring.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's text; mkdocs calls this."""
    markdown = re.sub(r" ?[(\uff08]\[(中文|中文说明|English)\]\([^)]*\)[)\uff09]", "", markdown)
    markdown = markdown.replace(".zh-CN.md", ".md")
    return re.sub(r"^<!-- (::: [\w.]+) -->$", r"\1", markdown, flags=re.MULTILINE)


def build(*options: str) -> int:
    """Build it of a copy of what the pages link, which has to lie in one directory; return mkdocs's exit code."""
    copy = ROOT / "build/docs"
    shutil.rmtree(copy, ignore_errors=True)
    for directory in ("docs", "examples", "bench/results"):
        shutil.copytree(ROOT / directory, copy / directory)
    for file in (*ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / "constraints.txt"):
        shutil.copy(file, copy)
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", *options]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(build(*sys.argv[1:]))
