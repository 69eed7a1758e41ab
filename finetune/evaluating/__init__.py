"""Testing trained networks: views, other corpora, spoiled inputs, and features."""
