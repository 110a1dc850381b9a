#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""agent_synth.py - edge and cloud together over TLS, on a model of random weights:
every mode, exactness, several agents at once, and what goes wrong."""
import os
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import agent_run
from agent_run import Case, Cloudd, answers, origins, run, start
from cecollm_client import synth

PROMPTS = ["The quick brown fox", "a", "Once upon a time there was a man who",
           "line one\nline two\n", "To be, or not to be, that is the question: " * 4]
COUNT = 24  # tokens of most answers


def text_of(n):
    return ("the lazy dog sleeps. " * (n // 21 + 1))[:n]


class Together(Case):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix="cecollm-")
        cls.dir = cls.tmp.name
        cls.model = synth(str(agent_run.BUILD), cls.dir, "--layers", "6", "--exits",
                          "2,4", "--ctx", "512", "--type", "Q8_0")
        cls.cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), cls.model, cls.dir,
                           "whole_model=yes", "log_level=debug",
                           agents=["agent"] + ["a%d" % i for i in range(8)])

    @classmethod
    def tearDownClass(cls):
        status = cls.cloud.stop()
        cls.tmp.cleanup()
        assert status == 0, "cloudd ended with %d" % status

    def ask(self, prompts, *args, cloud=True, **more):
        return answers(prompts, "-m", self.model, "--threads", 1, "--max-tokens", COUNT,
                       *args, cloud=self.cloud if cloud else None, **more)

    def whole(self, prompts=PROMPTS, *args):
        return self.ask(prompts, "--mode", "edge-full", *args, cloud=False)

    def lone(self, prompts, *args):
        return self.ask(prompts, "--codec", "f32", *args)

    def heads_agree(self, answers, traced):
        """Each token and confidence is what its head says in a trace of the whole model,
        forced along the same ids. Returns the origins there were, with their layers."""
        seen = set()
        for a, b in zip(answers, traced):
            for t, u in zip(a["tokens"], b["tokens"]):
                layer = t.get("layer", 0)
                head = next(h for h in u["heads"] if h["layer"] == layer)
                self.assertEqual((t["id"], t["confidence"]), (head["id"], head["confidence"]))
                seen.add((t["origin"], layer))
        return seen


class Exactness(Together):
    def test_theta_one_equals_the_whole_model(self):
        """Token for token and hash for hash, in every mode that asks the cloud."""
        whole = self.whole()
        self.assertTrue(any(len(a["ids"]) == COUNT for a in whole))
        for mode in (["--mode", "collaborative", "--theta", "1"],
                     ["--mode", "naive"], ["--mode", "naive", "--naive-kv", "drop"],
                     ["--mode", "cloud"], ["--no-exits"],
                     ["--no-exits", "--cut-layer", "5"],
                     ["--theta", "1", "--prefill-chunk", "7"]):
            with self.subTest(mode=" ".join(mode)):
                for a, b in zip(whole, self.lone(PROMPTS, *mode)):
                    self.same(a, b)
                    self.assertEqual(b["counts"]["cloud"], len(b["ids"]))

    def test_every_token_is_what_its_origin_says(self):
        """Mixed origins: the whole model, forced along the same ids, must find the same
        token and confidence at the head that each was taken from."""
        seen = set()
        for theta in ("0.7", "0.97", "2=1,4=0.95"):
            mixed = self.lone(PROMPTS, "--theta", theta)
            forced = [{"prompt": p, "force_ids": a["ids"]}
                      for p, a in zip(PROMPTS, mixed)]
            seen |= self.heads_agree(mixed, self.whole(forced, "--trace"))
        self.assertEqual(seen, {("exit", 2), ("exit", 4), ("cloud", 0)})

    def test_upload_triggers_change_nothing_but_traffic(self):
        always = self.lone(PROMPTS, "--theta", "0.95")
        for trigger in ("below:0.9", "on-request", "below:0"):
            for a, b in zip(always, self.lone(PROMPTS, "--theta", "0.95", "--upload",
                                              trigger)):
                self.same(a, b)
                self.assertEqual(origins(a), origins(b))

    def test_sampling_is_the_same_everywhere(self):
        how = ["--temperature", "1.3", "--seed", "7", "--top-k", "60", "--min-p", "0.01"]
        whole = self.whole(PROMPTS, *how)
        greedy = self.whole()
        self.assertNotEqual([a["ids"] for a in whole], [a["ids"] for a in greedy])
        for mode in (["--theta", "1"], ["--mode", "naive"], ["--mode", "cloud"]):
            for a, b in zip(whole, self.lone(PROMPTS, *mode, *how)):
                self.same(a, b)

    def test_half_precision_is_close(self):
        """f16 against f32, both forced along the same ids."""
        whole = self.whole()
        forced = [{"prompt": p, "force_ids": a["ids"]} for p, a in zip(PROMPTS, whole)]
        half = self.ask(forced, "--theta", "1", "--codec", "f16")
        pairs = [(x, y) for a, b in zip(whole, half) for x, y in zip(a["ids"], b["ids"])]
        self.assertGreaterEqual(sum(x == y for x, y in pairs) / len(pairs), 0.9)  # its margins are slim

    def test_standalone_asks_nobody(self):
        a = self.ask(PROMPTS, "--mode", "standalone", "--theta", "0.95", cloud=False)
        for x in a:
            self.assertEqual({o for o, _ in origins(x)}, {"exit"})
            self.assertEqual(x["counts"]["requests"], 0)

    def test_counts_add_up(self):
        for a in self.lone(PROMPTS, "--theta", "0.95"):
            c = a["counts"]
            self.assertEqual(c["tokens"], len(a["ids"]))
            self.assertEqual(c["tokens"], sum(c["exits"].values()) + c["cloud"])
            self.assertEqual(c["requests"], c["cloud"])
            self.assertEqual(c["stalls"], c["requests"])
            if c["requests"]:
                self.assertGreater(a["bytes_up"], 4 * 64 * a["prompt_tokens"])

    def test_long_prompts_pass_the_window(self):
        cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), self.model,
                       tempfile.mkdtemp(dir=self.dir), "window=16", "step_rows=24")
        try:
            prompt = [text_of(600)]
            whole = self.whole(prompt)
            self.assertGreater(whole[0]["prompt_tokens"], 300)
            for more in ([], ["--upload", "on-request"], ["--mode", "naive"],
                         ["--mode", "naive", "--naive-kv", "drop"]):
                with self.subTest(more=" ".join(more)):
                    b = answers(prompt, "-m", self.model, "--threads", 1, "--max-tokens",
                                COUNT, "--codec", "f32", "--theta", "1", *more,
                                cloud=cloud)
                    self.same(whole[0], b[0])
        finally:
            cloud.stop()


class Architectures(Case):
    """Models that are not of the plain Llama graph, whole and in parts."""

    def test_the_cloud_answers_as_the_whole_model(self):
        for options in (["--arch", "qwen2", "--untied"],
                        ["--arch", "qwen3", "--head-dim", "32"],
                        ["--arch", "smollm3", "--biases", "--rope-freqs"]):
            with self.subTest(" ".join(options)), \
                    tempfile.TemporaryDirectory(prefix="cecollm-") as d:
                model = synth(str(agent_run.BUILD), d, "--layers", "6", "--exits", "2,4",
                              "--type", "Q8_0", *options)
                parts = [os.path.join(d, n) for n in ("edge.gguf", "cloud.gguf")]
                subprocess.run([str(agent_run.BUILD / "cecollm-model"), "split", model,
                                "--edge", parts[0], "--cloud", parts[1]], check=True,
                               stdout=subprocess.DEVNULL)
                how = ["--threads", 1, "--max-tokens", COUNT]
                whole = answers(PROMPTS, "-m", model, "--mode", "edge-full", *how)
                cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), parts[1], d)
                try:
                    both = answers(PROMPTS, "-m", parts[0], "--theta", "1", "--codec",
                                   "f32", *how, cloud=cloud)
                finally:
                    self.assertEqual(cloud.stop(), 0)
                for a, b in zip(whole, both):
                    self.same(a, b)


class Screens(Together):
    """The same model, its exits with screens as random as all else."""

    def screened(self, candidates):
        """Asks PROMPTS of it."""
        model = synth(str(agent_run.BUILD), tempfile.mkdtemp(dir=self.dir), "--layers", "6",
                      "--exits", "2,4", "--ctx", "512", "--type", "Q8_0", "--candidates",
                      str(candidates))
        return lambda *args, prompts=PROMPTS, cloud=self.cloud: answers(
            prompts, "-m", model, "--threads", 1, "--codec", "f32", "--max-tokens", COUNT,
            *args, cloud=cloud)

    def test_a_screen_of_all_ids_changes_no_token(self):
        ask = self.screened(320)  # the argmax is always among them
        collaborative = {("exit", 2): 0, ("exit", 4): 1, ("cloud", 0): 2}
        for how, checks in (
                (["--theta", "0.95"], collaborative),
                (["--theta", "2=0.9,4=0.99"], collaborative),
                (["--theta", "0.95", "--temperature", "1", "--seed", "3"], collaborative),
                (["--theta", "0.95", "--upload", "below:0.99"], collaborative),
                (["--theta", "4=1", "--upload", "on-request"], {("cloud", 0): 1}),
                (["--theta", "0.95", "--mode", "standalone"], {("exit", 4): 1})):
            with self.subTest(how=" ".join(how)):
                cloud = None if "standalone" in how else self.cloud
                full = ask("--no-hash", "--no-screens", *how, cloud=cloud)
                for a, b in zip(full, ask("--no-hash", *how, cloud=cloud)):
                    self.same(a, b, with_hash=False)
                    self.assertEqual(origins(a), origins(b))
                    self.assertEqual(a["counts"]["requests"], b["counts"]["requests"])
                    self.assertEqual(a["counts"]["screened"], 0)
                    self.assertEqual(b["counts"]["screened"],
                                     sum(checks.get(o, 0) for o in origins(b)))

    def test_a_mistaken_screen_sends_a_token_deeper(self):
        ask = self.screened(8)
        depth = {("exit", 2): 0, ("exit", 4): 1, ("cloud", 0): 2}
        full = ask("--no-hash", "--no-screens", "--theta", "0.9")
        some = ask("--no-hash", "--theta", "0.9")
        mistakes = 0
        for a, b in zip(full, some):
            pairs = zip(zip(a["ids"], origins(a)), zip(b["ids"], origins(b)))
            parted = next((p for p in pairs if p[0] != p[1]), None)
            if parted:
                self.assertGreater(depth[parted[1][1]], depth[parted[0][1]])
                mistakes += 1
        self.assertGreater(mistakes, 0)
        # What comes out is what its head says in full.
        forced = [{"prompt": p, "force_ids": b["ids"]} for p, b in zip(PROMPTS, some)]
        whole = ask("--mode", "edge-full", "--trace", prompts=forced, cloud=None)
        self.heads_agree(some, whole)

    def test_hashes_are_of_whole_checks(self):
        ask = self.screened(8)
        for a, b in zip(ask("--no-screens", "--theta", "0.9"), ask("--theta", "0.9")):
            self.same(a, b)
            self.assertEqual(origins(a), origins(b))
            self.assertEqual(b["counts"]["screened"], 0)


class Kinds(Together):
    """The same model, its exits with heads of their own or with the model's own head."""

    def check(self, model, *args, edge=None):
        """Answers are of every origin, and each token is what its origin says. `edge`:
        the same exits in another file, with other options."""
        def ask(*more, prompts=PROMPTS, cloud=self.cloud, who=(model, *args)):
            return answers(prompts, "-m", *who, "--threads", 1, "--codec", "f32",
                           "--max-tokens", COUNT, *more, cloud=cloud)

        whole = self.whole()
        for a, b in zip(whole, ask("--theta", "1")):
            self.same(a, b)
        seen = set()
        for theta in ("0.6", "0.97", "2=1,4=0.95"):
            mixed = ask("--theta", theta)
            forced = [{"prompt": p, "force_ids": a["ids"]} for p, a in zip(PROMPTS, mixed)]
            checked = ask("--mode", "edge-full", "--trace", prompts=forced, cloud=None)
            seen |= self.heads_agree(mixed, checked)
            if edge:
                for a, b in zip(mixed, ask("--theta", theta, who=edge)):
                    self.same(a, b)
                    self.assertEqual(origins(a), origins(b))
        self.assertEqual(seen, {("exit", 2), ("exit", 4), ("cloud", 0)})
        alone = ask("--mode", "standalone", "--theta", "0.6", cloud=None)
        self.assertEqual({o for a in alone for o in origins(a)}, {("exit", 2), ("exit", 4)})
        return [a["ids"] for a in alone]

    def split(self, model, *args):
        edge = os.path.join(self.dir, "edge.gguf")
        subprocess.run([agent_run.BUILD / "cecollm-model", "split", model, "--edge", edge,
                        "--cloud", os.path.join(self.dir, "cloud.gguf"), *args], check=True,
                       stdout=subprocess.DEVNULL)
        return edge

    def test_each_kind(self):
        """Shared heads of a side file, or asked for, or in a part's own file, are the
        same ones."""
        def of_kind(kind):
            return synth(str(agent_run.BUILD), tempfile.mkdtemp(dir=self.dir), "--layers",
                         "6", "--exits", "2,4", "--ctx", "512", "--type", "Q8_0",
                         "--exit-kind", kind)

        own, shared, trust = map(of_kind, ("own", "shared", "trust"))
        found = {"own": self.check(own, edge=(self.split(own), "--exits", "none")),
                 "trust": self.check(trust, edge=(self.split(trust), "--exits", "none")),
                 "shared": self.check(shared)}
        edge = (self.split(self.model, "--exit-layers", "2,4"), "--exits", "none")
        self.assertEqual(found["shared"],
                         self.check(self.model, "--exit-layers", "2,4", edge=edge))
        self.assertNotEqual(found["shared"], found["own"])
        self.assertNotEqual(found["trust"], found["own"])


