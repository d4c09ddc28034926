"""Functions with known constants, and thousands of trials on them side by side. Import from the modules."""

__all__: list[str] = []
