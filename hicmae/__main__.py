"""The table of verbs, each with the function behind it, and of options that were renamed.

The targets are strings, imported when the verb is used; this is the one place where rooms meet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

try:
    from hicmae.cli import Verb, completion_script, dispatch
    from hicmae.processes import spare_imports
except KeyboardInterrupt:  # they take half a second
    print("\nhicmae: interrupted", file=sys.stderr)
    sys.exit(130)

VERBS = {
    "demo": Verb(
        target="hicmae.demo:demo",
        help="See the whole system work, from media to report",
        example="hicmae demo --out demo",
    ),
    "shards build": Verb(
        target="shards.commands:build",
        help="Build shards from videos: a folder, a CSV or a JSON-lines manifest",
        positional={"sources": "+"},
        example="hicmae shards build recordings --out data/shards --max_seconds 10",
    ),
    "shards merge": Verb(
        target="shards.commands:merge",
        help="Join the parts of a build into one folder of shards",
        positional={"parts": "+"},
        example="hicmae shards merge data/part-0 data/part-1 --out data/shards",
    ),
    "shards check": Verb(
        target="shards.commands:check",
        help="Check that shards are whole and follow the schema",
        positional={"folder": "1"},
        example="hicmae shards check data/shards",
    ),
    "shards info": Verb(
        target="shards.commands:info",
        help="Say what is in a folder of shards",
        positional={"folder": "1"},
        example="hicmae shards info data/shards",
    ),
    "shards manifest": Verb(
        target="shards.datasets.command:manifest",
        help="List a known dataset (CREMA-D, RAVDESS, …) for building, with labels and folds",
        positional={"dataset": "?", "root": "?"},
        example="hicmae shards manifest crema-d data/CREMA-D --out crema_d.csv",
    ),
    "shards receipt": Verb(
        target="shards.commands:receipt",
        help="Make the receipt of a folder of shards again",
        positional={"folder": "1"},
        example="hicmae shards receipt data/shards",
    ),
    "shards compare": Verb(
        target="shards.commands:compare",
        help="Say what differs between two folders of shards, or between their receipts",
        positional={"first": "1", "second": "1"},
        example="hicmae shards compare data/shards theirs/receipt.json",
    ),
    "shards synthesize": Verb(
        target="shards.commands:synthesize",
        help="Render a corpus of synthetic talking faces with labels",
        example="hicmae shards synthesize --config configs/shards/demo_corpus.yaml --out data/made",
    ),
    "pretrain": Verb(
        target="pretrain.run:pretrain",
        help="Pretrain the masked autoencoder on shards",
        example="hicmae pretrain --model tiny --data.shards data/shards --out runs/tiny",
        computes=True,
    ),
    "pretrain plot": Verb(
        target="pretrain.plot:plot",
        help="Draw curves of pretraining runs from their metrics.csv",
        positional={"runs": "+"},
        example="hicmae pretrain plot runs/tiny runs/base --out curves.png",
    ),
    "finetune": Verb(
        target="finetune.run:finetune",
        help="Fine-tune for a benchmark, from a checkpoint or from scratch",
        example="hicmae finetune --benchmark synthetic --shards data/shards "
        "--checkpoint runs/tiny --out runs/emotion",
        computes=True,
    ),
    "predict": Verb(
        target="hicmae.prediction.command:predict",
        help="Predict emotion over the time of recordings: videos, sound files, folders",
        positional={"recordings": "+"},
        example="hicmae predict clip.mp4 --checkpoint runs/emotion --out predictions --picture",
        computes=True,
    ),
    "report": Verb(
        target="finetune.commands:report",
        help="Report on fine-tuning runs, in Markdown and one HTML file",
        positional={"runs": "+"},
        example="hicmae report runs/emotion runs/scratch --out runs/report.md",
    ),
    "evaluate": Verb(
        target="finetune.commands:evaluate",
        help="Test finished networks with more views, or on another corpus",
        positional={"source": "1"},
        example="hicmae evaluate runs/emotion --segments 4 --crops whole,mirrored "
        "--out runs/emotion-views",
        computes=True,
    ),
    "evaluate modalities": Verb(
        target="finetune.commands:modalities",
        help="Find out how much each modality matters to finished networks",
        positional={"source": "1"},
        example="hicmae evaluate modalities runs/emotion --perturb.swaps 5",
        computes=True,
    ),
    "evaluate matrix": Verb(
        target="finetune.commands:matrix",
        help="Put runs and their evaluations on other corpora into one table",
        positional={"runs": "+"},
        example="hicmae evaluate matrix runs/crema_d runs/crema_d-on-ravdess --out matrix.md",
    ),
    "embed": Verb(
        target="finetune.commands:embed",
        help="Write features of shards or recordings to Parquet or NPZ, for other classifiers",
        positional={"source": "1", "inputs": "+"},
        example="hicmae embed runs/pretrain data/shards --what layers --layers 4,7,10 "
        "--out features.parquet",
        computes=True,
    ),
    "bench loader": Verb(
        target="shards.bench:bench_loader",
        help="Measure how fast shards are read",
        example="hicmae bench loader --shards data/shards",
    ),
    "bench build": Verb(
        target="shards.building.bench:bench_build",
        help="Measure what building shards costs a core",
        example="hicmae bench build --media recordings --most 4",
    ),
    "bench speaking": Verb(
        target="hicmae.media.bench:bench_speaking",
        help="How often the face that speaks is found among several",
        example="hicmae bench speaking --media clips",
    ),
    "bench predict": Verb(
        target="hicmae.prediction.bench:bench_predict",
        help="Measure prediction from end to end, by part",
        example="hicmae bench predict --model base",
        computes=True,
    ),
    "bench step": Verb(
        target="pretrain.bench:bench_step",
        help="Measure a training step",
        example="hicmae bench step --model tiny",
        computes=True,
    ),
    "bench gpu": Verb(
        target="pretrain.gpu_bench:bench_gpu",
        help="Measure and check everything that needs a GPU, in one go",
        example="hicmae bench gpu --json gpu.json",
    ),
    "bench finetune": Verb(
        target="finetune.bench:bench_finetune",
        help="Measure a fine-tuning step",
        example="hicmae bench finetune --model tiny",
        computes=True,
    ),
    "bench evaluate": Verb(
        target="finetune.bench:bench_evaluate",
        help="Measure the test of a fold",
        example="hicmae bench evaluate --model tiny --shards data/shards",
        computes=True,
    ),
    "checkpoint convert": Verb(
        target="hicmae.checkpoints.commands:convert",
        help="Convert the authors' weights to a checkpoint",
        positional={"file": "1", "out": "1"},
        example="hicmae checkpoint convert checkpoint-99.pth weights/base",
    ),
    "checkpoint info": Verb(
        target="hicmae.checkpoints.commands:info",
        help="Say what a checkpoint is",
        positional={"source": "1"},
        example="hicmae checkpoint info runs/pretrained/fold-0",
    ),
    "checkpoint verify": Verb(
        target="hicmae.checkpoints.commands:verify",
        help="Check that a checkpoint still computes what it did",
        positional={"source": "1"},
        example="hicmae checkpoint verify weights/base --tolerance 1e-3",
    ),
    "checkpoint average": Verb(
        target="hicmae.checkpoints.commands:average",
        help="Average the weights of checkpoints",
        positional={"sources": "+"},
        example="hicmae checkpoint average runs/seed0 runs/seed1 --out weights/mean",
    ),
    "checkpoint export": Verb(
        target="hicmae.checkpoints.commands:export",
        help="Write a checkpoint as ONNX, torch.export or the authors' format",
        positional={"source": "1", "out": "1"},
        example="hicmae checkpoint export runs/values/fold-1 values.onnx --format onnx-int8",
    ),
    "checkpoint card": Verb(
        target="hicmae.checkpoints.commands:card",
        help="Write the model card of a checkpoint",
        positional={"folder": "1"},
        example="hicmae checkpoint card runs/values/fold-1",
    ),
    "serve": Verb(
        target="hicmae.page.command:serve",
        help="Open a page on this machine: drop or record a clip, see its emotion over time",
        example="hicmae serve --checkpoint runs/values/fold-1",
    ),
    "completion": Verb(
        target="hicmae.__main__:completion",
        help="Print a script that completes verbs and options in your shell",
        positional={"shell": "1"},
        example="hicmae completion bash > ~/.local/share/bash-completion/completions/hicmae",
    ),
    "doctor": Verb(
        target="hicmae.doctor:doctor",
        help="Say what this machine has and what is missing",
        example="hicmae doctor",
    ),
}

# Verb -> dotted old name of an option -> its new name, on the command line and in YAML.
_OF_MACHINES = {
    "machine.accelerator": "device",
    "machine.workers": "workers",
    "machine.precision": "precision",
    "machine.batch_size": "batch_size",
}
RENAMED = {
    "pretrain": {
        "hardware.accelerator": "device",
        "data.workers": "workers",
        "data.shuffle_buffer": "data.shuffle_shards",
    },
    "finetune": {
        "trainer.accelerator": "device",
        "trainer.workers": "workers",
        "trainer.devices": "hardware.devices",
        "trainer.timeout_seconds": "hardware.timeout_seconds",
        "trainer.recompute": "hardware.recompute",
    },
    "evaluate": _OF_MACHINES,
    "evaluate modalities": _OF_MACHINES,
    "embed": _OF_MACHINES,
    "bench step": {"accelerator": "device"},
    "bench finetune": {"accelerator": "device"},
    "bench evaluate": {"accelerator": "device"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, as of ``dispatch``."""
    if arguments is None:  # the process is ours
        spare_imports()
    return dispatch(list(sys.argv[1:] if arguments is None else arguments), VERBS, RENAMED)


def completion(*, shell: str) -> None:
    """Print a script that completes verbs and options in your shell.

    bash: `hicmae completion bash > ~/.local/share/bash-completion/completions/hicmae` (`mkdir -p`
    makes the folder); zsh: write it to a file `_hicmae` in a folder of `$fpath`. Write it again
    after an upgrade.

    Args:
        shell: bash, zsh or tcsh.

    Raises:
        ValueError: Another shell.
    """
    print(completion_script(VERBS, shell))


if __name__ == "__main__":
    sys.exit(main())
