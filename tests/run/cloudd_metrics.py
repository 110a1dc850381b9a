# SPDX-License-Identifier: Apache-2.0
"""The pages for operators of a real cloudd: figures that agree with what was done,
and a listener that stands against strangers.
"""
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cecollm_client as cc  # noqa: E402

BUILD = os.environ.get("CECOLLM_BUILDDIR", ".")
SOURCE = os.environ.get("CECOLLM_SRCDIR", ".")
D, LAYERS, VOCAB = 64, 4, 320
TOKEN = "a-token-of-32-characters-or-more"
N_CONNECTIONS = 6


class Pages:
    """The metrics listener of a cloudd."""

    def __init__(self, cloudd, token=None):
        self.token = token
        line = re.search(r"metrics address=(\S+) port=(\d+)", cloudd.log())
        self.address = (line.group(1), int(line.group(2)))

    def ask(self, path, method="GET", headers=None, body=None):
        """(status, headers, text) of one request on a connection of its own."""
        c = http.client.HTTPConnection(*self.address, timeout=20)
        fields = dict(headers or {})
        if self.token and "Authorization" not in fields:
            fields["Authorization"] = "Bearer " + self.token
        try:
            c.request(method, path, body, fields)
            r = c.getresponse()
            return r.status, r.headers, r.read().decode()
        finally:
            c.close()

    def connect(self):
        return socket.create_connection(self.address, timeout=20)

    def scrape(self):
        """{'name{labels}': value}; checks the form of every line."""
        status, headers, text = self.ask("/metrics")
        assert status == 200, status
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4"), headers
        assert text.endswith("\n")
        samples, typed = {}, set()
        for line in text.splitlines():
            if line.startswith("#"):
                word = line.split(" ", 3)
                assert word[1] in ("HELP", "TYPE"), line
                if word[1] == "TYPE":
                    assert word[2] not in typed, "twice: " + line
                    typed.add(word[2])
                continue
            m = re.fullmatch(r'([a-z_]+)(\{.*\})? ([-+0-9.e]+|NaN)', line)
            assert m, line
            base = re.sub(r"_(bucket|sum|count)$", "", m.group(1))
            assert m.group(1) in typed or base in typed, line
            key = m.group(1) + (m.group(2) or "")
            assert key not in samples, "twice: " + line
            samples[key] = float(m.group(3))
        return samples

    def json(self, path):
        status, _, text = self.ask(path)
        assert status == 200, (path, status, text)
        return json.loads(text)


def rows(n, seed):
    r = random.Random(seed)
    return [[r.gauss(0, 1) for _ in range(D)] for _ in range(n)]


