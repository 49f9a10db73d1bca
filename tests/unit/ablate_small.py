"""Stands for `cyclemimic` in studies: writes at once what a verb would leave, and a journal of what it was asked.

`python ablate_small.py JOURNAL VERB ...`. A file JOURNAL.fail names a word; a command that holds it fails. The figures
depend on the row and the seed alone: AC3 is better than Genie by .1 at every seed, in transfer by .2.
"""

import json
import os
import sys
from pathlib import Path

SCORE = {"transfer_cosine": 0.5, "transfer_r2": 0.2, "counterfactual_psnr_db": 20.0}
JUDGE = {
    "r2": 0.9,
    "r2_blurred": 0.9,
    "cosine": 0.9,
    "r2_axes": [0.9] * 3,
    "pairs": 7,
    "least_r2": 0.5,
    "most_change": 0.1,
}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def quality(objective, seed):
    ours = objective == "ac3"
    return {
        "transfer_cosine": 0.5 + 0.2 * ours + 0.01 * seed,
        "probe_cross": 0.4 + 0.1 * ours + 0.02 * seed,
        "kappa_cross": 0.3 + 0.1 * ours * (-1) ** seed,  # wins at even seeds alone
        "leak_index": 0.3 - 0.1 * ours,
        "judge_refused": False,
    }


def main(journal, verb, *words):
    with journal.open("a") as file:
        file.write(json.dumps([verb, *words]) + "\n")
    bad = journal.with_suffix(".fail")
    if bad.exists() and bad.read_text() in words:
        sys.exit(f"{bad.read_text()} fails")
    flags = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}
    if verb == "tokenizer":
        run = Path(flags["--run"])
        on = {"cycle": 0 if "critic_none" in flags["--recipe"] else 9, "discriminator": 9}
        facts = {"objective": flags["--objective"], "seed": int(flags["--seed"]), "on_steps": on}
        write(run / "tokenizer.json", facts)
        write(run / "metrics.jsonl", {"step": 1, "cpu_ms_per_sample": 7.0})
    elif verb == "evaluate" and "--judge" in flags:
        facts = json.loads((Path(words[0]) / "tokenizer.json").read_text())
        record = {"quality": quality(facts["objective"], facts["seed"]), "judge": JUDGE}
        record["references"] = dict.fromkeys(("copy", "random_code", "oracle_code"), SCORE)
        write(Path(flags["--out"]) / "quality.json", record)
    elif verb == "evaluate":
        import numpy as np

        out = Path(flags["--out"])
        rows = [
            {"body": "arm6", "skill": "reach", "seed": i, "success": i < 3, "steps": 5, "error": None} for i in range(4)
        ]
        write(out / "rollouts-as-it-is.json", {"episodes": rows})
        np.savez(out / "rollouts-as-it-is.npz")
        if "--rivals" in words:
            write(out / "choice.json", {"chosen": 1, "runs": [{"rate": rate} for rate in (0.5, 0.75, 0.25)]})


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), *sys.argv[2:])
