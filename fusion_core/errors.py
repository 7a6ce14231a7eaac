"""Every error that a caller can cause. Their messages say what was wrong and what to do next."""

from __future__ import annotations


class FusionError(Exception):
    """Base of all errors that this project raises on purpose."""


class TokenizerError(FusionError):
    """A tokenizer cannot be named, found, read or used as asked."""


class TextError(FusionError):
    """A text cannot be encoded, such as one with a lone surrogate."""


class AlignmentError(FusionError):
    """Two encodings cannot be aligned as asked."""


class MappingError(FusionError):
    """A vocabulary mapping cannot be computed, read, or used with these tokenizers."""


class DistributionError(FusionError):
    """Next-token distributions are malformed, unreadable, or belong to something else."""


class TransferError(FusionError):
    """Distributions cannot be carried over as asked."""


class ModelError(FusionError):
    """A model cannot be named, found, loaded or run as asked."""


class ConfigError(FusionError):
    """A run's configuration is malformed, or asks for what there is not."""


class TrainingError(FusionError):
    """A run cannot start or go on."""


class DivergedError(TrainingError):
    """The loss became NaN, or grew beyond all bounds."""


class AppError(FusionError):
    """The app cannot start as asked."""
