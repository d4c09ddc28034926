"""The workers, plain classes without Ray: one trains, one measures. These modules import torch."""
