"""Takes away from this process what a job does not need: files, sockets, unlimited memory.

A job's libraries read strangers' files. If such a file makes a library do something harmful, the
kernel refuses it:

- The process can reach only the Python installation and the job's folders. Landlock enforces this
  (https://docs.kernel.org/userspace-api/landlock.html), or a private root folder on kernels
  without Landlock.
- A seccomp filter forbids the process to open sockets. A job on several processes, which needs
  sockets, gets a private network that contains only these processes.

None of this needs root. All processes that this one starts inherit it. Torch is not imported.
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

# These system calls have the same number on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
IO_URING_SETUP = 425  # can open sockets without the system call ``socket``
LANDLOCK_RULE_PATH_BENEATH = 1
# The rights to files, one bit each, and how many of them each version of Landlock knows.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # rights that apply to files
READ = EXECUTE | READ_FILE | READ_DIR
# From version 6 on Landlock also forbids abstract sockets of and signals to outside processes.
SCOPES = 0b11

# By machine: seccomp's number of the architecture, and the number of the system call ``socket``.
ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}

SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"),
    *("/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/nccl.conf"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems"),
    *("/proc/sys", "/proc/self", "/sys/devices/system", "/sys/fs/cgroup", "/sys/kernel/mm"),
)
DEVICES = (
    *("null", "zero", "full", "random", "urandom", "shm"),
    *("nvidia*", "dri", "kfd", "infiniband"),
)
# CUDA, NCCL and the processes of a distributed job read facts about themselves and their devices
# here. Landlock still hides the environment and the memory of all processes outside the job.
PROCESS_FOLDERS = ("/proc", "/sys")


@dataclass(frozen=True)
class Confinement:
    """What a process may use: folders to read, folders to write, bytes of memory.

    ``multi_process`` is for a job on several processes, which communicate over a network.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]
    memory_bytes: int | None = None
    multi_process: bool = False

    def to_json(self) -> str:
        """The confinement as one argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Confinement:
        """Parse what `to_json` returned."""
        fields = json.loads(text)
        return cls(**fields | {"read": tuple(fields["read"]), "write": tuple(fields["write"])})


def confine(confinement: Confinement) -> list[str]:
    """Confine this process permanently. Returns one sentence for each part that failed.

    Call it while the process has a single thread: threads that already run are not confined.
    """
    limit_memory(confinement.memory_bytes)
    if sys.platform != "linux":
        return ["files and sockets are not confined: this takes Linux"]
    failed = []
    restrict = restrict_files if landlock_version() else enter_private_root
    steps = {
        "sockets": enter_private_network if confinement.multi_process else refuse_sockets,
        "files": lambda: restrict(confinement),
    }
    for what, step in steps.items():
        try:
            step()
        except OSError as error:
            failed.append(f"{what} are not confined: {error.strerror or error}")
    return failed


def limit_memory(most: int | None) -> None:
    """Switch core dumps off, and limit private memory (RLIMIT_DATA) to ``most`` bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if most is not None and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def limit_cpu(seconds: float) -> None:
    """Let the kernel end this process (SIGXCPU) after this much more processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))


def machine_memory() -> int:
    """Bytes of memory of this machine, or of its container if that has less."""
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
    """The kernel's version of Landlock; 0 if it has none (before Linux 5.13, or switched off)."""
    return max(0, int(_LIBC.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)))


def restrict_files(confinement: Confinement) -> None:
    """Use Landlock to deny this process all files but those of the confinement. Raises OSError."""
    version = landlock_version()
    handled = (1 << RIGHTS_OF_VERSION[min(version, 5)]) - 1
    attributes = struct.pack("=QQQ", handled, 0, SCOPES if version >= 6 else 0)
    size = len(attributes) if version >= 6 else 8
    rules = _checked(
        _LIBC.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0), "no Landlock rules can be made"
    )
    try:
        for path, rights in _rights(confinement):
            _allow(rules, path, rights & handled)
        _checked(_LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "privileges cannot be given up")
        _checked(
            _LIBC.syscall(LANDLOCK_RESTRICT_SELF, rules, 0), "Landlock rules cannot be applied"
        )
    finally:
        os.close(rules)


def _rights(confinement: Confinement) -> Iterator[tuple[str, int]]:
    everything = (1 << 16) - 1
    installed = list(installation())
    for path in (*SYSTEM, *installed, *confinement.read):
        yield path, READ
    gpu = any(Path("/dev").glob("nvidia*"))
    for path in PROCESS_FOLDERS if gpu or confinement.multi_process else ():
        yield path, READ
    # Only the names in these folders, so that Python finds its packages; not the files.
    for path in _sources(installed):
        yield path, READ_DIR
    for device in (path for pattern in DEVICES for path in Path("/dev").glob(pattern)):
        yield str(device), everything
    for path in confinement.write:
        yield path, everything


