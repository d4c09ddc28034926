"""Where runs come from: settings, code and environment, and what of it differs between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sweeper.errors import ClipsweepError
from sweeper.store.guarded_paths import read_file
from sweeper.store.resolved import resolved_settings
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

__all__ = ["Difference", "differences_between", "unread"]

Kind = Literal["spec", "code", "environment"]

_CODE = ("clipsweep", "revisions", "code")
"""Parts of ``environment.json`` that say which code ran."""

_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something in which runs differ.

    Attributes:
        kind: ``spec``, ``code`` or ``environment``.
        path: What it is: a dotted path of the spec, or what the environment calls it.
        values: Name of a run to its value, of the runs that have one.
    """

    kind: Kind
    path: str
    values: Mapping[str, Any]


def differences_between(runs: Mapping[str, Run]) -> tuple[Difference, ...]:
    """What differs between runs.

    Args:
        runs: Name to run.

    Returns:
        Settings of the resolved specs, path by path; then code; then environment, with the fingerprints of the data.
    """
    # Not `on`: it changes no result, and its addresses and arguments may be secrets.
    kinds: dict[Kind, list[Mapping[str, Any]]] = {"spec": [], "code": [], "environment": []}
    for run in runs.values():
        kinds["spec"].append({
            path: value for path, value in _leaves(_settings(run)) if path != "name" and not path.startswith("on.")
        })
        environment = _environment(run)
        kinds["code"].append(dict(_code(environment)))
        rest = {name: value for name, value in environment.items() if name not in _CODE}
        kinds["environment"].append({**dict(_leaves(rest)), **_data(run)})
    return tuple(
        found for kind, values in kinds.items() for found in _differing(kind, dict(zip(runs, values, strict=True)))
    )


def unread(run: Run) -> tuple[str, ...]:
    """Files that say where a run comes from, and that it does not have or that cannot be read.

    Args:
        run: The run.

    Returns:
        Their names.
    """
    known = {"resolved.yaml": _settings(run), "environment.json": _environment(run)}
    return tuple(name for name, document in known.items() if not document)


def _differing(kind: Kind, runs: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    for path in dict.fromkeys(path for values in runs.values() for path in values):
        values = {name: run[path] for name, run in runs.items() if path in run}
        texts = {json.dumps(value, sort_keys=True, default=str) for value in values.values()}
        if len(texts) > 1 or len(values) < len(runs):
            yield Difference(kind=kind, path=path, values=values)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value


def _settings(run: Run) -> Mapping[str, Any]:
    try:
        return resolved_settings(RunDir(run.path))
    except ClipsweepError:
        return {}


def _environment(run: Run) -> Mapping[str, Any]:
    """``environment.json``, of the last driver; empty if it is not what a run writes."""
    try:
        document = json.loads(read_file(RunDir(run.path).environment))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _code(environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What code ran: clipsweep's, that around the spec, and each file of the user's own."""
    if "clipsweep" in environment:
        yield "clipsweep", environment["clipsweep"]
    revisions = environment.get("revisions")
    for where, revision in revisions.items() if isinstance(revisions, dict) else ():
        for name in ("commit", "uncommitted_changes"):
            if isinstance(revision, dict) and revision.get(name) is not None:
                yield f"{where} {name.replace('_', ' ')}", revision[name]
    records = environment.get("code")
    for record in records if isinstance(records, list) else ():
        if isinstance(record, dict):
            yield f"{record.get('use')}", record.get("sha256")
            files = record.get("files")
            yield from ((f"{record.get('use')} {file}", xxh) for file, xxh in (files or {}).items())


def _data(run: Run) -> Mapping[str, Any]:
    """The fingerprints of the data that was trained on."""
    segments = (segment for trial in run.state.trials.values() for segment in trial.segments)
    found = sorted({str(segment.facts.data) for segment in segments})
    return {"data": found[0] if len(found) == 1 else found} if found else {}
