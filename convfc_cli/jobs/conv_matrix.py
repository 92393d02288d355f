"""The matrix of a convolution that is given as an array, or as a live layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.from_array import Padding, PerAxis, from_array
from convfc_cli.layout import Layout
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.models import live

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def conv_matrix(
    kernel: Any,
    input_shape: Sequence[int],
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: PerAxis = 0,
    layout: str | None = None,
    flip: bool = False,
) -> "csr_array[Any, tuple[int, int]]":
    """The matrix M of a convolution, vec(conv(x)) = M vec(x), without its bias.

    Its size is not limited: it takes about 8 bytes for each nonzero.

    Parameters
    ----------
    kernel : array_like, or a layer
        As in `convolution`, like what follows.
    input_shape : sequence of int
        (channels, *spatial), or *spatial alone.
    stride : int or sequence of int
        One for all spatial axes, or one for each.
    padding : str, int or sequence
        A word, or zeros.
    dilation : int or sequence of int
        As `stride`.
    groups : int
        Parts of the channels that are convolved apart.
    transposed : bool
        Whether it is a transposed convolution.
    output_padding : int or sequence of int
        As `stride`, of a transposed convolution.
    layout : str, optional
        The order in which tensors are flattened, one of `layout.ORDERS`; by default channels-first,
        or as a Keras layer has its channels.
    flip : bool
        Whether to flip the kernel.

    Returns
    -------
    csr_array, shape (outputs, inputs)
        The matrix, in the dtype of the kernel: float32, float64 or int32.

    Raises
    ------
    UsageError
        If the arguments do not fit each other.
    Unsupported
        If the layer is not a convolution that is read.

    References
    ----------
    Ma & Lu 2017, Eq. 8.

    Examples
    --------
    >>> conv_matrix([[1, 2], [3, 4]], (3, 3), stride=1).toarray().astype(int)
    array([[1, 2, 0, 3, 4, 0, 0, 0, 0],
           [0, 1, 2, 0, 3, 4, 0, 0, 0],
           [0, 0, 0, 1, 2, 0, 3, 4, 0],
           [0, 0, 0, 0, 1, 2, 0, 3, 4]])
    """
    given = (stride, padding, dilation, groups, transposed, output_padding, flip)
    layer, own = _layer(kernel, input_shape, *given)
    return Matrix(layer, Spec(Layout(layout or own))).csr()


def convolution(
    kernel: Any,
    input_shape: Sequence[int],
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: PerAxis = 0,
    flip: bool = False,
) -> Convolution:
    """The layer that a kernel is when it is applied so, with its index map.

    Parameters
    ----------
    kernel : array_like, or a layer
        (out, in / groups, *spatial), or *spatial alone for one channel; of a transposed convolution
        (in, out / groups, *spatial). It is not flipped: a cross-correlation, as frameworks compute
        it. Or a `torch.nn` or Keras convolution, of 1 to 3 dimensions, which states all but
        `input_shape` itself.
    input_shape : sequence of int
        (channels, *spatial), or *spatial alone; no batch. With a layer, in the layer's own order.
    stride : int or sequence of int
        One for all spatial axes, or one for each.
    padding : str, int or sequence
        valid, same (an odd zero goes after, as in Keras and PyTorch), same-lower (before, as in
        SciPy), half, full or causal; or the zeros at both ends, one number for all axes or one for
        each; or for each axis a pair, before and after. Of a transposed convolution numbers alone:
        what is cropped.
    dilation : int or sequence of int
        As `stride`.
    groups : int
        Parts of the channels that are convolved apart.
    transposed : bool
        Whether it is a transposed convolution.
    output_padding : int or sequence of int
        As `stride`: outputs that a transposed convolution adds at the end.
    flip : bool
        Whether to flip the kernel along its spatial axes: a true convolution, as in SciPy.

    Returns
    -------
    Convolution
        `index_map`, `of_output((c, y, x))`, `of_input` and `of_weight` say which output reads which
        input through which weight; `apply` applies it.

    Raises
    ------
    UsageError
        If the arguments do not fit each other.
    Unsupported
        If the layer is not a convolution that is read.

    Examples
    --------
    >>> layer = convolution([[1.0, 2.0], [3.0, 4.0]], (3, 3))
    >>> [(tap.input, float(weight)) for tap, weight in layer.of_output((0, 1, 1))]
    [((0, 1, 1), 1.0), ((0, 1, 2), 2.0), ((0, 2, 1), 3.0), ((0, 2, 2), 4.0)]
    """
    given = (stride, padding, dilation, groups, transposed, output_padding, flip)
    return _layer(kernel, input_shape, *given)[0]


def _layer(
    kernel: Any,
    input_shape: Sequence[int],
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
    groups: int,
    transposed: bool,
    output_padding: PerAxis,
    flip: bool,
) -> tuple[Convolution, str]:
    """The layer, and the layout of its tensors."""
    if not live.is_layer(kernel):
        given = (stride, padding, dilation, groups, transposed, output_padding)
        return from_array(kernel, input_shape, *given, flip=flip), "channels-first"
    layer, order = live.of_layer(kernel, input_shape)
    return layer.flipped() if flip else layer, order
