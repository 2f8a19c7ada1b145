"""Helpers that several tests share, and the work of other processes that tests start."""