class Crowd(Together):
    def arguments(self, i):
        return ["-m", self.model, "--threads", 1, "--codec", "f32", "--max-tokens",
                200, "--raw", "--theta", ["1", "0.7", "0.95", "0.99"][i % 4]]

    def crowd(self, prompts):
        files = [agent_run.Prompts([p]) for p in prompts]
        running = [start(*f.args(), *self.arguments(i), cloud=self.cloud, agent="a%d" % i)
                   for i, f in enumerate(files)]
        return files, running

    def test_eight_at_once_equal_their_lone_runs(self):
        prompts = [text_of(20 + 30 * i) + str(i) for i in range(8)]
        alone = [answers([p], *self.arguments(i), cloud=self.cloud)[0]
                 for i, p in enumerate(prompts)]
        files, running = self.crowd(prompts)
        for a, p in zip(alone, running):
            out, err = p.communicate(timeout=300)
            self.assertEqual(p.returncode, 0, err)
            b = agent_run.json.loads(out)
            self.same(a, b)
            self.assertEqual(origins(a), origins(b))

    def test_killing_one_disturbs_none(self):
        prompts = [text_of(40) + str(i) for i in range(4)]
        alone = [answers([p], *self.arguments(i), cloud=self.cloud)[0]
                 for i, p in enumerate(prompts)]
        fds = self.cloud.n_fds()
        files, running = self.crowd(prompts)
        # The first to die has many answers to give, so that it dies in one of them.
        victim_prompts = agent_run.Prompts([text_of(60)] * 500)
        victim = start(*victim_prompts.args(), *self.arguments(0), cloud=self.cloud,
                       agent="a7")
        victim.stdout.readline()
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        for a, p in zip(alone, running):
            out, err = p.communicate(timeout=300)
            self.assertEqual(p.returncode, 0, err)
            self.same(a, agent_run.json.loads(out))
        deadline = time.monotonic() + 20
        while self.cloud.n_fds() != fds and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.cloud.n_fds(), fds)
        begun = self.cloud.log().count(" begun")
        while self.cloud.log().count(" ended: ") != begun and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.cloud.log().count(" ended: "), begun)
        # Nothing of anybody is held any more: no sequence, no row, no page.
        empty = "held connections=0 sessions=0 sequences=0 rows=0 " \
                "hidden_state_bytes=0 kv_bytes=0"
        while empty not in self.cloud.log() and time.monotonic() < deadline:
            os.kill(self.cloud.process.pid, signal.SIGUSR1)
            time.sleep(0.05)
        self.assertIn(empty, self.cloud.log())


