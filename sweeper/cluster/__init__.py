"""Ray: the only package that imports it. Joining a cluster, actors in pools, room for workers, jobs."""
