"""From a spec to the trials that remain to run: ids, cost, what is already done, and what changed since."""
