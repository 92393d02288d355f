"""`convfc convert`: write the matrices."""

import sys
from typing import TYPE_CHECKING

import click

from convfc_cli.cli import options
from convfc_cli.cli.command import Command, option
from convfc_cli.cli.completion import layers as layers_of
from convfc_cli.cli.conversion import IDLE, Reporter
from convfc_cli.cli.data import print_json
from convfc_cli.cli.hints import worded
from convfc_cli.cli.records import of_conversion, warning
from convfc_cli.cli.terminal import is_terminal, say
from convfc_cli.layout import ORDERS
from convfc_cli.vocabulary import FLOATS, FORMATS, FORMS

if TYPE_CHECKING:
    from convfc_cli.jobs.result import Conversion
    from convfc_cli.models.request import Request

HELP = """\
Write the matrix of every convolution of MODEL, and prove it.

MODEL is an ONNX, Keras or HDF5 file, or - for standard input. The paths written go to standard
output.
"""

EPILOG = """\b
Examples:
  convfc convert model.onnx
  convfc convert model.onnx -l conv1 -o conv1.npz
  convfc convert model.onnx --input-shape x=1,3,224,224 --keep-going
  convfc convert model.onnx -l @3 --form dense -o third.npy
  convfc convert model.onnx --compose conv1:bn1
  convfc convert model.onnx -l conv1 -o - | convfc verify -
  convfc convert model.keras -o all.h5
  convfc convert model.onnx --format mat -o matlab/
  convfc convert state.h5 --weight c1.weight --kernel-order oihw --input-shape 1,3,32,32
"""


