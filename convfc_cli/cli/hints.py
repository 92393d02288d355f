"""Errors as the command line words them: the library's message, and its hints as options."""

from collections.abc import Sequence

from convfc_cli.errors import ConvfcError, SizeMissing, WeightsAlone
from convfc_cli.hints import Advice

MAX_SHAPE = 1000
"""Characters of an --input-shape that are taken."""

WORDS = {
    Advice.REPLACE: "--force replaces it, -o names another place",
    Advice.RESUME: "--resume keeps what is whole and writes the rest, --force replaces all, "
    "-o names another place",
    Advice.ELSEWHERE: "-o names another place",
    Advice.STREAM: "-o names another place, and -o - streams the bytes",
    Advice.LAYERS: "-l @{} picks one",
    Advice.OUTPUT: "-o takes a file, a folder, or - for standard output",
    Advice.LAYOUT: "--layout {} orders them so",
    Advice.SHAPE: "without --input-shape the model's own size is taken; another takes a model that "
    "is exported with that size, or leaves it open",
    Advice.BIAS: "--bias {} takes it, --bias none takes none",
    Advice.NO_WEIGHTS: "leave out --weight",
    Advice.INCLUDE: "--include linear takes its other linear layers",
    Advice.CHAINS_ALONE: "--compose goes without -l and --include",
    Advice.FORM: "--form {} writes {}",
    Advice.ALLOW: "--max-bytes {} allows it",
    Advice.NO_PROOF: "--no-verify writes it all the same; please report the model",
    Advice.FLIP: "--flip-kernel or --no-flip-kernel says it",
    Advice.DESCRIBE: "--weight, --kernel-order and what else was said for {!r}",
}


def worded(error: ConvfcError) -> str:
    """The message of an error, with its hints."""
    advice = _advice(error)
    return f"{error}: {'; '.join(advice)}" if advice else str(error)


def _advice(error: ConvfcError) -> list[str]:
    return [WORDS[hint.advice].format(*hint.values) for hint in error.hints]


def ways(error: ConvfcError) -> list[str]:
    """What helps against an error; options that would do, for instance, begin with `--`."""
    from convfc_cli.naming import shell_command

    if isinstance(error, SizeMissing) and 0 < len(error.hint) <= MAX_SHAPE:
        return [*_advice(error), shell_command(["--input-shape", error.hint])]
    if isinstance(error, WeightsAlone) and error.example is not None:
        return [*_advice(error), shell_command(describing(error.example, sized=False))]
    return _advice(error)


def with_size(arguments: Sequence[str], size: str) -> str:
    """The command again with an --input-shape; empty for none, or one that is too long."""
    from convfc_cli.naming import shell_command

    if not 0 < len(size) <= MAX_SHAPE:
        return ""
    return shell_command(["convfc", *arguments, "--input-shape", size])


def describing(request: object, *, sized: bool) -> list[str]:
    """The options that describe weights as a request does; its size too, unless it is given
    already (`sized`).
    """
    from convfc_cli.models.request import Request

    assert isinstance(request, Request)
    assert request.weights is not None
    weights = request.weights
    options = ["--weight", weights.weight, "--bias", weights.bias or "none"]
    options += ["--kernel-order", weights.order] + ["--transposed"] * weights.transposed
    for shape in () if sized else request.shapes.values():
        options += ["--input-shape", ",".join(map(str, shape))]
    return options
