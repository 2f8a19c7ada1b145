"""The rules, a module each: `check` is the rule, the docstring is its page."""
