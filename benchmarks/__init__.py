"""Measured comparisons, runnable by anyone: ``make bench-…``. They measure, they do not judge."""
