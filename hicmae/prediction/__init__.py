"""Prediction: from a recording to emotion over time.

``model.py`` is the Python API (``hicmae.load``), ``command.py`` the verb. A recording is read by a
process of its own (``process.py``, ``worker.py``), which finds the faces (``opening.py``), and cuts
out the windows (``cutting.py``, ``stretch.py``); ``network.py`` predicts them, ``results.py`` is
what comes out. Not for: training, or scores.
"""
