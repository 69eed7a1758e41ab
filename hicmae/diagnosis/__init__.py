"""What ``hicmae doctor`` looks at, one file a kind of thing.

For: checks that say what there is and what to do about what is missing. Not for: the table
(``hicmae/doctor.py``), or speed (``hicmae bench``).
"""
