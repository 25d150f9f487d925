"""Examples × prompts × methods × measures → rows on disk → report.

Knows rows, measures, statistics and executors; no plots and no widgets.
"""
