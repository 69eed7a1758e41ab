"""``hicmae serve``: a page on this machine that shows what a network sees and hears in a clip.

Decoding, faces and windows are those of ``hicmae predict``; the page itself lies in ``assets/``.
"""
