# SPDX-License-Identifier: Apache-2.0
"""Operating a real cloudd: checking a configuration, reloading it, the service manager's
socket and watchdog, sockets handed over, giving up root, stopping.
"""
import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cecollm_client as cc  # noqa: E402

BUILD = os.path.abspath(os.environ.get("CECOLLM_BUILDDIR", "."))
SOURCE = os.path.abspath(os.environ.get("CECOLLM_SRCDIR", "."))
PROGRAM = os.path.join(BUILD, "cecollm-cloudd")
D, LAYERS, VOCAB = 64, 4, 320


def until(what, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, what
        time.sleep(0.03)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def rows(n, seed=1):
    return [[((i * 37 + j * 11 + seed) % 19 - 9) / 9 for j in range(D)] for i in range(n)]


class Place:
    """A folder with certificates, a model and a settings file."""

    def __init__(self, folder):
        self.folder = folder
        self.certs = os.path.join(folder, "certs")
        self.make_certs(self.certs)
        self.model = cc.synth(BUILD, folder)
        with open(self.model, "rb") as f:
            self.shape = cc.Shape(hashlib.sha256(f.read()).digest(), 2, LAYERS, D, VOCAB)
        self.path = os.path.join(folder, "cloud.conf")

    def make_certs(self, folder):
        run("sh", os.path.join(SOURCE, "build-aux/dev-certs.sh"), folder,
            "--agent", "agent", "--agent", "other")

    def cert(self, name):
        return os.path.join(self.certs, name)

    def values(self, **changes):
        values = {"model": self.model, "listen": "127.0.0.1:0", "layer_from": "2",
                  "threads": "1", "metrics_listen": "127.0.0.1:0", "core_dumps": "yes",
                  "port_file": os.path.join(self.folder, "port"),
                  "ca": self.cert("ca.crt"), "cert": self.cert("cloudd.crt"),
                  "key": self.cert("cloudd.key")}
        values.update(changes)
        return values

    def write(self, **changes):
        """A settings file; returns {key: line}."""
        values = self.values(**changes)
        with open(self.path, "w") as f:
            f.write("# settings\n")
            f.writelines("%s = %s\n" % item for item in values.items())
        return {key: i + 2 for i, key in enumerate(values)}


class Cloudd(cc.Cloudd):
    """One that reads the place's settings file; begins to serve, or not yet."""

    def __init__(self, place, wait=True, environment=None, before=None, **popen):
        self.certs, self.workdir = place.certs, place.folder
        self.place = place
        with open(PROGRAM, "rb") as f:
            self.sanitized = re.search(rb"__[at]san_init", f.read()) is not None
        self.log_path = os.path.join(place.folder, "cloudd.log")
        self.port_file = os.path.join(place.folder, "port")
        if os.path.exists(self.port_file):
            os.unlink(self.port_file)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                (before or []) + [PROGRAM, "-c", place.path], stderr=log,
                env=dict(os.environ, **(environment or {})), **popen)
        if wait:
            self.wait()

    def wait(self):
        until(lambda: os.path.exists(self.port_file) or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log()
        with open(self.port_file) as f:
            self.port = int(f.read())

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            sys.stderr.write(self.log()[-6000:])
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def page(self, path, token=None):
        port = until(lambda: re.search(r"metrics address=\S+ port=(\d+)", self.log())).group(1)
        c = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
        try:
            c.request("GET", path, headers={"Authorization": "Bearer " + token} if token else {})
            r = c.getresponse()
            return r.status, r.read().decode()
        finally:
            c.close()

    def reload(self, expect="reloaded changed="):
        """SIGHUP; returns the log lines that it caused."""
        before = len(self.log())
        self.process.send_signal(signal.SIGHUP)
        until(lambda: expect in self.log()[before:])
        time.sleep(0.05)
        return self.log()[before:]


class Notifications:
    """NOTIFY_SOCKET, as the service manager would have it."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "notify")
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)

    def next(self, seconds):
        """One message, or None."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(4096).decode()
        except TimeoutError:
            return None

    def find(self, words, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            text = self.next(max(0.01, deadline - time.monotonic()))
            assert text is not None, "no %s" % words
            if words in text:
                return text

    def watchdogs(self, seconds):
        """How many come in so long."""
        deadline, n = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            n += "WATCHDOG=1" in (self.next(max(0.01, deadline - time.monotonic())) or "")
        return n


# ---- --check-config ----

def check(place, *arguments):
    done = subprocess.run([PROGRAM, "-c", place.path, "--check-config"] + list(arguments),
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr.splitlines()


def check_config(place):
    place.write()
    status, out, problems = check(place)
    assert status == 0 and not problems, problems
    assert re.fullmatch(r"ok: \S+cloud.conf, certificate until 20\S+ \S+ UTC, "
                        r"model \S+synth.gguf: blocks 2 to 3 of 4\n", out), out
    broken = os.path.join(place.folder, "broken.pem")
    with open(broken, "w") as f:
        f.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for changes, key, words in (
            ({"windw": "3"}, "windw", "unknown key"),
            ({"threads": "many"}, "threads", "threads"),
            ({"cert": "/none.crt"}, "cert", "No such file"),
            ({"cert": broken}, "cert", "holds no certificate"),
            ({"ca": broken}, "ca", "holds no CA certificate"),
            ({"key": place.cert("agent.key")}, "key", "is not the key of"),
            ({"crl": broken}, "crl", "holds no revocation list"),
            ({"model": broken}, "model", "broken.pem"),
            ({"layer_from": "7"}, "model", "layer_from = 7"),
            ({"listen": "nonsense"}, "listen", "not host:port"),
            ({"metrics_token": broken}, "metrics_token", "not one line"),
            ({"user": "no such user"}, "user", "there is no such user"),
            ({"cpu": "z80"}, "cpu", "z80"),
            ({"max_seqs": "2"}, "max_seqs_per_session", "is above max_seqs"),
            ({"port_file": "/no/such/port"}, "port_file", "No such file"),
            ({"cert": ""}, "cert", "is not set")):
        lines = place.write(**changes)
        status, out, problems = check(place)
        assert status == 1 and out == "" and len(problems) == 1, (changes, problems)
        assert words in problems[0], (changes, problems)
        if key in lines:
            assert problems[0].startswith("%s:%d: " % (place.path, lines[key])), problems
    # Every problem has its line, and the command line is named as what it is.
    lines = place.write(windw="3", cert="/none.crt", model="/none.gguf", user="no such user")
    status, out, problems = check(place, "--set", "listen=nonsense")
    assert status == 1 and len(problems) == 5, problems
    for key in ("windw", "cert", "model", "user"):
        assert any(p.startswith("%s:%d: " % (place.path, lines[key])) for p in problems), key
    assert any(p.startswith("command line: listen = nonsense") for p in problems), problems
    place.write()
    os.rename(place.path, place.path + ".away")
    status, out, problems = check(place)
    assert status == 1 and "No such file" in problems[0], problems


# ---- SIGHUP ----

def shown_certificate(cloudd):
    channel = cloudd.connect()
    der = channel.sock.getpeercert(binary_form=True)
    channel.close()
    return hashlib.sha256(der).hexdigest()


def works(s, pos):
    s.ask(pos)
    return s.token()[3] == pos


def reload_certificates(place):
    place.write()
    with Cloudd(place) as cloudd:
        first = shown_certificate(cloudd)
        s = cc.Session(cloudd, place.shape)
        s.open()
        s.states(rows(12))
        assert works(s, 3)
        # A new certificate of the same authority: for new connections only.
        for name in ("cloudd.crt", "cloudd.key"):
            os.unlink(place.cert(name))
        place.make_certs(place.certs)
        assert shown_certificate(cloudd) == first
        lines = cloudd.reload()
        assert "changed=none certificate_until=\"20" in lines, lines
        second = shown_certificate(cloudd)
        assert second != first
        assert works(s, 5)
        # Broken files in every way: one line, and nothing changes.
        good = open(place.cert("cloudd.crt")).read()
        for text, words in (("garbage", "holds no certificate"),
                            (open(place.cert("agent.crt")).read(), "is not the key of")):
            with open(place.cert("cloudd.crt"), "w") as f:
                f.write(text)
            lines = cloudd.reload("reload refused")
            assert words in lines and lines.count("\n") == 1, lines
            assert shown_certificate(cloudd) == second
        with open(place.cert("cloudd.crt"), "w") as f:
            f.write(good)
        place.write(max_connections="many")
        lines = cloudd.reload("reload refused")
        assert "cloud.conf:" in lines and "max_connections" in lines, lines
        assert works(s, 7)
        place.write()
        cloudd.reload()
        s.bye()
        assert cloudd.stop() == 0


def revocation_list(place, revoked):
    """Signed by the place's authority."""
    folder = os.path.join(place.folder, "authority")
    os.makedirs(folder, exist_ok=True)
    conf, index = os.path.join(folder, "ca.conf"), os.path.join(folder, "index")
    with open(conf, "w") as f:
        f.write("[ca]\ndefault_ca=d\n[d]\ndatabase=%s\ndefault_md=sha256\n"
                "default_crl_days=3\n" % index)
    open(index, "w").close()
    signer = ["-config", conf, "-cert", place.cert("ca.crt"), "-keyfile", place.cert("ca.key")]
    for name in revoked:
        run("openssl", "ca", *signer, "-revoke", place.cert(name + ".crt"))
    path = os.path.join(place.folder, "revoked.crl")
    run("openssl", "ca", *signer, "-gencrl", "-out", path)
    return path


def admitted(cloudd, agent):
    try:
        channel = cloudd.connect(cloudd.context(agent))
        channel.send(cc.HELLO, cloudd.place.shape.hello())
        kind = channel.read()[0]
        channel.close()
        return kind == cc.WELCOME
    except (cc.Closed, OSError):
        return False


def reload_revocation(place):
    place.write(crl=revocation_list(place, []))
    with Cloudd(place) as cloudd:
        assert admitted(cloudd, "agent") and admitted(cloudd, "other")
        stays = cc.Session(cloudd, place.shape, context=cloudd.context("other"))
        revocation_list(place, ["other"])
        cloudd.reload()
        assert admitted(cloudd, "agent") and not admitted(cloudd, "other")
        stays.open()  # connected before
        place.write(crl=place.cert("ca.crt"))
        assert "holds no revocation list" in cloudd.reload("reload refused")
        assert not admitted(cloudd, "other")
        place.write()
        assert "changed=crl" in cloudd.reload()
        assert admitted(cloudd, "other")
        stays.bye()
        assert cloudd.stop() == 0


def reload_limits(place):
    place.write(max_sessions="1")
    token = os.path.join(place.folder, "token")
    with Cloudd(place) as cloudd:
        first = cc.Session(cloudd, place.shape, upload=False)
        assert first.welcome[11] == 120000
        assert not admitted(cloudd, "other")
        with open(token, "w") as f:
            f.write("a-token-of-some-length\n")
        place.write(max_sessions="3", idle_timeout="1s", node="n:1", metrics_token=token,
                    log_level="debug", threads="2", step_rows="7")
        lines = cloudd.reload("takes a restart")
        assert "changed=node,max_sessions,idle_timeout,metrics_token,log_level " in lines, lines
        assert "warn reload: a change of threads,step_rows takes a restart" in lines, lines
        second = cc.Session(cloudd, place.shape, upload=False,
                            context=cloudd.context("other"))
        assert second.welcome[11] == 1000 and second.welcome[3] == "n:1"
        assert cloudd.page("/metrics")[0] == 401
        assert cloudd.page("/metrics", "a-token-of-some-length")[0] == 200
        # The new patience is the new session's; the old one was promised more.
        assert any(f[0] == cc.ERROR for f in second.infer.at_end(10))
        time.sleep(1)
        first.infer.send(cc.PING, {0: 7})
        first.infer.expect(cc.PONG)
        assert cloudd.page("/readyz")[0] == 200
        assert cloudd.stop() == 0


# ---- the service manager ----

def service(place):
    place.write()
    manager = Notifications(place.folder)
    with Cloudd(place, environment={"NOTIFY_SOCKET": manager.path,
                                    "WATCHDOG_USEC": "900000"}) as cloudd:
        assert "STATUS=" in manager.find("READY=1")
        assert manager.watchdogs(2.0) >= 2
        cloudd.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in manager.find("RELOADING=1")
        manager.find("READY=1")
        manager.find("STATUS=0 sessions", 10)
        cloudd.process.send_signal(signal.SIGTERM)
        manager.find("STOPPING=1")
        assert cloudd.process.wait(20) == 0


def stuck_backend(place):
    """A step longer than stall_timeout: no watchdog until it has ended."""
    cloudd_model, shape = place.model, place.shape
    folder = os.path.join(place.folder, "slow")
    os.makedirs(folder, exist_ok=True)
    place.model = cc.synth(BUILD, folder, "--layers", "6", "--ctx", "2048", "--d-model", "512", "--heads", "8",
                           "--kv-heads", "8", "--d-ff", "2048")
    with open(place.model, "rb") as f:
        place.shape = cc.Shape(hashlib.sha256(f.read()).digest(), 2, 6, 512, VOCAB)
    place.write(stall_timeout="1s", cpu="scalar", packing="off", window="4096",
                step_rows="4096", step_budget_ms="0", eager="never", max_queued="64M")
    manager = Notifications(place.folder)
    try:
        with Cloudd(place, environment={"NOTIFY_SOCKET": manager.path,
                                        "WATCHDOG_USEC": "900000"}) as cloudd:
            manager.find("READY=1")
            assert manager.watchdogs(1.5) >= 1
            s = cc.Session(cloudd, place.shape)
            s.open(max_pos=2048)
            for pos in range(0, 2016, 32):
                s.states([[0.25] * 512] * 32, pos=pos)
            s.ask(2015)
            until(lambda: "the watchdog is not fed" in cloudd.log(), 60)
            while manager.next(0.05):  # what was sent before
                pass
            assert manager.watchdogs(1.5) == 0
            assert cloudd.page("/healthz")[0] == 200  # the loop turns
            status, why = cloudd.page("/readyz")
            assert status == 503 and "stalled" in why, (status, why)
            assert cloudd.log().count("the watchdog is not fed") == 1
    finally:
        place.model, place.shape = cloudd_model, shape


def activation(place):
    """Sockets from the manager: descriptors 3 and 4."""
    place.write(listen="127.0.0.1:1", metrics_listen="127.0.0.1:1")
    agents, pages = socket.create_server(("127.0.0.1", 0)), \
        socket.create_server(("127.0.0.1", 0))
    # LISTEN_PID is the process that execs the server.
    shell = ["sh", "-c", "exec env LISTEN_PID=$$ \"$@\"", "sh"]
    fds = (agents.fileno(), pages.fileno())

    def take():
        high = [os.dup(fd) for fd in fds]
        high = [fd if fd > 10 else os.dup2(fd, 20 + i) for i, fd in enumerate(high)]
        for i, fd in enumerate(high):
            os.dup2(fd, 3 + i)

    with Cloudd(place, before=shell, preexec_fn=take, close_fds=False, environment={
            "LISTEN_FDS": "2", "LISTEN_FDNAMES": "agents:metrics"}) as cloudd:
        assert cloudd.port == agents.getsockname()[1]
        s = cc.Session(cloudd, place.shape)
        s.bye()
        c = http.client.HTTPConnection(*pages.getsockname(), timeout=20)
        c.request("GET", "/readyz")
        assert c.getresponse().status == 200
        c.close()
        assert cloudd.stop() == 0
    # Not a socket that listens: said, and over.
    with Cloudd(place, wait=False, before=shell, preexec_fn=take, close_fds=False,
                environment={"LISTEN_FDS": "2", "LISTEN_FDNAMES": "agents:agents"}) as cloudd:
        assert cloudd.process.wait(20) == 1
        assert "socket activation: two sockets" in cloudd.log(), cloudd.log()
    agents.close()
    pages.close()


# ---- start and stop ----

def loading(place):
    """Pages and signals while the model is read: here from a pipe that waits."""
    place.write()
    pipe = os.path.join(place.folder, "pipe.exits.gguf")
    os.mkfifo(pipe)
    place.write(exits=pipe)
    with Cloudd(place, wait=False) as cloudd:
        assert cloudd.page("/healthz") == (200, "ok\n")
        status, why = cloudd.page("/readyz")
        assert (status, why) == (503, "loading the model\n"), (status, why)
        assert cloudd.page("/metrics")[0] == 200
        assert cloudd.page("/status.json")[0] == 200
        assert cloudd.page("/sessions")[0] == 200
        cloudd.reload()
        cloudd.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping before the model is loaded" in cloudd.log())
        with open(pipe, "wb"):
            pass
        assert cloudd.process.wait(20) == 0
    os.unlink(pipe)


def drain(place):
    place.write(drain_timeout="20s")
    with Cloudd(place) as cloudd:
        busy, idle = (cc.Session(cloudd, place.shape) for _ in range(2))
        busy.open()
        busy.states(rows(8))
        assert works(busy, 2)
        cloudd.process.send_signal(signal.SIGTERM)
        kind, goaway, _ = busy.infer.expect(cc.GOAWAY)
        assert goaway[0] == 20000 and 1 <= goaway[2] <= 1000, goaway
        frames = idle.infer.at_end()
        assert [f[0] for f in frames] == [cc.GOAWAY, cc.BYE], frames
        assert cloudd.page("/readyz") == (503, "draining: the server stops\n")
        try:
            cloudd.connect().close()
            raise AssertionError("accepted while draining")
        except OSError:
            pass
        assert works(busy, 7)  # it may finish
        busy.close_seq()
        busy.infer.expect(cc.BYE)
        busy.infer.close()
        busy.upload.close()
        assert cloudd.process.wait(20) == 0
    # Time is over; and asked twice.
    for timeout, twice in (("300ms", False), ("1h", True)):
        place.write(drain_timeout=timeout)
        with Cloudd(place) as cloudd:
            s = cc.Session(cloudd, place.shape)
            s.open()
            begin = time.monotonic()
            cloudd.process.send_signal(signal.SIGTERM)
            s.infer.expect(cc.GOAWAY)
            if twice:
                cloudd.process.send_signal(signal.SIGTERM)
            assert s.infer.at_end()[-1][0] == cc.BYE
            assert cloudd.process.wait(20) == 0
            assert time.monotonic() - begin < (2 if twice and not cloudd.sanitized else 15)
            assert twice or "did not end in time" in cloudd.log()


def rights(place):
    """Root becomes somebody else; files are few and that is said."""
    place.write(max_connections="5000")
    limits = ["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"]
    with Cloudd(place, before=limits) as cloudd:
        with open("/proc/%d/limits" % cloudd.process.pid) as f:
            now = int(re.search(r"Max open files +(\d+)", f.read()).group(1))
        assert (now >= 5096) == ("needs 5096 open files" not in cloudd.log()), cloudd.log()
        assert cloudd.stop() == 0
    if os.geteuid() != 0:
        print("# not root: giving up rights is not tested")
        return
    for folder in (place.folder, place.certs):
        os.chmod(folder, 0o755)
    place.write(user="nobody", core_dumps="no", port_file="", listen="127.0.0.1:0")
    with Cloudd(place, wait=False) as cloudd:
        until(lambda: "listening address" in cloudd.log())
        with open("/proc/%d/status" % cloudd.process.pid) as f:
            status = f.read()
        ids = re.search(r"^Uid:\s+(.*)$", status, re.M).group(1).split()
        assert len(set(ids)) == 1 and ids[0] != "0", ids
        assert re.search(r"^CapEff:\s+0+$", status, re.M) and "NoNewPrivs:\t1" in status
        assert os.stat("/proc/%d/environ" % cloudd.process.pid).st_uid == 0  # not dumpable
        # The key is root's: it was read before, and cannot be read again.
        assert "cloudd.key" in cloudd.reload("reload refused")
        assert cloudd.stop() == 0
    os.chmod(place.folder, 0o700)


def main():
    systemd = b"sd_notify" in open(PROGRAM, "rb").read()
    cases = [check_config, reload_certificates, reload_revocation, reload_limits, loading, drain,
             rights] + ([service, stuck_backend, activation] if systemd else [])
    with cc.workdir() as folder:
        place = Place(folder)
        for case in cases:
            begin = time.monotonic()
            case(place)
            print("ok %-20s %.2f s" % (case.__name__, time.monotonic() - begin), flush=True)
    if not systemd:
        print("# without libsystemd: its part is not tested")


if __name__ == "__main__":
    main()
