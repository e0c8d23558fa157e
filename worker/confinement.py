"""Take from this process what a job does not need: files, sockets, memory without end.

A job runs libraries over strangers' files. Should one of them be made to do more than it ought to,
the kernel still refuses: by Landlock (https://docs.kernel.org/userspace-api/landlock.html), or
where that is missing by a root folder of its own, the process reads the Python installation and its
own folders alone; by a seccomp filter it opens no socket; and a job on several processes finds a
network that holds nothing but themselves. None of it needs root, and whatever this process starts
inherits it. Torch-free.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS = 0x10000000, 0x40000000, 0x00020000

# System calls that have one number on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
IO_URING_SETUP = 425  # opens sockets without the system call for it
LANDLOCK_RULE_PATH_BENEATH = 1
# Rights over files, bit by bit, and the version of Landlock that knows so many.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # those that a file may have
READ = EXECUTE | READ_FILE | READ_DIR
# From version 6 on: no abstract sockets of others, no signals to them.
SCOPES = 0b11

# By machine: what seccomp calls the architecture, and the number of the system call ``socket``.
ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}

SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf",
    "/etc/nccl.conf", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version",
    "/proc/filesystems", "/proc/sys", "/proc/self", "/sys/devices/system", "/sys/fs/cgroup",
    "/sys/kernel/mm",
)  # fmt: skip
DEVICES = (
    "null", "zero", "full", "random", "urandom", "shm", "nvidia*", "dri", "kfd", "infiniband",
)  # fmt: skip
# What CUDA, NCCL and a job's further processes read of themselves and their devices. Landlock
# keeps the environment and the memory of processes outside from them all the same.
OWN_PROCESSES = ("/proc", "/sys")


@dataclass(frozen=True)
class Confinement:
    """What a process keeps: folders to read, folders to write, bytes of memory.

    ``several`` is for a job on several processes, which speak to each other over the network.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]
    memory_bytes: int | None = None
    several: bool = False

    def to_json(self) -> str:
        """As one argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Confinement:
        """What `to_json` wrote."""
        given = json.loads(text)
        return cls(**given | {"read": tuple(given["read"]), "write": tuple(given["write"])})


def confine(wanted: Confinement) -> list[str]:
    """Confine this process for good; what could not be done, a sentence each.

    To be called while the process has a single thread: threads that run already would stay free.
    """
    limit_memory(wanted.memory_bytes)
    if sys.platform != "linux":
        return ["files and sockets are not confined: only Linux can"]
    failed = []
    steps = {
        "sockets": own_network if wanted.several else refuse_sockets,
        "files": lambda: restrict_files(wanted) if landlock_version() else own_files(wanted),
    }
    for what, step in steps.items():
        try:
            step()
        except OSError as error:
            failed.append(f"{what} are not confined: {error.strerror or error}")
    return failed


def limit_memory(most: int | None) -> None:
    """Leave no core dumps; let memory of one's own (RLIMIT_DATA) end where it is said to."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if most is not None and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def limit_cpu(seconds: float) -> None:
    """Let the kernel end this process (SIGXCPU) once it has used so much more processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))


def machine_memory() -> int:
    """Bytes of memory of this machine, or of its container where that has less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdecimal() else whole


def _checked(result: int, doing: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")
    return result


# Files.


def landlock_version() -> int:
    """Which version of Landlock the kernel has; 0 for none (before Linux 5.13, or switched off)."""
    return max(0, int(_LIBC.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)))


def restrict_files(wanted: Confinement) -> None:
    """Let this process reach nothing but what it keeps, by Landlock. Raises OSError."""
    version = landlock_version()
    handled = (1 << RIGHTS_OF_VERSION[min(version, 5)]) - 1
    attributes = struct.pack("=QQQ", handled, 0, SCOPES if version >= 6 else 0)
    size = len(attributes) if version >= 6 else 8
    rules = _checked(
        _LIBC.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0), "Landlock makes no rules"
    )
    try:
        for path, rights in _rights(wanted):
            _allow(rules, path, rights & handled)
        _checked(_LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "privileges cannot be given up")
        _checked(_LIBC.syscall(LANDLOCK_RESTRICT_SELF, rules, 0), "Landlock restricts nothing")
    finally:
        os.close(rules)


def _rights(wanted: Confinement) -> Iterator[tuple[str, int]]:
    everything = (1 << 16) - 1
    installed = list(installation())
    for path in (*SYSTEM, *installed, *wanted.read):
        yield path, READ
    gpu = any(Path("/dev").glob("nvidia*"))
    for path in OWN_PROCESSES if gpu or wanted.several else ():
        yield path, READ
    # Their names alone, so that Python finds its packages there; none of the files.
    for path in _sources(installed):
        yield path, READ_DIR
    for device in (path for pattern in DEVICES for path in Path("/dev").glob(pattern)):
        yield str(device), everything
    for path in wanted.write:
        yield path, everything


