"""Locks that a process puts on itself before it runs what a model wrote: the kernel's own, nothing to install.

In go the files that it may read and the folders that it may write to; from then on it reads and writes those and no
others, reaches no network, starts no process, signals nobody, and cannot take any of it back. Its descriptors, its
environment and its limits are set by `server.py`, which calls this in every sealed job, and with other folders in
every trainer, before the job has read what it is to do.

    single thread   Landlock binds the thread that asks for it and those that it starts, none that is there already
    privileges      no new ones by any exec, no capabilities, no reading of its memory by others of the same user
    files           Landlock (https://docs.kernel.org/userspace-api/landlock.html), interface 1 to 7 and later ones
    calls           seccomp with a list of what is allowed; all else fails with EPERM

On macOS files and calls are locked by Seatbelt, which is what the tool `sandbox-exec` applies. That part was written
from descriptions and has never run: `python -m nas.admit --self-check` says what it is worth on a machine.

A kernel or a container may lack one of them. `confine` applies the others all the same and says which is missing; what
follows from that is for who asked: `--sandbox strict` refuses, `auto` tells and goes on.

A descriptor that is open stays open, and what lies in memory can be read: both are the caller's. The existence and
size of files can be asked for (`stat`), which neither lock prevents.
"""

import ctypes
import errno
import functools
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

LAYERS = {
    "single thread": "a thread that is not locked can do everything",
    "privileges": "a bug in a program that runs as root could be used",
    "files": "candidates can READ AND WRITE YOUR FILES",
    "calls": "candidates can use the NETWORK and start programs",
}
"""Each lock with what a candidate could do without it."""

held: dict[str, str] = {}
"""What `confine` said in this process."""


def confine(readable: Sequence[str], writable: Sequence[str] = ()) -> dict[str, str]:
    """Lock this process, for good.

    Args:
      readable: files, and folders with all that lies below them; what does not exist is passed over.
      writable: the same of what may be read and written, made and removed.
    Returns:
      For each of `LAYERS` an empty text if it holds, else why it does not.
    """
    steps: dict[str, Callable[[], None]] = {
        "single thread": _check_threads,
        "privileges": _drop_privileges,
        "files": lambda: _lock_files(readable, writable),
        "calls": lambda: _lock_calls(writing=bool(writable)),
    }
    if sys.platform == "darwin":  # Seatbelt locks all threads, and what they start
        seatbelt = functools.cache(lambda: _lock_by_seatbelt(readable, writable))
        steps = {"single thread": lambda: None, "privileges": _check_user, "files": seatbelt, "calls": seatbelt}
    held.clear()
    for layer, lock in steps.items():
        try:
            lock()
            held[layer] = ""
        except OSError as error:
            held[layer] = error.strerror or " ".join(str(error).split())
    return dict(held)


def sentence(layer: str, why: str) -> str:
    """What a person must know of a lock that is missing."""
    return f"no lock of {layer} ({why}): {LAYERS[layer]}"


def report_job() -> dict[str, str]:
    """Entry of a sealed job that says which locks it is under."""
    return dict(held)


