"""Far-field ptychography as plain differentiable functions: there, and back to an object."""

from ptycho_torch.physics.canvas import cut, group_canvas
from ptycho_torch.physics.forward import diffract, illuminate, object_patches, object_shape_for
from ptycho_torch.physics.stitching import Stitcher, stitch

__all__ = [
    "Stitcher",
    "cut",
    "diffract",
    "group_canvas",
    "illuminate",
    "object_patches",
    "object_shape_for",
    "stitch",
]
