"""Is clipsweep right on this GPU, and how fast? Without Ray, in two parts of some minutes each.

    python benchmarks/gpu.py --only A                  # does it run, and is it what a CPU gives
    python benchmarks/gpu.py --only B                  # how fast
    python benchmarks/gpu.py --only C4,C5
    python benchmarks/gpu.py --device cpu --only A     # the check itself, on a machine without a GPU

Every check has a deadline of its own and leaves the others alone. Numbers go to OUT as lines of JSON when they are
known, a table comes last, and the exit code is 1 where one is wrong. What a CPU gives is made beforehand where a folder
`.gpu` is built (benchmarks/gpu_folder.py); otherwise now, which takes half a minute. Nothing is timed in part A.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if not __package__:
    sys.path[0] = str(ROOT)  # this file's folder would hide the package `estimators`

import torch

from benchmarks.gpu_check.cases import CASES, write_data
from benchmarks.gpu_check.fast import FAST, spin
from benchmarks.gpu_check.harness import Bench, run_items, table
from benchmarks.gpu_check.references import all_references
from benchmarks.gpu_check.right import RIGHT, inner
from sweeper.workers.device import Device

ITEMS = [*RIGHT, *FAST]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="A", help="A, B, or names of checks, separated by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", default=",".join(CASES), help="which problems part A looks at")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "benchmarks/results")))
    parser.add_argument("--folder", type=Path, default=ROOT / ".gpu", help="what benchmarks/gpu_folder.py builds")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slack", type=float, default=1.0, help="factor of all deadlines")
    parser.add_argument("--inner", nargs="+", help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    torch.set_num_threads(1)
    if "--plain" not in rest:
        Device(name=arguments.device).prepare()
    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data or Path(scratch) / "data"
        if arguments.data is None:
            write_data(data)
        made = arguments.folder / "references.json"
        references = {}
        if not arguments.inner:
            references = json.loads(made.read_text()) if made.exists() else all_references(data)
        bench = Bench(
            device=arguments.device,
            data=data,
            real=arguments.folder,
            references=references,
            cases=arguments.cases.split(","),
            scratch=Path(scratch),
        )
        if arguments.inner:
            task, *others = arguments.inner
            found = spin(bench, *others) if task == "spin" else inner(bench, task, *others, *rest)
            print(json.dumps(found))
            return 0
        wanted = arguments.only.split(",")
        chosen = [item for item in ITEMS if item.part in wanted or item.name in wanted]
        if unknown := set(wanted) - {"A", "B"} - {item.name for item in ITEMS}:
            parser.error(
                f"no check is called {', '.join(sorted(unknown))}; there are A, B, {', '.join(i.name for i in ITEMS)}"
            )
        arguments.out.mkdir(parents=True, exist_ok=True)
        rows = run_items(chosen, bench, arguments.out / "gpu.jsonl", slack=arguments.slack)
    text = table(rows)
    (arguments.out / "gpu.txt").write_text(text + "\n")
    print(text)
    return int(any(row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
