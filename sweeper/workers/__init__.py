"""The workers, plain classes without Ray: one trains, one measures. Their modules import torch."""
