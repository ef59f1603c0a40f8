"""Make inputs: sound ones, mutated a few times. The same seed makes the same inputs."""

from __future__ import annotations

import random

EPS = ["8/255", "0.3", "inf", ".5", "1e-3", "0", "1", "2", "1e309", "1e-400", "1e999999999",
       "0.03137254901960784", "-1", "16/510", "nan", "1/0", "9" * 40, "1.e5",
       " 4/255 "]  # fmt: skip
VALUES = ["50", "0.1", "1e-3", "true", "yes", "null", "ce", "[1, 2]", "{rate: 0.5, seed: 3}",
          "1:30", "010", "0x10", "0x_", "1_000", "2020-13-45", "!!int x", "!!bool x", "=", "<<",
          "!!python/object/apply:os.getcwd []", "'quoted'", '"\\ud800"', ".inf", ".nan", "~",
          "[" * 50, "&a [*a]", "1e400", "1e-400", "0.1000000000000000000001", "- 1", "a: b",
          "1.0", "-0.0", "+5", "7 # seven"]  # fmt: skip
TARGETS = ["attack.tries", "attack.rate", "attack.inner.rate", "attack.inner", "attack.loss",
           "attack.flag", "attack.sizes", "attack.size", "attack", "defense.steps", "a.b", "",
           "classifier.training.seed", "attack." + "a." * 40 + "b"]  # fmt: skip
RULES = ["single", "vote", "vote@5", "mean-logit", "worst-of-10", "vote@0",
         "vote@" + "9" * 5000, "worst-of-", "vote@٣"]  # fmt: skip
PLANS = [
    "defenses: [none, {name: gaussian, grid: {sigma: [0.1, 0.2]}}]\nattacks: noise\n"
    "threats: {norm: Linf, eps: 8/255}\nn: 50\n",
    "defenses: none\nattacks: [noise, {name: pgd, set: {steps: 5}}]\nthreats:\n"
    "  - {norm: L2, eps: 0.5}\n  - {eps: inf}\nseeds: [0, 1, 2]\ndraws: 10\nshard: 100\n",
    "defenses: &a [none]\nattacks: noise\nthreats: {eps: 0.1}\nn: yes\nladder: true\n"
    "audit: 64\naccesses: [full, bpda]\n",
    "a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: &d [*c, *c, *c, *c]\n"
    "e: &e [*d, *d, *d, *d]\nf: &f [*e, *e, *e, *e]\ng: [*f, *f, *f, *f]\n",
    "defenses: &a [*a]\nattacks: {1: 2, [3]: 4}\nthreats: {eps: 1:30}\nn: 010\n",
    "defenses: {name: none, set: {1.5: {2: 3}}}\nattacks: noise\nthreats: {eps: 0.1}\n",
]
COMMANDS = [
    ["table", "--rule={rule}"], ["table", "--format={word}"], ["list", "{word}"],
    ["show", "{word}"], ["show", "none", "--dataset={word}"], ["report", "--defense={word}"],
    ["report", "--defense=none", "--eps={eps}"], ["matrix", "{word}", "--dry-run"],
    ["compare", "{word}", "{word}", "--eps={eps}"], ["verify", "{word}"],
    ["run", "--defense={word}", "--attack=noise", "--dry-run"],
    ["run", "--defense=none", "--attack=noise", "--set={set}", "--dry-run"],
    ["run", "--defense=none", "--attack=noise", "--eps={eps}", "--dry-run"],
    ["run", "--defense=none", "--attack=noise", "--seed={value}", "--dry-run"],
    ["run", "--defense=none", "--attack=noise", "-n", "{value}", "--dry-run"],
    ["run", "--defense=none", "--attack=noise", "--device={word}", "--dry-run"],
]  # fmt: skip
WORDS = ["none", "digits", "csv", "x" * 300, "[red]x[/x]", "../..", "\ud800", "~nobody", "cpu",
         "cuda:99", "", "=x", "defenses"]  # fmt: skip
PIECES = [*"0123456789eE+-./:_ \n\t[]{},&*!|>%@`'\"#~=<?ax", "\x00", "\x1b", "\ud800", "\u0663",
          "\u2028", "\U0001f600", "true", "yes", "!!int ", "!!binary ", "<<: ", "*a", "&a ",
          "---", "...", "1e999", "99999999999999999999", "\\ud800", ": ", "- ",
          "\ufeff"]  # fmt: skip


def mutated(text: str, rng: random.Random) -> str:
    """Change a text in none to six places."""
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 6))):
        at = rng.randint(0, len(text))
        to = min(len(text), at + rng.choice((1, 1, 2, 5)))
        piece = rng.choice(PIECES)
        match rng.randrange(5):
            case 0:
                text = text[:at] + piece + text[at:]
            case 1:
                text = text[:at] + text[to:]
            case 2:
                text = text[:at] + piece + text[to:]
            case 3:
                text = text[:at] + text[at:to] * rng.choice((2, 10, 100)) + text[to:]
            case _:
                text = text[:at] + "".join(rng.choices(PIECES, k=rng.randint(1, 8))) + text[to:]
    return text


def setting(rng: random.Random) -> str:
    """Write the word of a --set."""
    return f"{mutated(rng.choice(TARGETS), rng)}={mutated(rng.choice(VALUES), rng)}"


def command(rng: random.Random) -> list[str]:
    """Write a command line whose values are mutated and whose options are not."""
    parts = {
        "rule": mutated(rng.choice(RULES), rng),
        "word": mutated(rng.choice(WORDS), rng),
        "eps": mutated(rng.choice(EPS), rng),
        "value": mutated(rng.choice(VALUES), rng),
        "set": setting(rng),
    }
    words = [word.format(**parts).replace("\x00", "") for word in rng.choice(COMMANDS)]
    # A value in a place of its own could be read as an option, such as --help: that is allowed.
    return [word for word in words if not word.startswith("/")]
