"""Decoding methods: generators that yield requests and are fed the results."""

from stars_local.core.methods.base import Context, Segmentation
from stars_local.core.methods.stars import Force, StarsParams, stars
from stars_local.core.methods.vanilla import vanilla

__all__ = ["Context", "Force", "Segmentation", "StarsParams", "stars", "vanilla"]
