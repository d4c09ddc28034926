"""The sections of a spec as pydantic models: what each key accepts, and its default."""