def installation() -> Iterator[str]:
    """Folders of Python, its packages, and this project's own code."""
    yield from {sys.prefix, sys.base_prefix, sys.exec_prefix}
    for name in ("surgery", "worker"):
        yield str(Path(__import__(name).__file__ or "").resolve().parent)
    yield from (folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder)


def _sources(installed: Iterable[str]) -> Iterator[str]:
    """Folders on Python's path outside its installation, such as a checkout's root."""
    roots = [Path(folder).resolve() for folder in installed]
    for entry in sys.path:
        folder = Path(entry or ".").resolve()
        if folder.is_dir() and not any(folder.is_relative_to(root) for root in roots):
            yield str(folder)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # this machine has no such place
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, place)
        _checked(
            _LIBC.syscall(LANDLOCK_ADD_RULE, rules, LANDLOCK_RULE_PATH_BENEATH, rule, 0),
            f"Landlock takes no rule for {path}",
        )
    finally:
        os.close(place)


# Files, where there is no Landlock.

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
KEPT_FLAGS = 2 | 4 | 8 | 1024  # nosuid, nodev, noexec, noatime: not to be lifted on a remount
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def own_files(wanted: Confinement) -> None:
    """Move to a root folder of one's own, into which nothing is mounted but what is kept.

    Raises OSError where an unprivileged process may not make namespaces.
    """
    _own_namespaces(CLONE_NEWNS)
    _mount("none", "/", MS_REC | MS_PRIVATE)
    root = tempfile.mkdtemp(dir=wanted.write[-1], prefix="root-")
    _mount("none", root, 0, "tmpfs")
    for path, rights in _rights(wanted):
        # Without Landlock, /proc would show the environment of every process of this user.
        if path not in OWN_PROCESSES and (rights & READ_FILE):
            _mount_into(root, path, writable=bool(rights & WRITE_FILE))
    os.chdir(root)
    number = PIVOT_ROOT.get(platform.machine(), -1)
    _checked(_LIBC.syscall(number, b".", b"."), "no root folder of one's own")
    _checked(_LIBC.umount2(b".", MNT_DETACH), "the former root folder stays")
    os.chdir("/")


def _mount_into(root: str, path: str, *, writable: bool) -> None:
    real = os.path.realpath(path)
    if not Path(real).exists():
        return
    for each in {real, path}:  # `/lib` is a link to `/usr/lib`: under both names
        target = Path(f"{root}{each}")
        if target.exists() and not target.is_dir():  # in a folder that is mounted already
            continue
        if Path(real).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        _mount(real, str(target), MS_BIND | MS_REC)
        if not writable:
            kept = os.statvfs(target).f_flag & KEPT_FLAGS
            _mount(real, str(target), MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def _mount(source: str, target: str, flags: int, kind: str = "") -> None:
    done = _LIBC.mount(source.encode(), target.encode(), kind.encode() or None, flags, None)
    _checked(done, f"{target} cannot be mounted")


def _own_namespaces(flags: int) -> None:
    """A user namespace in which this user is who it was, and others with it."""
    user, group = os.geteuid(), os.getegid()
    _checked(_LIBC.unshare(CLONE_NEWUSER | flags), "no namespaces of one's own")
    for name, text in {
        "setgroups": "deny",
        "uid_map": f"{user} {user} 1",
        "gid_map": f"{group} {group} 1",
    }.items():
        Path("/proc/self", name).write_text(text)


# Sockets.

LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOWED, REFUSED = 0x7FFF0000, 0x00050000 | errno.EACCES
X32 = 0x40000000  # numbers of system calls from here on: x86-64's second set of them


def refuse_sockets() -> None:
    """Let no socket be opened any more, of whatever family. Raises OSError where it cannot be."""
    known = ARCHITECTURES.get(platform.machine())
    if known is None:
        raise OSError(errno.ENOSYS, f"no filter is written for {platform.machine()}")
    architecture, open_socket = known
    # Offsets in what the filter is shown: 0 the number of the call, 4 the architecture. A jump
    # skips so many instructions where it is true, and so many where not.
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (LOAD_WORD, 0, 0, 4),
            (JUMP_EQUAL, 0, 5, architecture),
            (LOAD_WORD, 0, 0, 0),
            (JUMP_AT_LEAST, 3, 0, X32),
            (JUMP_EQUAL, 2, 0, open_socket),
            (JUMP_EQUAL, 1, 0, IO_URING_SETUP),
            (RETURN, 0, 0, ALLOWED),
            (RETURN, 0, 0, REFUSED),
        )
    )
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(held))
    _checked(_LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "privileges cannot be given up")
    _checked(_LIBC.prctl(PR_SET_SECCOMP, 2, header, 0, 0), "seccomp takes no filter")


def own_network() -> None:
    """Move into a network of one's own, which holds loopback alone.

    Raises OSError where an unprivileged process may not make namespaces.
    """
    _own_namespaces(CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        up = struct.pack("16sH22x", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(opened, 0x8914, up)  # SIOCSIFFLAGS
    # Whatever interface the operator names for these: there is no other one here.
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
