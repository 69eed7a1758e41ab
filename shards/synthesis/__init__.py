"""The synthetic corpus: talking faces and voices made from formulas, written as real mp4 files.

For: trying the whole path without anybody's face or voice, and tests whose right answer is known.
Not for: results; nothing learned here says anything about people.
"""

from shards.synthesis.corpus import synthesize
from shards.synthesis.settings import CorpusConfig

__all__ = ["CorpusConfig", "synthesize"]
