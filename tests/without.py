"""Runs a command as on a kernel that lacks some system calls, or in a container that forbids some.

python without.py NUMBER NUMBER:EPERM … -- COMMAND …
"""

import ctypes
import errno
import os
import struct
import sys


def lack(answers: dict[int, int]) -> None:
    """From here on, in this process and those that it starts, these calls fail, each with its error."""
    program = struct.pack("=HBBI", 0x20, 0, 0, 0)
    for number, answer in answers.items():
        program += struct.pack("=HBBI", 0x15, 0, 1, number) + struct.pack("=HBBI", 0x06, 0, 0, 0x50000 | answer)
    program += struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, described, 0, 0) == 0, os.strerror(ctypes.get_errno())


if __name__ == "__main__":
    at = sys.argv.index("--")
    asked = [one.partition(":") for one in sys.argv[1:at]]
    lack({int(number): getattr(errno, name or "ENOSYS") for number, _, name in asked})
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])
