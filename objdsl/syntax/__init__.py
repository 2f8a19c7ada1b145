"""Text to syntax tree and back: `parse` reports all syntax errors at once, `format` is its inverse.

    read > split > grammar > parse > tree > format

A statement is the unit: `split` finds where each one ends, the grammar reads one at a time, so a
mistake in one statement does not hide the mistakes in the others.
"""
