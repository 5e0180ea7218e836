"""Attacks on the machine by code that got past everything else: plain Python in the process where candidates run.

Each sets `result` to what it stole, or leaves an effect that the harness sees. It finds in its names what there is to
attack: SECRET (a file), LABELS (an array), FOLDER (to write to), SITE (where packages lie), TCP, UDP, SOCKET and
ABSTRACT (listeners), COORDINATOR and VICTIM (processes), `libc` with `call(number, *arguments)`, KEY (a variable's
name).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attack:
    """A piece of Python; `harmless` says that it may be run unlocked, to see that it would succeed."""

    group: str
    name: str
    code: str
    harmless: bool = True


HARMFUL = {"mount", "host's name", "clock", "keys", "real time", "packages", "shared memory"}
"""What would stay on the machine, or touch others on it."""


def _attacks(group: str, text: str, *, harmless: bool = True) -> list[Attack]:
    """One for each heading of a text, `# name`, with the lines that follow."""
    made = []
    for part in text.strip().removeprefix("# ").split("\n# "):
        name, _, code = part.partition("\n")
        made.append(Attack(group, name, code.strip(), harmless and name not in HARMFUL))
    return made


READING = r"""
# open
result = open(SECRET).read()

# os.open
result = os.read(os.open(SECRET, os.O_RDONLY), 99).decode()

# openat of a folder
d = os.open(os.path.dirname(SECRET), os.O_RDONLY)
result = os.read(os.open(os.path.basename(SECRET), os.O_RDONLY, dir_fd=d), 99).decode()

# path descriptor
d = os.open(os.path.dirname(SECRET), os.O_PATH)
result = os.read(os.open(os.path.basename(SECRET), os.O_RDONLY, dir_fd=d), 99).decode()

# symbolic link
os.symlink(SECRET, '/tmp/nas-link')
result = open('/tmp/nas-link').read()

# hard link
os.link(SECRET, FOLDER + '/hard')
result = open(FOLDER + '/hard').read()

# dots from where it may read
result = open('/usr/lib/../..' + SECRET).read()

# list of a folder
result = 'loot: ' + str(os.listdir(os.path.dirname(SECRET)))

# glob
import glob
result = open(glob.glob(os.path.dirname(SECRET) + '/*')[0]).read()

# mmap
import mmap
f = os.open(SECRET, os.O_RDONLY)
result = bytes(mmap.mmap(f, 0, prot=mmap.PROT_READ)).decode()

# numpy
import numpy
result = 'loot: ' + str(numpy.load(LABELS))

# memory map of numpy
import numpy
result = 'loot: ' + str(numpy.memmap(LABELS, mode='r')[:4])

# libc
b = ctypes.create_string_buffer(99)
f = libc.open(SECRET.encode(), 0)
libc.read(f, b, 99)
result = b.value.decode()

# openat2
how = ctypes.create_string_buffer(24)
f = call(437, -100, SECRET.encode(), how, 24)
result = os.read(f, 99).decode()

# loader
from importlib.machinery import SourceFileLoader
result = SourceFileLoader('x', SECRET).get_data(SECRET).decode()

# import of a stranger's module
import sys
sys.path.insert(0, os.path.dirname(SECRET))
import stranger
result = stranger.loot

# sqlite
import sqlite3
c = sqlite3.connect(f'file:{SECRET}?mode=ro', uri=True)
try:
    c.execute('pragma schema_version').fetchall()
except sqlite3.DatabaseError as error:
    result = 'loot' * ('not a database' in str(error))

# zipimport
import zipfile
result = 'loot' if zipfile.is_zipfile(LABELS) is False and open(LABELS, 'rb').read(1) else ''

# root
result = 'loot: ' + str(os.listdir('/root' if os.path.isdir('/root') else '/home'))

# etc
result = 'loot: ' + open('/etc/passwd').read()[:9]

# tmp
result = 'loot: ' + str(os.listdir('/tmp'))

# terminal
result = 'loot: ' + str(os.open('/dev/ptmx', os.O_RDWR))

# handle
h = (ctypes.c_uint * 40)(128)
m = ctypes.c_int()
assert call(303, -100, SECRET.encode(), h, ctypes.byref(m), 0) == 0
d = os.open(os.path.dirname(SECRET), os.O_RDONLY)
result = os.read(call(304, d, h, 0), 99).decode()
"""

WRITING = r"""
# open
open(FOLDER + '/made', 'w').write('x')

# append
open(LABELS, 'ab').write(b'x')

# truncate
os.truncate(LABELS, 0)

# truncate on opening
os.open(LABELS, os.O_WRONLY | os.O_TRUNC)

# truncate on opening to read
os.open(LABELS, os.O_RDONLY | os.O_TRUNC)