def installation() -> list[str]:
    """What Python, its packages and the libraries below them are read from."""
    import sysconfig

    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {os.path.join(prefix, lib) for prefix in (sys.prefix, sys.base_prefix) for lib in ("lib", "lib64")}
    folders |= {folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")}
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
    single = ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo")
    devices = ("/sys/devices/system/cpu", "/sys/devices/system/node")
    return sorted({os.path.realpath(path) for path in (*folders, *system, *single, *devices)})


def modules() -> list[str]:
    """What was imported from outside the installation: a package's folder, or a module's file.

    Of a package that is a whole project, with runs or secrets in its folder, it is the files that were imported.
    """
    known = tuple(os.path.join(folder, "") for folder in installation())
    files: dict[str, set[Path]] = {}
    for name, module in list(sys.modules.items()):
        if name != "__main__" and (file := getattr(module, "__file__", None)):
            top = name.partition(".")[0]
            whole = getattr(sys.modules.get(top), "__file__", None)
            files.setdefault(top if whole else name, set()).add(Path(file).resolve())
    found: set[Path] = set()
    for name, imported in files.items():
        file = getattr(sys.modules.get(name), "__file__", None)
        folder = Path(file).resolve().parent if file and Path(file).name == "__init__.py" else None
        if folder is None or _is_project(folder):
            found |= imported
            continue
        # A package that is a link inside another, as `nas/kernels` is, lies elsewhere.
        links = (link for link in folder.iterdir() if link.is_symlink() and (link / "__init__.py").exists())
        found |= {folder, *(link.resolve() for link in links)}
    return sorted(str(path) for path in found if not str(path).startswith(known))


def _is_project(folder: Path) -> bool:
    """Whether a package's folder holds more than code; never our own."""
    if folder == Path(__file__).resolve().parents[1]:
        return False
    return Path.cwd().is_relative_to(folder) or any((folder / name).exists() for name in (".git", ".env", "results"))


# ---- the kernel's interface ----

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def _call(number: int, *arguments: object) -> int:
    """A system call by number. Raises OSError."""
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        _fail()
    return result


def _prctl(option: int, *values: int) -> int:
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    result = _libc.prctl(ctypes.c_int(option), *words)
    if result < 0:
        _fail()
    return result


def _fail() -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{os.strerror(number)} ({errno.errorcode.get(number, number)})")


def _column() -> int:
    """Which number of `_ALLOWED` is this machine's."""
    if sys.platform != "linux":
        raise OSError(f"{sys.platform} has none; Linux has")
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(f"not known for {platform.machine()}; {' and '.join(_ARCHITECTURES)} are")
    return list(_ARCHITECTURES).index(platform.machine())


# ---- single thread, privileges ----


def _check_threads() -> None:
    count = len(os.listdir("/proc/self/task"))
    if count != 1:
        raise OSError(f"{count} threads run already")


def _drop_privileges() -> None:
    column = _column()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    if os.geteuid() == 0:
        for capability in range(64):
            try:
                _prctl(_PR_CAPBSET_DROP, capability)
            except OSError:  # the last one was the one before, or the container has dropped it from our reach
                break
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    # Nobody but root has any; for all, that none is left is the lock.
    version, none = struct.pack("Ii", 0x20080522, 0), b"\0" * 24
    _call((126, 91)[column], version, none)


# ---- macOS: Seatbelt ----


def _check_user() -> None:
    if os.geteuid() == 0:
        raise OSError("the search runs as root; run it as yourself")


def _lock_by_seatbelt(readable: Sequence[str], writable: Sequence[str]) -> None:
    library = ctypes.CDLL(None)
    if not hasattr(library, "sandbox_init"):
        raise OSError("this macOS has no sandbox_init")
    said = ctypes.c_char_p()
    profile = seatbelt_profile(readable, writable).encode()
    if library.sandbox_init(profile, ctypes.c_uint64(0), ctypes.byref(said)):
        raise OSError((said.value or b"it was refused").decode(errors="replace"))


def seatbelt_profile(readable: Sequence[str], writable: Sequence[str] = ()) -> str:
    """The rules for macOS, of which the last that fits holds; what is not named is allowed.

    Reading is denied where people and other programs keep files, and not everywhere: what a Python of that system
    reads besides is not known here.
    """

    def below(paths: Sequence[str]) -> str:
        quoted = (path.replace("\\", "\\\\").replace('"', '\\"') for path in paths)
        return " ".join(f'(subpath "{path}")' for path in quoted)

    private = ("/Users", "/Volumes", "/private/var", "/private/tmp", "/private/etc", "/opt", "/usr/local", "/Library")
    rules = ["(version 1)", "(allow default)", "(deny network*)", "(deny process-fork)", "(deny process-exec*)"]
    rules += ["(deny signal (target others))", "(deny file-write*)", f"(deny file-read-data {below(private)})"]
    rules += [f"(allow file-read-data {below([*readable, *writable])})"] if readable or writable else []
    rules += [f"(allow file-write* {below(writable)})"] if writable else []
    return "\n".join(rules)


# ---- files: Landlock ----

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same number on every architecture
_QUERY_VERSION = 1
_READ, _READ_FOLDER = 4, 4 | 8
_WRITE = 4 | 2 | 1 << 14  # an open file: read, write, truncate
_WRITE_FOLDER = _READ_FOLDER | _WRITE | 16 | 32 | 128 | 256  # and remove and make files and folders, nothing special
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many of the rights over files an interface knows, the lowest bits first; from 5 on it is 16."""
_FROM_TCP, _FROM_SCOPES = 4, 6  # interfaces
_BIND_CONNECT, _ABSTRACT_AND_SIGNALS = 3, 3


def landlock_version() -> int:
    """The kernel's Landlock interface; raises OSError if there is none."""
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_QUERY_VERSION))


