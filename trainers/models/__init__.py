"""The networks. Import from the modules; this package imports nothing by itself."""

__all__: list[str] = []
