"""What a matrix file holds, and the kinds of file; `registry` finds them in `formats`."""
