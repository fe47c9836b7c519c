"""A zip of stored entries, the same byte for byte every time, and the digest of what is handed to the file.

With that digest it is seen whether a disk gives back what was meant, and not only what it took.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from typing import IO

from pipeline.files import FileDigest, new_hasher


def write_zip(file: IO[bytes], entries: Iterable[tuple[str, bytes]]) -> FileDigest:
    """Write entries in the order given, with one fixed time and mode, to an empty file."""
    noted = _Noted(file)
    with zipfile.ZipFile(noted, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, content in entries:
            entry = zipfile.ZipInfo(key, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
            noted.settle()
    noted.settle()
    return noted.digest()


class _Noted:
    """A file that zipfile writes to, and the digest of what will lie in it.

    An entry's header is written once more when its bytes are; what may yet be replaced is held until it is settled.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hasher = file, new_hasher()
        self._held: dict[int, bytes] = {}
        self._settled_bytes = 0

    def write(self, data: bytes) -> int:
        """Write at the end of what is held, or over one piece of it."""
        at = self.tell()
        end = self._settled_bytes + sum(map(len, self._held.values()))
        assert at == end or len(data) == len(self._held[at]), (at, end, len(data))
        self._held[at] = bytes(data)
        return self._file.write(data)

    def tell(self) -> int:
        """As of the file."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of the file."""
        return self._file.seek(offset, whence)

    def flush(self) -> None:
        """As of the file."""
        self._file.flush()

    def close(self) -> None:
        """As of the file."""
        self._file.close()

    def settle(self) -> None:
        """What was written so far stays as it is."""
        for data in self._held.values():
            self._hasher.update(data)
            self._settled_bytes += len(data)
        self._held.clear()

    def digest(self) -> FileDigest:
        """Of all that is settled."""
        return FileDigest(self._settled_bytes, self._hasher.hexdigest())
