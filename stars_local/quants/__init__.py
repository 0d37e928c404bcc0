"""Quantised files of one model: made, measured against the file they come from, and chosen."""
