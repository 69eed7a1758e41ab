"""Checkpoint folders: the format, networks in them, their origin, the authors' files, exports."""
