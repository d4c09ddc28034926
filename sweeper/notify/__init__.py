"""Telling others what a run does, without ever waiting for them: a stream of events, commands and HTTP."""
