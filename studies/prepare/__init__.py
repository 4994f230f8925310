"""Turns a publisher's archive, or any folder of pairs, into a data folder that a search reads.

samples.py (what a publisher's module finds) -> staging.py (read, check, write; resumable) ->
similarity.py (near-duplicates) -> split.py (by patient) -> pipeline.py (all of it, in order).
"""
