"""The maths IR: nodes, the constructors that keep them simple, and how they are shown."""
