"""numba's decorators as this room uses them, with code that is kept on disk until a file of the room changes.

numba by itself keeps a compiled function for as long as the file it is written in stays the same, whatever happens to
the functions that it calls (documented under the limitations of its `cache`): a change in arithmetic.py would reach
graph cut only when graph_cut.py changes too, in an edited clone and in an upgraded installation alike.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import config

STAMP = "sources.sha256"


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(cache=True, nogil=True, **options)(function)
        _keep_only_what_these_sources_gave(Path(dispatcher.stats.cache_path))
        return dispatcher

    return decorate


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
    """Of the processor that code is compiled for, as LLVM names them: "+avx512f"."""
    features = config.CPU_FEATURES  # type: ignore[attr-defined]  # what the environment asks for, if anything
    return frozenset((llvm.get_host_cpu_features().flatten() if features is None else features).split(","))
