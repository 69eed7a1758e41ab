"""How DeepSpeed's shards of a checkpoint are taken: as copies in memory that are written later.

For: DeepSpeed's interface to files. Not for: writing (``pretrain/checkpoint_files.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

from pretrain.checkpoint_files import host_copy


class ShardEngine(CheckpointEngine):
    """Appends what DeepSpeed wants to save to a list.

    Args:
        taken: Gets the path and the data of each file.
    """

    def __init__(self, taken: list[tuple[Path, Any]]) -> None:
        super().__init__()
        self.name = "hicmae"
        self.taken = taken

    def create(self, info: Any) -> None:
        """Nothing to begin with."""

    def save(self, state_dict: Any, path: str) -> None:
        """Take a copy."""
        self.taken.append((Path(path), host_copy(state_dict)))

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read a file of a checkpoint that was found whole."""
        # Shards hold DeepSpeed's own classes; they are this run's own files.
        return torch.load(path, map_location=map_location, weights_only=False)

    def commit(self, info: Any) -> bool:
        """The first process publishes the checkpoint when all parts are there."""
        return True
