"""What is made of a run's predictions: tables, figures, intervals, comparisons, reports."""
