# SPDX-License-Identifier: Apache-2.0
"""Everything a stranger or a broken agent can send to a real cloudd, over real TLS.

Each case is one function; what it sends must end in a refusal or a closed
connection, within seconds. Afterwards a good session gets the same tokens, bit
for bit, as before, and memory and descriptors are back.
"""
import hashlib
import os
import random
import socket
import ssl
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cecollm_client as cc  # noqa: E402

BUILD = os.environ.get("CECOLLM_BUILDDIR", ".")
SOURCE = os.environ.get("CECOLLM_SRCDIR", ".")
D, LAYER, LAYERS, VOCAB, WINDOW = 64, 2, 4, 320, 64


def rows(n, seed=1):
    r = random.Random(seed)
    return [[r.gauss(0, 1) for _ in range(D)] for _ in range(n)]


class Bench:
    """What the cases share."""

    def __init__(self, cloudd, shape):
        self.cloudd, self.shape = cloudd, shape

    def hello(self):
        channel = self.cloudd.connect()
        channel.send(cc.HELLO, self.shape.hello())
        return channel, channel.expect(cc.WELCOME)[1]

    def session(self, **changes):
        return cc.Session(self.cloudd, self.shape, **changes)


def refused(channel, code):
    """The channel ends, with this ERROR on the way (None: EPROTO or EFORMAT)."""
    frames = channel.at_end()
    codes = [fields[0] for kind, fields, _ in frames if kind == cc.ERROR]
    wanted = [[code]] if code else [[cc.EPROTO], [cc.EFORMAT]]
    assert codes in wanted, \
        "expected ERROR %s, got %s" % (code, frames)
    texts = [fields[1] for kind, fields, _ in frames if kind == cc.ERROR]
    assert texts[0] and "\n" not in texts[0], texts
    channel.close()


def ended(channel):
    channel.at_end()
    channel.close()


def good_answers(bench):
    """A prompt, two more tokens, a truncation, another: [(token, hash)]."""
    s = bench.session()
    data, out = rows(40), []
    s.open(1)
    s.states(data[:30])
    s.ask(29)
    out.append(s.token())
    s.states(data[30:32], pos=30)
    s.ask(31)
    out.append(s.token())
    s.truncate(1, 10)
    s.states(data[30:35], branch=1, pos=10)
    s.ask(14, branch=1, n_top=5)
    out.append(s.token())
    assert len(out[2]["top"]) == 5 and out[2][2] == 1
    s.close_seq(1)
    s.bye()
    return [(t[4], t[8]) for t in out]


# ---- who may come in ----

def fails_in_tls(bench, context):
    try:
        channel = bench.cloudd.connect(context)
        channel.send(cc.HELLO, bench.shape.hello())
        frames = channel.at_end()
    except (ssl.SSLError, ConnectionError, cc.Closed):
        return
    assert not frames, frames
    channel.close()


def no_certificate(bench):
    fails_in_tls(bench, bench.cloudd.context(agent=None))


def certificate_of_another_authority(bench):
    other = os.path.join(bench.cloudd.workdir, "other")
    subprocess.run(["sh", os.path.join(SOURCE, "build-aux/dev-certs.sh"), other],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    context = bench.cloudd.context(agent=None)
    context.load_cert_chain(os.path.join(other, "agent.crt"), os.path.join(other, "agent.key"))
    fails_in_tls(bench, context)


def wrong_alpn(bench):
    fails_in_tls(bench, bench.cloudd.context(alpn="h2"))


def no_alpn(bench):
    fails_in_tls(bench, bench.cloudd.context(alpn=None))


def tls_1_2(bench):
    context = bench.cloudd.context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    fails_in_tls(bench, context)


def not_tls_at_all(bench):
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70000, b"\0" * 100,
                 cc.frame(cc.HELLO, bench.shape.hello())):
        sock = socket.create_connection(("127.0.0.1", bench.cloudd.port), timeout=20)
        try:
            sock.sendall(data)
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass
        sock.close()


# ---- HELLO and ATTACH ----

def hello_of_another_model(bench):
    cases = [({"fingerprint": b"\1" * 32}, cc.EMISMATCH), ({"n_layers": 5}, cc.EMISMATCH),
             ({"d_model": 128}, cc.EMISMATCH), ({"n_vocab": 321}, cc.EMISMATCH),
             ({"layer_from": 1}, cc.EMISMATCH), ({"layer_from": 4}, cc.EMISMATCH),
             ({"layer_from": 0}, cc.EMISMATCH), ({"codecs": ["i8", "zip"]}, cc.EMISMATCH),
             ({"codecs": []}, cc.EMISMATCH), ({"proto": 2}, cc.EUNSUPPORTED),
             ({"whole_model": True}, cc.EUNSUPPORTED), ({"fingerprint": b"\1" * 31}, cc.EFORMAT),
             ({"epoch": 1 << 40}, cc.EFORMAT), ({"codecs": "f32"}, cc.EFORMAT)]
    for changes, code in cases:
        channel = bench.cloudd.connect()
        channel.send(cc.HELLO, bench.shape.hello(**changes))
        refused(channel, code)


