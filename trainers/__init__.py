"""What is trained and how one step is taken; usable without the rest of clipsweep.

What is public is named once, in ``__init__.pyi``, and imported when it is first asked for: where data lies is told
without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
