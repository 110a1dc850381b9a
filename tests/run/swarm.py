#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""swarm.py - cecollm-swarm against a real cloudd with a small synthetic model: recorded
traffic replayed by tens of sessions, every token right, in every scenario; and what is
wrong (another model, another recording, no server) is said in one line."""
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cecollm_client import Cloudd, synth  # noqa: E402

BUILD = Path(os.environ.get("CECOLLM_BUILDDIR", ".")).resolve()
SRC = Path(os.environ.get("CECOLLM_SRCDIR", ".")).resolve()
SWARM = str(BUILD / "cecollm-swarm")
VOCAB = 320


def swarm(*args, timeout=120):
    return subprocess.run([SWARM, *map(str, args)], capture_output=True, text=True,
                          timeout=timeout)


def first_token_changed(data, digest=True):
    """The traffic with another answer to its first request."""
    data = bytearray(data)
    numerics, = struct.unpack_from(">I", data, 60)
    at = 64 + numerics + 4 + 8 + 4
    token, = struct.unpack_from(">I", data, at)
    struct.pack_into(">I", data, at, (token + 1) % VOCAB)
    if digest:
        data[-32:] = hashlib.sha256(data[:-32]).digest()
    return bytes(data)


class Swarm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory(prefix="cecollm-")
        cls.dir = Path(cls.temp.name)
        cls.model = synth(str(BUILD), cls.temp.name, "--exits", "2")
        prompts = cls.dir / "prompts.jsonl"
        prompts.write_text("".join(
            json.dumps({"prompt": "number %d and %s" % (i, "words " * (i * 3))}) + "\n"
            for i in range(12)))
        cls.traffic = str(cls.dir / "traffic.swarm")
        r = swarm("record", cls.model, "--prompts", prompts, "-o", cls.traffic, "--theta",
                  "1", "--max-tokens", "30")
        assert r.returncode == 0, r.stderr
        cls.prompts, cls.recorded = prompts, r.stdout
        cls.cloudd = Cloudd(str(BUILD), str(SRC), cls.model, cls.temp.name, "threads=1",
                            "step_rows=48", "window=32", "max_output=64K",
                            "handshake_timeout=5s", "idle_timeout=3s",
                            agents=("agent", "greedy"))

    @classmethod
    def tearDownClass(cls):
        status = cls.cloudd.stop()
        log = cls.cloudd.log()
        cls.temp.cleanup()
        assert status == 0 and "ERROR: AddressSanitizer" not in log, log[-3000:]

    def command(self, traffic, *args):
        c = self.cloudd
        return ["run", traffic, "--connect", "127.0.0.1:%d" % c.port, "--ca",
                c.cert("ca.crt"), "--cert", c.cert("agent.crt"), "--key",
                c.cert("agent.key"), "--seconds", "1", "--warm-up", "0", *args]

    def run_well(self, *args):
        r = swarm(*self.command(self.traffic, "--sessions", "30", "--json", *args))
        self.assertEqual(r.returncode, 0, r.stderr)
        found = json.loads(r.stdout)
        self.assertTrue(found["right"])
        self.assertGreater(found["polite"]["tokens"], 0)
        self.assertEqual(found["polite"]["lost"], 0)
        times = found["polite"]["latency_ms"]
        self.assertTrue(0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"])
        return found

    def fails(self, result, pattern, code=1):
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertRegex(result.stderr.splitlines()[-1], "^cecollm-swarm.*" + pattern)

    def test_recording(self):
        self.assertRegex(self.recorded, r"12 sequences, .* 0 of [0-9]+ tokens left at exits")
        r = swarm("engine", self.model, self.traffic, "--active", "5", "--seconds", "1",
                  "--step-rows", "16", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertGreater(json.loads(r.stdout)["tokens"], 0)

    def test_recording_with_exits(self):
        out = self.dir / "exits.swarm"
        r = swarm("record", self.model, "--prompts", self.prompts, "-o", out, "--theta",
                  "0.3", "--max-tokens", "30", "--codec", "f32")
        self.assertEqual(r.returncode, 0, r.stderr)
        left, tokens = map(int, re.search(
            r"([0-9]+) of ([0-9]+) tokens left", r.stdout).groups())
        self.assertTrue(0 < left < tokens, r.stdout)
        r = swarm(*self.command(out, "--sessions", "5"))
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("every token right", r.stdout)

    def test_steady(self):
        found = self.run_well("--active", "20", "--think", "5", "--sources", "3", "--watch",
                              self.cloudd.process.pid)
        self.assertEqual(found["connects"], 30)
        self.assertGreaterEqual(found["server"]["connected"]["descriptors"], 30)

    def test_idle_sessions_stay(self):
        r = swarm(*self.command(self.traffic, "--sessions", "5", "--active", "1", "--seconds",
                                "5", "--json"))
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(json.loads(r.stdout)["connects"], 5)

    def test_reconnect(self):
        found = self.run_well("--scenario", "reconnect", "--storm", "500", "--think", "2",
                              "--seconds", "3")
        self.assertGreaterEqual(found["storms"], 2)
        self.assertGreater(found["others"]["lost"], 30)

    def test_slow(self):
        self.run_well("--scenario", "slow", "--think", "5")

    def test_half_open(self):
        found = self.run_well("--scenario", "half-open", "--think", "5", "--seconds", "4")
        self.assertGreater(found["vandals"]["ended_by_server"], 0)

    def test_garbage(self):
        found = self.run_well("--scenario", "garbage", "--think", "5", "--others", "8")
        self.assertGreater(found["vandals"]["ended_by_server"], 20)

    def test_greedy(self):
        c = self.cloudd
        found = self.run_well("--scenario", "greedy", "--active", "3", "--think", "20",
                              "--greedy-cert", c.cert("greedy.crt"), "--greedy-key",
                              c.cert("greedy.key"))
        self.assertGreater(found["others"]["tokens"], found["polite"]["tokens"])

    def test_server_killed(self):
        """It comes back on the same port; sessions do too, and go on where they were."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        args = self.command(self.traffic, "--sessions", "12", "--think", "5", "--seconds",
                            "5", "--keep-going", "--json")
        args[args.index("--connect") + 1] = "127.0.0.1:%d" % port
        with tempfile.TemporaryDirectory(prefix="cecollm-") as d:
            def start():
                return Cloudd(str(BUILD), str(SRC), self.model, d, "threads=1",
                              "listen=127.0.0.1:%d" % port)

            server = start()
            c = {"ca.crt": "--ca", "agent.crt": "--cert", "agent.key": "--key"}
            for name, option in c.items():
                args[args.index(option) + 1] = server.cert(name)
            with subprocess.Popen([SWARM, *map(str, args)], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) as run:
                time.sleep(2.5)
                server.process.kill()
                server.process.wait()
                server = start()
                try:
                    out, err = run.communicate(timeout=60)
                finally:
                    server.stop()
        self.assertEqual(run.returncode, 0, err)
        found = json.loads(out)
        self.assertTrue(found["right"])
        self.assertGreaterEqual(found["connects"], 24)

    def test_other_model(self):
        model = str(self.dir / "other.gguf")
        traffic = self.dir / "other.swarm"
        subprocess.run([BUILD / "cecollm-model", "synth", "-o", model, "--seed", "5"],
                       check=True)
        r = swarm("record", model, "--prompts", self.prompts, "-o", traffic, "--cut", "2",
                  "--limit", "2", "--max-tokens", "4")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.fails(swarm(*self.command(traffic)), "fingerprint")
        self.fails(swarm("engine", self.model, traffic), "another model")

    def test_other_recording(self):
        data = Path(self.traffic).read_bytes()
        bad = self.dir / "bad.swarm"
        bad.write_bytes(first_token_changed(data))
        self.fails(swarm(*self.command(bad, "--sessions", "12")),
                   r"session [0-9]+ sequence 0 position [0-9]+: token [0-9]+, expected "
                   r"[0-9]+")
        self.fails(swarm("engine", self.model, bad), "sequence 0 position")
        for damaged in (first_token_changed(data, digest=False), data[:-1], data[:40], b""):
            bad.write_bytes(damaged)
            self.fails(swarm(*self.command(bad)), "bad.swarm: (damaged|not a file)")

    def test_every_bit_of_the_head(self):
        """Turned over, with a digest that is right: refused, or another model."""
        data = Path(self.traffic).read_bytes()
        bad = self.dir / "bits.swarm"
        for at in list(range(40, 64)) + [64 + 30, 64 + 31]:
            changed = bytearray(data)
            changed[at] ^= 0x40
            changed[-32:] = hashlib.sha256(changed[:-32]).digest()
            bad.write_bytes(changed)
            r = swarm("engine", self.model, bad, "--seconds", "1", "--active", "2")
            self.assertIn(r.returncode, (0, 1), (at, r.stderr))

    def test_command_lines(self):
        self.fails(swarm(*self.command(self.traffic, "--scenario", "lunch")), "lunch", 2)
        self.fails(swarm("run", self.traffic), "--connect is missing", 2)
        self.fails(swarm(*self.command(self.traffic, "--think", "soon")), "--think", 2)
        nobody = self.command(self.traffic)
        nobody[nobody.index("--connect") + 1] = "127.0.0.1:1"
        self.fails(swarm(*nobody), "refused")
        self.fails(swarm("record", self.model, "-o", "x"), "--prompts is missing", 2)
        self.fails(swarm("frobnicate"), "frobnicate", 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
