#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""agent_terminal.py - what a person sees and types: chat, commands, colours, the
trace, Ctrl-C, standard input."""
import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import time
import unittest

import agent_run
from agent_run import AGENT, Case, Cloudd, ENV, run
from cecollm_client import synth


class Screen:
    """The agent on a terminal of its own."""

    def __init__(self, *args, env=None):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen([str(AGENT)] + [str(a) for a in args],
                                        stdin=slave, stdout=slave, stderr=slave,
                                        env={**ENV, **(env or {})}, start_new_session=True)
        os.close(slave)
        self.text = ""

    def until(self, pattern, timeout=60):
        """Read on until the pattern is found behind what was read before."""
        start, end = len(self.text), time.monotonic() + timeout
        while not re.search(pattern, self.text[start:]):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise AssertionError("no %r in %r" % (pattern, self.text))
            try:
                data = os.read(self.master, 65536)
            except OSError:
                raise AssertionError("ended without %r: %r" % (pattern, self.text))
            self.text += data.decode(errors="replace")
        return self.text[start:]

    def type(self, text):
        os.write(self.master, text.encode())

    def wait(self, timeout=60):
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    break
        code = self.process.wait(timeout)
        os.close(self.master)
        return code


class Terminal(Case):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix="cecollm-")
        cls.model = synth(str(agent_run.BUILD), cls.tmp.name, "--layers", "6", "--exits",
                          "2,4", "--ctx", "4096", "--type", "Q8_0")

    @classmethod
    def tearDownClass(cls):
        cls.tmp.cleanup()

    def args(self, *more):
        return ["-m", self.model, "--threads", "1", "--mode", "standalone", "--max-tokens",
                "12", *more]

    def test_chat_by_lines(self):
        r = run(*self.args("--theta", "0.5"),
                text="Hello\n\n/stats\n/theta 2=0.99,4=0.9\n/theta x\n/mode edge-full\n"
                     "/mode nowhere\n/what\n/help\nAnd now?\n/reset\nHello\n/quit\nnever\n")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(len(re.findall(r"^\d+ \+ \d+ tokens", r.stderr, re.M)), 4)
        prompts = [int(n) for n in re.findall(r"^(\d+) \+ ", r.stderr, re.M)]
        self.assertGreater(prompts[2], prompts[0])  # the conversation so far
        self.assertEqual(prompts[3], prompts[0])    # forgotten
        self.assertIn("1 answers; all together:", r.stderr)
        self.assertIn('theta: "x" is not a number', r.stderr)
        self.assertIn("needs the whole model here", r.stderr)
        self.assertIn('no mode "nowhere"', r.stderr)
        self.assertIn("no command /what", r.stderr)
        self.assertIn("/reset", r.stderr)

    def test_chat_ends_with_its_input(self):
        r = run(*self.args("--quiet"), text="no line break at the end")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertTrue(r.stdout)
        self.assertEqual(run(*self.args("--quiet"), text="").returncode, 0)

    def test_prompt_from_standard_input(self):
        a = run(*self.args("--json", "--quiet", "-p", "-"), text="two\nlines")
        b = run(*self.args("--json", "--quiet", "-p", "two\nlines"))
        self.assertEqual(agent_run.parse(a)[0]["ids"], agent_run.parse(b)[0]["ids"])

    def test_system_and_stop(self):
        plain = agent_run.parse(run(*self.args("--json", "-p", "x")))[0]
        other = agent_run.parse(run(*self.args("--json", "-p", "x", "--system", "Be")))[0]
        self.assertNotEqual(plain["prompt_tokens"], other["prompt_tokens"])
        text = "".join(t["text"] for t in plain["tokens"])
        self.assertEqual(text, plain["text"])
        stop = re.search(r"[ -{}~]", text[1:])
        if stop:
            cut = agent_run.parse(run(*self.args("--json", "-p", "x", "--stop",
                                                 stop.group().replace("\\", "\\\\"))))[0]
            self.assertEqual(cut["end"], "stop")
            self.assertEqual(cut["text"], text[:text.index(stop.group())])

    def test_trace(self):
        r = run(*self.args("--trace", "-p", "x", "--quiet", "--mode", "edge-full"))
        lines = r.stdout.splitlines()
        self.assertRegex(lines[0], r"#.*exit 2 .*exit 4 .*whole model")
        for line in lines[1:]:
            self.assertRegex(line, r"^ +\d+ \| .* [01]\.\d{4} \| .* [01]\.\d{4} \| .* "
                                   r"[01]\.\d{4} \| full$")

    def test_bad_lines_of_prompts(self):
        for line, why in (("{", "1: "), ("[1]", "1: not a JSON object"),
                          ('{"prompt": "x", "ids": [1]}', "or both"), ("{}", "neither"),
                          ('{"ids": ["a"]}', "no id"),
                          ('{"prompt": "x", "max_tokens": 0}', "max_tokens"),
                          ('{"prompt": "x", "force_ids": 1}', "force_ids")):
            r = run(*self.args("--quiet", "--prompts", "-"), text=line + "\n")
            self.fails(r, 1, why)

    def test_colours(self):
        s = Screen(*self.args("--theta", "0.9", "-p", "x"))
        self.assertEqual(s.wait(), 0, s.text)
        self.assertIn("\x1b[32mexit 2", s.text)
        self.assertIn("\x1b[0m", s.text)
        for more, env in ((["--color", "never"], {}), ([], {"NO_COLOR": "1"})):
            s = Screen(*self.args("--theta", "0.9", "-p", "x", *more), env=env)
            self.assertEqual(s.wait(), 0)
            self.assertNotIn("\x1b[3", s.text)
        r = run(*self.args("-p", "x", "--quiet"))
        self.assertNotIn("\x1b", r.stdout)

    def test_interrupt_stops_the_answer(self):
        """Also while it waits for a cloud that does not answer."""
        cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), self.model, self.tmp.name)
        s = Screen("-m", self.model, "--threads", "1", "--theta", "1", "--color", "never",
                   *agent_run.cloud_args(cloud))
        self.addCleanup(s.process.kill)
        self.addCleanup(cloud.process.kill)
        s.until("> $")
        os.kill(cloud.process.pid, signal.SIGSTOP)
        try:
            s.type("Hello\n")
            with self.assertRaises(AssertionError):
                s.until("tokens", timeout=0.3)
            s.process.send_signal(signal.SIGINT)
            s.until(r"\+ 0 tokens \(interrupted\)[^>]*> $")
            s.process.send_signal(signal.SIGINT)  # nothing to stop
            s.until("Ctrl-D ends")
        finally:
            os.kill(cloud.process.pid, signal.SIGCONT)
        s.type("Hello again\n")
        s.until(r"[1-9]\d* tokens, cloud")
        s.type("/quit\n")
        self.assertEqual(s.wait(), 0, s.text)
        self.assertEqual(cloud.stop(), 0)

    def test_terminate(self):
        s = Screen(*self.args())
        s.until("> $")
        s.process.send_signal(signal.SIGTERM)
        self.assertEqual(s.wait(), 143)
        s = Screen(*self.args())
        s.until("> $")
        s.type("\x04")
        self.assertEqual(s.wait(), 0)

    def test_help_and_version(self):
        r = run("--help")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertIn("--max-tokens", r.stdout)
        self.assertRegex(run("--version").stdout, r"^cecollm-agent \d+\.\d+\.\d+\n$")
        self.assertIn("#max_tokens = 256", run("--print-config").stdout)


if __name__ == "__main__":
    unittest.main()
