"""From a spec to the trials that are left to run: ids, cost, what is done already, and what changed since."""
