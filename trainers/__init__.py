"""What is trained and how one step is taken. Import from the modules; this package imports nothing by itself."""

__all__: list[str] = []
