"""From recordings to a folder of shards: one build, its parts and their merge."""
