"""One tree of errors; each class carries the exit code of the command that meets it.

ConvfcError
├── WrongContents (1)       a well-formed file whose contents are not what they should be
├── UsageError (2)          the request cannot be carried out as it was put
│   ├── OutputExists        the destination is there, and nobody asked to replace it
│   ├── SizeMissing         a size that the model leaves open was not given
│   └── WeightsAlone        a file stores weights but not how they are applied, and no option did
├── MalformedInput (3)      the input is damaged, cut short, or not what it says it is
│   └── GeometryError       attributes that describe no layer
├── Unsupported (4)         well-formed, but nothing this version can turn into a matrix
├── Refused (5)             beyond a limit, or against a policy
├── OutputFailed (6)        the output could not be written
└── Defect (70)             convfc itself is wrong; please report it

This module imports nothing but what a hint is.
"""

from convfc_cli.hints import Hint


class ConvfcError(Exception):
    """The root: `str(error)` is one line that says what, where and why.

    Examples
    --------
    >>> try:
    ...     raise Refused("too large")
    ... except ConvfcError as error:
    ...     print(error, error.exit_code)
    too large 5
    """

    exit_code = 70

    def __init__(self, message: object = "", *hints: Hint) -> None:
        super().__init__(message)
        self.hints = hints

    def without_frames(self) -> "ConvfcError":
        """Return the same error, cut loose from where it was raised.

        The frames of a traceback keep every array that was alive in them, and a cause may keep the
        text that it is about: who stores an error, rather than raise it, stores this.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class WrongContents(ConvfcError):
    """A well-formed file whose contents are wrong."""

    exit_code = 1


class UsageError(ConvfcError):
    """The request cannot be carried out as it was put."""

    exit_code = 2


class OutputExists(UsageError):
    """The destination exists already, and nobody asked to replace it."""


class SizeMissing(UsageError):
    """The model leaves a size open that the matrix needs.

    `hint` is a shape that would settle it, for instance: NAME=1,3,224,224.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class WeightsAlone(UsageError):
    """A file stores weights but not how they are applied, and no request described it.

    `example` is a `Request` that would, if the guess is right.
    """

    def __init__(self, message: str, example: object = None) -> None:
        super().__init__(message)
        self.example = example


class MalformedInput(ConvfcError):
    """The input is damaged, cut short, or not what it says it is."""

    exit_code = 3


class GeometryError(MalformedInput):
    """Sizes or attributes that describe no layer."""


class Unsupported(ConvfcError):
    """The input is well-formed but holds something this version cannot turn into a matrix."""

    exit_code = 4


class Refused(ConvfcError):
    """A limit or a safety policy forbids it."""

    exit_code = 5


class OutputFailed(ConvfcError):
    """The output could not be written."""

    exit_code = 6


class Defect(ConvfcError):
    """convfc contradicts itself: a defect of this program, not of the input."""

    exit_code = 70


GRAVITY = (70, 3, 1, 5, 6, 4, 2)
"""Exit codes, the gravest first."""


def gravest(codes: list[int]) -> int:
    """The exit code of several outcomes; 0 where all are 0.

    >>> gravest([0, 4, 1])
    1
    """
    return next((code for code in GRAVITY if code in codes), 0)
