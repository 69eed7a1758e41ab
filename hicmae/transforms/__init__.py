"""Device-side, batched transforms: frames and waveforms in, the network's input out.

Everything between a reader's batch and the network, the same in training, evaluation and
prediction; settings of the augmentations are ``hicmae.settings.AugmentConfig``.
"""

from hicmae.transforms.audio import FilterBank
from hicmae.transforms.clip import ClipTransform

__all__ = ["ClipTransform", "FilterBank"]
