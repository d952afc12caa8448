#!/usr/bin/env python3
"""Makes the migration streams of this folder with the QEMU found in PATH; see README.md.

Usage: make.py OUTPUT_FOLDER [QEMU_BINARY]
"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

OUT = sys.argv[1]
QEMU = sys.argv[2] if len(sys.argv) > 2 else "qemu-system-x86_64"


def firmware(path):
    """A 64 KiB BIOS that keeps writing 4 pages from 0x1000 on: counts up, or zero in every other round."""
    code = bytes([
        0x31, 0xC0,              # xor ax, ax
        0x8E, 0xD8,              # mov ds, ax
        0x31, 0xC9,              # xor cx, cx
        0x41,                    # round: inc cx
        0x89, 0xC8,              # mov ax, cx
        0xA8, 0x01,              # test al, 1
        0x75, 0x02,              # jnz +2
        0x31, 0xC0,              # xor ax, ax
        0xBB, 0x00, 0x10,        # mov bx, 0x1000
        0x89, 0x07,              # page: mov [bx], ax
        0x81, 0xC3, 0x00, 0x10,  # add bx, 0x1000
        0x81, 0xFB, 0x00, 0x50,  # cmp bx, 0x5000
        0x75, 0xF4,              # jne page
        0xEB, 0xE5,              # jmp round
    ])
    rom = bytearray(65536)
    rom[0:len(code)] = code
    rom[0xFFF0:0xFFF5] = bytes([0xEA, 0x00, 0x00, 0x00, 0xF0])  # jmp far f000:0000
    with open(path, "wb") as f:
        f.write(rom)


class Qmp:
    def __init__(self, path):
        for _ in range(200):
            try:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        self.file = self.sock.makefile("rw")
        self.events = []
        self.version = json.loads(self.file.readline())["QMP"]["version"]["qemu"]
        self.cmd("qmp_capabilities")

    def cmd(self, name, **args):
        self.file.write(json.dumps({"execute": name, "arguments": args}) + "\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise RuntimeError(f"{name}: {reply['error']}")
            else:
                return reply["return"]

    def migration(self, wanted):
        while (status := self.cmd("query-migrate").get("status")) != wanted:
            if status in ("failed", "cancelled"):
                raise RuntimeError(self.cmd("query-migrate"))
            time.sleep(0.002)


def capture(folder, name, machine, method, *extra, run=True, capabilities=()):
    qmp, out = os.path.join(folder, "qmp"), os.path.join(folder, "out")
    for path in (qmp, out):
        if os.path.exists(path):
            os.unlink(path)
    argv = [QEMU, "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp",
            f"unix:{qmp},server=on,wait=off", "-M", machine, *extra]
    process = subprocess.Popen(argv)
    try:
        mon = Qmp(qmp)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(out)
        listener.listen(1)
        stream = bytearray()

        def drain():
            conn, _ = listener.accept()
            while data := conn.recv(65536):
                stream.extend(data)

        reader = threading.Thread(target=drain)
        reader.start()
        caps = list(capabilities)
        caps += {"precopy": ["pause-before-switchover"], "background": ["background-snapshot"], "paused": []}[method]
        mon.cmd("migrate-set-capabilities", capabilities=[{"capability": c, "state": True} for c in caps + ["events"]])
        if run:
            mon.cmd("cont")
            time.sleep(0.3)
        if method == "precopy":
            mon.cmd("migrate-set-parameters", **{"max-bandwidth": 0, "downtime-limit": 20})
        else:
            mon.cmd("stop")
        mon.cmd("migrate", uri=f"unix:{out}")
        if method == "precopy":
            mon.migration("pre-switchover")
            mon.cmd("migrate-continue", state="pre-switchover")
        mon.migration("completed")
        reader.join()
        version = "{major}.{minor}.{micro}".format(**mon.version)
        path = os.path.join(OUT, f"{name}-{version}.bin")
        with open(path, "wb") as f:
            f.write(stream)
        print(path, len(stream))
    finally:
        process.kill()
        process.wait()


def main():
    with tempfile.TemporaryDirectory() as folder:
        bios = os.path.join(folder, "bios")
        firmware(bios)
        pc = ["-m", "1M", "-bios", bios, "-vga", "none", "-net", "none"]
        q35, i440fx = "q35,hpet=off,acpi=off,sata=off,smbus=off", "pc,hpet=off,acpi=off"
        capture(folder, "q35-precopy", q35, "precopy", *pc)
        capture(folder, "q35-background", q35, "background", *pc)
        capture(folder, "pc-precopy", i440fx, "precopy", *pc)
        capture(folder, "pc-background", i440fx, "background", *pc)
        capture(folder, "pc-paused-novmdesc", i440fx + ",suppress-vmdesc=on", "paused", *pc)
        capture(folder, "none-paused", "none", "paused", "-m", "1M", run=False)
        file = os.path.join(folder, "ram")
        backend = f"memory-backend-file,id=ram,size=1M,share=on,mem-path={file}"
        shared = ["-object", backend, "-machine", "memory-backend=ram"]
        capture(folder, "pc-ignore-shared", i440fx, "paused", *pc, *shared, capabilities=["x-ignore-shared"])


main()
