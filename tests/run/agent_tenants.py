#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""agent_tenants.py - a real agent before a cloudd with tenants: with a token instead of a
certificate, and refused with a time to try again, which it says and keeps."""
import hashlib
import os
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import agent_run
from agent_run import AGENT, Case, Cloudd, ENV
from cecollm_client import Session, Shape, synth

COUNT = 12


class Tenants(Case):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix="cecollm-")
        cls.dir = cls.tmp.name
        cls.model = synth(str(agent_run.BUILD), cls.dir, "--layers", "4", "--exits", "2",
                          "--type", "Q8_0")
        made = subprocess.run([str(agent_run.BUILD / "cecollm-cloudd"), "--make-token"],
                              capture_output=True, text=True, check=True)
        cls.token = os.path.join(cls.dir, "token")
        with open(cls.token, "w") as f:
            f.write(made.stdout)
        os.chmod(cls.token, 0o600)
        tenants = os.path.join(cls.dir, "tenants.conf")
        with open(tenants, "w") as f:
            f.write("[tenant one]\nsan = agent\nmax_sessions = 1\n"
                    "[tenant seqs]\nsan = b\nmax_seqs = 1\n"
                    "[tenant slow]\nsan = slow\nrows_per_second = 200\nburst = 100ms\n"
                    "[tenant tokens]\nrequire = token\n" + made.stderr)
        cls.cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), cls.model, cls.dir,
                           "whole_model=yes", "tenants=" + tenants, "client_certs=optional",
                           agents=["agent", "b", "slow"])
        with open(cls.model, "rb") as f:
            cls.shape = Shape(hashlib.sha256(f.read()).digest(), 2, 4, 64, 320)

    @classmethod
    def tearDownClass(cls):
        status = cls.cloud.stop()
        cls.tmp.cleanup()
        assert status == 0, "cloudd ended with %d" % status

    def agent(self, *args, name="agent", prompt="Once upon a time", quiet=True):
        cert = [word for option, end in (("--cert", ".crt"), ("--key", ".key"))
                for word in (option, self.cloud.cert((name or "") + end))]
        command = [str(AGENT), "-m", self.model, "--cloud", "localhost:%d" % self.cloud.port,
                   "--ca", self.cloud.cert("ca.crt"), *(cert if name else []), "-p", prompt,
                   "--raw", *(["--quiet"] if quiet else []), "--max-tokens", str(COUNT), "--threads", "1",
                   "--theta", "1", "--codec", "f32", "--color", "never", *args]
        return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=100)

    def whole(self, prompt="Once upon a time"):
        return agent_run.run("-m", self.model, "--mode", "edge-full", "-p", prompt, "--raw",
                             "--quiet", "--max-tokens", COUNT, "--color", "never").stdout

    def test_token(self):
        r = self.agent("--token-file", self.token, name=None)
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertEqual(r.stdout, self.whole())
        os.chmod(self.token, 0o644)
        r = self.agent("--token-file", self.token, name=None)
        os.chmod(self.token, 0o600)
        self.assertEqual(r.returncode, 0)
        self.assertRegex(r.stderr, r"token_file: .*others may read it \(mode 644\)")

    def test_wrong_token(self):
        wrong = os.path.join(self.dir, "wrong")
        for text, code, pattern in (("x" * 43, 4, "token is not known here"),
                                    ("", 2, "no token in its first line"),
                                    ("x" * 401, 2, "longer than 400 bytes")):
            with open(wrong, "w") as f:
                f.write(text + "\n")
            os.chmod(wrong, 0o600)
            self.fails(self.agent("--token-file", wrong, name=None), code, pattern)
        self.fails(self.agent("--token-file", "/nonexistent", name=None), 2, "No such file")
        self.fails(self.agent(name=None), 2, "needs --cert")

    def later(self, seconds, act):
        timer = threading.Timer(seconds, act)
        timer.start()
        return timer

    def test_session_refused(self):
        """Another has the only session: the agent says so, waits as it was told, and goes
        on when the other is gone."""
        held = Session(self.cloud, self.shape, upload=False)
        begin = time.monotonic()
        r = self.agent("--connect-timeout", "1s")
        self.assertEqual(r.returncode, 4)
        self.assertRegex(r.stderr, r"tenant one: max_sessions = 1 are open; try again in "
                                   r"[12]\.\d s")
        self.assertLess(time.monotonic() - begin, 1)
        timer = self.later(0.5, held.bye)
        r = self.agent()
        timer.join()
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertRegex(r.stderr, r"max_sessions = 1 are open; try again in [12]\.")
        self.assertEqual(r.stdout, self.whole())

    def test_sequence_refused(self):
        """The same for a sequence, by INFER and by GENERATE: the answer is the same."""
        for mode in ((), ("--mode", "naive"), ("--mode", "cloud")):
            held = Session(self.cloud, self.shape, upload=False,
                           context=self.cloud.context(agent="b"))
            held.open(1)
            r = self.agent("--deadline", "1s", *mode, name="b")
            self.assertEqual(r.returncode, 1, r.stderr)
            self.assertRegex(r.stderr, r"tenant seqs: max_seqs = 1 are open; try again in "
                                       r"[12]\.\d s")
            timer = self.later(0.5, held.bye)
            begin = time.monotonic()
            r = self.agent(*mode, name="b", quiet=False)
            timer.join()
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertEqual(r.stderr.count("max_seqs = 1 are open"), 1)
            self.assertGreater(time.monotonic() - begin, 1)
            self.assertEqual(r.stdout, self.whole())

    def test_rate(self):
        """Held back by credit, an agent is slower and says the same."""
        prompt = "To be, or not to be, that is the question: " * 4
        begin = time.monotonic()
        r = self.agent(name="slow", prompt=prompt)
        took = time.monotonic() - begin
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertEqual(r.stdout, self.whole(prompt))
        self.assertGreater(took, 0.4)  # 170 rows and more, at 200 a second

    def test_interrupt(self):
        """Ctrl-C ends the waiting."""
        held = Session(self.cloud, self.shape, upload=False)
        p = agent_run.start("-m", self.model, "-p", "a", "--connect-timeout", "60s",
                            cloud=self.cloud)
        line = p.stderr.readline()
        self.assertIn("max_sessions = 1", line)
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(10), 128 + signal.SIGINT)
        p.communicate()
        held.bye()


if __name__ == "__main__":
    unittest.main()
