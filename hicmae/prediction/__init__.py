"""Prediction: from a recording to emotion over time.

``model.py`` is the Python API (``hicmae.load``), ``command.py`` the verb. A recording is read by a
process of its own (``process.py``), which answers in ``messages.py``; ``network.py`` predicts the
windows, ``results.py`` is what comes out, ``timelines.py`` reads and writes other tools' files.
"""
