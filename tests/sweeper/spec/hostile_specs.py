"""A program for the tests: read specs that are made to grow, one after the other, and say what that took.

It is a process of its own because the most memory that a process has ever had is what is to be known.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from sweeper.errors import SpecError
from sweeper.spec import loads_spec

GOOD = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 5}\n"
OWN = "update_rule: {learning_rate: 1}\ntrain: {steps: 1}\nproblem: {use: 'a:b'"
SIZE = 990_000


def filled(head: str, piece: str, tail: str = "") -> str:
    """A megabyte of the same."""
    return head + piece * ((SIZE - len(head) - len(tail)) // len(piece)) + tail


def listed(values: Iterable[object]) -> str:
    return "[" + ",".join(map(str, values)) + "]"


def grid(length: int, *paths: str) -> str:
    return GOOD + "sweep: {grid: {" + ", ".join(f"{path}: {listed(range(1, length + 1))}" for path in paths) + "}}"


PATHS = (
    "update_rule.learning_rate", "update_rule.momentum", "train.steps", "train.log_every", "update_rule.clip_norm"
)  # fmt: skip
DIRECTIONAL = "{use: directional_smoothness}"
OPTIONS = ", " + ",".join(f"k{i}: 1" for i in range(30_000)) + "}\n"


def refused() -> dict[str, str]:
    """Specs that must be refused."""
    return {
        "laughs": "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} {listed([f'*{chr(97 + i)}'] * 9)}\n" for i in range(12)),
        "aliases": filled("a: &a x\nb: [", "*a,", "*a]"),
        "aliases of lists": filled("a: &a [1]\nb: [", "*a,", "*a]"),
        "anchors": "b: " + listed(f"&a{i} 1" for i in range(70_000)),
        "merge keys, each of the one before": "a: &a {x: 1}\n"
        + "".join(f"k{i}: &k{i} {{<<: *{f'k{i - 1}' if i else 'a'}, y{i}: 1}}\n" for i in range(2_000)),
        "merge keys of one section": "a: &a {" + ",".join(f"k{i}: 1" for i in range(400)) + "}\n"
        + "".join(f"b{i}: {{<<: *a}}\n" for i in range(5_000)),
        "a list of merge keys": "a: &a {" + ",".join(f"k{i}: 1" for i in range(400)) + "}\nb: {<<: "
        + listed(["*a"] * 100_000) + "}",
        "depth of lists": "[" * SIZE,
        "depth of sections": "{a: " * 100_000,
        "depth of blocks": "".join(" " * i + "a:\n" for i in range(1_300)),
        "depth of dashes": "- " * 400_000,
        "depth of keys": "? " * 400_000,
        "keys": "".join(f"k{i}: 1\n" for i in range(99_000)),
        "the same key": filled("", "a: 1\n"),
        "a long scalar": "a: " + "x" * SIZE,
        "a quoted scalar": 'a: "' + "x" * SIZE + '"',
        "escapes": filled('a: "', "\\U0001F600", '"'),
        "wide characters": "a: " + "\U0001f600" * 240_000,
        "a long key": "x" * SIZE + ": 1",
        "a long name": f"problem: {{use: '{'x' * SIZE}'}}\nupdate_rule: {{learning_rate: 1}}\ntrain: {{steps: 1}}\n",
        "a long integer": "train: {steps: " + "9" * SIZE + "}",
        "a long integer in hexadecimal": "train: {steps: 0x" + "f" * SIZE + "}",
        "an integer of 400 digits": GOOD.replace("5}", "9" * 400 + "}"),
        "integers of 399 digits": "a: " + listed(["9" * 399] * 2_400),
        "tags": filled("a: [", "!x 1,", "1]"),
        "documents": filled("", "---\n"),
        "no characters": "a: \0" * 100_000,
        "no lines": "\n" * SIZE,
        "more than a megabyte": "#" * 1_000_001,
        "a grid of 10^13": grid(400, *PATHS),
        "a grid of 10^9": grid(64, *PATHS),
        "a grid with seeds": grid(100, *PATHS[:2])[:-1] + ", seeds: 1000}",
        "a list of 90,000 values": GOOD + f"sweep: {{grid: {{update_rule.learning_rate: {listed(range(1, 90_000))}}}}}",
        "90,000 wrong values": GOOD + f"sweep: {{grid: {{train.steps: {listed(['x'] * 90_000)}}}}}",
        "16,000 wrong values": GOOD + f"sweep: {{grid: {{train.steps: {listed(['x'] * 16_000)}}}}}",
        "cases": GOOD + "sweep: {cases: " + listed(f"{{train.steps: {i}}}" for i in range(1, 30_000)) + "}",
        "10^9 seeds": GOOD + "sweep: {seeds: 1000000000}",
        "90,000 seeds and one of them again": GOOD + f"sweep: {{seeds: {listed([*range(90_000), 5])}}}",
        "a thousand excludes": GOOD + "sweep: {grid: {train.steps: {linear: [1, 20000, 20000]}}, exclude: "
        + listed(f"{{train.steps: {i}}}" for i in range(1, 1_001)) + "}",
        "30,000 excludes": GOOD + "sweep: {grid: {train.steps: [1, 2]}, exclude: "
        + listed(f"{{train.steps: {i}}}" for i in range(1, 30_000)) + "}",
        "estimators": GOOD + f"measure: {{every: 1, estimators: {listed([DIRECTIONAL] * 30_000)}}}",
        "unknown estimators": GOOD + f"measure: {{every: 1, estimators: {listed(['{use: smoothnes}'] * 30_000)}}}",
        "unknown keys": GOOD + "measure: {every: 1, " + ",".join(f"evry{i}: 1" for i in range(48_000)) + "}",
        "unknown paths": GOOD + "sweep: {grid: {" + ",".join(f"train.step{i}: [1]" for i in range(30_000)) + "}}",
        "a large problem in 2,000 cells": OWN + OPTIONS + "sweep: {grid: {problem.k1: {linear: [1, 2, 2000]}}}",
        "a large problem in 10,000 cases": OWN + ", k: " + listed(["1"] * 15_000) + "}\nsweep: {cases: "
        + listed(f"{{problem.k1: {i}}}" for i in range(10_000)) + "}",
        "a large problem with 10,000 seeds": OWN + OPTIONS + "sweep: {seeds: 10000}",
        "large values in a grid": OWN + "}\nsweep: {grid: {problem.m: " + listed(["[" + "1," * 300 + "1]"] * 300)
        + ", problem.z: {linear: [1, 2, 80]}}}",
        "a list of 400,000": "[" + "1," * 400_000 + "]",
        "a quote without an end": "a: '" + "x" * SIZE,
        "nothing but a comment": "#" * SIZE,
        "unknown options": GOOD.replace("}\n", OPTIONS, 1),
        "a path of 100,000 names": "sweep: {grid: {problem." + "a." * 100_000 + ": [1]}}",
    }  # fmt: skip


def accepted() -> dict[str, str]:
    """Specs that are large, and all right."""
    return {
        "comments": filled(GOOD, "#\n"),
        "20,000 learning rates": GOOD + "sweep: {grid: {update_rule.learning_rate: {linear: [1, 2, 20000]}}}",
        "100,000 cells of five axes": GOOD + "sweep: {grid: {update_rule.learning_rate: {linear: [1, 2, 20]}, "
        "update_rule.momentum: {linear: [0, 0.9, 20]}, train.steps: {linear: [1, 10, 10]}, "
        "problem.width: [1, 2, 3, 4, 5], problem.layers: [2, 3, 4, 5, 6]}}",
        "24 excludes": GOOD + "sweep: {grid: {train.steps: {linear: [1, 20000, 20000]}}, exclude: "
        + listed(f"{{train.steps: {i}}}" for i in range(1, 25)) + "}",
    }  # fmt: skip


def peak_bytes() -> float:
    """The most memory that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux counts into ru_maxrss what the parent had before this program was loaded.
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Print, as JSON, of each spec what came of it, processor time, and the most memory until then."""
    outcomes = {}
    to_refuse = set(refused())
    texts = {**refused(), **accepted()}
    for name in list(texts):
        # What has been read is let go of, so that memory tells of what is being read.
        text = texts.pop(name)
        started = time.process_time()
        try:
            said = f"{len(loads_spec(text, folder=Path()).cells)} cells"
        except SpecError as error:
            said = str(error)
        outcomes[name] = {
            "text": said[:500],
            "as_expected": said.startswith("<spec>") if name in to_refuse else said.endswith(" cells"),
            "cpu_s": time.process_time() - started,
            "peak_mb": peak_bytes() / 1e6,
        }
    print(json.dumps(outcomes))  # noqa: T201


if __name__ == "__main__":
    main()
