"""Data: `tasks` have prompts; `rewards` score responses, in a process of their own (`judge`)."""
