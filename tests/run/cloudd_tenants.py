# SPDX-License-Identifier: Apache-2.0
"""Tenants of a real cloudd over real TLS: who is let in as whom, what each limit says
and when it lets go, rates that slow and never cut, and reloads in the middle of it.
"""
import hashlib
import os
import random
import re
import signal
import ssl
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cecollm_client as cc  # noqa: E402

BUILD = os.environ.get("CECOLLM_BUILDDIR", ".")
SOURCE = os.environ.get("CECOLLM_SRCDIR", ".")
PROGRAM = os.path.join(BUILD, "cecollm-cloudd")
D, LAYERS, VOCAB, WINDOW = 64, 4, 320, 64
NAMES = ["edge1.acme", "edge2.acme", "pinned", "slow", "small", "leaver", "nobody"]


def make_token():
    done = subprocess.run([PROGRAM, "--make-token"], capture_output=True, text=True, check=True)
    token, line = done.stdout.strip(), done.stderr.strip()
    assert len(token) == 43 and "\n" not in token
    assert line == "token_sha256 = " + hashlib.sha256(token.encode()).hexdigest(), line
    return token, line


def pin_of(cert):
    """As openssl prints it, step by step."""
    key = subprocess.run(["openssl", "x509", "-in", cert, "-pubkey", "-noout"],
                         capture_output=True, check=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "der"], input=key,
                         capture_output=True, check=True).stdout
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-binary"], input=der,
                            capture_output=True, check=True).stdout
    text = subprocess.run(["openssl", "base64"], input=digest, capture_output=True,
                          check=True).stdout
    return "sha256:" + text.decode().strip()


def rows(n, seed=1):
    r = random.Random(seed)
    return [[r.gauss(0, 1) for _ in range(D)] for _ in range(n)]


class World:
    def __init__(self, workdir):
        self.workdir = workdir
        self.file = os.path.join(workdir, "tenants.conf")
        self.one, self.line_one = make_token()
        self.two, self.line_two = make_token()
        self.model = cc.synth(BUILD, workdir)
        with open(self.model, "rb") as f:
            self.shape = cc.Shape(hashlib.sha256(f.read()).digest(), 2, LAYERS, D, VOCAB)
        self.write(self.sections())

    def sections(self, **more):
        text = {
            "acme": "san = edge*.acme\nmax_sessions = 2\nmax_seqs = 3",
            "tokens": "require = token\n%s\n%s" % (self.line_one, self.line_two),
            # a row is 256 bytes; 20 rows of f32 make a sequence of 20 positions
            "small": "san = small\nhidden_state_bytes = 10K",
            "slow": "san = slow\nrows_per_second = 100\nburst = 500ms",
            "leaver": "san = leaver",
        }
        text.update(more)
        return text

    def write(self, sections):
        with open(self.file, "w") as f:
            for name, body in sections.items():
                if body:
                    f.write("[tenant %s]\n%s\n" % (name, body))

    def start(self):
        self.cloudd = cc.Cloudd(BUILD, SOURCE, self.model, self.workdir, "layer_from=2",
                                "threads=1", "window=%d" % WINDOW, "tenants=" + self.file,
                                "client_certs=optional", "whole_model=yes",
                                "idle_timeout=20s", agents=NAMES)
        return self.cloudd

    def reload(self, word="reloaded"):
        n = self.cloudd.log().count(word)
        self.cloudd.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while self.cloudd.log().count(word) == n:
            assert time.monotonic() < deadline, self.cloudd.log()[-2000:]
            time.sleep(0.02)

    def hello(self, agent, **changes):
        channel = self.cloudd.connect(self.cloudd.context(agent=agent))
        channel.send(cc.HELLO, self.shape.hello(**changes))
        return channel

    def session(self, agent, **changes):
        return cc.Session(self.cloudd, self.shape, upload=changes.pop("upload", True),
                          context=self.cloudd.context(agent=agent), **changes)

    def refused(self, agent, code, word, **changes):
        """The ERROR that answers this HELLO; its retry_ms."""
        channel = self.hello(agent, **changes)
        kind, fields, _ = channel.expect(cc.ERROR)
        assert fields[0] == code and word in fields[1] and 2 not in fields, fields
        channel.at_end()
        channel.close()
        return fields.get(3, 0)

    def tenant_of_last(self):
        line = [x for x in self.cloudd.log().split("\n") if " begun" in x][-1]
        return line.split("tenant=")[1].split()[0]