def first_frame_is_another(bench):
    for kind in range(0, 25):
        if kind in (cc.HELLO, cc.ATTACH):
            continue
        channel = bench.cloudd.connect()
        channel.raw(cc.frame(kind, {0: 1, 1: 1}))
        codes = [f[0] for k, f, _ in channel.at_end() if k == cc.ERROR]
        assert codes in ([cc.EPROTO], [cc.EFORMAT], []), (kind, codes)
        channel.close()


def attach_with_wrong_secret(bench):
    infer, welcome = bench.hello()
    for session, epoch, secret in ((welcome[1], 1, b"\0" * 16), (welcome[1], 2, welcome[2]),
                                   (b"\0" * 16, 1, welcome[2]), (b"\0" * 16, 1, b"\0" * 16),
                                   (welcome[2], 1, welcome[1])):
        upload = bench.cloudd.connect()
        upload.send(cc.ATTACH, {0: session, 1: epoch, 2: secret})
        refused(upload, cc.EAUTH)
    infer.send(cc.PING, {0: 77})
    assert infer.expect(cc.PONG)[1][0] == 77  # the session did not notice
    infer.send(cc.BYE)
    ended(infer)


def attach_with_another_certificate(bench):
    infer, welcome = bench.hello()
    upload = bench.cloudd.connect(bench.cloudd.context("other"))
    upload.send(cc.ATTACH, {0: welcome[1], 1: 1, 2: welcome[2]})
    refused(upload, cc.EAUTH)
    infer.close()


def attach_after_the_session(bench):
    infer, welcome = bench.hello()
    infer.send(cc.BYE)
    ended(infer)
    upload = bench.cloudd.connect()
    upload.send(cc.ATTACH, {0: welcome[1], 1: 1, 2: welcome[2]})
    refused(upload, cc.EAUTH)


# ---- frames ----

def garbage(bench):
    r = random.Random(5)
    for size in (1, 11, 12, 13, 100, 5000, 70000):
        infer, _ = bench.hello()
        data = r.randbytes(size)
        if data[:2] == b"CE":
            data = b"XX" + data[2:]
        infer.raw(data)
        if size >= 12:
            refused(infer, cc.EFORMAT)
        else:
            infer.close()


def broken_headers(bench):
    cases = [(cc.header(cc.PING, 4, 0, magic=b"EC"), cc.EFORMAT),
             (cc.header(cc.PING, 4, 0, version=2), cc.EUNSUPPORTED),
             (cc.header(cc.PING, 4, 0, flags=1), cc.EFORMAT),
             (cc.header(cc.PING, 4, 1), cc.EFORMAT),
             (cc.header(cc.PING, 4097, 0), cc.EFORMAT),
             (cc.header(cc.STATES, 10, 65536 + 65), cc.EFORMAT),
             (cc.header(cc.STATES, 10, 0xFFFFFFFF), cc.EFORMAT),
             (cc.header(cc.GENERATE, 10, 4 * 1048576 + 4), cc.EFORMAT),
             (cc.header(cc.GENERATE, 10, 4 * 1048576), cc.ECONTEXT),
             (cc.header(99, 0, 0), cc.EFORMAT),
             (cc.header(cc.TOKEN, 4, 0), cc.EPROTO),
             (cc.header(cc.WELCOME, 4, 0), cc.EPROTO),
             (cc.header(cc.HELLO, 4, 0), cc.EPROTO),
             (cc.header(cc.ATTACH, 4, 0), cc.EPROTO)]
    for data, code in cases:
        infer, _ = bench.hello()
        infer.raw(data)
        refused(infer, code)


