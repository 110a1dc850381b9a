#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""agent_recovery.py - a cloud that is killed, drained or stands still in the middle of
an answer: the agent finds another one and says what it would have said.

Agents dial a small forwarder, which leads to one cloudd and later to another.
"""
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import agent_run
from agent_run import Case, Cloudd, answers, start
from cecollm_client import synth

N_TOKENS = 800


class Forwarder:
    """TCP to whatever `target` is at the time of a connection."""

    def __init__(self, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                a, _ = self.listener.accept()
            except OSError:
                return
            try:
                b = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                a.close()
                continue
            self.open += [a, b]
            for x, y in ((a, b), (b, a)):
                x.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.copy, args=(x, y), daemon=True).start()

    @staticmethod
    def copy(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for s in self.open:
            s.close()


class Recovery(Case):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix="cecollm-")
        cls.dir = cls.tmp.name
        cls.certs = os.path.join(cls.dir, "certs")
        subprocess.run(["sh", str(agent_run.SRC / "build-aux/dev-certs.sh"), cls.certs],
                       check=True, stdout=subprocess.DEVNULL)
        cls.model = synth(str(agent_run.BUILD), cls.dir, "--layers", "6", "--exits", "2,4",
                          "--ctx", "1024", "--type", "Q8_0")
        r = random.Random(4)
        cls.forced = [{"prompt": "the lazy dog %d" % i,
                       "force_ids": [r.randrange(300) for _ in range(N_TOKENS)]}
                      for i in range(2)]
        # Mode cloud chooses its own tokens; a temperature makes its answers long.
        cls.free = [{"prompt": "once upon %d" % i, "max_tokens": N_TOKENS}
                    for i in range(20)]
        cls.whole = cls.ask(cls.forced, "--mode", "edge-full")

    @classmethod
    def tearDownClass(cls):
        cls.tmp.cleanup()

    @classmethod
    def ask(cls, prompts, *args, **more):
        return answers(prompts, "-m", cls.model, "--threads", 1, "--raw", *args, **more)

    def cloud(self, *settings):
        folder = tempfile.mkdtemp(dir=self.dir)
        os.symlink(self.certs, os.path.join(folder, "certs"))
        return Cloudd(str(agent_run.BUILD), str(agent_run.SRC), self.model, folder,
                      "whole_model=yes", "threads=1", *settings)

    def setUp(self):
        self.clouds = [self.cloud("drain_timeout=300ms"), self.cloud()]
        self.front = Forwarder(self.clouds[0].port)
        self.front.cert = self.clouds[0].cert

    def tearDown(self):
        self.front.close()
        for c in self.clouds:
            if c.process.poll() is None:
                c.process.kill()
                c.process.wait()

    def begin(self, prompts, *args):
        p = agent_run.Prompts(prompts)
        self.prompts = p  # the file lives as long
        words = [a for a in p.args() if a != "--quiet"]
        self.agent = start(*words, "-m", self.model, "--threads", 1, "--raw", "--codec",
                           "f32", *args, cloud=self.front)
        return self.agent

    def await_first(self):
        """The agent has given an answer and is within the next, if both take as long."""
        self.first = self.agent.stdout.readline()
        self.assertTrue(self.first)
        time.sleep(min(0.03, json.loads(self.first)["us"]["total"] / 4e6))

    def end(self, expected, moves=1):
        out, err = self.agent.communicate(timeout=120)
        found = [json.loads(x) for x in (self.first + out).splitlines()]
        self.assertEqual(self.agent.returncode, 0, err)
        self.assertEqual(len(found), len(expected))
        for a, b in zip(expected, found):
            self.same(a, b)
        self.assertGreaterEqual(sum(a["counts"]["moves"] for a in found), moves, err)
        return err

    def switch(self):
        self.front.target = self.clouds[1].port

    def kill(self):
        self.clouds[0].process.kill()
        self.clouds[0].process.wait()

    def test_killed(self):
        for how in (["--theta", "1"], ["--mode", "naive"],
                    ["--theta", "1", "--upload", "on-request"]):
            with self.subTest(how=" ".join(how)):
                self.begin(self.forced, *how)
                self.await_first()
                self.kill()
                time.sleep(0.3)  # nobody is there for a while
                self.switch()
                err = self.end(self.whole)
                self.assertRegex(err, r"cecollm-agent: cloud localhost:\d+: .*; looking for "
                                      r"another session\n")
                self.assertRegex(err, r"cecollm-agent: cloud localhost:\d+: there again "
                                      r"after \d+\.\d s \(try \d+\)\n")
                self.assertIn("went on in another session 1 time\n", err)
            self.tearDown()
            self.setUp()

    def test_killed_while_exits_decide(self):
        expected = self.ask(self.forced, "--theta", "0.9", "--codec", "f32",
                            cloud=self.front)
        self.begin(self.forced, "--theta", "0.9")
        self.await_first()
        self.kill()
        self.switch()
        self.end(expected)

    def test_killed_in_mode_cloud(self):
        how = ["--mode", "cloud", "--temperature", "1.2", "--seed", "5"]
        expected = self.ask(self.free, *how, cloud=self.front)
        self.begin(self.free, *how)
        self.await_first()
        self.kill()
        self.switch()
        self.end(expected, moves=0)  # it may have died between two answers

    def test_drained(self):
        self.begin(self.forced * 3, "--theta", "1")
        self.await_first()
        self.switch()
        self.clouds[0].process.send_signal(signal.SIGTERM)
        err = self.end(self.whole * 3, moves=0)  # perhaps between two answers
        self.assertRegex(err, r"(is|as it is) shutting down.*; looking for another session")
        self.assertEqual(self.clouds[0].process.wait(20), 0)
        self.assertNotIn("did not end in time", self.clouds[0].log())

    def test_frozen(self):
        """A cloud that stands still is left; when it wakes up, its session is nobody's."""
        self.begin(self.forced, "--theta", "1", "--silence-timeout", "600ms")
        self.await_first()
        os.kill(self.clouds[0].process.pid, signal.SIGSTOP)
        self.switch()
        time.sleep(2)
        os.kill(self.clouds[0].process.pid, signal.SIGCONT)
        err = self.end(self.whole)
        self.assertIn("no sign of life; looking for another session", err)
        deadline = time.monotonic() + 20
        while " ended: " not in self.clouds[0].log():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_the_edge_alone_meanwhile(self):
        """on_cloud_loss = edge: that answer ends without the cloud, later ones do not."""
        self.begin(self.forced * 6, "--theta", "0.95", "--on-cloud-loss", "edge")
        self.await_first()
        self.kill()
        self.switch()
        out, err = self.agent.communicate(timeout=120)
        self.assertEqual(self.agent.returncode, 0, err)
        found = [json.loads(x) for x in (self.first + out).splitlines()]
        self.assertEqual(len(found), 12)
        lost = ["cloud_lost" in a for a in found]
        self.assertTrue(any(lost))
        self.assertFalse(lost[-1], lost)
        self.assertGreater(found[-1]["counts"]["cloud"], 0)


if __name__ == "__main__":
    unittest.main()
