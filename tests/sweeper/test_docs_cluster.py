"""The recipes of docs/cluster.md: the shell is shell, the commands are commands, the manifest fits its schemas."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from sweeper.cli.app import app
from sweeper.cluster.capacity import worker_settings
from sweeper.cluster.nodes import Node
from sweeper.cluster.placement import place
from sweeper.spec import load_spec

DOCS = Path(__file__).parents[2] / "docs"
MANUAL = (DOCS / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", MANUAL, re.DOTALL)
MANIFEST = list(yaml.safe_load_all((DOCS / "kuberay" / "sweep.yaml").read_text(encoding="utf-8")))

AT_PLACE = {"type": "object", "additionalProperties": True}
GROUP = {
    "template": AT_PLACE,
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "resources": {"type": "object", "additionalProperties": {"type": "string"}},
    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
}
RAY_CLUSTER = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayCluster"},
        "metadata": AT_PLACE,
        "spec": {
            "type": "object",
            "required": ["headGroupSpec"],
            "additionalProperties": False,
            "properties": {
                "rayVersion": {"type": "string"},
                "suspend": {"type": "boolean"},
                "enableInTreeAutoscaling": {"type": "boolean"},
                "autoscalerOptions": AT_PLACE,
                "gcsFaultToleranceOptions": AT_PLACE,
                "headServiceAnnotations": AT_PLACE,
                "managedBy": {"type": "string"},
                "authOptions": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "mode": {"enum": ["disabled", "token"]},
                        "secretName": {"type": "string"},
                        "enableK8sTokenAuth": {"type": "boolean"},
                    },
                },
                "headGroupSpec": {
                    "type": "object",
                    "required": ["template"],
                    "additionalProperties": False,
                    "properties": {
                        **GROUP,
                        "serviceType": {"type": "string"},
                        "headService": AT_PLACE,
                        "enableIngress": {"type": "boolean"},
                    },
                },
                "workerGroupSpecs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["groupName", "template", "minReplicas", "maxReplicas"],
                        "additionalProperties": False,
                        "properties": {
                            **GROUP,
                            "groupName": {"type": "string"},
                            "replicas": {"type": "integer", "minimum": 0},
                            "minReplicas": {"type": "integer", "minimum": 0},
                            "maxReplicas": {"type": "integer", "minimum": 0},
                            "numOfHosts": {"type": "integer", "minimum": 1},
                            "idleTimeoutSeconds": {"type": "integer"},
                            "suspend": {"type": "boolean"},
                            "scaleStrategy": AT_PLACE,
                        },
                    },
                },
            },
        },
    },
}
"""Fields of KubeRay's RayCluster v1, from its API reference (1.7); pod templates are Kubernetes' own."""


def cluster_of(documents: list[Any]) -> Any:
    (cluster,) = [document for document in documents if document["kind"] == "RayCluster"]
    return cluster


def check(documents: list[Any]) -> None:
    """Every document against its schema, unknown fields refused."""
    for document in documents:
        if document["kind"] != "RayCluster":
            kubernetes_validate.validate(document, "1.30", strict=True)
            continue
        jsonschema.validate(document, RAY_CLUSTER)
        spec = document["spec"]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
            kubernetes_validate.validate(pod, "1.30", strict=True)


def test_the_manifest_fits_the_schemas_of_kubernetes_and_kuberay():
    assert [document["kind"] for document in MANIFEST] == ["PersistentVolumeClaim", "RayCluster"]
    check(MANIFEST)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cluster: cluster["spec"]["authOptions"].update(mode="tokens"),
        lambda cluster: cluster["spec"].update(workerGroupSpec=[]),
        lambda cluster: cluster["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda cluster: cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"].update(volume=[]),
    ],
    ids=["auth", "unknown field", "number for text", "pod"],
)
def test_a_spoilt_manifest_does_not_fit(spoil: Any):
    documents = copy.deepcopy(MANIFEST)
    spoil(cluster_of(documents))
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(documents)


def test_the_cluster_of_the_manifest_has_what_a_sweep_needs():
    spec = cluster_of(MANIFEST)["spec"]
    assert spec["authOptions"]["mode"] == "token"
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        assert volumes[mounted["/shared"]]["persistentVolumeClaim"] == {"claimName": MANIFEST[0]["metadata"]["name"]}
        assert volumes[mounted["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert all(group["minReplicas"] >= 1 for group in spec["workerGroupSpecs"])
    assert MANIFEST[0]["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0] for block in BLOCKS])
def test_a_recipe_is_shell(block: str):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def words_of(line: str) -> list[str]:
    """A line of shell as words; what is quoted for later, as a trap is, is taken apart, too."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        words += [";", *words_of(word), ";"] if word.startswith("clipsweep ") else [word]
    return words