def msgpack_bombs(bench):
    bombs = [b"\xdf\xdf\xdf\x0a\x0a", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff",
             b"\x81\x00" + b"\xdd\x7f\xff\xff\xff" * 20, b"\x81\x00" + b"\x91" * 150 + b"\x00",
             b"\x81" * 400, b"\xc6\xff\xff\xff\xff", b"\x81\x00\xc6\xff\xff\xff\xff",
             b"\x81\x00\xdb\xff\xff\xff\xff", b"\x82\x00\x01\x00\x02", b"\x80", b"", b"\x80\x80",
             b"\x81\x00\xd4\x01\x02", b"\x81\x7f\x01", b"\x81\xff\x01", b"\x81\x00\xc0",
             b"\xde\xff\xff" + b"\x00\x00" * 100, b"\x81\xa1x\x01"]
    for bomb in bombs:
        for kind in (cc.PING, cc.OPEN, cc.INFER):
            infer, _ = bench.hello()
            infer.raw(cc.header(kind, len(bomb), 0) + bomb)
            refused(infer, cc.EFORMAT)


def mutated_frames(bench):
    """Frames with flipped bits: whatever happens, only this session is touched."""
    r = random.Random(9)
    good = [cc.frame(cc.OPEN, {0: 1, 1: 5, 2: "f32", 3: 64}),
            cc.frame(cc.STATES, {0: 1, 1: 5, 2: 0, 3: 0, 4: 0, 5: 1}, b"\0" * 4 * D),
            cc.frame(cc.INFER, {0: 1, 1: 5, 2: 0, 3: 0, 5: 0, 6: 4, 7: True}),
            cc.frame(cc.TRUNCATE, {0: 1, 1: 5, 2: 1, 3: 0}),
            cc.frame(cc.CANCEL, {0: 1, 1: 5, 2: 0}), cc.frame(cc.CLOSE, {0: 1, 1: 5})]
    for _ in range(60):
        infer, _ = bench.hello()
        data = bytearray(b"".join(good))
        for _ in range(r.randint(1, 6)):
            data[r.randrange(len(data))] ^= 1 << r.randrange(8)
        try:
            infer.raw(bytes(data))
            infer.send(cc.BYE)
        except (ConnectionError, ssl.SSLError):
            pass
        infer.close()


# ---- sequences ----

def states_past_credit(bench):
    for pos, n, code in ((60, 5, cc.EPROTO), (WINDOW, 1, cc.EPROTO), (0, WINDOW + 1, cc.EPROTO),
                         (0x7FFFFFFF, 1, None), (0xFFFFFFFF, 1, None), (0xFFFFFFF0, 200, None)):
        s = bench.session()
        limit = s.open(1)
        assert limit == WINDOW
        s.states(rows(n), pos=pos)
        refused(s.infer, code)
        ended(s.upload)


def states_of_wrong_size(bench):
    for n, size in ((1, 4 * D - 1), (1, 4 * D + 1), (2, 4 * D), (0, 0), (0, 4 * D),
                    (0xFFFFFFFF, 4 * D), (0x1000001, 4 * D)):
        s = bench.session()
        s.open(1)
        s.upload.send(cc.STATES, {0: 1, 1: 1, 2: 0, 3: 0, 4: 0, 5: n}, b"\0" * size)
        refused(s.infer, cc.EFORMAT)
        ended(s.upload)


def states_not_finite(bench):
    for codec, payload in (("f32", struct.pack("<%df" % D, *([0.0] * (D - 1) + [float("nan")]))),
                           ("f32", struct.pack("<%df" % D, *([float("inf")] + [0.0] * (D - 1)))),
                           ("f16", struct.pack("<i", 0) + b"\x00\x7c" * D),
                           ("f16", struct.pack("<i", 161) + b"\0\0" * D),
                           ("f16", struct.pack("<i", -0x80000000) + b"\0\0" * D)):
        s = bench.session()
        s.open(1, codec=codec)
        s.upload.send(cc.STATES, {0: 1, 1: 1, 2: 0, 3: 0, 4: 0, 5: 1}, payload)
        refused(s.infer, cc.EFORMAT)
        ended(s.upload)


def sequence_error(session, code, seq=1):
    """ERROR for the sequence; the session lives."""
    while True:
        kind, fields, _ = session.infer.expect(cc.ERROR, cc.CREDIT, cc.TOKEN)
        if kind == cc.ERROR:
            break
    assert fields[0] == code and fields[2] == seq, fields
    session.infer.send(cc.PING, {0: 5})
    session.infer.expect(cc.PONG)


