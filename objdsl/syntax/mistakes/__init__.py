"""What the user probably meant by a statement that the grammar cannot read."""
