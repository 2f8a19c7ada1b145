"""A run on disk: its `run_folder` with a `lock`, and the `checkpoint`s in it.

A checkpoint is a `sealed_folder`, so that damage is noticed; `random_state` is a part of it.
"""