def sequences_that_break_a_rule(bench):
    s = bench.session()
    s.open(1)
    s.states(rows(3), pos=5)  # a hole
    sequence_error(s, cc.EGAP)
    s.open(2)
    s.ask(300, seq=2)  # past max_pos
    sequence_error(s, cc.ECONTEXT, 2)
    s.open(3)
    s.states(rows(4), seq=3)
    s.ask(3, seq=3)
    s.token()
    s.ask(1, seq=3)  # computed already
    sequence_error(s, cc.EINVAL, 3)
    s.open(4)
    s.truncate(2, 0, seq=4)  # skips a branch
    sequence_error(s, cc.EPROTO, 4)
    s.open(5)
    s.ask(3, seq=5, branch=9)  # a branch that nobody announced
    sequence_error(s, cc.EPROTO, 5)
    s.open(6)
    for pos in range(65):
        s.ask(pos, seq=6)
    sequence_error(s, cc.EQUOTA, 6)
    s.open(7)
    for turn in range(2):  # rows of a branch that is never announced: one window is kept
        s.states(rows(WINDOW), seq=7, branch=3 + turn)
    s.states(rows(3), seq=7)
    s.ask(2, seq=7)
    s.token()
    s.close_seq(7)
    s.open(8)
    s.ask(5, seq=8, deadline_ms=50)  # rows never come
    sequence_error(s, cc.ETIMEOUT, 8)
    s.infer.send(cc.OPEN, {0: 1, 1: 9, 2: "f32", 3: 100000})
    sequence_error(s, cc.ECONTEXT, 9)
    s.infer.send(cc.OPEN, {0: 1, 1: 10, 2: "i8", 3: 10})
    sequence_error(s, cc.EUNSUPPORTED, 10)
    s.open(11)
    s.infer.send(cc.GENERATE, {0: 1, 1: 11, 2: 4, 3: 0.0, 4: 0, 5: 1.0, 6: 0, 8: 0},
                 struct.pack("<2I", 1, 2))
    sequence_error(s, cc.EUNSUPPORTED, 11)
    s.bye()


def too_many_sequences(bench):
    s = bench.session()
    for seq in range(1, s.welcome[4] + 1):
        s.open(seq)
    s.infer.send(cc.OPEN, {0: 1, 1: 99, 2: "f32", 3: 10})
    sequence_error(s, cc.EQUOTA, 99)
    s.bye()


def sequence_opened_twice(bench):
    s = bench.session()
    s.open(1)
    s.infer.send(cc.OPEN, {0: 1, 1: 1, 2: "f32", 3: 10})
    refused(s.infer, cc.EPROTO)
    ended(s.upload)


def frames_of_nobody(bench):
    """Unknown sequences and other epochs are dropped without a word."""
    s = bench.session()
    s.open(1)
    s.states(rows(2), seq=44)
    s.ask(1, seq=44)
    s.truncate(1, 0, seq=44)
    s.close_seq(44)
    s.infer.send(cc.INFER, {0: 9, 1: 1, 2: 0, 3: 0, 5: 0, 6: 0})
    s.infer.send(cc.CANCEL, {0: 1, 1: 1, 2: 3})
    s.infer.send(cc.PING, {0: 1})
    s.infer.expect(cc.PONG)
    s.bye()


def prompt_longer_than_the_window(bench):
    s = bench.session()
    limit, sent, data = s.open(1), 0, rows(200)
    while sent < len(data):
        n = min(limit, len(data)) - sent
        if n > 0:
            s.states(data[sent:sent + min(n, 16)], pos=sent)
            sent += min(n, 16)
        else:
            limit = s.infer.expect(cc.CREDIT)[1][2]
    s.ask(len(data) - 1)
    assert s.token()[3] == len(data) - 1
    s.bye()


def one_record_then_silence(bench):
    """16,000 bytes in one TLS record are processed at once, not at the next one."""
    s = bench.session()
    s.open(1)
    payload = b"".join(struct.pack("<%df" % D, *row) for row in rows(60))
    states = cc.frame(cc.STATES, {0: 1, 1: 1, 2: 0, 3: 0, 4: 0, 5: 60}, payload)
    ask = cc.frame(cc.INFER, {0: 1, 1: 1, 2: 0, 3: 59, 5: 0, 6: 0})
    ping = cc.frame(cc.PING, {0: 3})
    n = (16000 - len(states) - len(ask)) // len(ping)
    s.infer.raw(states + ask + ping * n)
    begin = time.monotonic()
    pongs = 0
    while pongs < n:
        pongs += s.infer.expect(cc.PONG, cc.CREDIT, cc.TOKEN)[0] == cc.PONG
    took = time.monotonic() - begin
    assert took < (1.0 if bench.cloudd.sanitized else 0.1), "%.3f s" % took
    s.bye()


