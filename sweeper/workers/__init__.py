"""The workers, without Ray: one trains, one measures, one examines problems. These modules import torch."""