def until(what, seconds=20):
    """Wait for what() to be true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def difference(before, after, name):
    return after[name] - before.get(name, 0)


# ---- what is counted ----

def counted(cloudd, shape, pages):
    before = pages.scrape()
    s = cc.Session(cloudd, shape)
    for seq in (1, 2):
        s.open(seq)
        s.states(rows(20, seq), seq=seq)
    for pos in (9, 14, 19):
        s.ask(pos, seq=1)
        s.token()
    held = until(lambda: (lambda m: m if m["cecollm_hidden_state_rows"] == 20 else None)(
        pages.scrape()))
    assert held["cecollm_sessions"] == 1 and held["cecollm_connections"] == 2
    assert held["cecollm_sequences"] == 2
    assert held["cecollm_kv_bytes"] > 0 and held["cecollm_kv_pages"] >= 2
    assert held["cecollm_hidden_state_bytes"] >= 20 * D * 4
    assert held['cecollm_tenant_sessions{tenant="agent"}'] == 1
    assert held['cecollm_tenant_sequences{tenant="agent"}'] == 2
    listed = pages.json("/sessions")
    assert listed["count"] == 1 and listed["more"] == 0, listed
    entry = listed["sessions"][0]
    assert entry["tenant"] == "agent" and entry["sequences"] == 2, entry
    assert entry["upload_channel"] is True and entry["peer"].startswith("127.0.0.1:"), entry
    assert entry["received_bytes"] > 40 * D * 4 and 0 <= entry["idle_s"] <= entry["age_s"]
    s.open(3, codec="f16")
    s.infer.send(cc.OPEN, {0: 1, 1: 4, 2: "f99", 3: 16})
    assert s.infer.expect(cc.ERROR)[1][0] == cc.EUNSUPPORTED
    s.bye()
    after = until(lambda: (lambda m: m if m["cecollm_connections"] == 0 and
                           m["cecollm_sequences"] == 0 else None)(pages.scrape()))
    for name, n in (("cecollm_connections_accepted_total", 2),
                    ("cecollm_sessions_begun_total", 1),
                    ("cecollm_requests_total", 3), ("cecollm_tokens_total", 3),
                    ("cecollm_rows_total", 20), ("cecollm_steps_total", 3),
                    ("cecollm_step_failures_total", 0),
                    ("cecollm_handshake_seconds_count", 2),
                    ("cecollm_token_seconds_count", 3), ("cecollm_queue_seconds_count", 3),
                    ("cecollm_step_seconds_count", 3), ("cecollm_step_rows_count", 3),
                    ("cecollm_step_rows_sum", 20),
                    ('cecollm_step_rows_bucket{le="4"}', 0),
                    ('cecollm_step_rows_bucket{le="8"}', 2),
                    ('cecollm_step_rows_bucket{le="16"}', 3),
                    ('cecollm_frames_received_total{type="INFER"}', 3),
                    ('cecollm_frames_received_total{type="STATES"}', 2),
                    ('cecollm_frames_sent_total{type="TOKEN"}', 3),
                    ('cecollm_refusals_total{reason="unsupported"}', 1),
                    ('cecollm_refusals_total{reason="quota"}', 0),
                    ('cecollm_tenant_requests_total{tenant="agent"}', 3),
                    ('cecollm_tenant_tokens_total{tenant="agent"}', 3),
                    ('cecollm_tenant_rows_total{tenant="agent"}', 20)):
        assert difference(before, after, name) == n, (name, n, difference(before, after, name))
    assert difference(before, after, "cecollm_received_bytes_total") >= 40 * D * 4
    assert difference(before, after, "cecollm_token_seconds_sum") > 0
    assert after["cecollm_kv_bytes"] == 0 and after["cecollm_hidden_state_bytes"] == 0
    assert after['cecollm_tenant_sessions{tenant="agent"}'] == 0
    assert after['cecollm_tenant_sequences{tenant="agent"}'] == 0
    assert after["process_resident_memory_bytes"] > 1 << 20
    assert after["process_open_fds"] >= cloudd.n_fds() - 2
    assert abs(after["process_start_time_seconds"] - time.time()) < 600


def generated(cloudd, shape, pages):
    """GENERATE: one request, many tokens."""
    before = pages.scrape()
    s = cc.Session(cloudd, shape, upload=False, whole_model=True)
    s.open(1)
    s.infer.send(cc.GENERATE, {0: 1, 1: 1, 2: 5, 3: 0.0, 4: 0, 5: 1.0, 6: 1, 8: 0, 9: False}, b"".join(
        i.to_bytes(4, "little") for i in range(10)))
    while not s.token().get(12):
        pass
    s.bye()
    after = pages.scrape()
    assert difference(before, after, "cecollm_requests_total") == 1
    n = difference(before, after, "cecollm_tokens_total")
    assert 1 <= n <= 5
    assert difference(before, after, "cecollm_token_seconds_count") == n


def refused(cloudd, shape, pages):
    """Each refusal under its reason."""
    def reasons():
        return {k: v for k, v in pages.scrape().items() if "refusals_total{reason" in k}

    def one(reason, act):
        before = reasons()
        act()
        until(lambda: sum(reasons().values()) > sum(before.values()))
        changed = {k: v - before[k] for k, v in reasons().items() if v != before[k]}
        assert changed == {'cecollm_refusals_total{reason="%s"}' % reason: 1}, changed

    def stranger():
        try:
            cloudd.connect(cloudd.context(agent=None)).read()
        except (cc.Closed, OSError):
            pass

    def other_model():
        c = cloudd.connect()
        c.send(cc.HELLO, shape.hello(fingerprint=bytes(32)))
        c.at_end()

    def broken_frame():
        s = cc.Session(cloudd, shape)
        s.infer.raw(b"XX" + bytes(30))
        s.infer.at_end()

    one("handshake", stranger)
    one("mismatch", other_model)
    one("format", broken_frame)



def many_tenants(cloudd, shape, pages):
    """The names that metrics show are bounded; the rest is counted as one."""
    for name in ("agent", "two", "three", "four"):
        s = cc.Session(cloudd, shape, context=cloudd.context(name))
        s.open(1)
        s.states(rows(4, 7))
        s.ask(3)
        s.token()
        s.bye()
    m = pages.scrape()
    tenants = {k for k in m if k.startswith("cecollm_tenant_rows_total")}
    assert tenants == {'cecollm_tenant_rows_total{tenant="%s"}' % t
                       for t in ("agent", "two", "other")}, tenants
    assert m['cecollm_tenant_rows_total{tenant="other"}'] == 8, tenants


def form(cloudd, shape, pages):
    """promtool finds nothing, and the dashboard asks only for what there is."""
    text = pages.ask("/metrics")[2]
    if shutil.which("promtool"):
        r = subprocess.run(["promtool", "check", "metrics"], input=text, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert r.returncode == 0 and not r.stdout.strip(), r.stdout
    else:
        print("# promtool is not installed: its check was left out")
    there = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    with open(os.path.join(SOURCE, "etc/grafana-cecollm.json")) as f:
        dashboard = json.load(f)
    asked = {name for panel in dashboard["panels"] for target in panel.get("targets", [])
             for name in re.findall(r"\b(?:cecollm|process)_[a-z_]+", target["expr"])}
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) if name not in there else name
             for name in asked}
    missing = {name for name in asked - there if "jemalloc" not in name}  # not in every build
    assert len(asked) > 15 and not missing, missing
    status = pages.json("/status.json")
    assert status["ready"] is True and status["tenants"][0]["name"] == "other", status
    for h in status["histograms"].values():
        assert len(h["upto"]) == len(h["bounds"]) + 1 and h["upto"] == sorted(h["upto"])


# ---- who may ask what ----

def pages_there(cloudd, shape, pages):
    assert pages.ask("/healthz")[::2] == (200, "ok\n")
    assert pages.ask("/readyz")[::2] == (200, "ready\n")
    status, headers, text = pages.ask("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    with open(os.path.join(SOURCE, "server/status.html"), encoding="utf-8") as f:
        assert text == f.read()
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", text), "a network load"
    assert pages.ask("/?x=1")[0] == 200
    for path in ("/nothing", "/metrics/", "/../etc/passwd", "/%00"):
        assert pages.ask(path)[0] == 404, path


def methods(cloudd, shape, pages):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
        status, headers, text = pages.ask("/metrics", method, body="x" if method == "POST" else None)
        assert status == 405 and headers["Allow"] == "GET", (method, status)
        assert (text == "") == (method == "HEAD"), (method, text)


def raw(pages, data, timeout=20):
    """Everything that comes back for these bytes, until the end."""
    with pages.connect() as c:
        c.settimeout(timeout)
        try:
            c.sendall(data)
            c.shutdown(socket.SHUT_WR)
            out = b""
            while True:
                piece = c.recv(65536)
                if not piece:
                    return out
                out += piece
        except ConnectionError:
            return out


def abuse(cloudd, shape, pages):
    get = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
    assert b" 200 " in raw(pages, get + b"Connection: close\r\n\r\n")
    for data in (get + b"X: " + b"a" * 100000 + b"\r\n\r\n",
                 get + b"".join(b"X%d: y\r\n" % i for i in range(20000)) + b"\r\n",
                 b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
                 b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"z" * 4096,
                 b"\x16\x03\x01\x02\x00" + bytes(600), b"\r\n\r\n", b"GET\r\n\r\n", b""):
        answer = raw(pages, data)
        assert b" 200 " not in answer, (data[:40], answer[:200])
    assert pages.ask("/healthz")[0] == 200


def too_many(cloudd, shape, pages):
    """Past the limit the longest silent one goes; a newcomer is always served."""
    idle = [pages.connect() for _ in range(4 * N_CONNECTIONS)]
    try:
        assert pages.ask("/healthz")[0] == 200
        open_now = 0
        for c in idle:
            c.settimeout(0.3)
            try:
                open_now += c.recv(1) != b""
            except TimeoutError:
                open_now += 1
            except ConnectionError:
                pass
        assert open_now <= N_CONNECTIONS, open_now
        assert open_now >= N_CONNECTIONS - 2, open_now
    finally:
        for c in idle:
            c.close()
    n = until(lambda: cloudd.n_fds())
    for _ in range(100):
        assert pages.ask("/healthz")[0] == 200
    time.sleep(0.6)
    assert cloudd.n_fds() <= n + 2, (cloudd.n_fds(), n)


def kept_alive(cloudd, shape, pages):
    """Many scrapes on one connection."""
    c = http.client.HTTPConnection(*pages.address, timeout=20)
    for _ in range(20):
        c.request("GET", "/metrics", headers={"Authorization": "Bearer " + TOKEN})
        assert c.getresponse().read()
    c.close()


def deaf_reader(cloudd, shape, pages):
    """Asks a thousand times and never reads: one page waits for it, no more."""
    before = cloudd.rss_kib()
    with pages.connect() as c:
        c.setblocking(False)
        try:
            for _ in range(1000):
                c.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        except BlockingIOError:
            pass
        time.sleep(0.5)
        assert pages.ask("/healthz")[0] == 200
        assert cloudd.sanitized or cloudd.rss_kib() < before + 8192
    assert pages.ask("/healthz")[0] == 200


def other_hosts(cloudd, shape, pages):
    """A page from elsewhere whose name points at this listener learns nothing."""
    for host, status in (("localhost", 200), ("localhost:9464", 200), ("127.0.0.1:1", 200),
                         ("[::1]:9464", 200), ("evil.example", 403), ("evil.example:9464", 403),
                         ("127.0.0.1.evil.example", 403), ("[::1", 403), ("", 403)):
        assert pages.ask("/metrics", headers={"Host": host})[0] == status, host


def token_wanted(cloudd, shape, pages):
    wrong = [None, "", "Bearer", "Bearer ", "Bearer " + TOKEN[:-1], "Bearer " + TOKEN + "x",
             "Basic " + TOKEN, TOKEN, "Bearer  " + TOKEN]
    stranger = Pages(cloudd)
    for path in ("/metrics", "/sessions", "/status.json"):
        for value in wrong:
            status, headers, _ = stranger.ask(
                path, headers={"Authorization": value} if value is not None else {})
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer", (path, value)
        assert pages.ask(path)[0] == 200
    for path in ("/", "/healthz", "/readyz"):
        assert stranger.ask(path)[0] == 200
    assert TOKEN not in cloudd.log()


def drain(cloudd, shape, pages):
    """Not ready from the moment it stops; still alive, still counting."""
    s = cc.Session(cloudd, shape)
    s.open(1)
    cloudd.process.send_signal(signal.SIGTERM)
    until(lambda: pages.ask("/readyz")[0] == 503)
    assert pages.ask("/readyz")[2].startswith("draining")
    assert pages.ask("/healthz")[0] == 200
    assert pages.scrape()["cecollm_ready"] == 0
    s.close_seq(1)
    assert cloudd.process.wait(60) == 0


def refused_settings(cloudd, model, workdir, pages):
    """What is wrong with the settings is one line that names the key."""
    path = os.path.join(workdir, "bad-token")
    with open(path, "w") as f:
        f.write("short\n")
    base = ["model=" + model, "layer_from=2", "listen=127.0.0.1:0", "ca=" + cloudd.cert("ca.crt"),
            "cert=" + cloudd.cert("cloudd.crt"), "key=" + cloudd.cert("cloudd.key")]
    for settings, named in ((["metrics_listen="], "metrics_listen"),
                            (["metrics_listen=nonsense"], "metrics_listen"),
                            (["metrics_listen=127.0.0.1:%d" % pages.address[1]], "in use"),
                            (["metrics_listen=127.0.0.1:0", "metrics_token=" + path],
                             "16 to 512"),
                            (["metrics_listen=127.0.0.1:0", "metrics_token=/nonexistent"],
                             "metrics_token")):
        command = [os.path.join(BUILD, "cecollm-cloudd")]
        for value in base + settings:
            command += ["--set", value]
        r = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
        last = r.stderr.splitlines()[-1]
        assert r.returncode == 1 and named in last, (settings, r.stderr)


def run(cases, cloudd, shape, pages):
    try:
        for case in cases:
            begin = time.monotonic()
            case(cloudd, shape, pages)
            print("ok %-20s %.2f s" % (case.__name__, time.monotonic() - begin), flush=True)
    except BaseException:
        sys.stderr.write(cloudd.log()[-4000:])
        raise
    finally:
        cloudd.process.kill()
        cloudd.process.wait()


def main():
    with cc.workdir() as workdir:
        model = cc.synth(BUILD, workdir)
        with open(model, "rb") as f:
            shape = cc.Shape(hashlib.sha256(f.read()).digest(), 2, LAYERS, D, VOCAB)
        common = ["layer_from=2", "threads=2", "whole_model=yes",
                  "metrics_connections=%d" % N_CONNECTIONS, "metrics_tenants=2"]
        cloudd = cc.Cloudd(BUILD, SOURCE, model, workdir, "metrics_listen=127.0.0.1:0", *common,
                           agents=("agent", "two", "three", "four"))
        pages = Pages(cloudd)
        assert "can read the metrics" not in cloudd.log()
        refused_settings(cloudd, model, workdir, pages)
        print("ok settings")
        run((pages_there, counted, generated, refused, many_tenants, form, methods, abuse,
             other_hosts, too_many, deaf_reader, drain), cloudd, shape, pages)
        token = os.path.join(workdir, "token")
        with open(token, "w") as f:
            f.write(TOKEN + "\n")
        cloudd = cc.Cloudd(BUILD, SOURCE, model, workdir, "metrics_listen=0.0.0.0:0",
                           "metrics_token=" + token, *common)
        assert "can read the metrics" not in cloudd.log()
        run((token_wanted, kept_alive), cloudd, shape, Pages(cloudd, TOKEN))
        cloudd = cc.Cloudd(BUILD, SOURCE, model, workdir, "metrics_listen=*:0", *common)
        assert "can read the metrics" in cloudd.log()
        cloudd.stop()
        print("ok warning")


if __name__ == "__main__":
    main()
