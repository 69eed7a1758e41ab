"""Raw media in: frames, sound and faces of any recording.

``recording.py`` opens a recording and is what building and prediction use; ``video.py`` gives
pictures and ``sound.py`` sound, both on one clock; ``faces.py`` has the settings and the table of
detectors. A detector is one file here that registers itself, a decoder a class in ``decoders.py``.
"""

# decord loads its codecs for the whole process, and a libvpx that PyAV then takes for its own
# refuses to open: PyAV has to come first.
import av  # noqa: F401, I001

# Detectors register themselves, in the order in which messages name them.
from hicmae.media import yunet, cascade, identity  # noqa: F401
