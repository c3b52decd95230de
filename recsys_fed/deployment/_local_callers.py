"""Which account is at the other end of a TCP connection from this machine, as the kernel says (Linux).

A caller on loopback is not the operator because of its address: every account of the machine has that address, and so
has whoever an account forwards for. The kernel knows which account opened the socket, and nobody can claim another.
"""

import ipaddress
import os
import sys
from pathlib import Path

Address = tuple[str, int]
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"
_LOCAL, _REMOTE, _STATE, _ACCOUNT, _INODE = 1, 2, 3, 7, 9


def is_own_account(caller: Address, here: Address) -> bool:
    """Whether the connection comes from loopback and from a process of the account that this process runs as.

    Args:
        caller: host and port of the caller. here: host and port that it reached.
    """
    return _is_loopback(caller[0]) and _account_of(caller, here) == os.geteuid()


def _account_of(caller: Address, here: Address) -> int | None:
    """User id of the process that holds the caller's socket; None if no process of this machine holds it.

    A socket that its process has closed belongs to nobody, and the kernel shows it as root's: only an established
    one with an owner counts.
    """
    sides = _kernel_spellings(caller), _kernel_spellings(here)
    for table in _TABLES:
        try:
            rows = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, rows):
            if fields[_LOCAL] in sides[0] and fields[_REMOTE] in sides[1]:
                held = fields[_STATE] == _ESTABLISHED and fields[_INODE] != "0"
                return int(fields[_ACCOUNT]) if held else None
    return None


def _is_loopback(host: str) -> bool:
    try:
        return _plain(host).is_loopback
    except ValueError:
        return False


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, as IPv4 where an IPv6 socket shows an IPv4 one."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _kernel_spellings(address: Address) -> set[str]:
    """How the kernel's tables write it: words of 32 bits in the machine's order, then the port."""
    plain, port = _plain(address[0]), f"{address[1]:04X}"
    forms = [plain.packed]
    if plain.version == 4:
        forms.append(ipaddress.IPv6Address(f"::ffff:{plain}").packed)
    return {f"{_words(packed)}:{port}" for packed in forms}


def _words(packed: bytes) -> str:
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
