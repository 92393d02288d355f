"""What a person can choose by name or number; without NumPy, so that the command line lists it."""

SPARSE = ("csr", "csc", "coo", "bsr")
"""The forms that store the nonzeros, by the names that SciPy has for them."""

NUMBERED = ("csr", "csc", "coo")
"""Those in which an entry can have a number of its own: its kernel_index."""

FORMS = (*SPARSE, "dense", "operator")
"""csr: the nonzeros by row; csc: by column; coo: each with its row and column; bsr: in blocks;
dense: every entry; operator: kernel, bias and geometry alone.
"""

FORMATS = ("npz", "h5", "mtx", "mat", "csv", "npy")
"""The formats of matrix files, by the usual suffix of each."""

FLOATS = ("float32", "float64")
"""The data types that the entries of a matrix may be given."""

PADS = ("valid", "same", "same-lower", "half", "full", "causal")
"""The paddings that have a name."""

RUNTIMES = ("onnxruntime", "reference")
"""The runtimes that a layer can be run in, the preferred one first."""

NOT_VERIFIED = "not verified"
"""The verdict on a matrix that nobody has proven."""

PROBES = 3
"""Probes by default: a wrong matrix passes with probability at most 2**-96."""

MAX_PROBES = 8
"""More probes add nothing: the seed has 256 bits of entropy."""
