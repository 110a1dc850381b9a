#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""completion.py - the shells' completion offers what --help lists, no more and no less,
and files where files are due. Bash runs the functions as it would for Tab."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("CECOLLM_BUILDDIR", ".")).resolve()
SRC = Path(os.environ.get("CECOLLM_SRCDIR", ".")).resolve()
SCRIPT = SRC / "etc/completion/cecollm.bash"
BASH = shutil.which("bash")
TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_${1//-/_}
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words, cwd=None):
    """What Tab offers behind these words; the last is what was begun."""
    r = subprocess.run([BASH, "--norc", "-c", TAB, "bash", SCRIPT, *words], cwd=cwd,
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and r.stderr == "", r.stderr
    return sorted(r.stdout.split("\n")[:-1]) if r.stdout != "\n" else []


def help_of(program, *args):
    return subprocess.run([BUILD / program, *args, "--help"], capture_output=True,
                          text=True, timeout=60, check=True).stdout


def options_of(text):
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)))


class Completion(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())
        for name in ("a.gguf", "b model.gguf", "notes.txt", "list.sha256"):
            (self.dir / name).write_text("")
        (self.dir / "models").mkdir()

    def tearDown(self):
        shutil.rmtree(self.dir)

    def offers(self, expected, *words):
        self.assertEqual(complete(*words, cwd=self.dir), sorted(expected), words)

    def test_model_commands(self):
        commands = re.findall(r"^  ([a-z][a-z-]*)  *[a-z]", help_of("cecollm-model"), re.M)
        self.assertGreater(len(commands), 8)
        self.offers(commands + ["--help", "--version"], "cecollm-model", "")
        self.offers(["split", "score", "synth"], "cecollm-model", "s")

    def test_model_options(self):
        commands = re.findall(r"^  ([a-z][a-z-]*)  *[a-z]", help_of("cecollm-model"), re.M)
        for command in commands:
            listed = re.findall(r"^  (?:-., |    )(--[a-z0-9-]+)",
                                help_of("cecollm-model", command).split("Options:")[1], re.M)
            self.offers(listed, "cecollm-model", command, "x", "--")
            self.offers(listed, "cecollm-model", command, "--")

    def test_swarm(self):
        commands = re.findall(r"^  ([a-z][a-z-]*)  *[a-z]", help_of("cecollm-swarm"), re.M)
        self.assertEqual(len(commands), 3)
        self.offers(commands + ["--help", "--version"], "cecollm-swarm", "")
        for command in commands:
            listed = re.findall(r"^  (?:-., |    )(--[a-z0-9-]+)",
                                help_of("cecollm-swarm", command).split("Options:")[1], re.M)
            self.offers(listed, "cecollm-swarm", command, "x", "--")
        names = re.search(r"^ +--scenario NAME +(.*)", help_of("cecollm-swarm", "run"), re.M)
        self.offers(names[1].split(", "), "cecollm-swarm", "run", "--scenario", "")

    def test_agent_options(self):
        text = help_of("cecollm-agent")
        known = [o for o in options_of(text)]
        known = [o for o in known if o != "--SETTING"] + ["--prompt", "--config"]
        self.offers(set(known), "cecollm-agent", "--")

    def test_cloudd_options(self):
        self.offers(options_of(help_of("cecollm-cloudd")), "cecollm-cloudd", "--")
        config = subprocess.run([BUILD / "cecollm-cloudd", "--print-config"],
                                capture_output=True, text=True, check=True).stdout
        keys = re.findall(r"^#?([a-z_]+) =", config, re.M)
        self.offers(keys, "cecollm-cloudd", "--set", "")
        self.offers(["kv_budget="], "cecollm-cloudd", "-s", "kv")

    def test_files(self):
        models = ["a.gguf", "b model.gguf", "models/"]
        everything = models + ["list.sha256", "notes.txt"]
        self.offers(models, "cecollm-model", "info", "")
        self.offers(["b model.gguf"], "cecollm-model", "info", "b")
        self.offers(everything, "cecollm-model", "ppl", "a.gguf", "")
        self.offers(models, "cecollm-model", "verify", "a.gguf", "")
        self.offers(everything, "cecollm-model", "verify", "a.gguf", "--check", "")
        self.offers(models + ["none"], "cecollm-model", "bench", "a.gguf", "--exits", "")
        self.offers(["models/"], "cecollm-model", "bench", "a.gguf", "--packing-cache", "")
        self.offers(models, "cecollm-agent", "-m", "")
        self.offers(models, "cecollm-agent", "--model", "=", "")
        self.offers(models, "cecollm-agent", "--model", "=")
        self.offers(everything, "cecollm-cloudd", "-c", "")

    def test_values(self):
        names = re.search(r"^ +--type NAME +(.*)", help_of("cecollm-model", "quantize"),
                          re.M)[1]
        offered = complete("cecollm-model", "quantize", "a.gguf", "--type", "")
        self.assertLessEqual(set(names.split(", ")), set(offered))
        self.offers(["Q4_0", "Q4_1", "Q4_K"], "cecollm-model", "quantize", "--type", "Q4")
        self.offers(["all"], "cecollm-model", "info", "a.gguf", "--splits", "a")
        self.offers(["auto", "avx2", "avx512", "avxvnni"], "cecollm-agent", "--cpu", "a")
        self.offers([], "cecollm-model", "info", "--frob")

    def test_zsh_file(self):
        zsh = (BUILD / "etc/completion/_cecollm").read_text()
        self.assertTrue(zsh.startswith("#compdef cecollm-model cecollm-agent "))
        self.assertNotIn("@", zsh)


if __name__ == "__main__":
    if not BASH:
        print("skipped: no bash")
        sys.exit(77)
    unittest.main(verbosity=2)
