"""What is trained and how one step is taken; usable without the rest of clipsweep.

Public names are listed once, in ``__init__.pyi``, and imported when first used: finding out where data is works
without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
