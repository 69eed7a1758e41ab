"""Pretraining: the recipe's settings, the Lightning module, its data, callbacks and bench.

For: ``hicmae pretrain`` and ``hicmae bench step``. Not for: the network and its objective
(``hicmae/``), nor reading shards (``shards/``).
"""
