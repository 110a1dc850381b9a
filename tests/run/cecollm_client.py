# SPDX-License-Identifier: Apache-2.0
"""The protocol of doc/PROTOCOL.md in Python, for tests that talk to a real cloudd.

Standard library only: frames, the subset of msgpack they use, TLS connections,
a session with its two channels, and a cloudd process to talk to. Written from
the document, not from the C code, so that the two check each other.
"""
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time

HELLO, WELCOME, ATTACH, ATTACHED, OPEN, STATES, INFER, TOKEN, TRUNCATE, CLOSE, NEED, \
    CREDIT, CANCEL, GENERATE, PING, PONG, GOAWAY, ERROR, BYE = range(1, 20)

EINVAL, ENOMEM, EFORMAT, EUNSUPPORTED, EPROTO, EAUTH, EMISMATCH, EQUOTA, EGAP = \
    2, 3, 5, 6, 7, 8, 9, 10, 11
ETIMEOUT, ECLOSED, ECONTEXT = 13, 14, 15


# ---- msgpack: what frames use ----

def pack(value):
    if value is True or value is False:
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        for limit, code, form in ((0x80, None, "B"), (1 << 8, 0xCC, "B"),
                                  (1 << 16, 0xCD, ">H"), (1 << 32, 0xCE, ">I"),
                                  (1 << 64, 0xCF, ">Q")):
            if value < limit:
                head = b"" if code is None else bytes([code])
                return head + struct.pack(form, value)
    if isinstance(value, float):
        return b"\xca" + struct.pack(">f", value)
    if isinstance(value, str):
        data = value.encode()
        head = bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)])
        return head + data
    if isinstance(value, bytes):
        head = b"\xc4" + bytes([len(value)]) if len(value) < 256 \
            else b"\xc5" + struct.pack(">H", len(value))
        return head + value
    if isinstance(value, (list, tuple)):
        return bytes([0x90 | len(value)]) + b"".join(pack(v) for v in value)
    if isinstance(value, dict):
        head = bytes([0x80 | len(value)]) if len(value) < 16 \
            else b"\xde" + struct.pack(">H", len(value))
        return head + b"".join(pack(k) + pack(v) for k, v in value.items())
    raise TypeError(value)


def unpack(data, at=0):
    """One value; returns (value, position after it)."""
    code = data[at]
    at += 1
    if code < 0x80:
        return code, at
    if code in (0xC2, 0xC3):
        return code == 0xC3, at
    numbers = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xCA: ">f", 0xCB: ">d"}
    if code in numbers:
        size = struct.calcsize(numbers[code])
        return struct.unpack_from(numbers[code], data, at)[0], at + size
    if 0xA0 <= code < 0xC0 or code in (0xD9, 0xDA):
        size, at = _length(data, at, code, 0x1F, {0xD9: ">B", 0xDA: ">H"})
        return data[at:at + size].decode(), at + size
    if code in (0xC4, 0xC5):
        size, at = _length(data, at, code, 0, {0xC4: ">B", 0xC5: ">H"})
        return bytes(data[at:at + size]), at + size
    if 0x90 <= code < 0xA0:
        items = []
        for _ in range(code & 0x0F):
            item, at = unpack(data, at)
            items.append(item)
        return items, at
    if 0x80 <= code < 0x90 or code == 0xDE:
        size, at = _length(data, at, code, 0x0F, {0xDE: ">H"})
        result = {}
        for _ in range(size):
            key, at = unpack(data, at)
            result[key], at = unpack(data, at)
        return result, at
    raise ValueError("msgpack code %#x" % code)


def _length(data, at, code, mask, wide):
    if code in wide:
        return struct.unpack_from(wide[code], data, at)[0], at + struct.calcsize(wide[code])
    return code & mask, at


# ---- frames ----

def header(kind, map_size, payload_size, magic=b"CE", version=1, flags=0):
    return magic + struct.pack(">BBHHI", version, kind, flags, map_size, payload_size)


