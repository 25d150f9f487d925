"""What one model computed about one photo, each thing once, and its store on disk.

Knows hooks, activations, gradients and masked copies; not which method asks for them.
"""

from gscam_lib.trace.model import Model, load_model
from gscam_lib.trace.trace import Trace, embed_masked

__all__ = ["Model", "Trace", "embed_masked", "load_model"]
