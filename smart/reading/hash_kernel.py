"""The compiled loop of `smart.reading.text_hashes`, in LLVM's own terms: made in milliseconds, without numba."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm

_LOOP = """
define void @hash_all(i64 (i8*, i64)* %hash, i8* %data, i64* %edges, i64 %count, i64* %into) {
entry:
  %none = icmp eq i64 %count, 0
  br i1 %none, label %done, label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %next = add i64 %i, 1
  %start.at = getelementptr i64, i64* %edges, i64 %i
  %stop.at = getelementptr i64, i64* %edges, i64 %next
  %start = load i64, i64* %start.at
  %stop = load i64, i64* %stop.at
  %length = sub i64 %stop, %start
  %text = getelementptr i8, i8* %data, i64 %start
  %value = call i64 %hash(i8* %text, i64 %length)
  %value.at = getelementptr i64, i64* %into, i64 %i
  store i64 %value, i64* %value.at
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""
_kept: list[object] = []
"""Engines, which own the code."""


@cache
def compiled() -> Callable[..., None]:
    """hash_all(function, data, edges, n, into): function(data + edges[i], edges[i + 1] - edges[i]) for i < n.

    All arguments but n are addresses: of the function, the bytes, int64 (n + 1,) and uint64 (n,). The interpreter is
    free meanwhile.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_LOOP), machine)
    engine.finalize_object()
    _kept.append(engine)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kind = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, number, pointer)
    return kind(engine.get_function_address("hash_all"))
