"""For scripts and notebooks: specs that run, runs that answer, answers that show themselves."""
