"""A run: `launch` checks the settings (`checks`), builds the parts (`build`) and returns a `run`.

`loop` drives it, `messages` introduce and conclude it, and a `dry_run` describes it.
"""
