"""Processes of a run: `ranks` train, `children` work for them, `signals` stop them."""
