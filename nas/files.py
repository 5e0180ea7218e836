"""Files that are whole once they have their name. Imports nothing heavy, since trainers write them too."""

import hashlib
import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write a file once: under a temporary name, flushed, renamed; then its name is flushed too."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def spreadsheet(text: str) -> str:
    """Text as a cell of a spreadsheet: what would be taken for a formula gets an apostrophe.

    Source: OWASP, CSV injection; the full-width signs are formulas in spreadsheets of East Asian locales.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")) else text


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