# truncate on opening for nothing
os.open(LABELS, 3 | os.O_TRUNC)

# remove
os.unlink(LABELS)

# rename
os.rename(LABELS, LABELS + '.x')

# folder
os.mkdir(FOLDER + '/made')

# named pipe
os.mkfifo(FOLDER + '/made')

# device
os.mknod(FOLDER + '/made', 0o600)

# symbolic link
os.symlink('/', FOLDER + '/made')

# hard link
os.link(LABELS, FOLDER + '/made')

# rights
os.chmod(LABELS, 0o777)
result = 'loot' * (os.stat(LABELS).st_mode & 0o777 == 0o777)

# owner
os.chown(LABELS, os.getuid(), os.getgid())
result = 'loot'

# times
os.utime(LABELS, (1, 1))
result = 'loot'

# attribute
os.setxattr(LABELS, 'user.x', b'x')
result = 'loot'

# shared memory
open('/dev/shm/nas-made', 'w').write('x')
result = 'loot'

# packages
open(SITE + '/nas-made.pth', 'w').write('import os')

# byte code
import py_compile
py_compile.compile(os.__file__, cfile=FOLDER + '/made')

# bound socket
import socket
socket.socket(socket.AF_UNIX).bind(FOLDER + '/made')

# allocation
f = os.open(LABELS, os.O_WRONLY)
os.posix_fallocate(f, 0, 10_000)

# temporary file
import tempfile
result = 'loot: ' + tempfile.mkstemp()[1]
"""

NETWORK = r"""
# tcp
import socket
socket.create_connection(('127.0.0.1', TCP), 2).send(b'x')

# tcp without blocking
import socket
s = socket.socket()
s.setblocking(False)
s.connect_ex(('127.0.0.1', TCP))
import time
time.sleep(.2)
s.send(b'x')

# tcp over six
import socket
socket.create_connection(('::ffff:127.0.0.1', TCP), 2).send(b'x')

# udp
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP))

# listening
import socket
s = socket.socket()
s.bind(('127.0.0.1', 0))
s.listen()
result = 'loot'

# socket in a file
import socket
s = socket.socket(socket.AF_UNIX)
s.connect(SOCKET)
s.send(b'x')

# abstract socket
import socket
s = socket.socket(socket.AF_UNIX)
s.connect('\0' + ABSTRACT)
s.send(b'x')

# netlink
import socket
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
result = 'loot'

# raw packets
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
result = 'loot'

# virtual socket
import socket
socket.socket(socket.AF_VSOCK)
result = 'loot'

# kernel's ciphers
import socket
socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
result = 'loot'

# pair of sockets
import socket
socket.socketpair()
result = 'loot'

# urllib
import urllib.request
urllib.request.urlopen(f'http://127.0.0.1:{TCP}', timeout=2)
"""

PROCESSES = r"""
# fork
p = os.fork()
if not p: os._exit(0)
result = f'loot {p}'

# vfork by the library
import subprocess
result = 'loot' + subprocess.run(['true']).args[0]

# clone
p = call(56, 17, 0, 0, 0, 0)
if not p: os._exit(0)
result = 'loot' if p > 0 else ''

# clone into a new user
p = call(56, 0x10000000 | 17, 0, 0, 0, 0)
if not p: os._exit(0)
result = 'loot' if p > 0 else ''

# clone3
import struct
a = struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0)
p = call(435, a, 64)
if not p: os._exit(0)
result = 'loot' if p > 0 else ''

# spawn
result = f"loot {os.posix_spawn('/bin/true', ['true'], {})}"

# system
result = 'loot' if os.system('true') == 0 else ''

# exec
os.dup2(os.open(FOLDER + '/made', os.O_CREAT | os.O_WRONLY), 1)
os.execv('/bin/cat', ['cat', SECRET])

# exec of memory
f = os.memfd_create('x')
os.write(f, open('/bin/true', 'rb').read())
os.execve(f, ['true'], {})

# memory file
f = os.memfd_create('x')
result = f'loot {f}'

# new session
os.setsid()
result = 'loot'

# other users
os.setuid(os.getuid())
result = 'loot'

# priority
os.nice(5)
result = 'loot'

# real time
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
result = 'loot'

# cores
os.sched_setaffinity(0, {0})
result = 'loot'

# cores of another
os.sched_setaffinity(VICTIM, {0})
result = 'loot'

# kill
os.kill(VICTIM, 9)

# kill of a group
os.killpg(VICTIM, 9)

# stop
import signal
os.kill(VICTIM, signal.SIGSTOP)

# kill by thread
call(234, VICTIM, VICTIM, 9)

# kill by queue
call(129, VICTIM, 9, (ctypes.c_int * 32)(9, 0, -1))

