"""Where an objective departs from exact, claim by claim, and for which reason."""
