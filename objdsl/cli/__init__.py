"""The command line: one module per command, imported when the command runs.

Only this package ends the process. Exit codes: 0 clean, 1 findings, 2 usage or not an objective.
"""
