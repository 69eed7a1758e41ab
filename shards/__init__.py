"""Collections: manifests, building, reading and checking of shards, and the synthetic corpus.

Nothing is re-exported here; import from the file that says what it is for.
"""
