"""The parts of training one fold; put together in ``finetune/training.py``."""