def frame(kind, fields=None, payload=b""):
    body = pack(fields or {})
    return header(kind, len(body), len(payload)) + body + payload


class Closed(Exception):
    """The other side ended the connection."""


class Channel:
    """One TLS connection, or any socket, as frames."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def send(self, kind, fields=None, payload=b""):
        self.sock.sendall(frame(kind, fields, payload))

    def raw(self, data):
        self.sock.sendall(data)

    def read(self, timeout=20.0):
        """The next frame: (type, fields, payload)."""
        self.sock.settimeout(timeout)
        head = self._exactly(12)
        magic, version, kind, flags, map_size, size = struct.unpack(">2sBBHHI", head)
        assert magic == b"CE" and version == 1 and flags == 0, head
        body = self._exactly(map_size + size)
        fields, end = unpack(body[:map_size])
        assert end == map_size, "the map does not fill its length"
        return kind, fields, body[map_size:]

    def expect(self, *kinds, timeout=20.0):
        got = self.read(timeout)
        assert got[0] in kinds, "expected %s, got %s" % (kinds, got)
        return got

    def _exactly(self, n):
        while len(self.buffer) < n:
            try:
                data = self.sock.recv(65536)
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLError) as e:
                if isinstance(e, (ssl.SSLWantReadError, TimeoutError)):
                    raise
                raise Closed(str(e))
            if not data:
                raise Closed("end")
            self.buffer += data
        result, self.buffer = self.buffer[:n], self.buffer[n:]
        return result

    def at_end(self, timeout=20.0):
        """Read until the other side closes; returns the frames before."""
        frames = []
        try:
            while True:
                frames.append(self.read(timeout))
        except Closed:
            return frames

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass

    def reset(self):
        """Close so that the other side sees a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


# ---- a cloudd ----

