"""Raw media in: frames, sound and faces of any recording.

``video.py`` opens pictures, ``sound.py`` sound, both on one clock; ``frame_times.py`` picks the
frames of a constant rate; ``faces.py`` opens a detector; ``crops.py`` follows a face and cuts it
out. A decoder or a detector is one file here and one line in its table. Not for: shards, which are
not raw any more.
"""

# decord loads its codecs for the whole process, and a libvpx that PyAV then takes for its own
# refuses to open: PyAV has to come first.
import av  # noqa: F401