_BEFORE = {"--", "srun", ";", "&", "&&", "|"}
"""After these words, and at the beginning of a line, comes a command."""


def commands_of(program: str) -> list[list[str]]:
    """Every call of a program in the recipes, as words without its name."""
    found = []
    for block in BLOCKS:
        for line in block.replace("\\\n", " ").splitlines():
            words = words_of(line)
            before = [";", ";", *words]
            calls = [place for place, word in enumerate(words) if word == program and before[place + 1] in _BEFORE]
            for start in calls:
                rest = words[start + 1 :]
                end = next((place for place, word in enumerate(rest) if set(word) <= set("();<>|&")), len(rest))
                found.append(rest[:end])
    return found


CLIPSWEEP = commands_of("clipsweep")
RAY = [words for words in commands_of("ray") if words[0] in {"start", "stop", "symmetric-run"}]


@pytest.mark.parametrize("words", CLIPSWEEP, ids=" ".join)
def test_every_clipsweep_command_of_the_recipes_is_one(words: list[str]):
    root: Any = typer.main.get_command(app)
    name, *rest = words
    root.commands[name].make_context(name, rest)


@pytest.mark.ray
@pytest.mark.parametrize("words", RAY, ids=" ".join)
def test_every_ray_command_of_the_recipes_is_one(words: list[str]):
    from ray.scripts import scripts

    command = scripts.cli.commands[words[0]]
    command.make_context(words[0], ["4" if word == "$SLURM_JOB_NUM_NODES" else word for word in words[1:]])


def test_the_recipes_were_found():
    assert len(CLIPSWEEP) >= 9
    assert {words[0] for words in RAY} == {"start", "stop", "symmetric-run"}


def slurm_nodes() -> list[Node]:
    """The nodes that the batch script asks for, with as many cores as such nodes have at least."""
    asked = dict(re.findall(r"^#SBATCH --(nodes|gpus-per-node)=(\d+)$", MANUAL, re.MULTILINE))
    return [Node(cpus=16, gpus=int(asked["gpus-per-node"]))] * int(asked["nodes"])


def kubernetes_nodes() -> list[Node]:
    """The pods of the manifest, as Ray sees them."""
    nodes = []
    spec = cluster_of(MANIFEST)["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        cpus = int(group["rayStartParams"].get("num-cpus", limits["cpu"]))
        nodes += [Node(cpus=cpus, gpus=int(limits.get("nvidia.com/gpu", 0)))] * group.get("replicas", 1)
    return nodes


@pytest.mark.parametrize(
    ("heading", "nodes"), [("### Slurm", slurm_nodes()), ("### Kubernetes", kubernetes_nodes())], ids=["Slurm", "K8s"]
)
def test_a_recipe_that_asks_for_gpus_trains_and_measures_on_all_of_them(heading: str, nodes: list[Node]):
    section = MANUAL.split(heading, 1)[1].split("\n### ", 1)[0].replace("\\\n", " ")
    (run,) = [line for line in section.splitlines() if "clipsweep run " in line]
    resources = load_spec(DOCS.parent / "specs" / "quickstart.yaml", re.findall(r"--set (\S+)", run)).resources
    trainer, estimator = worker_settings(resources.trainers), worker_settings(resources.estimators)
    assert (trainer.device, estimator.device) == ("cuda", "cuda")
    for node, share in zip(nodes, place(nodes, trainer, estimator), strict=True):
        assert (share.trainers, share.estimators) == (node.gpus, node.gpus)
    assert sum(node.gpus for node in nodes) > 1
