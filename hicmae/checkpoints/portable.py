"""Networks that travel: loading and sharing them, and the probe that goes with the weights.

A checkpoint is in a folder, at a web address, or in a repository of the Hugging Face Hub; any of
the three becomes a folder on this machine, downloaded once, resumed where it broke off, checked by
digest.

A *probe* is a stored input with the network's output, so that weights can be checked after a
conversion, a download, an upgrade of PyTorch or on another machine. ``probe.safetensors`` holds
``input.video`` (B, 3, T, H, W) and ``input.fbank`` (B, S, F), both normalised; in pretraining
``input.video_mask`` and ``input.fbank_mask`` (B, N, True = hidden); and what came out:
``output.logits`` and ``output.features``, or ``output.video_prediction`` and
``output.audio_prediction``.

The networks are above this file: it knows them by what every ``PortableModel`` can do.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import string
import urllib.error
import urllib.parse
import urllib.request
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import platformdirs
import torch
from huggingface_hub import ModelHubMixin, is_offline_mode
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hicmae.checkpoints.card import model_card
from hicmae.checkpoints.checkpoint import (
    CARD,
    CONFIG,
    PROBE,
    WEIGHTS,
    Checkpoint,
    Kind,
    is_checkpoint,
    load_checkpoint,
    load_weights,
    write_files,
)
from hicmae.config import to_dict
from hicmae.download import OFFLINE_VARIABLE, fetch, is_offline
from hicmae.files import file_sha256, file_state, text_of, write_text
from hicmae.settings import ModelConfig
from hicmae.terminal import one_line

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

# Names in files of numbers that the authors' network gave -> names here.
_REFERENCE_NAMES = {
    "video": "input.video",
    "audio": "input.fbank",
    "mask_video": "input.video_mask",
    "mask_audio": "input.fbank_mask",
    "pred_video": "output.video_prediction",
    "pred_audio": "output.audio_prediction",
    "features": "output.features",
    "logits": "output.logits",
}
# What was measured with one network's weights does not hold for others.
MEASURED = ("scores", "protocol", "step", "probe", "source", "calibration", "over_time")
_TIMEOUT_SECONDS = 20.0
_CONFIG_BYTES = 1 << 22  # far more than any configuration; a web page that came instead is refused


class PortableModel(nn.Module, ModelHubMixin):
    """A network that is loaded from and shared as a checkpoint folder.

    Attributes:
        kind: What its checkpoints are of.
        config: Its sizes.
        carried: What its checkpoint says besides sizes and head: labels, scores, protocol, data,
            licence; it goes into every checkpoint that is saved. What was measured with the
            weights that were loaded stays behind when others are saved, unless it was set anew.
    """

    kind: ClassVar[Kind]
    config: ModelConfig
    carried: Mapping[str, Any] = MappingProxyType({})
    # Its source, the file of the weights as it was, and what was carried.
    _loaded: tuple[str, tuple[Any, ...], Mapping[str, Any]] | None = None

    @abstractmethod
    def sections(self) -> dict[str, Any]:
        """The settings that this network is built from, by their names in a checkpoint."""

    @classmethod
    @abstractmethod
    def from_sections(cls, sections: Mapping[str, Any], where: str) -> Self:
        """An empty network from a checkpoint's sections, in plain data.

        Raises: ValueError: a section that is damaged or absent; ``where`` says of what.
        """

    @abstractmethod
    def probe_masks(self, generator: torch.Generator) -> dict[str, Tensor]:
        """What a probe's input of one clip says besides the clip; names begin with ``input.``."""

    @abstractmethod
    def probe_output(self, probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What comes out for a probe's input; names begin with ``output.``."""

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """The network of a checkpoint of this kind, in evaluation mode, on the CPU.

        Raises: ValueError: its configuration is damaged, or its weights do not fit it.
        """
        assert checkpoint.kind == cls.kind, f"a checkpoint of kind {checkpoint.kind}"
        network = cls.from_sections(checkpoint.config, str(checkpoint.path / CONFIG))
        load_weights(network, checkpoint.tensors, where=str(checkpoint.path / WEIGHTS))
        return network.eval()

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
        network = cls.from_checkpoint(checkpoint)
        own = network.sections()
        network.carried = {k: part for k, part in checkpoint.config.items() if k not in own}
        network._loaded = (str(source), file_state(checkpoint.path / WEIGHTS), network.carried)
        return network

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Upload a checkpoint of this network to the Hugging Face Hub; settings: the mixin's.

        Raises: ValueError: ``HICMAE_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network; the Hub
            does not answer, or refuses it.
        """
        if is_offline() or is_offline_mode():
            variable = OFFLINE_VARIABLE if is_offline() else "HF_HUB_OFFLINE"
            raise ValueError(
                f"{repo_id}: {variable} forbids the network; unset it, or save_pretrained writes "
                "the same files into a folder"
            )
        from huggingface_hub import constants
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            HTTPError,
            LocalTokenNotFoundError,
        )

        try:
            return super().push_to_hub(repo_id, **settings)
        except HFValidationError as error:
            raise ValueError(f"{repo_id}: {one_line(str(error))}") from error
        except HfHubHTTPError as error:
            branch = settings.get("branch")
            raise ValueError(_refusal(repo_id, error, branch, sending=True)) from error
        except (HTTPError, LocalTokenNotFoundError, json.JSONDecodeError) as error:
            why = one_line(str(error)) or type(error).__name__
            raise ValueError(
                f"{repo_id}: cannot be sent to {constants.ENDPOINT} ({why}); look at the network "
                "and the token (hf auth login, or HF_TOKEN), or save_pretrained writes the same "
                "files into a folder"
            ) from error

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **settings: Any,
    ) -> str | None:
        """Write a checkpoint into a folder; one that is there stays until the new one is written.

        Args:
            save_directory: The folder; other files there stay.
            push_to_hub: Whether to upload it too, with settings of ``push_to_hub``.
            repo_id: Its name there; none given: that of the folder.
            settings: The mixin's; its configuration and card are not used, for ours are written.

        Returns: the address on the Hub, if it was uploaded.
        Raises: as ``push_to_hub``; OSError: it cannot be written.
        """
        folder = Path(save_directory)
        self._save_pretrained(folder)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, **settings)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of a checkpoint."""
        tensors = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        loaded, carried = self._loaded, dict(self.carried)
        same = loaded is None or _are_in(loaded[1], tensors)
        if loaded is not None and not same:
            kept = {n: p for n, p in carried.items() if n not in MEASURED or p != loaded[2].get(n)}
            carried = {"source": {"changed from": loaded[0]}} | kept
        config = to_dict(self.sections()) | carried
        checkpoint = Checkpoint(path=save_directory, kind=self.kind, config=config, tensors=tensors)
        # Of what will be read back: on the CPU, in float32, whatever this network runs in.
        write_with_probe(save_directory, checkpoint, self.from_checkpoint(checkpoint))
        if loaded is not None and same:  # it may have been written over what was loaded
            self._loaded = loaded[0], file_state(save_directory / WEIGHTS), loaded[2]


def _are_in(state: tuple[Any, ...], tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights, in whatever format, are those in a file that is as it was."""
    path: Path = state[0]
    try:
        if file_state(path) != state:
            return False
        written = load_file(path)
    except (OSError, SafetensorError):
        return False
    return written.keys() == tensors.keys() and all(
        torch.equal(value, written[name].to(value.dtype)) for name, value in tensors.items()
    )


def write_with_probe(folder: Path, checkpoint: Checkpoint, network: PortableModel) -> None:
    """Write the files of a checkpoint with a probe of its network, and a card of its own path."""
    config = {**checkpoint.config, "probe": {"from": "this network"}}
    probe, card = make_probe(network), model_card(checkpoint)
    kind = checkpoint.kind
    write_files(folder, checkpoint.tensors, kind=kind, config=config, probe=probe, card=card)


def make_probe(network: PortableModel, *, seed: int = 0) -> dict[str, Tensor]:
    """Draw an input of one clip and note what the network, in float32 on its device, makes of it.

    Inputs are numbers that bfloat16 holds too, so that casting them changes nothing.
    """
    size, generator = network.config.input, torch.Generator().manual_seed(seed)
    side = size.image_size
    video = torch.randn(1, 3, size.num_frames, side, side, generator=generator)
    fbank = torch.randn(1, size.fbank_frames, size.mel_bins, generator=generator)
    probe = {"input.video": video.bfloat16().float(), "input.fbank": fbank.bfloat16().float()}
    probe |= network.probe_masks(generator)
    return probe | _run_probe(network, probe)


def read_probe(path: Path) -> dict[str, Tensor]:
    """Read a stored probe, or a file of numbers that the authors' network gave.

    Such a file has ``video`` (B, 3, T, H, W), ``audio`` (B, 1, S, F), in pretraining
    ``mask_video`` and ``mask_audio``, and ``pred_video`` and ``pred_audio``, or ``features`` and
    ``logits``; what else is in it is left out.

    Raises: ValueError: damaged, or without input or output. FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged probe ({error})") from error
    probe = {
        _REFERENCE_NAMES.get(name, name): value
        for name, value in tensors.items()
        if value.numel() and (name in _REFERENCE_NAMES or name.startswith(("input.", "output.")))
    }
    if "input.fbank" in probe and probe["input.fbank"].ndim == 4:
        probe["input.fbank"] = probe["input.fbank"].squeeze(1)
    if not {"input.video", "input.fbank"} <= set(probe) or not any(
        name.startswith("output.") for name in probe
    ):
        raise ValueError(
            f"{path}: no probe (found {', '.join(sorted(tensors)[:6]) or 'nothing'}; wanted video, "
            "audio and what the network made of them)"
        )
    return probe


@torch.no_grad()
def _run_probe(network: PortableModel, probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
    training = network.training
    network.eval()
    try:
        return network.probe_output(probe)
    finally:
        network.train(training)


def largest_difference(network: PortableModel, probe: Mapping[str, Tensor], where: str) -> float:
    """Largest absolute difference of what the network gives now from what is stored.

    Raises: ValueError: the probe is of another network.
    """
    wanted = {name: value for name, value in probe.items() if name.startswith("output.")}
    masks = [name for name in ("input.video_mask", "input.fbank_mask") if name not in probe]
    if network.kind == "pretraining" and masks:
        raise ValueError(f"{where}: a pretraining network's probe has {', '.join(masks)} too")
    try:
        found = _run_probe(network, probe)
    except (ValueError, RuntimeError, IndexError) as error:  # of its shapes
        raise ValueError(f"{where}: does not fit this network ({one_line(str(error))})") from error
    common = sorted(set(wanted) & set(found))
    wrong = [
        f"{name} is {tuple(found[name].shape)}, stored {tuple(wanted[name].shape)}"
        for name in common
        if found[name].shape != wanted[name].shape
    ]
    if not common:
        wrong.append(f"it stores {', '.join(sorted(wanted))}, the network gives {', '.join(found)}")
    if wrong:
        raise ValueError(f"{where}: the probe is of another network ({'; '.join(wrong)})")
    differences = [(found[name] - wanted[name].float()).abs().max().item() for name in common]
    # A number that is none must not pass for a small one.
    return max(differences) if all(value == value for value in differences) else float("nan")


def locate(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder of a checkpoint, downloaded if need be; its weights are what they should be.

    Args:
        source: A folder (a checkpoint or a run), ``https://…/folder`` of a checkpoint that any web
            server hands out, or ``owner/name`` on the Hub.
        revision: As ``huggingface_hub.snapshot_download`` and ``PortableModel.from_pretrained``
            have it; so are the others.

    Raises: ValueError: nothing of that name, no answer, nothing in the cache, damaged weights, or a
        download that is forced and forbidden.
    """
    text, offline = str(source), local_files_only or is_offline() or is_offline_mode()
    from_web = re.match(r"https?://", text)
    if revision is not None and (from_web or Path(source).exists()):
        what = "a web address" if from_web else "a folder of this machine"
        raise ValueError(
            f"{text}: is {what}, and revision = {revision} is the Hub's; leave revision out, "
            "or give a name on the Hub"
        )
    if force_download and offline and (from_web or not Path(source).exists()):
        raise ValueError(
            f"{text}: force_download needs the network, which may not be used; leave it out to "
            "take what is in the cache"
        )
    if from_web:
        cache = cache_dir or platformdirs.user_cache_path("hicmae") / "checkpoints"
        return _from_web(text, Path(cache), force=force_download, offline=offline)
    if Path(source).exists():
        return Path(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise ValueError(
            f"{text}: no such folder; give a checkpoint or run folder, https://…, or owner/name"
        )
    folder = _from_hub(
        text,
        offline,
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        token=token,
    )
    if not is_checkpoint(folder):
        raise ValueError(f"{text}: holds no {CONFIG} with {WEIGHTS}; no checkpoint of this project")
    _check_weights(folder)
    return folder


def _check_weights(folder: Path) -> None:
    """Compare the weights with the digest that the configuration gives, if it gives one."""
    wanted = _digest(text_of(folder / CONFIG), str(folder / CONFIG))
    if wanted is not None and file_sha256(folder / WEIGHTS) != wanted:
        raise ValueError(
            f"{folder / WEIGHTS}: not the file that {CONFIG} describes (SHA-256 differs); "
            "download it again with force_download"
        )


def _from_web(url: str, cache: Path, *, force: bool, offline: bool) -> Path:
    base = re.sub(rf"/+({re.escape(CONFIG)}|{re.escape(WEIGHTS)})?$", "", url)
    base = urllib.parse.quote(base, safe=string.punctuation)  # blanks and accents, as browsers do
    place = cache / hashlib.sha256(base.encode()).hexdigest()[:16]
    described = place / CONFIG
    if offline:
        if not described.is_file():
            raise ValueError(f"{base}: not downloaded yet, and the network may not be used")
        text = text_of(described)
    else:
        text = _small_file(f"{base}/{CONFIG}")
    digest = _digest(text, f"{base}/{CONFIG}")
    if digest is None:
        raise ValueError(
            f"{base}/{CONFIG}: gives no weights_sha256, so a download could not be checked; "
            "write the checkpoint again with this version"
        )
    folder = place / digest[:16]
    if force or not (folder / WEIGHTS).is_file():
        if offline:
            raise ValueError(f"{base}: not downloaded yet, and the network may not be used")
        fresh = folder / (f"{WEIGHTS}.again" if force else WEIGHTS)
        fetch(f"{base}/{WEIGHTS}", fresh, sha256=digest).replace(folder / WEIGHTS)
    for file in (folder / CONFIG, described):  # a cache that is whole may be read-only
        if not file.is_file() or text_of(file) != text:
            write_text(file, text)
    return folder


def _from_hub(name: str, offline: bool, **settings: Any) -> Path:
    """Download with the settings of ``snapshot_download``."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = [CONFIG, WEIGHTS, PROBE, CARD]
        return Path(
            huggingface_hub.snapshot_download(
                name, local_files_only=offline, allow_patterns=files, **settings
            )
        )
    except HfHubHTTPError as error:
        raise ValueError(_refusal(name, error, settings.get("revision"))) from error
    except LocalEntryNotFoundError as error:
        # What the Hub did answer, the library has put behind this one.
        answer = error.__cause__ or error.__context__
        if isinstance(answer, HfHubHTTPError):
            raise ValueError(_refusal(name, answer, settings.get("revision"))) from error
        why = "the network may not be used" if offline else "the Hub does not answer"
        raise ValueError(f"{name}: no such folder, not in the Hub's cache, and {why}") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name}: {huggingface_hub.constants.ENDPOINT} answers with a page and not as the Hub "
            "does; sign in to the network, or look at its proxy"
        ) from error


def _refusal(
    name: str, error: HfHubHTTPError, revision: str | None, *, sending: bool = False
) -> str:
    """One line about what the Hub answered, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return f"{name}: has no revision {revision!r}; name a branch, a tag or a commit of it"
    if sending and status in (401, 403, 404):
        remedy = "look at the name, and give a token that may write there (hf auth login, HF_TOKEN)"
    elif isinstance(error, GatedRepoError) or status == 403:
        remedy = "ask for access on its page, then give a token (hf auth login, or HF_TOKEN)"
    elif status in (401, 404):
        remedy = "look at the name; if it is private, give a token (hf auth login, or HF_TOKEN)"
    elif status == 429:
        wait = error.response.headers.get("Retry-After")
        remedy = (
            f"too many requests; try again {f'in {wait} s' if wait else 'later'}, or give a token"
        )
    elif status >= 500:
        remedy = "its own fault; try again later"
    else:
        remedy = "look at the name and the network"
    what = "the Hub refuses it" if sending else "no such folder, and the Hub refuses it"
    said = f", {one_line(error.server_message)[:200]}" if error.server_message else ""
    return f"{name}: {what} (HTTP status {status}{said}): {remedy}"


def _small_file(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            content = answer.read(_CONFIG_BYTES + 1)
    except urllib.error.HTTPError as error:
        why = one_line(str(error.reason))
        raise ValueError(f"{url}: HTTP status {error.code} ({why})") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = one_line(str(getattr(error, "reason", None) or error))
        raise ValueError(
            f"{url}: cannot be fetched ({reason}); {OFFLINE_VARIABLE}=1 uses what is in the cache"
        ) from None
    if len(content) > _CONFIG_BYTES:
        raise ValueError(f"{url}: too large for a configuration (more than {_CONFIG_BYTES} bytes)")
    return content.decode("utf-8", errors="replace")


def _digest(text: str, where: str) -> str | None:
    """The digest of the weights in a configuration's text."""
    try:
        found = json.loads(text).get("weights_sha256")
    except (ValueError, AttributeError):
        raise ValueError(f"{where}: no checkpoint's configuration (not JSON)") from None
    if found is not None and not re.fullmatch(r"[0-9a-f]{64}", str(found)):
        raise ValueError(f"{where}: weights_sha256 = {found!r} is no SHA-256")
    return found
