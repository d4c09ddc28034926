"""Measurements of local smoothness along a training run, usable without the rest of clipsweep.

Public names are listed once, in ``__init__.pyi``, and imported when first used: reports need the
statistics of :mod:`estimators.fits` but not torch, which takes a second to load.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
