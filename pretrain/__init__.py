"""Pretraining: ``hicmae pretrain``, its curves, and ``hicmae bench step``.

``run`` reads top to bottom; one training step is ``module``.
"""
