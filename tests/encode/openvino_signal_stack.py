"""Show a fault of OpenVINO 2026.4.1 on Linux: freed `Core`s leave an unmapped signal stack.

The CPU plugins of two Cores that are freed in the order in which they were made leave the thread's
signal stack (`sigaltstack`) at unmapped memory; the next signal ends the process with SIGSEGV.

    python openvino_signal_stack.py         two Cores, the older one freed before the newer: SIGSEGV
    python openvino_signal_stack.py newer   the newer one freed before the older: KeyboardInterrupt
    python openvino_signal_stack.py single  a single Core: KeyboardInterrupt
"""

import ctypes
import os
import signal
import sys

import openvino


class SignalStack(ctypes.Structure):
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def print_signal_stack(moment: str) -> None:
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    print(f"{moment:>12}: signal stack at {stack.sp or 0:#x}, {stack.size} bytes", flush=True)


def main() -> None:
    mode = sys.argv[1] if len(sys.argv) > 1 else "older"
    cores = []
    print_signal_stack("start")
    for _ in range(1 if mode == "single" else 2):
        cores.append(openvino.Core())
        cores[-1].get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin, which sets a stack
        print_signal_stack("core made")
    while cores:
        del cores[-1 if mode == "newer" else 0]
        print_signal_stack("core freed")
    try:
        os.kill(os.getpid(), signal.SIGINT)  # Python's handlers run on the signal stack
    except KeyboardInterrupt:
        print("KeyboardInterrupt")


if __name__ == "__main__":
    main()
