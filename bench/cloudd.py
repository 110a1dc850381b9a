#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cloudd.py - what cecollm-cloudd does under load, beside what it is held against.

Computing has one core, everything else (the server's I/O, and the swarm that plays the
agents) another; baselines run with the same pinning, in turn with what they are compared
with. bench/METHODOLOGY.md says what each part is. `make bench-cloudd` runs this;
CLOUDD_OPTIONS="--only latency --seconds 5" makes it shorter.
"""
import argparse
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, options, workdir):
        self.o = options
        self.build = Path(options.build).resolve()
        self.dir = Path(workdir)
        self.certs = self.dir / "certs"
        subprocess.run(["sh", HERE.parent / "build-aux/dev-certs.sh", self.certs, "--agent",
                        "agent", "--agent", "greedy"], check=True, stdout=subprocess.DEVNULL)
        self.traffic = self.dir / "traffic.swarm"

    def cert(self, name):
        return str(self.certs / name)

    def tls(self, server=False):
        words = ["--ca", self.cert("ca.crt"), "--cert", self.cert("agent.crt"), "--key",
                 self.cert("agent.key")]
        if server:
            words += ["--server-cert", self.cert("cloudd.crt"), "--server-key",
                      self.cert("cloudd.key")]
        return words

    def run(self, core, *words, fatal=True):
        """A program on one core; its JSON."""
        done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, text=True,
                              preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        if done.returncode != 0 and fatal:
            raise SystemExit("cloudd.py: %s failed" % " ".join(map(str, words[:3])))
        try:
            found = json.loads(done.stdout)
        except ValueError:
            if not fatal:
                return {"status": done.returncode, "right": False}
            raise SystemExit("cloudd.py: %s gave no result" % " ".join(map(str, words[:3])))
        found["status"] = done.returncode
        return found

    def record(self):
        words = [self.build / "cecollm-swarm", "record", self.o.model, "--prompts",
                 self.o.prompts, "--limit", self.o.prompts_limit, "--max-tokens",
                 self.o.max_tokens, "-o", self.traffic]
        words += ["--cut", self.o.cut] if self.o.cut else ["--theta", "1"]
        done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, text=True,
                              check=True)
        return done.stdout.strip().split(": ", 1)[-1]

    def engine(self, active, seconds):
        return self.run(self.o.compute_core, self.build / "cecollm-swarm", "engine",
                        self.o.model, self.traffic, "--active", active, "--seconds", seconds,
                        "--threads", 1, "--json")

    def swarm(self, server, *words, fatal=True):
        return self.run(self.o.io_core, self.build / "cecollm-swarm", "run", self.traffic,
                        "--connect", "127.0.0.1:%d" % server.port, *self.tls(), "--seconds",
                        self.o.seconds, "--watch", server.process.pid, "--patience", 120,
                        "--json", *words,
                        fatal=fatal)


class Server:
    """A cloudd: its main thread, which does I/O, on one core, what computes on another."""

    def __init__(self, bench, *settings):
        port_file = bench.dir / "port"
        port_file.unlink(missing_ok=True)
        self.log_path = bench.dir / "cloudd.log"
        values = ["model=" + bench.o.model, "listen=127.0.0.1:0", "port_file=%s" % port_file,
                  "ca=" + bench.cert("ca.crt"), "cert=" + bench.cert("cloudd.crt"),
                  "key=" + bench.cert("cloudd.key"), "metrics_listen=off", "threads=1",
                  "max_connections=50000", "max_connections_per_address=50000",
                  "max_sessions=25000", "max_seqs=1024", "log_level=warn"]
        if bench.o.cut:
            values.append("layer_from=%d" % bench.o.cut)
        command = [str(bench.build / "cecollm-cloudd")]
        for value in values + list(settings) + bench.o.set:
            command += ["--set", value]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        deadline = time.monotonic() + 120
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("cloudd.py: cloudd did not start:\n" +
                                 self.log_path.read_text(errors="replace")[-2000:])
            time.sleep(0.05)
        self.port = int(port_file.read_text())
        self.pin(bench.o.compute_core, bench.o.io_core)

    def pin(self, compute, io):
        for tid in map(int, os.listdir("/proc/%d/task" % self.process.pid)):
            name = Path("/proc/%d/task/%d/comm" % (self.process.pid, tid)).read_text()
            is_io = tid == self.process.pid or name.startswith(("io", "cecollm-io"))
            os.sched_setaffinity(tid, {io if is_io else compute})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


MIB = 1024.0 * 1024.0


def mean(*values):
    return sum(values) / len(values)


def rate(found):
    return found["polite"]["tokens_per_second"]


# ---- the parts: each returns its figures; "met" says whether the target is ----

def idle(b):
    """Many idle sessions: what they hold, and what they cost those at work."""
    n, active = b.o.sessions, 50
    with Server(b, "idle_timeout=10min") as server:
        work = ["--active", active, "--sources", 40]
        alone = [b.swarm(server, "--sessions", active, *work)]
        among = b.swarm(server, "--sessions", n + active, *work)
        alone.append(b.swarm(server, "--sessions", active, *work))
    held = among["server"]["connected"]["rss_bytes"] - among["server"]["start"]["rss_bytes"]
    loss = 100 * (1 - rate(among) / mean(*map(rate, alone)))
    return {"sessions": n, "active": active, "connect_ms": among["connect_ms"],
            "held_mib": held / MIB, "held_kib_per_session": held / 1024 / n,
            "tokens_per_second_alone": list(map(rate, alone)),
            "tokens_per_second_among": rate(among), "loss_percent": loss,
            "target": "<= 256 MiB for 10,000, <= 5 % loss",
            "met": held / MIB <= 256 * max(n, 1) / 10000 and loss <= 5}


def batch(b):
    """64 active sequences against the bare engine."""
    active = 64
    engine = [b.engine(active, b.o.seconds)]
    with Server(b) as server:
        found = b.swarm(server, "--sessions", active, "--warm-up", 2)
    engine.append(b.engine(active, b.o.seconds))
    bare = mean(*(e["tokens_per_second"] for e in engine))
    return {"active": active, "tokens_per_second": rate(found),
            "rows_per_second": found["polite"]["rows_per_second"],
            "engine_tokens_per_second": [e["tokens_per_second"] for e in engine],
            "engine_rows_per_second": [e["rows_per_second"] for e in engine],
            "rows_per_token": found["polite"]["rows"] / found["polite"]["tokens"],
            "engine_rows_per_token": [e["rows"] / e["tokens"] for e in engine],
            "latency_ms": found["polite"]["latency_ms"], "ratio": rate(found) / bare,
            "target": ">= 0.85", "met": rate(found) / bare >= 0.85}


def latency(b):
    """An idle server and one ready token, against TLS and two eventfds."""
    def baseline():
        return b.run(b.o.io_core, b.build / "bench/bench_pingpong", *b.tls(True),
                     "--seconds", b.o.seconds, "--d-model", b.o.d_model, "--io-core",
                     b.o.io_core, "--compute-core", b.o.compute_core, "--json")

    before = baseline()
    with Server(b) as server:
        found = b.swarm(server, "--sessions", 1, "--think", 2)
    after = baseline()
    times = found["polite"]["beyond_compute_one_row_ms"]
    p50 = times["p50"] / mean(before["p50"], after["p50"])
    p99 = times["p99"] / mean(before["p99"], after["p99"])
    return {"beyond_compute_ms": times, "ping_pong_ms": [before, after], "ratio_p50": p50,
            "ratio_p99": p99, "target": "p50 <= 1.5 x, p99 <= 4 x",
            "met": p50 <= 1.5 and p99 <= 4}


def handshakes(b):
    """Mutual handshakes for a second of the server's CPU, against OpenSSL alone."""
    with Server(b) as server:
        found = b.run(b.o.io_core, b.build / "bench/bench_handshakes", *b.tls(True), "--port",
                      server.port, "--pid", server.process.pid, "--seconds", b.o.seconds,
                      "--client-core", b.o.io_core, "--server-core", b.o.compute_core,
                      "--json")
    found.update(target=">= 0.8", met=found["ratio"] >= 0.8)
    return found


