"""What is known of a run and of its folds besides predictions: the provenance of every number.

For: the plain data of ``scores.json`` and ``fold.json``. Not for: reading and writing them
(``finetune/record.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune.selection import marked, rule_label


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What every number of a run is reported with.

    Args:
        benchmark: Name of it.
        init: ``checkpoint`` or ``scratch``.
        checkpoint: Folder of the checkpoint, if there is one.
        modalities: What the network sees and hears.
        selection: Rule by which the tested weights were chosen (``finetune/selection.py``).
        seed: Of every random draw.
        epochs: Passes over the training side; none, as the three that follow: the checkpoint that
            was tested does not say.
        batch_size: Clips of an optimizer step.
        learning_rate: Highest rate of the last layer, after scaling to the batch.
        loss: Training loss.
        num_segments: Test-time views of a sample.
        num_parameters: Numbers that are trained.
        precision: Lightning's name of the number format.
        shards: Folder of the shards.
        shards_digest: SHA-256 of their index.
        configuration_digest: SHA-256 of all that decides the numbers (benchmark, sizes, recipe,
            seed, checkpoint, shards); the same digest means the same experiment.
        git_commit: Commit of the code, with ``+`` if it was changed; none outside a repository.
        version: Of this program.
        ignored: Samples that the benchmark leaves out, by label.
        protocol: ``default``, or ``paper``: the reference's choices.
        experiment_digest: SHA-256 as ``configuration_digest`` without the seed: runs that share it
            differ in their seeds alone. Empty in early versions.
        notes: Sentences a reader of its numbers should know.
        crops: Test-time crops of each segment, by the names of ``hicmae.views.CROPS``.
        evaluates: Of an evaluation (``hicmae evaluate``): the run or checkpoint whose networks
            were tested; empty for a run that trained its own.
        trained_on: Of an evaluation on another corpus: the benchmark of the training.
        network: Of an evaluation on another corpus: the fold whose network was tested, or
            ``ensemble``: the outputs of all of them averaged.
    """

    benchmark: str
    init: str
    checkpoint: str | None
    modalities: str
    selection: str
    seed: int
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    loss: str | None
    num_segments: int
    num_parameters: int
    precision: str
    shards: str
    shards_digest: str
    configuration_digest: str
    git_commit: str | None
    version: str
    ignored: dict[str, int] = field(default_factory=dict)
    protocol: str = "default"
    experiment_digest: str = ""
    notes: tuple[str, ...] = ()
    crops: tuple[str, ...] = ("whole",)
    evaluates: str = ""
    trained_on: str = ""
    network: str = ""

    @property
    def rule(self) -> str:
        """Selection rule as it stands in tables."""
        return rule_label(self.selection, self.protocol)

    def mark(self, number: str) -> str:
        """A number as it is shown: one that was chosen on the test side says so itself."""
        return marked(number, self.selection)


@dataclass(frozen=True, kw_only=True)
class FoldFacts:
    """What is known of one finished fold.

    Args:
        name: Of the fold.
        configuration_digest: Of the run that trained it.
        num_train: Training samples, without those of the inner validation; none where a tested
            checkpoint does not say.
        num_test: Test samples.
        num_train_speakers: Speakers of the training side; none where nobody names them.
        num_test_speakers: Speakers of the test side.
        seconds: Wall-clock time of training and testing.
        num_validation: Samples of the inner validation.
        num_validation_speakers: Speakers of it; none where nobody names them.
        epoch: The epoch whose weights were tested, counted from 1; none in early versions.
        train_loss: Mean loss of the last epoch.
        layer_weights: Modality to the learned weight of each layer.
        notes: Sentences a reader of its numbers should know.
    """

    name: str
    configuration_digest: str
    num_train: int | None
    num_test: int
    num_train_speakers: int | None
    num_test_speakers: int | None
    seconds: float
    train_loss: float | None
    layer_weights: dict[str, tuple[float, ...]]
    num_validation: int = 0
    num_validation_speakers: int | None = None
    epoch: int | None = None
    notes: tuple[str, ...] = ()