# kill by descriptor
f = os.pidfd_open(VICTIM)
import signal
signal.pidfd_send_signal(f, signal.SIGKILL)

# kill by input
import fcntl
r, w = os.pipe()
fcntl.fcntl(r, 10, 9)
fcntl.fcntl(r, 8, VICTIM)
fcntl.fcntl(r, 4, os.O_ASYNC)
os.write(w, b'x')

# limits of another
import resource
resource.prlimit(VICTIM, resource.RLIMIT_CPU, (1, 1))
result = 'loot'

# priority of another
os.setpriority(os.PRIO_PROCESS, VICTIM, 19)
result = 'loot'

# trace
result = 'loot' if libc.ptrace(16, VICTIM, 0, 0) == 0 else ''

# memory of another
import struct
b = ctypes.create_string_buffer(8)
a = int(open(f'/proc/{VICTIM}/maps').read().split('-')[0], 16)
v, t = struct.pack('QQ', ctypes.addressof(b), 8), struct.pack('QQ', a, 8)
result = 'loot' if call(310, VICTIM, v, 1, t, 1, 0) == 8 else ''

# descriptor of another
f = os.pidfd_open(VICTIM)
result = f'loot {f}'

# comparison with another
result = 'loot' if call(312, VICTIM, VICTIM, 0, 0, 0) >= 0 else ''
"""

PROC = r"""
# environment of the coordinator
result = 'loot: ' + open(f'/proc/{COORDINATOR}/environ').read()

# environment of the parent
result = 'loot: ' + open(f'/proc/{os.getppid()}/environ').read()

# environment of its own
result = 'loot: ' + open('/proc/self/environ').read()

# arguments of the coordinator
result = 'loot: ' + open(f'/proc/{COORDINATOR}/cmdline').read()

# memory of the coordinator
open(f'/proc/{COORDINATOR}/mem', 'rb')
result = 'loot'

# descriptors of the coordinator
result = 'loot: ' + str(os.listdir(f'/proc/{COORDINATOR}/fd'))

# root of the coordinator
result = open(f'/proc/{COORDINATOR}/root{SECRET}').read()

# working folder of the coordinator
result = 'loot: ' + str(os.listdir(f'/proc/{COORDINATOR}/cwd'))

# list of processes
result = 'loot: ' + str(os.listdir('/proc'))

# own memory
open('/proc/self/mem', 'r+b')
result = 'loot'

# when memory runs out
open(f'/proc/{VICTIM}/oom_score_adj', 'w').write('1000')
result = 'loot'

# settings of the kernel
result = 'loot: ' + open('/proc/sys/kernel/core_pattern').read()

# mounts
result = 'loot: ' + open('/proc/self/mountinfo').read()

# environment
result = os.environ[KEY]

# environment in memory
e = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')
result = next(e[i].decode() for i in range(40) if e[i] and KEY in e[i].decode())
"""

KERNEL = r"""
# new user
result = 'loot' if call(272, 0x10000000) == 0 else ''

# new mounts
result = 'loot' if call(272, 0x00020000) == 0 else ''

# mount
result = 'loot' if libc.mount(b'none', FOLDER.encode(), b'tmpfs', 0, 0) == 0 else ''

# open of a tree
result = 'loot' if call(428, -100, b'/', 1) >= 0 else ''

# change of root
os.chroot('/usr/lib')
result = 'loot'

# working folder
os.chdir('/tmp')
result = 'loot'

# ring
result = 'loot' if call(425, 8, ctypes.create_string_buffer(120)) >= 0 else ''

# programs of the kernel
result = 'loot' if call(321, 0, (ctypes.c_int * 32)(2, 4, 4, 1), 72) >= 0 else ''

# counters
a = ctypes.create_string_buffer(bytes([1, 0, 0, 0, 112, 0, 0, 0]), 112)
result = 'loot' if call(298, a, 0, -1, -1, 0) >= 0 else ''

# keys
result = 'loot' if call(250, 0, -3, 0) >= 0 else ''

# faults
result = 'loot' if call(323, 1) >= 0 else ''

# shared segment
s = call(29, 0, 4096, 0o1600)
call(31, s, 0, 0)
result = 'loot' if s >= 0 else ''

# message queue
q = call(68, 0, 0o1600)
call(71, q, 0, 0)
result = 'loot' if q >= 0 else ''

# watching files
result = 'loot' if call(294, 0) >= 0 else ''

# host's name
result = 'loot' if libc.sethostname(b'localhost', 9) == 0 else ''

# swap of memory to disk
result = 'loot' if call(151, 1) == 0 else ''

# personality
result = 'loot' if call(135, 0x0040000) >= 0 else ''

# clock
import time
time.clock_settime(time.CLOCK_REALTIME, time.time())
result = 'loot'

