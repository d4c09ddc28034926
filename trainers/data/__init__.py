"""Texts and images as tensors. Import from the modules; this package imports nothing by itself."""

__all__: list[str] = []
