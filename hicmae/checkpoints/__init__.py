"""What is done with finished weights: conversion, checks, averages, cards, sharing and export.

``reference.py`` translates the authors' names, ``pickles.py`` reads their files safely,
``sizes.py`` finds the sizes in them; ``probe.py`` keeps an input with its output, so that weights
can be checked anywhere; ``commands.py`` holds the verbs. Not for: the checkpoint folder itself
(``hicmae/checkpoint.py``), which everything else imports.
"""
