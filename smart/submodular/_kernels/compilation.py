"""numba's decorators as this room uses them, which kernels are used, and for how long compiled code is kept.

The environment, read once at import:

    SMART_KERNELS=auto       kernels in LLVM's own terms where they work (the default)
    SMART_KERNELS=plain      plain kernels, compiled by numba
    NUMBA_DISABLE_JIT=1      plain kernels, nothing compiled: slow, for debuggers

The LLVM kernels need a 64-bit x86 or ARM processor and a version of numba that they were tested with. Elsewhere the
plain ones are used. Orders are the same with either.

numba by itself keeps a compiled function for as long as the file it is written in stays the same, whatever happens to
the functions that it calls (documented under the limitations of its `cache`): a change in arithmetic.py would reach
graph cut only when graph_cut.py changes too, in an edited clone and in an upgraded installation alike. So all compiled
code is dropped when any file of this room changes.
"""

import hashlib
import logging
import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
from numba.core import config

STAMP = "sources.sha256"
TESTED_NUMBA = ((0, 60), (0, 69))
"""Versions of numba that the LLVM kernels were written for: from the first up to, not including, the second."""
PROCESSORS = ("x86_64", "AMD64", "aarch64", "arm64")

log = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])


def why_plain(asked: str, jit_disabled: bool, numba_version: tuple[int, ...], machine: str) -> str | None:
    """The reason for plain kernels; None where the LLVM kernels are used.

    Raises:
        ValueError: `asked`, the value of SMART_KERNELS, is neither auto nor plain.
    """
    if asked not in ("auto", "plain"):
        raise ValueError(f"SMART_KERNELS={asked}: must be auto or plain")
    first, beyond = TESTED_NUMBA
    if asked == "plain":
        return "SMART_KERNELS=plain"
    if jit_disabled:
        return "NUMBA_DISABLE_JIT is set"
    if not first <= numba_version[:2] < beyond:
        return f"numba {'.'.join(map(str, numba_version))} is not a version that the LLVM kernels were tested with"
    if machine not in PROCESSORS:
        return f"the LLVM kernels were not tested on a {machine} processor"
    return None


WHY_PLAIN = why_plain(
    os.environ.get("SMART_KERNELS") or "auto",
    bool(config.DISABLE_JIT),  # type: ignore[attr-defined]
    tuple(part or 0 for part in numba.version_info[:3]),  # None where numba was built without a version
    platform.machine(),
)
PLAIN = WHY_PLAIN is not None


def _compiled(**options: Any) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        if PLAIN:  # compiled code is kept under this name, apart from what calls the LLVM kernels
            function.__qualname__ = f"plain.{function.__qualname__}"
        try:
            dispatcher = numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            _say_that_nothing_is_kept()
            return numba.njit(nogil=True, **options)(function)
        if dispatcher is not function:
            _keep_only_what_these_sources_gave(Path(dispatcher.stats.cache_path))
        return dispatcher

    return decorate


@cache
def _say_that_nothing_is_kept() -> None:
    # Not a folder in /tmp instead: compiled code is loaded, and another user could have put theirs there.
    log.warning(
        "Neither the installation nor the home folder can be written to, so kernels are compiled again at every"
        " start; name a folder that keeps them with NUMBA_CACHE_DIR."
    )


@cache
def _keep_only_what_these_sources_gave(folder: Path) -> None:
    """Forget all compiled code in a folder, which holds that of this room alone, if it was made from other sources."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return
    for kept in folder.glob("*.nb[ic]"):
        kept.unlink(missing_ok=True)
    stamp.write_text(digest.hexdigest())


compiled = _compiled()
compiled_fast = _compiled(fastmath=True)
# For small ones called at every pick with a record of arrays, which a call would pass one by one.
inlined = _compiled(inline="always")
compiled_max = _compiled(fastmath={"nnan", "nsz"})  # maxima by vector, infinities allowed


@cache
def processor_features() -> frozenset[str]:
    """Features of the processor that code is compiled for, as LLVM names them: "+avx512f"."""
    features = config.CPU_FEATURES  # type: ignore[attr-defined]  # what the environment asks for, if anything
    return frozenset((llvm.get_host_cpu_features().flatten() if features is None else features).split(","))
