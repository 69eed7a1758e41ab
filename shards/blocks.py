"""The run of tar blocks that one sample takes, and the checksum of it in the index.

For: the writer, which makes it, and the readers, for which it is the quick proof that a sample is
byte for byte the one that was built: tar headers, images, sound, json and padding together. Not
for: saying what is wrong when it does not match (``reading/whole_sample.py``), or for anything
that an adversary might forge: for that there are the SHA-256 digests of the json and of
``index.json``.

XXH3 with 64 bits takes 0.04 ms for a sample of 8 s, where SHA-256 takes 0.9 ms even with the
processor's own instructions; damage that nobody intends escapes it once in 2^64 cases.

Source of XXH3: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

from __future__ import annotations

import tarfile

import xxhash

BLOCK = tarfile.BLOCKSIZE
_NAME_BYTES = 100  # of a tar header; a longer name goes before it, in blocks of its own (GNU)


def blocks_of(first_name: str, first_offset: int, last_end: int) -> tuple[int, int]:
    """Where the blocks of a sample begin and end in its tar, bytes.

    Args:
        first_name: Name of its first member.
        first_offset: Of that member's data, bytes.
        last_end: Where the data of its last member ends, bytes.
    """
    head = BLOCK
    length = len(first_name.encode())
    if length > _NAME_BYTES:  # a header that says so, and the name with a zero behind it
        head += BLOCK + _padded(length + 1)
    return first_offset - head, _padded(last_end)


def checksum(blocks: bytes) -> int:
    """XXH3 (64 bits, seed 0) of the blocks of a sample; never 0, which stands for none."""
    return xxhash.xxh3_64_intdigest(blocks) or 1


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
