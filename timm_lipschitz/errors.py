"""Typed errors of the package.

Every error names what was wrong (the class, the field or sample, the offending value) and the way out. The command line
prints the message alone; ``--debug`` adds the traceback.
"""


class TimmLipschitzError(Exception):
    """Base of every error that the package raises on purpose. ``exit_code`` is what the command line returns."""

    exit_code: int = 1


class InvalidInputError(TimmLipschitzError, ValueError):
    """An argument, an image, a label or a setting that cannot be used."""


class NonFiniteError(TimmLipschitzError, ArithmeticError):
    """NaN or infinity in weights, logits or gradients."""


class NotCertifiableError(TimmLipschitzError):
    """The model holds a module without a known Lipschitz bound, or is in a state in which no bound holds."""


class DataError(TimmLipschitzError):
    """A data set that is missing, incomplete, empty or not what its hash says."""


class CheckpointError(TimmLipschitzError):
    """A checkpoint that is damaged, unsafe or does not fit the model."""


class AttackError(TimmLipschitzError):
    """An attack that cannot be run on this model, data set or threat model."""


class OutOfMemoryError(TimmLipschitzError, MemoryError):
    """Memory that runs out even for one image at a time."""


class UncertifiedWarning(UserWarning):
    """A model that says its explicit operators is attacked without certificates: a part of it has no known bound."""


class RecordError(TimmLipschitzError):
    """A record or per-image table that breaks its schema, its hashes or the order certified <= attacked <= clean."""


class RunDirectoryError(TimmLipschitzError):
    """A run directory that cannot be written, is in use, or belongs to another run."""


class DamagedChunkError(RunDirectoryError):
    """A finished batch in a run directory whose content is not what its hash says, or not of its schema."""


class HubError(TimmLipschitzError):
    """A repository on the Hugging Face hub that could not be written. The message never holds a token."""


class CertificateViolation(TimmLipschitzError):
    """An attack succeeded inside a certified radius: a bound is wrong, the package's or one that somebody registered.

    The message says which is likelier and names the saved witness.
    """

    exit_code: int = 3
