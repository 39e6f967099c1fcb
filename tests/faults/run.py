"""What does gpupeak survive? Its parts, one after another, into one JSON record.

    python tests/faults/run.py [--only PART ...] [--seed N] [--scale small|full] [--out RECORD.json]

A record that is there already is added to: a part is measured again without the others. The exit code is 1 if any part
is not as it is promised to be; docs/reliability.md says what is promised, and shows a record's figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "bench")]

from faults.corpus import FULL, SMALL, Scale  # noqa: E402
from record import RESULTS, conditions, rounded  # noqa: E402

PARTS = ("kills", "disk", "signals", "load", "soak", "media", "data")
"""Each a module here with `run(scale, seed, work)`, which gives figures, `ok` among them."""
PACKAGES = ("gpupeak", "av", "numpy", "torch", "open_clip_torch")


def measure(part: str, scale: Scale, seed: int) -> dict[str, Any]:
    """One part's figures; one that cannot be measured is not ok, and says why."""
    began = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f"gpupeak-faults-{part}-"))
    work.chmod(0o755)
    try:
        figures = importlib.import_module(f"faults.{part}").run(scale, seed, work)
    except Exception as error:
        traceback.print_exc()
        figures = {"seed": seed, "ok": False, "faults": [f"{type(error).__name__}: {error}"[:300]]}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {**figures, "scale": scale.name, "took_s": time.monotonic() - began}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", choices=("small", "full"), default="full")
    name = time.strftime("faults-%Y%m%d-%H%M%S.json", time.gmtime())
    parser.add_argument("--out", type=Path, default=RESULTS / name)
    given = parser.parse_args()
    scale = {"small": SMALL, "full": FULL}[given.scale]
    # A shell has what it runs in the background ignore SIGINT, and so would every run that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    machine = conditions(PACKAGES)
    ok = True
    for part in given.only:
        print(f"{part} ...", flush=True)
        figures = {**rounded(measure(part, scale, given.seed)), "commit": machine["commit"]}
        ok = ok and figures["ok"]
        state = f"{part}: {'ok' if figures['ok'] else 'FAILED'}, {figures['took_s']:.0f} s"
        print(state, *figures.get("faults", ()), sep="\n  ")
        # Read again each time: another process may have added its part meanwhile.
        record = json.loads(given.out.read_text()) if given.out.exists() else {"conditions": machine, "parts": {}}
        record["parts"][part] = figures
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
