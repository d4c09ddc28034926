"""clipsweep: sweeps of clipped and unclipped training on Ray, with local smoothness measured along the way.

What is public is named once, in ``__init__.pyi``, and imported when it is first asked for: pandas takes half a second
that ``clipsweep plan`` does not have.
"""

import lazy_loader

from sweeper.own_packages import pin

# Before anything is imported from them.
pin()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
