"""Bytes of shards, wherever they are, in an order that does not depend on who reads them.

``streaming.py`` reads for pretraining, ``random_access.py`` for fine-tuning and evaluation.
"""
