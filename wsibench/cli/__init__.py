"""The command line: run, status, doctor and the other commands."""
