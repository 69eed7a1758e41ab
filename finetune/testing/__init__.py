"""Finished networks tested again: other views, other corpora, spoiled inputs, features."""
