"""What is known of a value: what it depends on, how large it becomes, where it may be 0."""
