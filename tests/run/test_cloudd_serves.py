# SPDX-License-Identifier: Apache-2.0
"""A real cloudd serving good agents: the same tokens, bit for bit, alone or among
others, in one piece or many, whatever happens to the neighbours; and its signals.
"""
import hashlib
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cecollm_client as cc  # noqa: E402

BUILD = os.environ.get("CECOLLM_BUILDDIR", ".")
SOURCE = os.environ.get("CECOLLM_SRCDIR", ".")
D, LAYERS, VOCAB = 64, 4, 320


def rows(n, seed):
    r = random.Random(seed)
    return [[r.gauss(0, 1) for _ in range(D)] for _ in range(n)]


def said(token):
    """What must not depend on anything but the rows."""
    return token[3], token[4], token[8], token[5], token[6]


def answers(cloudd, shape, seed, chunk=1000, n_prompt=40, n_decode=6, keep_kv=True):
    """Ask for every position from the prompt's last one on."""
    s = cc.Session(cloudd, shape)
    s.open(1, keep_kv=keep_kv)
    data, out, sent = rows(n_prompt + n_decode, seed), [], 0
    for pos in range(n_prompt - 1, n_prompt + n_decode):
        sent = sent if keep_kv else 0
        while sent <= pos:
            n = min(chunk, pos + 1 - sent)
            s.states(data[sent:sent + n], pos=sent)
            sent += n
        s.ask(pos)
        out.append(said(s.token()))
    s.close_seq(1)
    s.bye()
    return out


def in_pieces(cloudd, shape):
    whole = answers(cloudd, shape, 1)
    for chunk in (1, 7, 32):
        assert answers(cloudd, shape, 1, chunk) == whole, chunk
    assert answers(cloudd, shape, 1, keep_kv=False) == whole


def asked_together(cloudd, shape):
    """Several INFERs answered by one run, and catch-up of skipped positions."""
    alone = answers(cloudd, shape, 2)
    s = cc.Session(cloudd, shape)
    s.open(1)
    for pos in (39, 41, 42, 45):
        s.ask(pos)
    s.states(rows(46, 2))
    got = [said(s.token()) for _ in range(4)]
    assert got == [alone[i] for i in (0, 2, 3, 6)], got
    s.bye()


def among_others(cloudd, shape, disturb=True):
    """Eight agents at once, two cuts of the model, some of them dying."""
    deeper = cc.Shape(shape.fingerprint, 3, LAYERS, D, VOCAB)
    shapes = [deeper if i % 4 == 3 else shape for i in range(8)]
    alone = [answers(cloudd, shapes[i], 10 + i) for i in range(8)]
    together, stop, lost = [None] * 8, threading.Event(), []

    def agent(i):
        together[i] = [answers(cloudd, shapes[i], 10 + i, chunk=5 + i) for _ in range(3)]

    def vandal(i):
        r = random.Random(i)
        while not stop.is_set():
            try:
                s = cc.Session(cloudd, shape)
                s.open(1)
                s.states(rows(60, 99))
                s.ask(59)
                if r.random() < 0.5:
                    s.infer.reset()
                    s.upload.close()
                else:
                    s.upload.reset()
                    s.infer.close()
                lost.append(1)
            except (OSError, cc.Closed):
                pass

    threads = [threading.Thread(target=agent, args=(i,)) for i in range(8)]
    vandals = [threading.Thread(target=vandal, args=(i,)) for i in range(2 if disturb else 0)]
    for t in threads + vandals:
        t.start()
    for t in threads:
        t.join()
    stop.set()
    for t in vandals:
        t.join()
    assert not disturb or lost
    for i in range(8):
        assert together[i] == [alone[i]] * 3, "agent %d: other tokens among others" % i


def generation(cloudd, shape):
    """The same text alone and beside uploads; sampling depends on the seed only."""
    def text(seed, temperature):
        s = cc.Session(cloudd, shape)
        s.open(1)
        s.infer.send(cc.GENERATE, {0: 1, 1: 1, 2: 12, 3: temperature, 4: 0, 5: 1.0, 6: seed,
                                   8: 0, 9: True}, struct.pack("<6I", 5, 9, 100, 7, 42, 3))
        out = []
        while not out or not out[-1].get(12):
            out.append(s.token())
        s.bye()
        return [(t[3], t[4], t[8]) for t in out]

    greedy = text(1, 0.0)
    assert text(2, 0.0) == greedy
    assert [t[0] for t in greedy] == list(range(5, 5 + len(greedy)))
    assert text(3, 1.0) == text(3, 1.0)
    assert text(3, 1.0) != text(4, 1.0)


