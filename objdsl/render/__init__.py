"""Diagnostics as text: the only place where findings become print."""
