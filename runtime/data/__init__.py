"""Data: `tasks` of `example`s, generated or read (`files`), become `prompts` of tokens.

`rewards` score responses. Functions of the user run in a separate process: `reward_process` is its
parent's side, `judge` its own.
"""