def who(w):
    """SAN, key and token to tenant; and everybody else is refused."""
    for agent, token, tenant in (("edge1.acme", None, "acme"), ("edge2.acme", None, "acme"),
                                 (None, w.one, "tokens"), (None, w.two, "tokens"),
                                 ("nobody", w.one, "tokens")):
        changes = {"token": token.encode()} if token else {}
        s = w.session(agent, upload=True, **changes)
        assert w.tenant_of_last() == tenant, (agent, w.tenant_of_last())
        s.open(1)
        s.states(rows(4))
        s.ask(3)
        s.token()
        s.bye()
    wrong = w.one[:-1] + ("A" if w.one[-1] != "A" else "B")
    assert w.refused(None, cc.EAUTH, "token is not known", token=wrong.encode()) == 0
    w.refused("edge1.acme", cc.EAUTH, "token is not known", token=wrong.encode())
    w.refused("edge1.acme", cc.EAUTH, "tenant acme", token=w.one.encode())
    w.refused(None, cc.EAUTH, "neither a certificate nor a token")
    w.refused("nobody", cc.EAUTH, "no tenant has this certificate")
    w.refused(None, cc.EFORMAT, "token", token=b"x" * 255 + b"y" * 200)
    # Nothing about the model is said to strangers.
    w.refused("nobody", cc.EAUTH, "no tenant", fingerprint=bytes(32))


