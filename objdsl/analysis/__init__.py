"""What is true of an objective and its gradient weights: facts, for rules and people to read.

`algebra` writes formulas as sums of products, `values` says what is known of a value, `gradient`
what the gradient weights estimate, and `claims` where that departs from exact, and why. `Facts` has
all of it for one objective, and `explain` puts it into sentences. `schedule` is for the fused head:
when the weight of a token is known, and in which order its products are computed.
"""