def step_budget_ms(b):
    """The server's step budget, when it has such a key."""
    text = subprocess.run([str(b.build / "cecollm-cloudd"), "--print-config"],
                          stdout=subprocess.PIPE, text=True, check=True).stdout
    for value in [line.lstrip("#").strip() for line in text.splitlines()] + b.o.set:
        key, _, number = value.partition("=")
        if key.strip() == "step_budget_ms":
            return float(number.strip().rstrip("ms"))
        if key.strip() == "step_budget":
            return float(number.strip().rstrip("ms"))
    return None


def greedy(b):
    """A tenant that asks for ten times as much, beside a polite one."""
    work = ["--sessions", 4, "--think", b.o.think]
    budget = step_budget_ms(b)
    with Server(b, *b.o.greedy_set) as server:
        alone = b.swarm(server, *work)
        beside = b.swarm(server, *work, "--scenario", "greedy", "--others", 40,
                         "--greedy-cert", b.cert("greedy.crt"), "--greedy-key",
                         b.cert("greedy.key"))
    lone, p99 = (f["polite"]["latency_ms"]["p99"] for f in (alone, beside))
    return {"alone_ms": alone["polite"]["latency_ms"],
            "beside_ms": beside["polite"]["latency_ms"],
            "greedy_ms": beside["others"]["latency_ms"],
            "greedy_tokens_per_second": beside["others"]["tokens_per_second"],
            "greedy_refused": beside["others"]["refused"], "step_budget_ms": budget,
            "target": "p99 <= alone + 2 x step_budget_ms",
            "met": budget is not None and p99 <= lone + 2 * budget}


