"""Formulas as sums of products: the form in which a gradient weight is read factor by factor."""