# 32 bit calls
result = 'loot' if call(0x40000000 + 39) > 0 else ''
"""

UNDOING = r"""
# limit of memory
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 50, 1 << 50))
result = 'loot'

# limit of open files
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))
result = 'loot'

# limits by a pointer with an empty half
at = libc.mmap(ctypes.c_void_p(1 << 32), 4096, 3, 0x100022, -1, 0)
ctypes.memmove(1 << 32, (ctypes.c_ulong * 2)(99, 99), 16)
result = 'loot' if call(302, 0, 7, ctypes.c_void_p(1 << 32), None) == 0 else ''

# death with its parent
result = 'loot' if libc.prctl(1, 0, 0, 0, 0) == 0 else ''

# readable memory
result = 'loot' if libc.prctl(4, 1, 0, 0, 0) == 0 else ''

# capabilities
result = 'loot' if call(126, (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)(1)) == 0 else ''

# another filter
result = 'loot' if libc.prctl(22, 2, 0, 0, 0) == 0 or ctypes.get_errno() == 14 else ''

# timers
import signal
signal.setitimer(signal.ITIMER_REAL, 100)
result = 'loot'

# descriptors that it was left
for f in range(3, 256):
    try: result = 'loot: ' + os.read(f, 99).decode()
    except OSError: pass
"""

SERVER = r"""
# signal
os.kill(os.getppid(), 0)
result = 'loot'

# its memory
result = 'loot' if open(f'/proc/{os.getppid()}/mem', 'rb') else ''

# its memory by a call
text = ctypes.create_string_buffer(8)
piece = (ctypes.c_ulong * 2)(ctypes.addressof(text), 8)
there = (ctypes.c_ulong * 2)(id(os), 8)
one = ctypes.c_ulong(1)
result = 'loot' if call(310, os.getppid(), piece, one, there, one, ctypes.c_ulong(0)) == 8 else ''

# its descriptors
result = 'loot: ' + str(os.listdir(f'/proc/{os.getppid()}/fd'))

# one of its descriptors
handle = call(434, os.getppid(), 0)
result = 'loot' if handle >= 0 and call(438, handle, 1, 0) >= 0 else ''

# its handle
result = 'loot' if call(434, os.getppid(), 0) >= 0 else ''

# tracing it
result = 'loot' if call(101, 0x4206, os.getppid(), 0, 0) == 0 else ''

# its jobs
result = 'loot: ' + open(f'/proc/{os.getppid()}/task/{os.getppid()}/children').read()

# its arguments
result = 'loot: ' + open(f'/proc/{os.getppid()}/cmdline').read()

# its limits
result = 'loot' if call(302, os.getppid(), 7, None, (ctypes.c_ulong * 2)()) == 0 and os.getppid() else ''

# its limits changed
result = 'loot' if call(302, os.getppid(), 4, (ctypes.c_ulong * 2)(0, 0), None) == 0 else ''

# its place in the queue
os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, os.getppid()))
result = 'loot'

# its cores
os.sched_setaffinity(os.getppid(), os.sched_getaffinity(os.getppid()))
result = 'loot'

# its end when memory runs out
result = 'loot' if open(f'/proc/{os.getppid()}/oom_score_adj', 'r+') else ''

# its code
import sys
result = 'loot' if open(sys.modules['nas.execute.confine'].__file__, 'a') else ''

# into its group
os.setpgid(0, os.getpgid(os.getppid()))
result = 'loot'
"""

SLOWLY = r"""
# loop
while True: pass

# sleep
import time
time.sleep(10**6)

# polite signals
import signal
for s in (1, 2, 15, 24): signal.signal(s, signal.SIG_IGN)
while True: pass
"""

BREAKING = r"""
# list
x = [0] * 10**10

# text
x = 'x' * 10**11

# number
x = 1 << (1 << 40)

# doubling
x = [0]
while True: x = x + x

# descriptors
while True: os.dup(1)

# threads
import threading, time
for _ in range(9_000): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()

# segmentation
ctypes.string_at(0)

# abort
os.abort()

# exit
os._exit(0)

# recursion
import sys
sys.setrecursionlimit(10**9)
def f(): f()
f()

# flood
while True: os.write(2, b'x' * 65536)

# malloc
while True: libc.malloc(1 << 30)
"""

STEALING = [
    attack
    for group, text in {
        "reading": READING, "writing": WRITING, "network": NETWORK, "processes": PROCESSES, "proc": PROC,
        "kernel": KERNEL, "undoing": UNDOING, "server": SERVER,
    }.items()
    for attack in _attacks(group, text)
]  # fmt: skip
STOPPING = [*_attacks("slowly", SLOWLY, harmless=False), *_attacks("breaking", BREAKING, harmless=False)]
