"""``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of the two networks.

For: sharing a network with everything its checkpoint carries. Not for: downloading
(``sources.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from huggingface_hub import ModelHubMixin
from typing_extensions import Self

from hicmae.checkpoints.writing import Kind, write_files


class PortableModel(ModelHubMixin):
    """A network that is loaded from and shared as a checkpoint folder.

    Attributes:
        kind: What its checkpoints are of.
        carried: What its checkpoint says besides sizes and head: labels, scores, protocol, data,
            licence; it goes into every checkpoint that is saved.
    """

    kind: ClassVar[Kind]
    carried: Mapping[str, Any] = MappingProxyType({})

    def sections(self) -> dict[str, Any]:
        """The settings that this network is built from, by their names in a checkpoint."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(  # type: ignore[override]  # no settings but the checkpoint's own
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """The network of a checkpoint, in evaluation mode, on the CPU.

        Args:
            source: A folder, ``https://…/folder``, or ``owner/name`` on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub.
            cache_dir: Where downloads are kept; none given: the user's cache.
            force_download: Download again what is in the cache.
            local_files_only: Use no network; also ``HICMAE_OFFLINE=1`` or ``HF_HUB_OFFLINE=1``.
            token: Of a private repository.

        Raises: ValueError: nothing there, no answer, a checkpoint of the other kind, or damaged.
        """
        from hicmae.checkpoint import load_checkpoint
        from hicmae.checkpoints.networks import build_network
        from hicmae.checkpoints.sources import locate

        folder = locate(
            source,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        checkpoint = load_checkpoint(folder)
        if checkpoint.kind != cls.kind:
            other = "HiCMAE" if checkpoint.kind == "pretraining" else "EmotionModel"
            raise ValueError(
                f"{source}: is of kind {checkpoint.kind}; {other}.from_pretrained loads it"
            )
        network = build_network(checkpoint)
        assert isinstance(network, cls)
        own = network.sections()
        network.carried = {k: part for k, part in checkpoint.config.items() if k not in own}
        return network

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of a checkpoint; the mixin's ``save_pretrained`` calls this."""
        from hicmae.checkpoint import Checkpoint
        from hicmae.checkpoints.card import model_card
        from hicmae.checkpoints.networks import build_network
        from hicmae.checkpoints.probe import make_probe
        from hicmae.plain import to_dict

        tensors = {
            name: value.detach().cpu()
            for name, value in self.state_dict().items()  # type: ignore[attr-defined]
        }
        config = to_dict(self.sections()) | dict(self.carried)
        checkpoint = Checkpoint(path=save_directory, kind=self.kind, config=config, tensors=tensors)
        write_files(
            save_directory,
            tensors,
            kind=self.kind,
            config=config | {"probe": {"from": "this network"}},
            # Of what will be read back: on the CPU, in float32, whatever this network runs in.
            probe=make_probe(build_network(checkpoint)),
            card=model_card(checkpoint),
        )
