"""Thresholds that mean something for one pair of models: solved, checked, kept, looked up."""
