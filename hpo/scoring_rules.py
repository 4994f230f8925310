"""The version of the rules by which masks are scored: studies of different rules don't mix."""

from __future__ import annotations

# Raise it when the same predictions on the same files would get another score, or another split.
# 2: the classes averaged are those that occur in the part, the background among them; masks are
#    resized at pixel centres; splits have every class on both sides where they can.
SCORING_RULES = 2
EARLIER = "1"  # of studies that were made before this was recorded
SCORING_KEY = "scoring rules"  # in a study's identity
