"""What users of verl write in its settings; verl's plugin imports nothing more to know it."""

LOSS_MODE = "objdsl:"
"""How the loss mode begins: the name of an objective or the path of a file follows."""

ESTIMATOR = "objdsl"
"""What `algorithm.adv_estimator` is to be: no advantages, since the objective has its own."""
