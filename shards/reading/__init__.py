"""Bytes of shards, wherever they are, in an order that does not depend on who reads them.

For: what ``shards/streaming.py`` and ``shards/random_access.py`` are made of. Not for: building.
"""