@click.command(cls=Command, help=HELP, epilog=EPILOG, context_settings=options.CONTEXT)
@click.argument("model", type=options.PATH)
@option(
    "-l",
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    shell_complete=layers_of,
    help="A layer: its name, its output's or its weights' (layer1.0.conv1), an ending or a part of "
    "these that no other layer has, or @3 for its position. Repeatable; all layers by default.",
)
@option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="PATH",
    help="A folder (ending in /), a file whose suffix picks the format, or - for standard output. "
    "By default MODEL.fc/ in the current directory.",
)
@options.include
@option(
    "--compose",
    multiple=True,
    metavar="FIRST:LAST",
    help="Instead of single layers the chain of linear layers from FIRST to LAST, as one matrix. "
    "FIRST may be the tensor that the first layer reads. Repeatable.",
)
@option(
    "--fold-bn",
    is_flag=True,
    help="Each convolution together with the batch normalization that reads its output.",
)
@options.request
@option(
    "--form",
    type=click.Choice(FORMS),
    help="csr: the nonzeros (default); csc: the same by columns; coo: with row and column "
    "of each; bsr: in blocks of channels, with --layout channels-last; dense: every entry, as "
    ".npy; operator: what the layer itself keeps and metadata, of a convolution kilobytes.",
)
@option(
    "--format",
    "file_format",
    type=click.Choice(FORMATS),
    help="The format of each file in a folder, or of what goes to standard output: npz by default, "
    "npy for --form dense. A file named by -o has that of its suffix.",
)
@option(
    "--layout",
    type=click.Choice(list(ORDERS)),
    help="How rows and columns flatten their tensors; by default as the model has them in memory: "
    "channels-first in ONNX, in Keras as each layer's data_format says.",
)
@option(
    "--transpose",
    is_flag=True,
    help="Write (inputs, outputs), the orientation of a Keras Dense kernel.",
)
@option(
    "--dtype",
    type=click.Choice(FLOATS),
    help="Data type of the matrix entries. Default: the model's; float16 becomes float32, integers "
    "int32.",
)
@option(
    "--dequantize",
    is_flag=True,
    help="Real weights of integer layers, as their scales have them; by default integers, the "
    "scales in the metadata.",
)
@option("--kernel-index", is_flag=True, help="Also store each entry's flat index into the kernel.")
@option(
    "--flip-kernel/--no-flip-kernel",
    default=None,
    help="Whether to flip the kernels, for files that store true convolutions, not "
    "cross-correlations. Default: as the file states.",
)
@option(
    "--max-bytes",
    type=options.SizeType(),
    metavar="SIZE",
    help="The most to write, such as 20GB. By default 8 GiB, or half the free disk if less.",
)
@option("--force", is_flag=True, help="Replace outputs that exist.")
@option(
    "--resume",
    is_flag=True,
    help="Go on with a folder that is incomplete: its files that are just as they would be written "
    "are kept, and proven; the others are written.",
)
@option(
    "--keep-going", is_flag=True, help="Convert what can be, name what cannot, and fail at the end."
)
@option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@option(
    "-0",
    "--print0",
    is_flag=True,
    help="End each path that is printed with a NUL instead of a newline, for xargs -0.",
)
@option("--no-verify", is_flag=True, help="Do not read the files back and prove them.")
@options.verbose
@options.common
@click.pass_context
def convert(
    ctx: click.Context,
    /,
    model: str,
    layers: tuple[str, ...],
    output: str | None,
    include: tuple[str, ...],
    compose: tuple[str, ...],
    fold_bn: bool,
    request: "Request",
    form: str | None,
    file_format: str | None,
    layout: str | None,
    transpose: bool,
    dtype: str | None,
    dequantize: bool,
    kernel_index: bool,
    flip_kernel: bool | None,
    max_bytes: int | None,
    force: bool,
    resume: bool,
    keep_going: bool,
    dry_run: bool,
    print0: bool,
    no_verify: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run `convfc convert`; `HELP` says what it does."""
    from convfc_cli.errors import SizeMissing
    from convfc_cli.jobs.convert import convert_selected, stream
    from convfc_cli.jobs.plan import Options
    from convfc_cli.jobs.selection import Selection
    from convfc_cli.proof.verify import USUAL

    selection = Selection(layers, include, compose, fold_bn)
    chosen = Options(
        form=form,
        format=file_format,
        layout=layout,
        transpose=transpose,
        dtype=dtype,
        kernel_index=kernel_index,
        flip_kernel=flip_kernel,
        dequantize=dequantize,
        max_bytes=max_bytes,
        force=force,
        resume=resume,
        keep_going=keep_going,
        dry_run=dry_run,
        proof=None if no_verify else USUAL,
    )
    paths = not as_json and output != "-"
    end = "\0" if print0 else "\n"
    with Reporter(
        quiet=quiet, verbose=verbose, paths=paths, verified=not no_verify, end=end
    ) as reporter:
        if output == "-":
            if is_terminal(sys.stdout):
                raise click.UsageError(
                    "-o - would print binary on the terminal: pipe it, or name a file"
                )
            if force or resume or keep_going or dry_run or print0:
                raise click.UsageError(
                    "--force, --resume, --keep-going, --dry-run and -0 mean nothing with -o -"
                )
            if include:
                raise click.UsageError("-o - carries one layer: name it with -l, not --include")
            if as_json:
                raise click.UsageError("--json and -o - both want standard output")
            stream(model, sys.stdout.buffer, selection, request, chosen, reporter)
            reporter.summarize()
            say("convfc: not verified: nothing is read back from a stream", quiet=quiet)
            return
        done = convert_selected(model, output, selection, request, chosen, reporter)
    warnings = [warning("no-effect", IDLE[field]) for field in done.plan.idle]
    if others := _unlisted(done):
        warnings.append(warning("unlisted", others))
    if as_json:
        with reporter.printing():
            print_json(of_conversion(done, warnings))
            sys.stdout.flush()
    open_ones = [error for _, error in done.failures if isinstance(error, SizeMissing)]
    hint = open_ones[0].hint if open_ones else ""
    for _, error in done.failures:
        way = f" (such as --input-shape {hint})" if hint and error is open_ones[0] else ""
        say(f"convfc: error: {worded(error)}{way}")
    if others:
        say(f"convfc: {others}", quiet=quiet)
    reporter.summarize(done)
    if done.failures:
        count = len(done.failures) + len(done.results)
        say(f"convfc: {len(done.failures)} of {count} layers failed")
    if reporter.unprinted is not None:
        raise reporter.unprinted
    ctx.exit(done.exit_code)


def _unlisted(done: "Conversion") -> str:
    """What is said of matrix files that lay in the folder before; empty where there are none."""
    from convfc_cli.jobs.manifest import unlisted
    from convfc_cli.naming import first_few

    if done.plan.folder is None or not done.results or done.results[0].planned:  # no manifest
        return ""
    others = unlisted(done.plan.folder, [result.item.path for result in done.results])
    if not others:
        return ""
    verb, are = ("was", "is") if len(others) == 1 else ("were", "are")
    return f"{first_few(list(map(str, others)))} {verb} there before and {are} not in the manifest"