def installation() -> Iterator[str]:
    """The folders of Python, of its packages, and of this project's packages."""
    yield from {sys.prefix, sys.base_prefix, sys.exec_prefix}
    for name in ("surgery", "worker"):
        yield str(Path(__import__(name).__file__ or "").resolve().parent)
    yield from (folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder)


def _sources(installed: Iterable[str]) -> Iterator[str]:
    """The folders on Python's path that are not in its installation, such as a checkout's root."""
    roots = [Path(folder).resolve() for folder in installed]
    for entry in sys.path:
        folder = Path(entry or ".").resolve()
        if folder.is_dir() and not any(folder.is_relative_to(root) for root in roots):
            yield str(folder)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # this machine has no such path
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, opened)
        _checked(
            _LIBC.syscall(LANDLOCK_ADD_RULE, rules, LANDLOCK_RULE_PATH_BENEATH, rule, 0),
            f"Landlock accepts no rule for {path}",
        )
    finally:
        os.close(opened)


# Files, on kernels without Landlock.

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
KEPT_FLAGS = 2 | 4 | 8 | 1024  # nosuid, nodev, noexec, noatime: a remount must keep them
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def enter_private_root(confinement: Confinement) -> None:
    """Move into a private root folder, in which only the files of the confinement are mounted.

    Raises OSError if the kernel allows no namespaces to unprivileged processes.
    """
    _enter_namespaces(CLONE_NEWNS)
    _mount("none", "/", MS_REC | MS_PRIVATE)
    root = tempfile.mkdtemp(dir=confinement.write[-1], prefix="root-")
    _mount("none", root, 0, "tmpfs")
    for path, rights in _rights(confinement):
        # Without Landlock, /proc would show the environment of every process of this user.
        if path not in PROCESS_FOLDERS and (rights & READ_FILE):
            _mount_into(root, path, writable=bool(rights & WRITE_FILE))
    os.chdir(root)
    number = PIVOT_ROOT.get(platform.machine(), -1)
    _checked(_LIBC.syscall(number, b".", b"."), "the root folder cannot be changed")
    _checked(_LIBC.umount2(b".", MNT_DETACH), "the former root folder cannot be unmounted")
    os.chdir("/")


def _mount_into(root: str, path: str, *, writable: bool) -> None:
    real = os.path.realpath(path)
    if not Path(real).exists():
        return
    for each in {real, path}:  # `/lib` may be a link to `/usr/lib`; both names are needed
        target = Path(f"{root}{each}")
        if target.exists() and not target.is_dir():  # its folder is mounted already
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


def _enter_namespaces(flags: int) -> None:
    """Enter new namespaces, with a user namespace in which this user keeps its id."""
    user, group = os.geteuid(), os.getegid()
    _checked(_LIBC.unshare(CLONE_NEWUSER | flags), "no namespaces can be made")
    for name, text in {
        "setgroups": "deny",
        "uid_map": f"{user} {user} 1",
        "gid_map": f"{group} {group} 1",
    }.items():
        Path("/proc/self", name).write_text(text)


# Sockets.

LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOWED, REFUSED = 0x7FFF0000, 0x00050000 | errno.EACCES
X32 = 0x40000000  # x86-64 has a second set of system calls, whose numbers start here


def refuse_sockets() -> None:
    """Forbid this process to open sockets of any family. Raises OSError if that is impossible."""
    numbers = ARCHITECTURES.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, f"there is no filter for {platform.machine()}")
    architecture, open_socket = numbers
    # The filter reads the number of the system call at offset 0 and the architecture at offset 4. A
    # jump names how many instructions it skips if its condition holds, and how many if not.
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
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(buffer))
    _checked(_LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "privileges cannot be given up")
    _checked(_LIBC.prctl(PR_SET_SECCOMP, 2, header, 0, 0), "seccomp does not accept the filter")


def enter_private_network() -> None:
    """Move into a private network, which has only a loopback interface.

    Raises OSError if the kernel allows no namespaces to unprivileged processes.
    """
    _enter_namespaces(CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        up = struct.pack("16sH22x", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(opened, 0x8914, up)  # SIOCSIFFLAGS
    # These replace the operator's choice of interface: there is no other one here.
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