def _lock_files(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Allow reading below `readable`, reading and writing below `writable`, and no other way to a file."""
    _column()  # raises where there is no such call
    version = landlock_version()
    rights = (1 << _RIGHTS.get(version, 16)) - 1
    tcp = _BIND_CONNECT if version >= _FROM_TCP else 0
    scopes = _ABSTRACT_AND_SIGNALS if version >= _FROM_SCOPES else 0
    size = 8 if version < _FROM_TCP else 16 if version < _FROM_SCOPES else 24
    attributes = struct.pack("=QQQ", rights, tcp, scopes)[:size]
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    paths = [(path, _READ, _READ_FOLDER) for path in readable]
    for path, of_file, of_folder in [*paths, *((path, _WRITE, _WRITE_FOLDER) for path in writable)]:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # it is not there, or cannot be read in any case
            continue
        allowed = of_folder if os.path.isdir(path) else of_file
        try:
            rule = struct.pack("=Qi", allowed & rights, descriptor)
            _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
        finally:
            os.close(descriptor)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


# ---- calls: seccomp ----

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What seccomp calls a machine, in the order of the columns below."""

_ALLOWED = {
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233), "membarrier": (324, 283),
    # files that are open, or that Landlock lets it open
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "lseek": (8, 62),
    "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "dup": (32, 23),
    "close_range": (436, 436), "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    "statfs": (137, 43), "fstatfs": (138, 44),
    # waiting, and what wakes it
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    "pipe": (22, None), "pipe2": (293, 59), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "restart_syscall": (219, 128),
    # threads of its own
    "futex": (202, 98), "futex_waitv": (449, 449), "set_robust_list": (273, 99), "get_robust_list": (274, 100),
    "set_tid_address": (218, 96), "rseq": (334, 293), "gettid": (186, 178), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_getattr": (315, 275), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168), "get_mempolicy": (239, 236), "arch_prctl": (158, None),
    # signals to itself (`tgkill` is below)
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    # who and when it is
    "getpid": (39, 172), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "times": (100, 153),
    "gettimeofday": (96, 169), "time": (201, None), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "getrandom": (318, 278),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
"""Calls that are allowed whatever their arguments, with their numbers on each architecture."""

_WRITING = {
    "pwrite64": (18, 68), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "unlink": (87, None),
    "unlinkat": (263, 35), "rmdir": (84, None),
}  # fmt: skip
"""What is allowed besides to a process that may write; Landlock says where."""

_SECCOMP = (317, 277)
_CLONE, _CLONE3, _FCNTL, _IOCTL = (56, 220), (435, 435), (72, 25), (16, 29)
_PRCTL, _TGKILL, _PRLIMIT, _OPEN, _OPENAT = (157, 167), (234, 131), (302, 261), (2, None), (257, 56)
_O_TRUNC, _O_ACCMODE = 0x200, 3
_CLONE_THREAD = 0x10000
_FCNTLS = (0, 1, 2, 3, 4, 1030)  # a copy of a descriptor, its flags; not who is signalled when it is ready
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, its size, bytes waiting, three flags
_PRCTLS = (3, 15, 16, 0x53564D41)  # is it dumpable, a thread's name (set, get), a mapping's name

_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _DENY, _ABSENT, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
_X32 = 0x40000000

# The filter is a program of 8 bytes an instruction: what it does, how many to skip if true, if not, a number.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


def _instruction(code: int, value: int, if_true: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_not, value)


def _lock_calls(*, writing: bool) -> None:
    program = call_filter(_column(), writing=writing)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    mode, flags = ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_ALL_THREADS)
    if _call(_SECCOMP[_column()], mode, flags, described):
        raise OSError("another thread could not be locked")


