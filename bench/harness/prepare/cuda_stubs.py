"""Lets the published torch for x86-64 Linux start without the CUDA libraries it was linked with.

It is linked with about ten of them, of gigabytes together, and calls none on a processor. Where one is
missing, a library of the same name takes its place. The loader looks functions up when they are first called,
which never happens, but for those whose address is taken: so each has the names that torch asks it for, and
ends the process should one be called.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

TIMEOUT_SECONDS = 120


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS)
    return done.stdout.splitlines()


def missing(library: Path) -> set[str]:
    """The names of the libraries that `library` is linked with and the loader does not find."""
    return {line.split()[0] for line in _lines("ldd", str(library)) if line.endswith("=> not found")}


def wanted(library: Path) -> set[tuple[str, str]]:
    """Which functions `library` wants from others, and under which version, where it has one."""
    found: set[tuple[str, str]] = set()
    for line in _lines("nm", "-D", "--undefined-only", str(library)):
        if match := re.fullmatch(r"\s*[Uw] (\w+)(?:@(.+))?", line):
            found.add((match[1], match[2] or ""))
    return found


def belongs(symbol: str, version: str, name: str) -> bool:
    """Whether a function is of a library: by its version, which is the library's own file name or the product's
    in capitals; else by its prefix, `ncclSend` of `libnccl.so.2`."""
    if version:
        return version.lower() in name.lower()
    return symbol.lower().startswith(name.removeprefix("lib").partition(".so")[0].lower())


def install() -> list[str]:
    """Puts the stand-ins beside torch's own libraries; says which."""
    folder = Path(sysconfig.get_paths()["purelib"]) / "torch" / "lib"
    libraries = sorted(folder.glob("libtorch*.so"))
    names: set[str] = set().union(*map(missing, libraries))
    functions: set[tuple[str, str]] = set().union(*map(wanted, libraries))
    for name in names:
        own = {symbol for symbol, version in functions if belongs(symbol, version, name)}
        bodies = (f"void {symbol}(void) {{ abort(); }}\n" for symbol in sorted(own))
        source = "void abort(void);\n" + "".join(bodies)
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run(command, input=source.encode(), check=True, timeout=TIMEOUT_SECONDS)
    return sorted(names)


if __name__ == "__main__":
    print("stand-ins:", ", ".join(install()) or "none")
