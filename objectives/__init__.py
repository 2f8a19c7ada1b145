"""The gallery: the prelude (`std.obj`) and one `.obj` file for each published objective."""
