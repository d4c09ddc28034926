"""What a run says: cells over seeds, fits, answers, theory; and how it is shown, in ``render`` and ``plots``."""
