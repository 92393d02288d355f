"""The forms of a matrix by name; without NumPy, so that the command line can list them."""

SPARSE = ("csr", "csc", "coo", "bsr")
"""The forms that store the nonzeros, by the names that SciPy has for them."""

NUMBERED = ("csr", "csc", "coo")
"""Those in which an entry can have a number of its own: its kernel_index."""

FORMS = (*SPARSE, "dense", "operator")
"""csr: the nonzeros by row; csc: by column; coo: one by one; bsr: in blocks; dense: every
entry; operator: kernel, bias and geometry alone.
"""
