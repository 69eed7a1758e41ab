"""Fine-tuning: benchmarks as data, folds, training, evaluation and reports."""
