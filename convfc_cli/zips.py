"""Untrusted zip files: their directory is read only where its size is reasonable.

`zipfile` makes an object of every entry of a directory before anybody can count them, and goes by
the directory's size in bytes, whatever number of entries the file states. So it is that size which
is bounded, where `zipfile` reads it.
"""

import os
import zipfile
from typing import BinaryIO

from convfc_cli.errors import Refused

MAX_DIRECTORY_BYTES = 2**21
"""Enough for ten thousand members with names of 150 letters."""


def open_zip(file: BinaryIO, name: str) -> zipfile.ZipFile:
    """Open a zip to read; `name` is what messages call it.

    Raises `Refused` for a directory of more than `MAX_DIRECTORY_BYTES` bytes, and what
    `zipfile.ZipFile` raises.
    """
    source = _Source(file, name)
    archive = zipfile.ZipFile(source)
    source.bounded = False
    return archive


class _Source:
    """A file as `zipfile` reads it, bounded while it looks for the directory and reads that."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self.bounded = True

    def read(self, size: int = -1) -> bytes:
        if self.bounded and size > MAX_DIRECTORY_BYTES:
            raise Refused(
                f"{self._name}: the directory of the zip has {size} bytes, more than "
                f"{MAX_DIRECTORY_BYTES}: it lists far more members than any file of ours or Keras's"
            )
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True