def half_precision(cloudd, shape):
    """f16 with a power-of-two scale: the same rows when they are exact in it."""
    r = random.Random(3)
    data = [[r.randint(-1000, 1000) / 64.0 for _ in range(D)] for _ in range(5)]
    got = []
    for codec in ("f32", "f16"):
        s = cc.Session(cloudd, shape)
        s.open(1, codec=codec)
        if codec == "f32":
            s.states(data)
        else:
            payload = b"".join(struct.pack("<i%de" % D, 0, *row) for row in data)
            s.upload.send(cc.STATES, {0: 1, 1: 1, 2: 0, 3: 0, 4: 0, 5: 5}, payload)
        s.ask(4)
        got.append(said(s.token()))
        s.bye()
    assert got[0] == got[1], got


def signals(cloudd, shape):
    for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGHUP):
        cloudd.process.send_signal(number)
    answers(cloudd, shape, 1)


def drain(cloudd, shape):
    """SIGTERM: GOAWAY, nothing new, the running sequence finishes, exit 0."""
    s = cc.Session(cloudd, shape)
    s.open(1)
    data = rows(10, 5)
    s.states(data[:5])
    cloudd.process.send_signal(signal.SIGTERM)
    assert s.infer.expect(cc.GOAWAY)[1][0] == 30000
    s.infer.send(cc.OPEN, {0: 1, 1: 2, 2: "f32", 3: 10})
    assert s.infer.expect(cc.ERROR)[1][0] == cc.ECLOSED
    s.states(data[5:], pos=5)
    s.ask(9)
    assert s.token()[3] == 9
    begin = time.monotonic()
    s.close_seq(1)
    assert [k for k, _, _ in s.infer.at_end()] == [cc.BYE]
    s.infer.close()
    s.upload.at_end()
    s.upload.close()
    assert cloudd.process.wait(30) == 0
    assert time.monotonic() - begin < 10
    try:
        cloudd.connect()
        raise AssertionError("it still accepts")
    except OSError:
        pass


def settings(cloudd, model, workdir):
    """What is wrong is said in one line."""
    program = os.path.join(BUILD, "cecollm-cloudd")
    base = ["--set", "ca=" + cloudd.cert("ca.crt"), "--set", "key=" + cloudd.cert("cloudd.key"),
            "--set", "listen=127.0.0.1:0", "--set", "metrics_listen=off"]
    good = base + ["--set", "cert=" + cloudd.cert("cloudd.crt"), "--set", "model=" + model]
    broken = os.path.join(workdir, "broken.gguf")
    with open(broken, "wb") as f:
        f.write(b"GGUF" + b"\xff" * 100)
    cases = [(base, "model"), (good + ["--set", "cert=" + cloudd.cert("ca.crt")], "key"),
             (good + ["--set", "model=" + broken], "broken.gguf"),
             (good + ["--set", "model=/none"], "/none"), (good + ["--set", "windw=3"], "windw"),
             (good + ["-c", "/none.conf"], "/none.conf"), (good, "layer_from"),
             (good + ["--set", "layer_from=4"], "layer_from"),
             (good + ["--set", "layer_from=2", "--set", "listen=nonsense"], "listen"),
             (good + ["--set", "layer_from=2", "--set", "listen=127.0.0.1:%d" % cloudd.port],
              "listen"),
             (good + ["--set", "layer_from=2", "--set", "cpu=z80"], "z80")]
    for arguments, word in cases:
        done = subprocess.run([program] + arguments, capture_output=True, text=True, timeout=60)
        last = done.stderr.strip().split("\n")[-1]
        assert done.returncode == 1 and last.startswith("cecollm-cloudd: ") and word in last, \
            (arguments, done.returncode, done.stderr)
    for arguments, status in ((["--check-config"] + good + ["--set", "layer_from=2"], 0), (["--help"], 0),
                              (["--version"], 0), (["--print-config"], 0), (["--nonsense"], 2),
                              (["word"], 2)):
        done = subprocess.run([program] + arguments, capture_output=True, timeout=60)
        assert done.returncode == status, (arguments, done)


def main():
    with cc.workdir() as workdir:
        model = cc.synth(BUILD, workdir)
        with open(model, "rb") as f:
            shape = cc.Shape(hashlib.sha256(f.read()).digest(), 2, LAYERS, D, VOCAB)
        cloudd = cc.Cloudd(BUILD, SOURCE, model, workdir, "layer_from=2", "threads=2",
                           "whole_model=yes", "step_rows=24")
        try:
            for case in (in_pieces, asked_together, among_others, generation, half_precision,
                         signals):
                begin = time.monotonic()
                case(cloudd, shape)
                print("ok %-20s %.2f s" % (case.__name__, time.monotonic() - begin), flush=True)
            settings(cloudd, model, workdir)
            print("ok settings")
            drain(cloudd, shape)
            print("ok drain")
        except BaseException:
            sys.stderr.write(cloudd.log()[-6000:])
            raise
        finally:
            cloudd.process.kill()
            cloudd.process.wait()


if __name__ == "__main__":
    main()