def slow_loris(bench):
    """A first frame that drips in is cut off by the handshake deadline (2 s here)."""
    channel = bench.cloudd.connect()
    data = cc.frame(cc.HELLO, bench.shape.hello())
    begin = time.monotonic()
    try:
        for i in range(100):
            channel.raw(data[i:i + 1])
            channel.sock.settimeout(0.1)
            try:
                if not channel.sock.recv(1000):
                    break
            except TimeoutError:
                pass
    except (ConnectionError, ssl.SSLError):
        pass
    assert time.monotonic() - begin < 8
    channel.close()
    raw = socket.create_connection(("127.0.0.1", bench.cloudd.port), timeout=20)
    try:
        assert raw.recv(100) == b""  # says nothing: cut off before TLS
    except ConnectionError:
        pass
    raw.close()


def reader_that_stops(bench):
    """PINGs whose PONGs are not read cost a bounded buffer, then the connection."""
    infer, _ = bench.hello()
    infer.sock.settimeout(5)
    ping = cc.frame(cc.PING, {0: 1}) * 500
    try:
        for _ in range(4000):
            infer.raw(ping)
        raise AssertionError("the server buffers without end")
    except (ConnectionError, ssl.SSLError, TimeoutError):
        pass
    infer.close()


def cut_at_every_byte(bench):
    """HELLO, OPEN, STATES and INFER cut off at many places, by FIN and by RST."""
    stream = (cc.frame(cc.HELLO, bench.shape.hello()) +
              cc.frame(cc.OPEN, {0: 1, 1: 1, 2: "f32", 3: 64}) +
              cc.frame(cc.STATES, {0: 1, 1: 1, 2: 0, 3: 0, 4: 0, 5: 1}, b"\0" * 4 * D) +
              cc.frame(cc.INFER, {0: 1, 1: 1, 2: 0, 3: 0, 5: 0, 6: 0}))
    cuts = list(range(0, 14)) + list(range(14, len(stream), 23)) + [len(stream)]
    for i, cut in enumerate(cuts):
        channel = bench.cloudd.connect()
        if cut:
            channel.raw(stream[:cut])
        if i % 2:
            channel.reset()
        else:
            channel.close()


CASES = [no_certificate, certificate_of_another_authority, wrong_alpn, no_alpn, tls_1_2,
         not_tls_at_all, hello_of_another_model, first_frame_is_another,
         attach_with_wrong_secret, attach_with_another_certificate, attach_after_the_session,
         garbage, broken_headers, msgpack_bombs, mutated_frames, states_past_credit,
         states_of_wrong_size, states_not_finite, sequences_that_break_a_rule,
         too_many_sequences, sequence_opened_twice, frames_of_nobody,
         prompt_longer_than_the_window, one_record_then_silence, slow_loris,
         reader_that_stops, cut_at_every_byte]


def wait_for(what, condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def run(bench):
    cloudd = bench.cloudd
    reference = good_answers(bench)
    fds = cloudd.n_fds()
    for case in CASES:
        begin = time.monotonic()
        case(bench)
        assert cloudd.process.poll() is None, "cloudd died"
        print("ok %-36s %.2f s" % (case.__name__, time.monotonic() - begin), flush=True)
    baseline = cloudd.rss_kib()
    assert good_answers(bench) == reference, "answers changed"
    wait_for(lambda: "descriptors: %d, at first %d" % (cloudd.n_fds(), fds),
             lambda: cloudd.n_fds() <= fds)
    if cloudd.sanitized:
        return  # its memory is the sanitizer's
    for case in CASES:  # once more: memory must not grow with abuse
        if case not in (slow_loris, reader_that_stops):
            case(bench)
    wait_for(lambda: "memory: %d KiB, before %d" % (cloudd.rss_kib(), baseline),
             lambda: cloudd.rss_kib() <= baseline * 1.05 + 1024)
    print("ok memory %d KiB after one round, %d after two" % (baseline, cloudd.rss_kib()))


def main():
    with cc.workdir() as workdir:
        model = cc.synth(BUILD, workdir)
        with open(model, "rb") as f:
            fingerprint = hashlib.sha256(f.read()).digest()
        cloudd = cc.Cloudd(BUILD, SOURCE, model, workdir, "layer_from=%d" % LAYER, "threads=1",
                           "window=%d" % WINDOW, "handshake_timeout=2s", "max_output=256K",
                           agents=("agent", "other"))
        try:
            run(Bench(cloudd, cc.Shape(fingerprint, LAYER, LAYERS, D, VOCAB)))
            assert cloudd.stop() == 0
        except BaseException:
            sys.stderr.write(cloudd.log()[-6000:])
            raise
        finally:
            cloudd.process.kill()
            cloudd.process.wait()


if __name__ == "__main__":
    main()
