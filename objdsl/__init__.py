"""objdsl: write an RL objective as the paper prints it; check it, compile it, train with it."""
