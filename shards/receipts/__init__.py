"""What a preparation is, on paper: receipts, and what differs between two of them.

For: ``hicmae shards receipt`` and ``compare``. Not for: checking bytes (``shards/check.py``).
"""
