"""Builds the folder `.gpu/` for benchmarks/gpu.py on a machine with a GPU but without a network or Ray.

    python benchmarks/gpu_folder.py --ptb DIR --cifar DIR    # a minute or two; some 60 MB

There, in a copy of this repository with the folder:

    sh .gpu/install.sh && python benchmarks/gpu.py --only A

It holds what a CPU gives (references.json), wheels of what a machine with torch, numpy, pandas, scipy, matplotlib,
typer, rich and pyyaml lacks, Ray among them without the parts that no sweep needs, and real data, if it is given some.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:
    sys.path[0] = str(ROOT)  # this file's folder would hide the package `estimators`

import torch

from benchmarks.gpu_check.cases import write_data
from benchmarks.gpu_check.references import all_references

LACKING = ("pydantic", "jsonschema", "platformdirs", "pooch", "psutil", "filelock", "msgpack", "protobuf", "requests")
"""Beside Ray; what they need comes with them, but for what is too large and there already."""

THERE = ("numpy", "torch", "pandas", "scipy", "pyarrow", "matplotlib")

NOT_NEEDED = (
    *("jars", "rllib", "data", "serve", "llm", "tune", "dashboard/client"),
    *("autoscaler/aws", "autoscaler/gcp", "autoscaler/azure"),
)
"""Below ``ray/``."""

INSTALL = """#!/bin/sh
# Installs and unpacks what this folder brings, without a network.
cd "$(dirname "$0")" || exit 1
for archive in *.tar.xz; do test ! -e "$archive" || tar -xJf "$archive"; done
python -m pip install --quiet --no-index --no-deps wheels/*.whl
"""


def slim(wheel: Path, target: Path) -> None:
    """Copy Ray's wheel without what no sweep needs."""
    left_out = tuple(f"ray/{part}/" for part in NOT_NEEDED)
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as kept:
        for member in whole.infolist():
            if member.filename.startswith(left_out):
                continue
            content = whole.read(member)
            if member.filename.endswith(".dist-info/RECORD"):
                lines = [line for line in content.decode().splitlines() if not line.startswith(left_out)]
                content = ("\n".join(lines) + "\n").encode()
            kept.writestr(member, content)


def download(folder: Path, python: str, ray: str) -> None:
    """Wheels for Linux and a version of Python."""
    platform = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    platform += [f"--platform=manylinux{kind}_x86_64" for kind in ("2014", "_2_17", "_2_28")]
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *platform]
        subprocess.run([*command, "--dest", scratch, *LACKING], check=True)
        subprocess.run([*command, "--no-deps", "--dest", scratch, f"ray=={ray}"], check=True)
        for wheel in sorted(Path(scratch).glob("*.whl")):
            if wheel.name.startswith("ray-"):
                slim(wheel, folder / wheel.name)
            elif not wheel.name.lower().startswith(THERE):
                shutil.copy(wheel, folder)


def pack(folder: Path, name: str, files: dict[str, Path]) -> None:
    """Data as an archive, which is a third of its size."""
    with tarfile.open(folder / f"{name}.tar.xz", "w:xz") as archive:
        for member, path in files.items():
            archive.add(path, f"{name}/{member}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".gpu")
    parser.add_argument("--ptb", type=Path, help="a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt")
    parser.add_argument("--cifar", type=Path, help="a folder with data_batch_*.bin and test_batch.bin")
    parser.add_argument("--python", default="312", help="Python's version on the machine with the GPU")
    parser.add_argument("--ray", default="2.60.0")
    parser.add_argument("--no-wheels", action="store_true", help="for a machine that has everything")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        write_data(Path(scratch))
        (folder / "references.json").write_text(json.dumps(all_references(Path(scratch)), indent=1))
    if not arguments.no_wheels:
        download(folder / "wheels", arguments.python, arguments.ray)
        (folder / "install.sh").write_text(INSTALL)
    if arguments.ptb is not None:
        splits = {split: next(arguments.ptb.glob(f"*{split}*.txt")) for split in ("train", "valid", "test")}
        pack(folder, "ptb", {f"{split}.txt": path for split, path in splits.items()})
    if arguments.cifar is not None:
        paths = [*sorted(arguments.cifar.glob("data_batch_*.bin"))[:2], arguments.cifar / "test_batch.bin"]
        pack(folder, "cifar", {path.name: path for path in paths})
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
