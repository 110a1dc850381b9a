#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""haproxy.py - three cloudd behind a real HAProxy with etc/haproxy.cfg, and a crowd of
agents whose texts must not care that one server is killed and another one drained.

The upload channels go through the balancer too, by names that no resolver knows. Prints
how long the answers stood still. Skipped where HAProxy is not installed.
"""
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import agent_run
from agent_run import Cloudd, answers, start
from cecollm_client import synth

N_AGENTS, N_TOKENS = 60, 100
NAMES = ["cloud-%d.nodes.example.net" % i for i in (1, 2, 3)]
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/sbin")
DRAIN = 2  # seconds


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_certs(folder):
    command = ["sh", str(agent_run.SRC / "build-aux/dev-certs.sh"), folder]
    for name in NAMES:
        command += ["--host", name]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Node(Cloudd):
    """One of the servers, with the shared certificates."""

    def __init__(self, i, model, folder, certs):
        mine = os.path.join(folder, "node%d" % i)
        os.mkdir(mine)
        os.symlink(certs, os.path.join(mine, "certs"))
        super().__init__(str(agent_run.BUILD), str(agent_run.SRC), model, mine,
                         "node=" + NAMES[i], "threads=1", "metrics_listen=127.0.0.1:0",
                         "drain_timeout=%ds" % DRAIN)
        self.metrics = int(re.search(r"metrics address=\S+ port=(\d+)", self.log()).group(1))

    def page(self, path):
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (self.metrics, path),
                                    timeout=20) as r:
            return r.read().decode()

    def n_sessions(self):
        m = re.search(r"^cecollm_sessions (\d+)", self.page("/metrics"), re.M)
        return int(m.group(1))


class Balancer:
    """HAProxy with the example's settings, on our addresses."""

    def __init__(self, nodes, folder):
        self.port = free_port()
        self.socket = os.path.join(folder, "haproxy.sock")
        text = (agent_run.SRC / "etc/haproxy.cfg").read_text()
        for i, n in enumerate(nodes):
            there = "10.0.0.1%d:7443" % (i + 1)
            assert text.count("server cloud-%d %s\n" % (i + 1, there)) == 2
            text = text.replace("server cloud-%d %s" % (i + 1, there),
                                "server cloud-%d 127.0.0.1:%d" % (i + 1, n.port))
            # In the list each has a port of its own for the checks.
            text = text.replace("127.0.0.1:%d\n" % n.port,
                                "127.0.0.1:%d check port %d\n" % (n.port, n.metrics), 1)
        text = self.change(text, "bind :7443", "bind 127.0.0.1:%d" % self.port)
        text = self.change(text, " check port 9464", "")
        text = self.change(text, "slowstart 10s", "")
        text = text.replace("maxconn 40000", "maxconn 1000")
        text = self.change(text, "global\n", "global\n    stats socket %s\n" % self.socket)
        path = os.path.join(folder, "haproxy.cfg")
        with open(path, "w") as f:
            f.write(text)
        self.log = open(os.path.join(folder, "haproxy.log"), "w+")
        self.process = subprocess.Popen([HAPROXY, "-db", "-f", path], stdout=self.log,
                                        stderr=self.log)

    @staticmethod
    def change(text, old, new):
        assert text.count(old) == 1, old
        return text.replace(old, new)

    def cert(self, name):
        return os.path.join(self.certs, name)

    def states(self):
        """Each server's state in the list of new sessions, "UP" or otherwise."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.socket)
            s.sendall(b"show stat\n")
            text = b""
            while part := s.recv(65536):
                text += part
        rows = [line.split(",") for line in text.decode().splitlines()]
        state = rows[0].index("status")
        return [r[state] for r in rows if r[0] == "sessions" and r[1].startswith("cloud-")]

    def await_states(self, *wanted, timeout=20):
        deadline = time.monotonic() + timeout
        while True:
            try:
                got = self.states()
            except OSError:
                got = None
            if got and all(g.startswith(w) for g, w in zip(got, wanted)):
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.log.seek(0)
                raise AssertionError("servers are %s, not %s\n%s" % (got, wanted,
                                                                     self.log.read()))
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


def prompts_of(i):
    """Answers of a known length: the tokens are compared as chosen, others go on instead
    of them. Each third agent has one long answer, so that it does not end while its
    server waits for that; the others have four short ones."""
    r = random.Random(i)
    lengths = [4 * N_TOKENS] if i % 3 == 0 else [N_TOKENS] * 4
    return [{"prompt": "agent %d asks %d: " % (i, k) + "the lazy dog " * (i % 5),
             "force_ids": [r.randrange(300) for _ in range(n)]}
            for k, n in enumerate(lengths)]


def whole(model):
    """What each agent must say: the whole model in one process."""
    every = [p for i in range(N_AGENTS) for p in prompts_of(i)]
    said = iter(answers(every, "-m", model, "--threads", 1, "--raw", "--mode", "edge-full"))
    return [[next(said) for _ in prompts_of(i)] for i in range(N_AGENTS)]


class Crowd:
    def __init__(self, model, balancer, folder):
        self.prompts = [agent_run.Prompts(prompts_of(i)) for i in range(N_AGENTS)]
        self.out = [open(os.path.join(folder, "agent%d" % i), "w+") for i in range(N_AGENTS)]
        command = [str(agent_run.AGENT)] + agent_run.cloud_args(balancer)
        command += ["-m", model, "--threads", "1", "--raw", "--codec", "f32", "--theta", "1"]
        self.running = [subprocess.Popen(command + p.args(), stdout=o, env=agent_run.ENV,
                                         stderr=subprocess.PIPE, text=True)
                        for p, o in zip(self.prompts, self.out)]

    def n_done(self):
        """Answers that are complete."""
        return sum(os.path.getsize(o.name) > 0 and open(o.name).read().count("\n")
                   for o in self.out)

    def await_done(self, n, timeout=120):
        deadline = time.monotonic() + timeout
        while self.n_done() < n:
            assert time.monotonic() < deadline, "only %d answers" % self.n_done()
            time.sleep(0.02)

    def results(self):
        found = []
        for p, o in zip(self.running, self.out):
            _, err = p.communicate(timeout=300)
            assert p.returncode == 0 and err == "", (p.returncode, err)
            o.seek(0)
            found.append([json.loads(line) for line in o])
        return found

    def stop(self):
        for p in self.running:
            if p.poll() is None:
                p.kill()
                p.wait()
            p.stderr.close()
        for o in self.out:
            o.close()


def check(found, expected):
    for i, (a, b) in enumerate(zip(found, expected)):
        assert len(a) == len(b), "agent %d gave %d answers" % (i, len(a))
        for x, y in zip(a, b):
            assert "error" not in x, x["error"]
            assert x["ids"] == y["ids"] and x["text"] == y["text"], "agent %d: other text" % i
            assert agent_run.hashes(x) == agent_run.hashes(y), "agent %d: other logits" % i


def report(found, began):
    answers_of = [a for agent in found for a in agent]
    still = sorted(max(t["wire_us"] for t in a["tokens"]) / 1e6
                   for a in answers_of if a["counts"]["moves"])
    calm = sorted(max(t["wire_us"] for t in a["tokens"]) / 1e6
                  for a in answers_of if not a["counts"]["moves"])
    print("%d tokens in %.1f s; %d answers moved, the longest wait in each: median %.2f s, "
          "most %.2f s (in the %d others: median %.2f s, most %.2f s)" %
          (sum(len(a["ids"]) for a in answers_of), time.monotonic() - began, len(still),
           still[len(still) // 2], still[-1], len(calm), calm[len(calm) // 2], calm[-1]))


def main():
    if HAPROXY is None:
        print("skipped: no haproxy")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="cecollm-") as folder:
        model = synth(str(agent_run.BUILD), folder, "--layers", "6", "--exits", "2,4",
                      "--ctx", "512", "--type", "Q8_0")
        expected = whole(model)
        certs = os.path.join(folder, "certs")
        make_certs(certs)
        nodes, balancer, crowd = [], None, None
        try:
            for i in range(3):
                nodes.append(Node(i, model, folder, certs))
            balancer = Balancer(nodes, folder)
            balancer.certs = certs
            balancer.await_states("UP", "UP", "UP")
            began = time.monotonic()
            crowd = Crowd(model, balancer, folder)
            crowd.await_done(N_AGENTS // 3)
            held = [n.n_sessions() for n in nodes]
            print("sessions of the three servers: %s" % held)
            assert min(held) > 0 and sum(held) <= N_AGENTS, held
            os.kill(nodes[0].process.pid, signal.SIGKILL)
            nodes[0].process.wait()
            crowd.await_done(N_AGENTS * 2 // 3)
            nodes[1].process.send_signal(signal.SIGTERM)
            balancer.await_states("DOWN", "DOWN", "UP")
            found = crowd.results()
            check(found, expected)
            report(found, began)
            moved = [sum(a["counts"]["moves"] for a in agent) for agent in found]
            print("agents that moved in an answer: %d" % sum(m > 0 for m in moved))
            assert any(moved)
            # Nobody else is disturbed: those of the third server never moved.
            assert sum(m == 0 for m in moved) >= held[2], (moved, held)
            assert nodes[1].process.wait(DRAIN + 10) == 0
            assert "did not end in time" not in nodes[1].log()
            assert nodes[2].stop() == 0
        except BaseException:
            for n in nodes:
                sys.stderr.write(n.log()[-2000:])
            raise
        finally:
            if crowd:
                crowd.stop()
            if balancer:
                balancer.stop()
            for n in nodes:
                if n.process.poll() is None:
                    n.process.kill()
                    n.process.wait()


if __name__ == "__main__":
    main()
