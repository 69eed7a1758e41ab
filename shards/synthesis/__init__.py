"""The synthetic corpus: talking faces and voices made from formulas, written as real mp4 files.

For trying the whole path without anybody's face or voice, and for tests whose right answer is
known; nothing learned here says anything about people.
"""