class Trouble(Together):
    def agent(self, *args, **more):
        return run("-m", self.model, "--threads", 1, "--quiet", *args, **more)

    def test_options(self):
        for args, pattern in (
                (["--no-such"], "unknown option --no-such"),
                (["-x"], "unknown option -x"),
                (["word"], "\"word\" is not an option"),
                (["--theta"], "--theta needs a value"),
                (["--max-tokens", "0", "-p", "x"], "max_tokens"),
                (["--mode", "sideways", "-p", "x"], "mode.*sideways"),
                (["--theta", "3=0.5", "-p", "x", "--mode", "standalone"],
                 "no exit after layer 3"),
                (["--exit-layers", "2,x", "-p", "x", "--mode", "standalone"],
                 "exit_layers"),
                (["--exit-layers", "2,6", "-p", "x", "--mode", "standalone"],
                 "exit layers must ascend within 1 to 5; got 6"),
                (["--upload", "never", "-p", "x", "--mode", "standalone"], "upload"),
                (["-p", "x", "--ids", "1"], "exclude each other"),
                (["--ids", "1,b", "--mode", "standalone"], None),
                (["-p", "x"], "mode collaborative needs --cloud"),
                (["-p", "x", "--stop", "a||b"], "stop: an empty string"),
                (["-c", "/no/such/file", "-p", "x"], "/no/such/file"),
                (["--prompts", "/no/such/file", "--mode", "standalone"], "/no/such/file"),
                (["-p", "x", "--mode", "standalone", "--no-exits"], "needs exits"),
        ):
            with self.subTest(args=" ".join(args)):
                r = self.agent(*args)
                if pattern is None:
                    self.fails(r, 1, "is not a list of numbers")
                else:
                    self.fails(r, 2, pattern)
        self.fails(run("-p", "x"), 2, "no model")

    def test_settings_file(self):
        path = Path(self.dir) / "agent.conf"
        path.write_text("model = %s\nmode = edge-full\nmax_tokens = 3\nquiet = yes\n"
                        % self.model)
        r = run("-c", path, "-p", "x", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(len(agent_run.parse(r)[0]["ids"]), 3)
        r = run("-c", path, "-p", "x", "--json", "--max-tokens", "2")
        self.assertEqual(len(agent_run.parse(r)[0]["ids"]), 2)
        path.write_text("model = x\nmax-tokens = 3\n")
        self.fails(run("-c", path, "-p", "x"), 2, "agent.conf:2: .*max-tokens")

    def test_model(self):
        self.fails(run("-m", "/no/such.gguf", "-p", "x", "--mode", "edge-full"), 3,
                   "/no/such.gguf")
        bad = Path(self.dir) / "bad.gguf"
        bad.write_bytes(b"GGUF" + b"\0" * 60)
        self.fails(run("-m", bad, "-p", "x", "--mode", "edge-full"), 3, "bad.gguf")

    def test_prompt_too_long(self):
        for mode in ("edge-full", "collaborative", "cloud"):
            r = self.agent("-p", text_of(3000), "--raw", "--mode", mode, cloud=self.cloud)
            self.fails(r, 1, r"the prompt has \d{3,} tokens, the context holds 512")
        r = self.agent("--ids", "1,2,9999", "--mode", "edge-full")
        self.fails(r, 1, "9999 is not in the vocabulary")

    def test_a_bad_prompt_does_not_stop_the_others(self):
        p = agent_run.Prompts(["good", {"prompt": text_of(3000)}, "also good"])
        r = self.agent(*p.args(), "--mode", "edge-full", "--max-tokens", 4)
        self.assertEqual(r.returncode, 1)
        found = agent_run.parse(r)
        self.assertEqual([("error" in a) for a in found], [False, True, False])
        self.assertEqual(len(r.stderr.splitlines()), 1)

    def test_wrong_model(self):
        other = synth(str(agent_run.BUILD), tempfile.mkdtemp(dir=self.dir), "--layers",
                      "6", "--exits", "2,4", "--seed", "99")
        r = run("-m", other, "-p", "x", cloud=self.cloud)
        self.fails(r, 4, r"cloud localhost:\d+: .*model")

    def test_wrong_certificate(self):
        other = tempfile.mkdtemp(dir=self.dir)
        subprocess.run(["sh", str(agent_run.SRC / "build-aux/dev-certs.sh"), other],
                       check=True, stdout=subprocess.DEVNULL)
        mine = self.cloud.certs
        where = "localhost:%d" % self.cloud.port

        def attempt(ca, cert, host=where):
            return self.agent("-p", "x", "--cloud", host, "--ca", ca + "/ca.crt", "--cert",
                              cert + "/agent.crt", "--key", cert + "/agent.key")
        self.fails(attempt(other, mine), 4, "cloud localhost:.*certificate")
        self.fails(attempt(mine, other), 4, "cloud localhost:.*(certificate|alert|ca)")
        self.fails(self.agent("-p", "x", "--cloud", where, "--ca", mine + "/none.crt",
                              "--cert", mine + "/agent.crt", "--key",
                              mine + "/agent.key"), 2, "none.crt")
        self.fails(self.agent("-p", "x", "--cloud", where, "--ca", mine + "/ca.crt",
                              "--cert", mine + "/agent.crt", "--key",
                              mine + "/cloudd.key"), 2, "key")

    def test_no_cloud_there(self):
        certs = self.cloud.certs
        args = ["--ca", certs + "/ca.crt", "--cert", certs + "/agent.crt", "--key",
                certs + "/agent.key", "-p", "x"]
        self.fails(self.agent("--cloud", "localhost:1", *args), 4,
                   "cloud localhost:1: cannot connect: Connection refused")
        self.fails(self.agent("--cloud", "localhost", *args), 2, "HOST:PORT")
        self.fails(self.agent("--cloud", "localhost:99999", *args), 2, "port")

    def test_a_cloud_that_says_nothing(self):
        import socket
        with socket.create_server(("127.0.0.1", 0)) as s:
            certs = self.cloud.certs
            r = self.agent("--cloud", "127.0.0.1:%d" % s.getsockname()[1], "--ca",
                           certs + "/ca.crt", "--cert", certs + "/agent.crt", "--key",
                           certs + "/agent.key", "-p", "x", "--connect-timeout", "300ms")
            self.fails(r, 4, "no greeting in time")

    def test_not_offered(self):
        cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), self.model,
                       tempfile.mkdtemp(dir=self.dir))
        try:
            self.fails(self.agent("-p", "x", "--mode", "cloud", cloud=cloud), 4,
                       "cloud localhost:.*whole")
            self.fails(self.agent("-p", "x", "--retain-limit", "64K", "--max-tokens",
                                  "500", "--codec", "f32", cloud=cloud), 1,
                       "retain_limit is 65536")
        finally:
            cloud.stop()

    def lost(self, *args):
        """A cloudd killed in the middle of an answer; the agent's end."""
        cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), self.model,
                       tempfile.mkdtemp(dir=self.dir))
        endless = agent_run.Prompts([{"prompt": text_of(60), "max_tokens": 400}] * 500)
        p = start("-m", self.model, "--threads", 1, "--raw", "--theta", "0.95",
                  "--prompts", endless.file.name, "--json", "--quiet", *args, cloud=cloud)
        p.stdout.readline()
        os.kill(cloud.process.pid, signal.SIGKILL)
        cloud.process.wait()
        out = p.stdout.read()
        err = p.stderr.read()
        p.wait(60)
        p.stdout.close()
        p.stderr.close()
        return p.returncode, [agent_run.json.loads(x) for x in out.splitlines()], err

    def test_the_cloud_dies_in_an_answer(self):
        code, found, err = self.lost("--reconnect", "0")
        self.assertEqual(code, 1)
        self.assertRegex(err, r"^cecollm-agent: cloud localhost:\d+: .*\n$")
        self.assertIn("error", found[-1])
        self.assertEqual(found[-1]["end"], "error")

    def test_the_cloud_does_not_come_back(self):
        code, found, err = self.lost("--reconnect", "1s")
        self.assertEqual(code, 1)
        self.assertRegex(err, r"^cecollm-agent: cloud localhost:\d+: cannot connect: .* "
                              r"\(gave up after [1-9]\d* tr(y|ies) in \d\.\d s\)\n$")
        self.assertEqual(found[-1]["end"], "error")

    def test_the_edge_goes_on(self):
        code, found, err = self.lost("--on-cloud-loss", "edge")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(len(found), 499)
        whole = [a for a in found if "cloud_lost" in a]
        self.assertTrue(whole)
        self.assertEqual({o for o, _ in origins(found[-1])} - {"exit"}, {"fallback"})

    def test_deadline(self):
        cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), self.model,
                       tempfile.mkdtemp(dir=self.dir))
        endless = agent_run.Prompts([{"prompt": text_of(60), "max_tokens": 400}] * 500)
        p = start("-m", self.model, "--threads", 1, "--raw", "--theta", "1", "--quiet",
                  "--prompts", endless.file.name, "--json", "--deadline", "200ms",
                  cloud=cloud)
        p.stdout.readline()
        os.kill(cloud.process.pid, signal.SIGSTOP)
        while True:  # the first that fails
            a = agent_run.json.loads(p.stdout.readline())
            if "error" in a:
                break
        self.assertIn("in time", a["error"])
        p.kill()
        p.communicate()
        os.kill(cloud.process.pid, signal.SIGCONT)
        cloud.stop()


if __name__ == "__main__":
    unittest.main()