class Cloudd:
    """A running cecollm-cloudd on a free port, with its own certificates."""

    def __init__(self, builddir, srcdir, model, workdir, *settings, agents=("agent",)):
        self.workdir = workdir
        self.certs = os.path.join(workdir, "certs")
        subprocess.run(["sh", os.path.join(srcdir, "build-aux/dev-certs.sh"), self.certs] +
                       [word for name in agents for word in ("--agent", name)],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = os.path.join(workdir, "port")
        if os.path.exists(port_file):
            os.unlink(port_file)
        self.log_path = os.path.join(workdir, "cloudd.log")
        program = os.path.join(builddir, "cecollm-cloudd")
        with open(program, "rb") as f:
            self.sanitized = re.search(rb"__[at]san_init", f.read()) is not None
        values = ["model=" + model, "listen=127.0.0.1:0", "port_file=" + port_file,
                  "ca=" + self.cert("ca.crt"), "cert=" + self.cert("cloudd.crt"),
                  "key=" + self.cert("cloudd.key")] + list(settings)
        if not any(s.startswith("metrics_listen=") for s in settings):
            values.append("metrics_listen=off")
        if not any(s.startswith("core_dumps=") for s in settings):
            values.append("core_dumps=yes")  # /proc/PID is ours to look at, root or not
        command = [program]
        for value in values:
            command += ["--set", value]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        deadline = time.monotonic() + 60
        while not os.path.exists(port_file):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("cloudd did not start:\n" + self.log())
            time.sleep(0.02)
        with open(port_file) as f:
            self.port = int(f.read())

    def cert(self, name):
        return os.path.join(self.certs, name)

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def context(self, agent="agent", alpn="cecollm/1"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.cert("ca.crt"))
        if agent:
            context.load_cert_chain(self.cert(agent + ".crt"), self.cert(agent + ".key"))
        if alpn:
            context.set_alpn_protocols([alpn])
        return context

    def connect(self, context=None, timeout=20.0):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        try:
            sock = (context or self.context()).wrap_socket(sock, server_hostname="localhost")
        except BaseException:
            sock.close()
            raise
        sock.settimeout(timeout)
        return Channel(sock)

    def n_fds(self):
        return len(os.listdir("/proc/%d/fd" % self.process.pid))

    def rss_kib(self):
        with open("/proc/%d/status" % self.process.pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    def stop(self, timeout=60):
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


# ---- a session ----

class Shape:
    """What HELLO says of the model."""

    def __init__(self, fingerprint, layer_from, n_layers, d_model, n_vocab):
        self.fingerprint = fingerprint
        self.layer_from = layer_from
        self.n_layers = n_layers
        self.d_model = d_model
        self.n_vocab = n_vocab

    def hello(self, **changes):
        fields = {0: 1, 1: 1, 2: self.fingerprint, 3: self.layer_from, 4: self.n_layers,
                  5: self.d_model, 6: self.n_vocab, 7: ["f16", "f32"], 8: "test",
                  9: "cecollm_client.py"}
        names = {"proto": 0, "epoch": 1, "fingerprint": 2, "layer_from": 3, "n_layers": 4,
                 "d_model": 5, "n_vocab": 6, "codecs": 7, "numerics": 8, "token": 10, "whole_model": 11}
        fields.update({names[k]: v for k, v in changes.items()})
        return fields


class Session:
    """HELLO, WELCOME, and with upload=True ATTACH, ATTACHED."""

    def __init__(self, cloudd, shape, upload=True, context=None, epoch=1, **changes):
        self.cloudd, self.shape, self.epoch = cloudd, shape, epoch
        self.context = context or cloudd.context()
        self.infer = cloudd.connect(self.context)
        self.infer.send(HELLO, shape.hello(epoch=epoch, **changes))
        self.welcome = self.infer.expect(WELCOME)[1]
        self.upload = None
        if upload:
            self.attach()

    def attach(self):
        self.upload = self.cloudd.connect(self.context)
        self.upload.send(ATTACH, {0: self.welcome[1], 1: self.epoch, 2: self.welcome[2]})
        self.upload.expect(ATTACHED)

    def open(self, seq=1, codec="f32", max_pos=256, keep_kv=True):
        fields = {0: self.epoch, 1: seq, 2: codec, 3: max_pos}
        if not keep_kv:
            fields[4] = False
        self.infer.send(OPEN, fields)
        return self.infer.expect(CREDIT)[1][2]

    def states(self, rows, seq=1, branch=0, id=0, pos=0, channel=None):
        """rows: list of rows in f32, each a list of floats."""
        payload = b"".join(struct.pack("<%df" % len(row), *row) for row in rows)
        (channel or self.upload or self.infer).send(
            STATES, {0: self.epoch, 1: seq, 2: branch, 3: id, 4: pos, 5: len(rows)}, payload)

    def ask(self, pos, seq=1, branch=0, deadline_ms=0, n_top=0, want_hash=True):
        self.infer.send(INFER, {0: self.epoch, 1: seq, 2: branch, 3: pos, 5: deadline_ms,
                                6: n_top, 7: want_hash})

    def token(self, timeout=30.0):
        """The next TOKEN's fields; CREDITs on the way are noted."""
        while True:
            kind, fields, payload = self.infer.expect(TOKEN, CREDIT, timeout=timeout)
            if kind == TOKEN:
                fields["top"] = [struct.unpack_from("<If", payload, i)
                                 for i in range(0, len(payload), 8)]
                return fields

    def truncate(self, branch, pos, seq=1):
        self.infer.send(TRUNCATE, {0: self.epoch, 1: seq, 2: branch, 3: pos})

    def close_seq(self, seq=1):
        self.infer.send(CLOSE, {0: self.epoch, 1: seq})

    def bye(self):
        for channel in (self.upload, self.infer):
            if channel:
                channel.send(BYE)
                channel.at_end()
                channel.close()


def synth(builddir, workdir, *options):
    """A small model of random weights; returns its path."""
    path = os.path.join(workdir, "synth.gguf")
    subprocess.run([os.path.join(builddir, "cecollm-model"), "synth", "-o", path, *options], check=True,
                   stdout=subprocess.DEVNULL)
    return path


def workdir():
    return tempfile.TemporaryDirectory(prefix="cecollm-")
