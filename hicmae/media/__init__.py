"""Raw media in: frames, sound and faces of any recording.

``recording.py`` opens a recording and is what building and prediction use; ``video.py`` gives
pictures and ``sound.py`` sound, both on one clock; ``faces.py`` has the settings and the table of
detectors. A decoder or a detector is one file here and one line in its table.
"""

# decord loads its codecs for the whole process, and a libvpx that PyAV then takes for its own
# refuses to open: PyAV has to come first.
import av  # noqa: F401, I001

# Detectors register themselves, in the order in which messages name them.
from hicmae.media import yunet, cascade, identity  # noqa: F401
