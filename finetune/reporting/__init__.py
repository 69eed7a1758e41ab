"""What is made of a run's predictions: tables, figures, intervals, comparisons, reports.

For: ``hicmae report`` and a run's own ``report.md``. Not for: training or testing.
"""