class Metrics:
    """A server's /metrics, read ten times a second while something runs."""

    def __init__(self, port):
        self.url = "http://127.0.0.1:%d/metrics" % port
        self.peaks, self.last, self.over = {}, {}, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def read(self):
        found = {}
        with urllib.request.urlopen(self.url, timeout=5) as page:
            for line in page.read().decode().splitlines():
                name, _, value = line.rpartition(" ")
                if name and not line.startswith("#"):
                    name = name.split("{")[0]
                    found[name] = found.get(name, 0) + float(value)
        return found

    def watch(self):
        while not self.over.wait(0.1):
            try:
                self.last = self.read()
            except OSError:
                continue
            for name, value in self.last.items():
                self.peaks[name] = max(value, self.peaks.get(name, 0))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pressure(b):
    """A quarter of the KV memory that the sessions want."""
    active, port = 64, free_port()
    wanted = b.engine(active, b.o.seconds)["kv_peak_bytes"]
    budget = wanted // 4
    with Server(b, "kv_budget=%d" % budget, "metrics_listen=127.0.0.1:%d" % port) as server, \
            Metrics(port) as metrics:
        found = b.swarm(server, "--sessions", active, fatal=False)
    if "polite" not in found:
        raise SystemExit("cloudd.py: pressure: nothing was counted")
    evicted = sum(v for k, v in metrics.last.items() if "evict" in k)
    kv = max([v for k, v in metrics.peaks.items() if k.endswith("kv_bytes")] or [-1])
    return {"wanted_bytes": wanted, "budget_bytes": budget, "kv_peak_bytes": kv,
            "evicted": evicted, "needs": found["polite"]["needs"],
            "refused": found["polite"]["refused"], "tokens_per_second": rate(found),
            "right": found["right"], "target": "every answer right, never above the budget",
            "met": bool(found["right"] and 0 < kv <= budget and evicted > 0)}


