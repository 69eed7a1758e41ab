"""``hicmae serve``: a page on this machine that shows what a network sees and hears in a clip.

For: uploads, the queue, the JSON endpoints, and the page itself (``assets/``). Not for: decoding,
faces and windows, which are those of ``hicmae predict`` (``hicmae/prediction``).
"""
