"""From recordings to a folder of shards: one build, its parts and their merge.

For: `hicmae shards build` and `merge`. Not for: reading shards (``shards/reading``).
"""
