"""What a run shows: `metrics` in files and on the terminal, `trackers` of others, `plot`."""
