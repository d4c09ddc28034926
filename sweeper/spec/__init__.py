"""The spec: YAML to a checked sweep, errors with line and column, and a schema for editors."""

from sweeper.spec.load import check_measure, load_spec, loads_spec
from sweeper.spec.schema import json_schema
from sweeper.spec.starter import STARTER, starter_spec
from sweeper.spec.sweep import Sweep

__all__ = ["STARTER", "Sweep", "check_measure", "json_schema", "load_spec", "loads_spec", "starter_spec"]