def churn(b):
    """Everything that agents do wrong, over and over; what is left in the end."""
    seconds, rounds = b.o.churn_seconds, []
    scenarios = ["reconnect", "garbage", "slow", "half-open", "greedy", "steady"]
    each = max(2, min(60, seconds // (2 * len(scenarios))))
    saved, b.o.seconds = b.o.seconds, each
    with Server(b, "handshake_timeout=10s", "idle_timeout=10s", "max_output=256K") as server:
        end = time.monotonic() + seconds
        while len(rounds) < 2 or time.monotonic() < end:
            wrong = 0
            for name in scenarios:
                found = b.swarm(server, "--sessions", 60, "--active", 30, "--think", 20,
                                "--scenario", name, "--warm-up", 0, fatal=False)
                wrong += found["status"] != 0
                server.process.send_signal(signal.SIGHUP)
            time.sleep(12)  # time-outs of those who vanished
            rest = subprocess.run([str(b.build / "cecollm-swarm"), "run", b.traffic,
                                   "--connect", "127.0.0.1:%d" % server.port, *b.tls(),
                                   "--sessions", "1", "--seconds", "1", "--json", "--watch",
                                   str(server.process.pid)], stdout=subprocess.PIPE,
                                  text=True)
            now = json.loads(rest.stdout)["server"]["start"]
            rounds.append({"rss_bytes": now["rss_bytes"], "descriptors": now["descriptors"],
                           "wrong_runs": wrong})
            say("  round %d: %.1f MiB, %d descriptors, %d runs not right" %
                (len(rounds), now["rss_bytes"] / MIB, now["descriptors"], wrong))
    b.o.seconds = saved
    first, last = rounds[0], rounds[-1]
    growth = 100 * (last["rss_bytes"] / first["rss_bytes"] - 1)
    return {"seconds": seconds, "rounds": rounds, "rss_growth_percent": growth,
            "descriptors_more": last["descriptors"] - first["descriptors"],
            "target": "memory and descriptors within 2 %, every run right",
            "met": growth <= 2 and last["descriptors"] <= 1.02 * first["descriptors"] and
            not any(r["wrong_runs"] for r in rounds)}


PARTS = [idle, batch, latency, handshakes, greedy, pressure, churn]


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--build", default=".", help="folder of the programs")
    p.add_argument("--model", required=True)
    p.add_argument("--prompts", required=True, help="JSON lines with \"prompt\"")
    p.add_argument("--prompts-limit", type=int, default=64)
    p.add_argument("--max-tokens", type=int, default=96)
    p.add_argument("--cut", type=int, default=0, help="for a model without exits")
    p.add_argument("--d-model", type=int, default=576)
    p.add_argument("--only", default="", help="parts: " + ",".join(f.__name__ for f in PARTS))
    p.add_argument("--seconds", type=int, default=10, help="of each measurement")
    p.add_argument("--sessions", type=int, default=10000, help="idle ones")
    p.add_argument("--think", default="20", help="ms, of the polite beside the greedy")
    p.add_argument("--churn-seconds", type=int, default=120)
    p.add_argument("--compute-core", type=int, default=0)
    p.add_argument("--io-core", type=int, default=1)
    p.add_argument("--set", action="append", default=[], help="a setting of cloudd")
    p.add_argument("--greedy-set", action="append", default=[],
                   help="a setting of cloudd in the part greedy")
    p.add_argument("--json", default="", help="file for the results")
    return p.parse_args()


def machine(build):
    name = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    commit = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {"cpu": name, "cores": os.cpu_count(), "load_before": os.getloadavg()[0],
            "commit": commit.stdout.strip(),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")}


def line_of(name, r):
    shown = {k: v for k, v in r.items() if isinstance(v, (int, float)) and k != "met"}
    return "%-11s %s\n            %s (%s)" % (
        name, "  ".join("%s %.4g" % i for i in shown.items() if i[0] != "status"),
        "met" if r["met"] else "NOT met", r["target"])


def main():
    o = options()
    wanted = o.only.split(",") if o.only else [f.__name__ for f in PARTS]
    unknown = set(wanted) - {f.__name__ for f in PARTS}
    if unknown:
        raise SystemExit("cloudd.py: --only: no part %s" % ", ".join(sorted(unknown)))
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("cloudd.py: two cores are needed")
    report = {"machine": machine(o.build), "model": os.path.basename(o.model)}
    with tempfile.TemporaryDirectory(prefix="cecollm-bench-") as workdir:
        b = Bench(o, workdir)
        report["traffic"] = b.record()
        say(report["traffic"])
        for part in PARTS:
            if part.__name__ in wanted:
                say("== %s: %s" % (part.__name__, part.__doc__))
                report[part.__name__] = part(b)
    report["machine"]["load_after"] = os.getloadavg()[0]
    for name in wanted:
        print(line_of(name, report[name]))
    if o.json:
        Path(o.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