def foreign_certificates(w):
    """Optional is not unchecked: a certificate of another authority fails in TLS."""
    other = os.path.join(w.workdir, "other")
    subprocess.run(["sh", os.path.join(SOURCE, "build-aux/dev-certs.sh"), other,
                    "--agent", "edge1.acme"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    context = w.cloudd.context(agent=None)
    context.load_cert_chain(os.path.join(other, "edge1.acme.crt"),
                            os.path.join(other, "edge1.acme.key"))
    try:
        channel = w.cloudd.connect(context)
        channel.send(cc.HELLO, w.shape.hello(token=w.one.encode()))
        frames = channel.at_end()
    except (ssl.SSLError, ConnectionError, cc.Closed):
        return
    assert not frames, frames


def pins(w):
    """A pin goes before every name, and a reload brings it."""
    w.write(w.sections(pinned="key_pin = " + pin_of(w.cloudd.cert("pinned.crt")),
                       pinned2="key_pin = " + pin_of(w.cloudd.cert("edge2.acme.crt"))))
    w.reload()
    for agent, tenant in (("pinned", "pinned"), ("edge2.acme", "pinned2"),
                          ("edge1.acme", "acme")):
        s = w.session(agent, upload=False)
        assert w.tenant_of_last() == tenant
        s.bye()
    w.write(w.sections())
    w.reload()
    w.refused("pinned", cc.EAUTH, "no tenant has this certificate")


def attach_of_another(w):
    """The upload channel must be of the same certificate, and none is not any."""
    s = w.session("edge1.acme", upload=False)
    for agent in ("edge2.acme", None):
        channel = w.cloudd.connect(w.cloudd.context(agent=agent))
        channel.send(cc.ATTACH, {0: s.welcome[1], 1: 1, 2: s.welcome[2]})
        assert channel.expect(cc.ERROR)[1][0] == cc.EAUTH
        channel.at_end()
    s.bye()


def counted_limits(w):
    """max_sessions, max_seqs, hidden_state_bytes: named, with a time, and they let go."""
    a, b = w.session("edge1.acme"), w.session("edge2.acme")
    retry = w.refused("edge1.acme", cc.EQUOTA, "tenant acme: max_sessions = 2")
    assert 1000 <= retry < 2000, retry
    w.session("leaver", upload=False).bye()  # others do not notice
    a.open(1)
    a.open(2)
    b.open(1)
    b.infer.send(cc.OPEN, {0: 1, 1: 2, 2: "f32", 3: 10})
    _, fields, _ = b.infer.expect(cc.ERROR)
    assert fields[0] == cc.EQUOTA and fields[2] == 2 and 1000 <= fields[3] < 2000, fields
    assert "tenant acme: max_seqs = 3" in fields[1], fields
    a.close_seq(2)
    a.states(rows(2))  # on the other channel: wait until the CLOSE has been there
    a.ask(1)
    a.token()
    b.open(3)
    a.bye()
    w.session("edge1.acme", upload=False).bye()
    b.bye()
    s = w.session("small")
    s.infer.send(cc.OPEN, {0: 1, 1: 1, 2: "f32", 3: 100})  # the window: 64 rows, 16 K
    _, fields, _ = s.infer.expect(cc.ERROR)
    assert "hidden_state_bytes = 10240" in fields[1] and fields.get(3, 0) == 0, fields
    s.open(2, max_pos=20)
    s.open(3, max_pos=20)
    s.infer.send(cc.OPEN, {0: 1, 1: 4, 2: "f32", 3: 1})
    _, fields, _ = s.infer.expect(cc.ERROR)
    assert "2 open sequences" in fields[1] and fields[3] >= 1000, fields
    s.close_seq(3)
    s.open(5, max_pos=20)
    s.bye()


def rates(w):
    """100 rows a second with half a second's burst: 150 rows take about a second, by
    credit alone; nothing is cut, the upload channel is read, another tenant's not
    touched."""
    s = w.session("slow")
    limit, sent, n, begin = s.open(1, max_pos=200), 0, 150, time.monotonic()
    assert 0 < limit <= 50, limit
    data = rows(n)
    s.ask(n - 1)
    other = w.session("leaver")
    other.open(1)
    while sent < n:
        if sent < min(limit, n):
            s.states(data[sent:min(limit, n)], pos=sent)
            sent = min(limit, n)
        else:
            kind, fields, _ = s.infer.expect(cc.CREDIT)
            assert fields[2] >= limit
            limit = fields[2]
    s.token()
    took = time.monotonic() - begin
    assert 0.8 < took < 6, took
    other.states(rows(60))
    other.ask(59)
    begin = time.monotonic()
    other.token()
    assert time.monotonic() - begin < 1
    other.bye()
    # GENERATE has no credit: in debt it is refused with the time until it is paid.
    s.infer.send(cc.OPEN, {0: 1, 1: 2, 2: "f32", 3: 200})
    while s.infer.expect(cc.CREDIT)[1][1] != 2:
        pass
    generate = {0: 1, 1: 2, 2: 1, 3: 0.0, 4: 0, 5: 1.0, 6: 1, 8: 0}
    ids = b"".join((1 + i).to_bytes(4, "little") for i in range(190))
    s.infer.send(cc.GENERATE, generate, ids)
    kind, fields, _ = s.infer.expect(cc.ERROR, cc.TOKEN, cc.CREDIT)
    while kind == cc.CREDIT:
        kind, fields, _ = s.infer.expect(cc.ERROR, cc.TOKEN, cc.CREDIT)
    if kind == cc.TOKEN:
        while not fields.get(12):
            kind, fields, _ = s.infer.expect(cc.TOKEN, cc.CREDIT)
        s.infer.send(cc.OPEN, {0: 1, 1: 3, 2: "f32", 3: 200})
        while s.infer.expect(cc.CREDIT)[1][1] != 3:
            pass
        s.infer.send(cc.GENERATE, dict(generate) | {1: 3}, ids)
        kind, fields, _ = s.infer.expect(cc.ERROR, cc.CREDIT)
        while kind == cc.CREDIT:
            kind, fields, _ = s.infer.expect(cc.ERROR, cc.CREDIT)
    assert fields[0] == cc.EQUOTA and 0 < fields[3] < 3000, fields
    assert "tenant slow: rows_per_second = 100" in fields[1], fields
    s.bye()


def bytes_rate(w):
    """A flood of requests is read at the rate; the connection stands."""
    w.write(w.sections(leaver="san = leaver\nbytes_per_second = 2K\nburst = 500ms"))
    w.reload()
    s = w.session("leaver", upload=False)
    begin = time.monotonic()
    for i in range(200):  # 16 bytes and more each
        s.infer.send(cc.PING, {0: i})
    for i in range(200):
        assert s.infer.expect(cc.PONG)[1][0] == i
    took = time.monotonic() - begin
    assert 0.7 < took < 8, took
    s.bye()
    w.write(w.sections())
    w.reload()


def kv_limit(w):
    """One sequence that needs more is refused by name; two that fit in turn both answer,
    though only one has its pages at a time."""
    w.write(w.sections(small="san = small\nkv_bytes = 1K"))
    w.reload()
    s = w.session("small")
    s.infer.send(cc.OPEN, {0: 1, 1: 1, 2: "f32", 3: 100})
    s.ask(9)
    kind, fields, _ = s.infer.expect(cc.ERROR, cc.CREDIT)
    if kind == cc.CREDIT:
        s.states(rows(10))
        kind, fields, _ = s.infer.expect(cc.ERROR)
    assert fields[0] == cc.EQUOTA and "tenant small: kv_bytes = 1024, but" in fields[1], fields
    page = int(re.search(r"take (\d+) bytes", fields[1])[1])
    w.write(w.sections(small="san = small\nkv_bytes = %d" % page))
    w.reload()
    data = rows(20)
    for seq in (2, 3):
        s.open(seq)
        s.states(data[:10], seq=seq)
        s.ask(9, seq=seq)
        s.token()
    s.ask(10, seq=2)  # its pages went to 3
    kind, fields, _ = s.infer.expect(cc.NEED)
    assert fields[1] == 2 and fields[3] == 0, fields
    s.states(data[:11], seq=2, id=fields[4])
    s.token()
    s.bye()
    w.write(w.sections())
    w.reload()


def reloads(w):
    """A reload adds, changes and removes tenants; the others' sessions go on."""
    stays, leaves = w.session("edge1.acme"), w.session("leaver")
    by_token = w.session(None, token=w.one.encode())
    for s in (stays, leaves, by_token):
        s.open(1)
    w.write(w.sections(leaver=None, new="san = nobody",
                       acme="san = edge*.acme\nmax_sessions = 1",
                       tokens="require = token\n" + w.line_two))
    w.reload()
    for s, word in ((leaves, "tenant leaver is no longer served here"),
                    (by_token, "tenant tokens has withdrawn this token")):
        frames = s.infer.at_end()
        errors = [f for k, f, _ in frames if k == cc.ERROR]
        assert len(errors) == 1 and errors[0][0] == cc.EAUTH and errors[0][1] == word, frames
        assert frames[-1][0] == cc.BYE
        s.upload.at_end()
    w.session("nobody", upload=False).bye()
    w.session(None, upload=False, token=w.two.encode()).bye()
    w.refused(None, cc.EAUTH, "token is not known", token=w.one.encode())
    w.refused("edge2.acme", cc.EQUOTA, "tenant acme: max_sessions = 1")
    # What is wrong changes nothing, and says where.
    with open(w.file, "a") as f:
        f.write("[tenant broken]\nsan = x\nrequire = maybe\n")
    lines = open(w.file).read().count("\n")
    w.reload("reload refused")
    assert "tenants.conf:%d: require: " % lines in w.cloudd.log(), w.cloudd.log()[-1000:]
    w.session("nobody", upload=False).bye()
    stays.states(rows(5))
    stays.ask(4)
    stays.token()
    stays.bye()
    w.write(w.sections())
    w.reload()
    w.session("leaver", upload=False).bye()


def settings(w):
    """Every complaint is one line, at the start and by --check-config."""
    base = [PROGRAM, "--check-config", "--set", "layer_from=2"]
    for setting in ("model=" + w.model, "ca=" + w.cloudd.cert("ca.crt"),
                    "cert=" + w.cloudd.cert("cloudd.crt"), "key=" + w.cloudd.cert("cloudd.key")):
        base += ["--set", setting]
    bad = os.path.join(w.workdir, "bad.conf")
    with open(bad, "w") as f:
        f.write("[tenant a]\n\ntoken_sha256 = nonsense\n")
    for more, word in ((["--set", "tenants=" + bad], "bad.conf:3: token_sha256: "),
                       (["--set", "tenants=/nonexistent"], "/nonexistent"),
                       (["--set", "client_certs=optional"], "needs a tenants file")):
        done = subprocess.run(base + more, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and \
            done.stderr.startswith("command line: ") and word in done.stderr, done
    done = subprocess.run(base + ["--set", "tenants=" + w.file], capture_output=True, timeout=60)
    assert done.returncode == 0, done


def main():
    with cc.workdir() as workdir:
        w = World(workdir)
        cloudd = w.start()
        try:
            for case in (who, foreign_certificates, pins, attach_of_another, counted_limits,
                         rates, bytes_rate, kv_limit, reloads, settings):
                begin = time.monotonic()
                case(w)
                print("ok %-20s %.2f s" % (case.__name__, time.monotonic() - begin), flush=True)
            status = cloudd.stop()
            assert status == 0, status
        except BaseException:
            sys.stderr.write(cloudd.log()[-4000:])
            raise
        finally:
            if cloudd.process.poll() is None:
                cloudd.process.kill()
                cloudd.process.wait()


if __name__ == "__main__":
    main()
