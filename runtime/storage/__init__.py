"""What a run leaves on disk: its `run_folder` with a `lock`, and each `checkpoint` in it.

A `sealed_folder` is complete or recognisably damaged; `random_state` is a part of a checkpoint.
"""
