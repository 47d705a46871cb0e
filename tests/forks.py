"""A python that starts in a fork of a warmed process: what a new interpreter does, without ten seconds of imports.

`python tests/forks.py SOCKET train.py mixture=DIR` stands for `python train.py mixture=DIR`: it has the same streams,
folder, environment, signals and exit code, and takes -c and -m as well. The work is done by a fork of the server,
which has imported everything and started no thread. Whoever kills the one process kills the other.

This file is both sides; the client imports nothing that takes time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys

STAGES = ("select", "train", "evaluate", "reproduce")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
IMPORTS = (
    *(
        "smart.api",
        *(f"smart.cli.{stage}" for stage in STAGES),
        "smart.training.trainer",
        "smart.training.callbacks",
        "smart.training.sharding",
    ),
    *(
        "smart.training.loss",
        "smart.evaluation.cached_lm",
        "peft.tuners.lora.bnb",
        "hydra._internal.logging_config",
    ),
    *(
        "torch",
        "torch.distributed",
        "torch.distributed.run",
        "torch._dynamo",
        "bitsandbytes",
        "accelerate",
        "peft",
    ),
    *("transformers.models.llama.modeling_llama", "transformers.models.falcon.modeling_falcon"),
    *("transformers.models.mistral.modeling_mistral", "transformers.trainer", "safetensors.torch"),
    *("lm_eval", "lm_eval.evaluator", "lm_eval.tasks", "lm_eval.models.huggingface", "datasets", "wordllama"),
    *(
        "pyarrow.parquet",
        "pyarrow.dataset",
        "pyarrow.csv",
        "pyarrow.json",
        "matplotlib.pyplot",
        "scipy.stats",
    ),
)


def run(arguments: list[str]) -> None:
    """Do what `python ARGUMENTS` would: -c CODE, -m MODULE or SCRIPT, with -u before them or not."""
    import runpy
    import warnings

    if arguments[0] == "-u":
        arguments = arguments[1:]
    extra = os.environ.get("PYTHONPATH", "")
    sys.path[:0] = [folder for folder in extra.split(os.pathsep) if folder and folder not in sys.path]
    if arguments[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = arguments[1:]
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0].startswith("-"):
        raise SystemExit(f"{arguments[0]}: needs an interpreter of its own")
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


# The client's side


def start(server: str, arguments: list[str], streams: tuple[int, int, int]) -> socket.socket:
    """Have the server fork; returns the connection, on which it says the fork's id and, later, its exit status."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server)
    asked = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
    content = json.dumps(asked).encode()
    socket.send_fds(connection, [struct.pack("<Q", len(content))], list(streams))
    connection.sendall(content)
    return connection


def hear(connection: socket.socket) -> int:
    """The next number that the server says."""
    said = connection.recv(8, socket.MSG_WAITALL)
    if len(said) < 8:
        raise ConnectionError("the server of forks has gone")
    return int(struct.unpack("<q", said)[0])


def client(server: str, *arguments: str) -> int:
    """Stand for the fork: hand on signals, end as it ends."""
    connection = start(server, list(arguments), (0, 1, 2))
    fork = hear(connection)
    for number in FORWARDED:
        signal.signal(number, lambda received, _: os.kill(fork, received))
    code = os.waitstatus_to_exitcode(hear(connection))
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


# The server's side


def serve(server: str) -> None:
    """Fork for whoever asks, until standard input ends. In a fork this returns never."""
    import contextlib
    import selectors

    woken, wake = socket.socketpair()
    wake.setblocking(False)
    woken.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(server)
    listener.listen(64)
    selector = selectors.DefaultSelector()
    for source in (listener, woken, sys.stdin):
        selector.register(source, selectors.EVENT_READ)
    forks: dict[socket.socket, int] = {}
    print("\nready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                for fork in forks.values():
                    os.kill(fork, signal.SIGKILL)
                return
            if key.fileobj is woken:
                woken.recv(4096)
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                try:
                    fork = _fork(connection, [listener, woken, wake, *forks])
                    connection.sendall(struct.pack("<q", fork))
                except (OSError, ValueError, struct.error):  # the client was killed while it asked
                    connection.close()
                    continue
                forks[connection] = fork
                selector.register(connection, selectors.EVENT_READ)
            elif key.fileobj in forks:  # the client has gone
                os.kill(forks[key.fileobj], signal.SIGKILL)
                selector.unregister(key.fileobj)
        while forks:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if not ended:
                break
            (connection,) = (one for one, fork in forks.items() if fork == ended)
            del forks[connection]
            if connection.fileno() in selector.get_map():
                selector.unregister(connection)
            with contextlib.suppress(OSError):  # the client may have gone
                connection.sendall(struct.pack("<q", status))
            connection.close()


def _fork(connection: socket.socket, ours: list[socket.socket]) -> int:
    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    asked = json.loads(connection.recv(struct.unpack("<Q", size)[0], socket.MSG_WAITALL))
    fork = os.fork()
    if fork:
        for stream in streams:
            os.close(stream)
        return fork
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for one in (connection, *ours):
        one.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    _open_streams()
    _end(_exit_code(asked["arguments"]))


def _open_streams() -> None:
    # Those of the server know whether its own files can seek.
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    how = {"encoding": encoding, "closefd": False}
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", errors=errors or None, **how)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", **how)  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty(), write_through="PYTHONUNBUFFERED" in os.environ)


def _exit_code(arguments: list[str]) -> int:
    import traceback

    try:
        run(arguments)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    # As the interpreter ends, but for the destruction of all modules, which takes as long as a small run.
    import atexit
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def warm_up() -> None:
    """Import what the commands import, and start no thread."""
    import gc
    import importlib
    import io
    import pathlib

    for name in IMPORTS:
        importlib.import_module(name)
    import numpy as np
    import torch
    from matplotlib import pyplot
    from PIL import Image

    from smart.config import compose
    from smart.runtime.plot_style import style
    from smart.submodular import GraphCut, maximize

    torch.set_num_threads(1)
    Image.init()
    for stage in STAGES:
        compose(stage, [])
    with style():
        figure, axes = pyplot.subplots()
        axes.plot([1, 10])
        axes.set_title("$10^1$")
        figure.savefig(io.BytesIO(), dpi=150)
        pyplot.close(figure)
    maximize(GraphCut(np.eye(4, dtype=np.float32)), 2, threads=1)  # numba loads what it compiles with
    gc.collect()
    gc.freeze()  # else each fork copies every page at its first collection
    threads = [task.read_text().strip() for task in pathlib.Path("/proc/self/task").glob("*/comm")]
    others = [name for name in threads if name != "jemalloc_bg_thd"]  # that survives a fork
    assert len(others) == 1, f"a fork takes one thread along, and here are {others}"


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.executable = sys.argv[3]  # what a fork starts is a fork, too
        sys.path[0] = os.path.dirname(sys.path[0])  # our root for the imports, wherever smart is installed
        warm_up()
        del sys.path[0]
        serve(sys.argv[2])
    else:
        sys.exit(client(*sys.argv[1:]))
