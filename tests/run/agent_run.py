# SPDX-License-Identifier: Apache-2.0
"""Running the real cecollm-agent in tests: arguments, answers as objects, and what
several scripts check of them. The cloudd beside it is cecollm_client's."""
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("CECOLLM_BUILDDIR", ".")).resolve()
SRC = Path(os.environ.get("CECOLLM_SRCDIR", ".")).resolve()
DATA = Path(os.environ.get("CECOLLM_DATA") or SRC / "../shared/data")
MODEL = Path(os.environ.get("CECOLLM_MODEL")
             or SRC / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
AGENT = BUILD / "cecollm-agent"

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cecollm_client import Cloudd  # noqa: E402,F401

ENV = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}


def cloud_args(cloud, agent="agent", host="localhost"):
    """How an agent reaches this cloudd."""
    return ["--cloud", "%s:%d" % (host, cloud.port), "--ca", cloud.cert("ca.crt"),
            "--cert", cloud.cert(agent + ".crt"), "--key", cloud.cert(agent + ".key")]


def start(*args, cloud=None, agent="agent", **popen):
    command = [str(AGENT)] + (cloud_args(cloud, agent) if cloud else [])
    return subprocess.Popen(command + [str(a) for a in args], env=ENV,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **popen)


def run(*args, cloud=None, text=None, timeout=600, **more):
    """Run to the end; the result has returncode, stdout, stderr."""
    command = [str(AGENT)] + (cloud_args(cloud, **more) if cloud else [])
    return subprocess.run(command + [str(a) for a in args], input=text, env=ENV,
                          capture_output=True, text=True, timeout=timeout)


class Prompts:
    """Prompts as a file for --prompts: texts, or objects as the agent reads them."""

    def __init__(self, prompts):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".jsonl")
        for i, p in enumerate(prompts):
            o = {"prompt": p} if isinstance(p, str) else dict(p)
            o.setdefault("id", i)
            self.file.write(json.dumps(o) + "\n")
        self.file.flush()

    def args(self):
        return ["--prompts", self.file.name, "--json", "--quiet", "--hash"]


def parse(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def answers(prompts, *args, cloud=None, **more):
    """The answers' objects; fails when the agent does."""
    p = Prompts(prompts)
    r = run(*p.args(), *args, cloud=cloud, **more)
    if r.returncode != 0:
        raise AssertionError("agent exit code %d: %s" % (r.returncode, r.stderr))
    found = parse(r)
    assert [a["id"] for a in found] == list(range(len(prompts)))
    return found


def hashes(answer):
    return [t.get("hash") for t in answer["tokens"]]


def origins(answer):
    return [(t["origin"], t.get("layer", 0)) for t in answer["tokens"]]


class Case(unittest.TestCase):
    def same(self, a, b, with_hash=True):
        """Token for token, and hash for hash: the same rows of logits."""
        self.assertEqual(a["ids"], b["ids"])
        self.assertEqual(a["text"], b["text"])
        self.assertEqual(a["end"], b["end"])
        if with_hash:
            self.assertEqual(hashes(a), hashes(b))
            self.assertNotIn(None, hashes(a))

    def fails(self, result, code, pattern):
        """One line on standard error that matches, and the exit code."""
        self.assertEqual(result.returncode, code, result.stderr)
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertTrue(lines[0].startswith("cecollm-agent: "), lines[0])
        self.assertRegex(lines[0], pattern)
