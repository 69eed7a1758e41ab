"""Device-side, batched transforms: frames and waveforms in, the network's input out.

For: everything between a reader's batch and the network, the same in training, evaluation and
prediction. Not for: decoding (``hicmae.media``), the choice of frames (``hicmae.views``), mixup.
"""

from hicmae.transforms.augment import AugmentConfig
from hicmae.transforms.clip import ClipTransform
from hicmae.transforms.fbank import FilterBank
from hicmae.transforms.video import normalise_video, restore_video

__all__ = ["AugmentConfig", "ClipTransform", "FilterBank", "normalise_video", "restore_video"]
