"""When the weight of a token is known, and in which order the fused head computes."""