def call_filter(column: int, *, writing: bool = False) -> bytes:
    """The filter of calls for an architecture, as the kernel takes it."""
    architecture = list(_ARCHITECTURES.values())[column]
    program = [_instruction(_LOAD, _ARCHITECTURE_AT), _instruction(_IF_EQUAL, architecture, if_true=1)]
    program += [_instruction(_RETURN, _KILL), _instruction(_LOAD, _NUMBER_AT)]
    if column == 0:  # numbers of a second set of calls, with pointers of 32 bits
        program += [_instruction(_IF_AT_LEAST, _X32, if_not=1), _instruction(_RETURN, _KILL)]
    program += _where(_CLONE[column], 0, [_CLONE_THREAD], test=_IF_ANY_BIT)
    program += _answer(_CLONE3[column], _ABSENT)  # its flags lie in memory, where a filter cannot look: use the other
    program += _where(_FCNTL[column], 1, _FCNTLS)
    program += _where(_IOCTL[column], 1, _IOCTLS)
    program += _where(_PRCTL[column], 0, _PRCTLS)
    program += _where(_TGKILL[column], 0, [os.getpid()])
    program += _where_own_and_null(_PRLIMIT[column], 0, 2)  # asks for its own limits, and sets none
    for number, flags in ((_OPEN[column], 1), (_OPENAT[column], 2)):
        program += _where_honest(number, flags) if number is not None else []
    for numbers in (_ALLOWED | (_WRITING if writing else {})).values():
        number = numbers[column]
        program += _answer(number, _ALLOW) if number is not None else []
    return b"".join([*program, _instruction(_RETURN, _DENY)])


def _answer(number: int, what: int) -> list[bytes]:
    return [_instruction(_IF_EQUAL, number, if_not=1), _instruction(_RETURN, what)]


def _where(number: int, argument: int, values: Sequence[int], *, test: int = _IF_EQUAL) -> list[bytes]:
    """Allow a call where the low half of an argument, which is all that the kernel reads of these, is one of values."""
    body = [_instruction(_LOAD, _ARGUMENTS_AT + 8 * argument)]
    for value in values:
        body += [_instruction(test, value, if_not=1), _instruction(_RETURN, _ALLOW)]
    body += [_instruction(_RETURN, _DENY)]
    return [_instruction(_IF_EQUAL, number, if_not=len(body)), *body]


def _where_honest(number: int, argument: int) -> list[bytes]:
    """Allow opening a file, but not emptying it without saying that it is for writing, which old Landlocks let pass."""
    body = [
        _instruction(_LOAD, _ARGUMENTS_AT + 8 * argument),
        _instruction(_IF_ANY_BIT, _O_TRUNC, if_not=4),
        _instruction(_AND, _O_ACCMODE),
        _instruction(_IF_EQUAL, os.O_WRONLY, if_true=2),
        _instruction(_IF_EQUAL, os.O_RDWR, if_true=1),
        _instruction(_RETURN, _DENY),
        _instruction(_RETURN, _ALLOW),
    ]
    return [_instruction(_IF_EQUAL, number, if_not=len(body)), *body]


def _where_own_and_null(number: int, process: int, pointer: int) -> list[bytes]:
    """Allow a call about this process (0) where a pointer is null, both halves of it."""
    at = _ARGUMENTS_AT + 8 * pointer
    body = [
        _instruction(_LOAD, _ARGUMENTS_AT + 8 * process),
        _instruction(_IF_EQUAL, 0, if_not=5),
        _instruction(_LOAD, at),
        _instruction(_IF_EQUAL, 0, if_not=3),
        _instruction(_LOAD, at + 4),
        _instruction(_IF_EQUAL, 0, if_not=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _DENY),
    ]
    return [_instruction(_IF_EQUAL, number, if_not=len(body)), *body]
