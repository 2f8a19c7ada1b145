"""What tests share, and what they start in other processes."""
