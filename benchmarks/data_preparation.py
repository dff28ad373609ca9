"""Time and memory of turning conversations into tokens and labels, here and on the path of Unsloth's notebooks.

    python benchmarks/data_preparation.py --tokenizer DIR --rows 10000 100000 300000 --peer-rows 10000

DIR holds the gpt-oss tokenizer. The rows are made from a seed, in FineTome-100k's schema: 1 to 8 messages a
conversation, rounded up to end in an answer, about 300 tokens a message, in several languages and with code; no two
messages are the same. Every measurement is a process of its own with caches of its own, on the same model folder: the
weights of tiny/gpt-oss, which are never run, beside the real tokenizer.

Measured are
- ours: `train.py prepare`, from the command's start to its end, after the imports;
- unsloth: load_dataset, standardize_sharegpt, apply_chat_template in a batched map, SFTTrainer with the preparation
  that Unsloth puts into it on a GPU (unsloth_zoo.dataset_utils.sft_prepare_dataset), train_on_responses_only; after
  the imports and after the model is loaded;
- trl: the same with TRL's own preparation, which is what Unsloth's CPU backend leaves in place.
The peers run with as many workers as there are cores. Nothing is longer than the 4,096 tokens that all are given.

Memory is that of the whole process tree, sampled: the sum of proportional set sizes, in which a page that several
processes share counts once, and the part of it that is anonymous, which the kernel cannot drop as it can pages of a
mapped file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

Tool = Literal["ours", "unsloth", "trl"]

REPOSITORY = Path(__file__).resolve().parents[1]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
MAX_SEQ_LENGTH = 4096
# The markers of Unsloth's gpt-oss notebook.
INSTRUCTION_PART = "<|start|>user<|message|>"
RESPONSE_PART = "<|start|>assistant<|channel|>final<|message|>"
SAMPLING_SECONDS = 0.25
GIB = 1024**3
# A process leaves a file of this name when what is measured ends: counting its samples afterwards is not measured.
MEASURED = "measured"

# A passage is drawn as one of these with a word in each slot; a message is a handful of passages.
PASSAGES = (
    "The <adjective> <noun> of the <term> <verb> the <noun> whenever a <term> is <adjective>.",
    "In <place> the <noun> was rebuilt in <year>, although its <adjective> <term> <verb> nearly <number> <noun>s.",
    "How would you explain <term> to someone who only knows the <noun> of <place>?",
    "First measure the <noun>; then compare it with <number>.<number> and note which <adjective> <term> <verb> it.",
    "<name> asked whether <number> × <number> is <adjective>, and <name> answered that the <noun> <verb> it anyway.",
    "- **<term>**: <adjective>, about <number> % of the <noun>\n- **<term>**: seldom <adjective>",
    "Let $x_<number>$ be the <noun>. Then $f(x) = <number>x^2 + <number>$ <verb> the <adjective> <term>.",
    "Die <adjective>e <german> in <place> kostet <number> Euro, weil die <german> seit <year> größer geworden ist.",
    "Warum überprüft man die <german>, bevor die <german> geöffnet wird? <name> weiß es nicht.",
    "La <french> de <place> était fermée en <year>, mais <name> l’a trouvée près d’une <french> <number>.",
    "¿Cuántas veces cabe la <spanish> en <number> <spanish>s? Según <name>, más de <number>.",
    "<russian> в городе <place> открылась в <year> году, и <russian> стоила <number> рублей.",
    "<korean>의 <korean>은 <year>년에 <number>번 바뀌었고, <name>이 그것을 기록했습니다.",
    "<japanese>は<year>年に<place>で<number>回<japanese>を調べました。",
    "```python\ndef <identifier>(<identifier>: int, <identifier>: str = \"<noun>\") -> dict[str, int]:\n"
    "    return {<identifier>: <number> for _ in range(<number>) if <identifier> != <number>}\n```",
    "```sql\nSELECT <identifier>, COUNT(*) AS <identifier>\nFROM <identifier> WHERE <identifier> > <number>\n"
    "GROUP BY <identifier> HAVING COUNT(*) < <number>;\n```",
    '```json\n{"<identifier>": <number>, "<identifier>": ["<noun>", "<term>"], "<identifier>": null}\n```',
    "Run `<identifier> --<identifier>=<number> /var/<noun>/<identifier>.log` and look for `<identifier>`.",
)  # fmt: skip
WORDS = {
    "adjective": "brittle quiet narrow ancient amber hollow steady crooked distant gentle rusty fertile vivid modest "
    "coarse swift pale dense frugal solemn porous lively blunt humid ornate plain sturdy mellow sparse tidy",
    "noun": "bridge harbour lantern orchard engine ledger valley compass kettle archive meadow furnace staircase "
    "market river theatre needle tunnel garden window carriage library mirror forest anchor quarry pulley ferry "
    "cellar barn beacon violin blanket shelf granary trumpet canal wagon cabinet island",
    "verb": "carries repairs outlasts follows darkens measures replaces balances softens crosses delays surrounds "
    "reveals divides sharpens supports lifts empties warms resembles",
    "place": "Lisbon Osaka Tartu Cusco Galway Bergen Izmir Nairobi Quito Kazan Utrecht Palermo Tbilisi Adelaide Fez",
    "name": "Ada Tomasz Ngozi Mei Yusuf Ingrid Rahul Sofía Dmitri Leila Joon Aroha Paulo Hanne Kwame",
    "german": "Brücke Werkstatt Bibliothek Straße Übersetzung Fähre Prüfung Glühbirne Schublade Mühle",
    "french": "forêt bibliothèque fenêtre cathédrale boulangerie lumière rivière allumette échelle horloge",
    "spanish": "montaña biblioteca ventana cuchara lámpara escalera naranja campana pequeña mariposa",
    "russian": "библиотека мастерская пристань лестница крепость мельница аптека площадь",
    "korean": "도서관 골목길 등대 나침반 시장 창고 계단 우체국 정원 다리",
    "japanese": "図書館 灯台 港 橋 市場 羅針盤 階段 庭園 郵便局 時計台",
    "stem": "hydro thermo photo micro chrono litho electro magneto bio geo aero crypto socio neuro piezo carto",
    "ending": "graphy meter logy scope genesis lysis stat phone morphism metrics dynamics nomy phobia gram",
}  # fmt: skip
WORD_LISTS = {slot: words.split() for slot, words in WORDS.items()}


@dataclass
class Measurement:
    """What one process reports and what was seen of it. `stages` in seconds, after the imports, in order; `tokens` are
    those of all samples, `trained_tokens` those with a label; memory in GiB, over the process and its children."""

    tool: Tool
    rows: int
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    process_seconds: float = 0.0
    peak_gib: float = 0.0
    peak_anonymous_gib: float = 0.0

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())


def word(slot: str, draw: random.Random) -> str:
    """A word for a slot of a passage; terms, identifiers and numbers are composed, so that there are very many."""
    if slot == "number":
        return str(draw.randrange(2, 10 ** draw.randint(1, 4)))
    if slot == "year":
        return str(draw.randrange(1650, 2025))
    if slot == "term":
        return f"{word('stem', draw)}{word('stem', draw)}{word('ending', draw)}"
    if slot == "identifier":
        return f"{word('noun', draw)}_{word('stem', draw)}{draw.randrange(100)}"
    return draw.choice(WORD_LISTS[slot])


def passages(draw: random.Random, count: int) -> list[str]:
    """`count` passages with all their slots filled."""
    patterns = (draw.choice(PASSAGES) for _ in range(count))
    return [re.sub(r"<(\w+)>", lambda match: word(match[1], draw), pattern) for pattern in patterns]


def conversations(rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows in FineTome-100k's schema. The same seed gives the same rows, and fewer rows are the first of more."""
    draw = random.Random(seed)
    pool = passages(draw, 20_000)
    # A serial number in each message: no two are the same.
    serial = 0
    for _ in range(rows):
        messages = []
        # 1 to 8 messages, rounded up to whole exchanges.
        for position in range(2 * ((draw.randint(1, 8) + 1) // 2)):
            serial += 1
            body = " ".join(draw.choices(pool, k=draw.randint(5, 15)))
            messages.append({"from": "gpt" if position % 2 else "human", "value": f"({serial}) {body}"})
        yield {"conversations": messages, "source": "generated", "score": round(draw.uniform(4, 6), 6)}


def write_rows(path: Path, rows: int, seed: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in conversations(rows, seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_first_rows(source: Path, path: Path, rows: int) -> None:
    with source.open(encoding="utf-8") as lines, path.open("w", encoding="utf-8") as file:
        file.writelines(islice(lines, rows))


def write_model_folder(folder: Path, tokenizer: Path, cache: Path) -> None:
    """A checkpoint that loads in a moment, with the real tokenizer. Its embedding is too small for that, which matters
    to nobody who does not run it."""
    from gptoss_ft import tiny

    shutil.copytree(tiny.materialize("tiny/gpt-oss", cache), folder)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)


def run_peer(tool: Tool, rows_file: Path, model_folder: Path, folder: Path, workers: int) -> Measurement:
    """The notebooks' path in this process, whose caches must be new: `datasets` would serve a stage from an old one."""
    from gptoss_ft import runtime

    runtime.prepare_environment()
    unsloth = runtime.import_unsloth(runtime.find_device("cpu"))
    from datasets import config, load_dataset
    from trl import SFTConfig, SFTTrainer
    from unsloth_zoo.dataset_utils import sft_prepare_dataset

    if Path(config.HF_DATASETS_CACHE).exists():
        raise ValueError(f"{config.HF_DATASETS_CACHE} is there already, wanted a new cache")
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        str(model_folder), max_seq_length=MAX_SEQ_LENGTH, load_in_4bit=False, use_exact_model_name=True
    )
    model = unsloth.FastLanguageModel.get_peft_model(model, r=8, target_modules=["q_proj", "v_proj"])
    trainer_class: type[Any] = SFTTrainer
    if tool == "unsloth":
        trainer_class = type("GpuTrainer", (SFTTrainer,), {"_prepare_dataset": sft_prepare_dataset})

    def as_text(examples: dict[str, list[Any]]) -> dict[str, list[str]]:
        texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in examples["conversations"]]
        return {"text": texts}

    arguments = SFTConfig(
        output_dir=str(folder / "trainer"),
        dataset_text_field="text",
        dataset_num_proc=workers,
        max_length=MAX_SEQ_LENGTH,
        report_to="none",
    )

    def tokenized(dataset: Any) -> Any:
        return trainer_class(model=model, processing_class=tokenizer, train_dataset=dataset, args=arguments)

    def labelled(trainer: Any) -> Any:
        return unsloth.train_on_responses_only(
            trainer, instruction_part=INSTRUCTION_PART, response_part=RESPONSE_PART, num_proc=workers
        )

    stages: list[tuple[str, Callable[[Any], Any]]] = [
        ("load_dataset", lambda path: load_dataset("json", data_files=str(path), split="train")),
        ("standardize_sharegpt", lambda dataset: unsloth.standardize_sharegpt(dataset, num_proc=workers)),
        ("apply_chat_template", lambda dataset: dataset.map(as_text, batched=True, num_proc=workers)),
        ("SFTTrainer", tokenized),
        ("train_on_responses_only", labelled),
    ]
    seconds = {}
    value: Any = rows_file
    for name, stage in stages:
        started = time.perf_counter()
        value = stage(value)
        seconds[name] = time.perf_counter() - started
    (folder / MEASURED).touch()
    measurement = Measurement(tool, 0, stages=seconds)
    count(measurement, value.train_dataset.with_format("arrow").iter(batch_size=1000))
    return measurement


def run_ours(rows_file: Path, model_folder: Path, folder: Path) -> Measurement:
    """`train.py prepare` in this process, after the imports that it makes late."""
    from typer.testing import CliRunner

    from gptoss_ft import inspecting  # noqa: F401
    from gptoss_ft.cli import app
    from gptoss_ft.data import handed_over, prepare, tokenizer  # noqa: F401

    config, prepared = folder / "config.yaml", folder / "prepared"
    config.write_text(
        f"model: {{name: {model_folder}, max_seq_length: {MAX_SEQ_LENGTH}, load_in_4bit: false, device: cpu}}\n"
        f"dataset: {{path: {rows_file}, format: sharegpt}}\n"
        f"training: {{max_steps: 1}}\n",
        encoding="utf-8",
    )
    started = time.perf_counter()
    result = CliRunner().invoke(app, ["prepare", "--config", str(config), "--output", str(prepared)])
    seconds = time.perf_counter() - started
    (folder / MEASURED).touch()
    if result.exit_code:
        raise RuntimeError(f"prepare ended with {result.exit_code}: {result.output}") from result.exception
    train = json.loads((prepared / "summary.json").read_text(encoding="utf-8"))["train"]
    stages = {"prepare": seconds}
    return Measurement("ours", 0, train["samples"], train["tokens"], train["trained_tokens"], stages)


def count(measurement: Measurement, tables: Iterable[Any]) -> None:
    """Fill in the counts from Arrow tables that have a row of input_ids and labels for each sample."""
    import pyarrow.compute as pc

    for part in tables:
        measurement.samples += part.num_rows
        measurement.tokens += pc.sum(pc.list_value_length(part["input_ids"])).as_py()
        measurement.trained_tokens += pc.sum(pc.not_equal(pc.list_flatten(part["labels"]), -100)).as_py()


def process_tree_bytes(session: int) -> tuple[int, int]:
    """Proportional set size of all processes of a session, in bytes: of everything, and of anonymous memory."""
    total = anonymous = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # After the name, which may hold spaces: state, parent, group, session.
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            sizes = dict(line.split(":") for line in (process / "smaps_rollup").read_text().splitlines()[1:])
        except OSError:
            continue  # it has just ended
        total += int(sizes["Pss"].split()[0]) * 1024
        anonymous += int(sizes["Pss_Anon"].split()[0]) * 1024
    return total, anonymous


def measure(tool: Tool, rows: int, rows_file: Path, model_folder: Path, folder: Path, workers: int) -> Measurement:
    """Run one tool in a process of its own, with new caches under `folder`, and watch its memory."""
    folder.mkdir()
    result = folder / "result.json"
    command = [
        sys.executable, __file__, "--run", tool, "--rows-file", rows_file, "--model", model_folder,
        "--workdir", folder, "--workers", workers, "--output", result,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "huggingface"),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "GPTOSS_FT_CACHE": str(folder / "cache"),
    }
    log = folder / "log.txt"
    peak = [0, 0]
    ended = threading.Event()

    def watch(session: int) -> None:
        while not (ended.wait(SAMPLING_SECONDS) or (folder / MEASURED).exists()):
            peak[:] = map(max, peak, process_tree_bytes(session))

    started = time.time()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=output, stderr=output, start_new_session=True
        )
        watcher = threading.Thread(target=watch, args=(process.pid,))
        watcher.start()
        status = process.wait()
    ended.set()
    watcher.join()
    if status:
        raise RuntimeError(f"{tool} on {rows} rows ended with {status}:\n{log.read_text(encoding='utf-8')[-3000:]}")
    measurement = Measurement(**json.loads(result.read_text(encoding="utf-8")))
    measurement.rows = rows
    measurement.process_seconds = (folder / MEASURED).stat().st_mtime - started
    measurement.peak_gib, measurement.peak_anonymous_gib = (size / GIB for size in peak)
    shutil.rmtree(folder)
    return measurement


def table(measurements: list[Measurement]) -> str:
    lines = [
        "| tool | rows | tokens | seconds | rows/s | tokens/s | peak GiB | of it anonymous | whole process, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.tool} | {m.rows:,} | {m.tokens:,} | {m.seconds:.1f} | {m.rows / m.seconds:,.0f} "
        f"| {m.tokens / m.seconds:,.0f} | {m.peak_gib:.2f} | {m.peak_anonymous_gib:.2f} | {m.process_seconds:.1f} |"
        for m in measurements
    ]
    for peer in (m for m in measurements if m.tool != "ours"):
        lines.append(f"\n{peer.tool}: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in peer.stages.items()))
        for ours in (m for m in measurements if m.tool == "ours" and m.rows == peer.rows):
            faster, memory = peer.seconds / ours.seconds, ours.peak_gib / peer.peak_gib
            lines.append(f"{peer.rows:,} rows: ours is {faster:.1f} times as fast, with {memory:.2f} of the memory")
    return "\n".join(lines)


def benchmark(arguments: argparse.Namespace, workdir: Path) -> list[Measurement]:
    """Make the rows, measure every tool on every size asked for, and leave nothing behind in `workdir`."""
    sizes = {*arguments.rows, *arguments.peer_rows}
    files = {rows: workdir / f"rows-{rows}.jsonl" for rows in sizes}
    largest = max(sizes)
    write_rows(files[largest], largest, arguments.seed)
    for rows in sizes - {largest}:
        write_first_rows(files[largest], files[rows], rows)
    model_folder = workdir / "model"
    write_model_folder(model_folder, arguments.tokenizer, workdir / "tiny")
    plan: list[tuple[Tool, int]] = [(tool, rows) for rows in arguments.peer_rows for tool in arguments.peers]
    plan += [("ours", rows) for rows in arguments.rows]
    measurements = []
    for tool, rows in plan:
        print(f"{tool}, {rows:,} rows, {files[rows].stat().st_size / GIB:.2f} GiB of text", flush=True)
        measured = measure(tool, rows, files[rows], model_folder, workdir / f"{tool}-{rows}", arguments.workers)
        measurements.append(measured)
        print(f"  {measured.seconds:.1f} s, {measured.peak_gib:.2f} GiB", flush=True)
    return measurements


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="folder of the gpt-oss tokenizer")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 300_000], help="sizes of our runs")
    parser.add_argument("--peer-rows", type=int, nargs="*", default=[10_000], help="sizes of the peers' runs")
    parser.add_argument("--peers", nargs="*", choices=("unsloth", "trl"), default=["unsloth", "trl"])
    parser.add_argument("--workdir", type=Path, help="folder for rows and caches (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures (default: $OUT/data_preparation.json)")
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help=argparse.SUPPRESS)
    # A single measurement, in the process that the benchmark starts for it.
    parser.add_argument("--run", choices=("ours", "unsloth", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--rows-file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.run is None and not (arguments.tokenizer and (arguments.tokenizer / "tokenizer.json").is_file()):
        parser.error("--tokenizer: no tokenizer.json there")
    if arguments.run is None and not {*arguments.rows, *arguments.peer_rows}:
        parser.error("--rows, --peer-rows: nothing to measure")
    return arguments


def main() -> None:
    # Run as a file, Python looks for modules beside it, not in the folder above.
    sys.path.insert(0, str(REPOSITORY))
    arguments = parse_arguments()
    if arguments.run == "ours":
        measured = run_ours(arguments.rows_file, arguments.model, arguments.workdir)
    elif arguments.run:
        measured = run_peer(arguments.run, arguments.rows_file, arguments.model, arguments.workdir, arguments.workers)
    if arguments.run:
        arguments.output.write_text(json.dumps(asdict(measured)), encoding="utf-8")
        return
    if arguments.workdir:
        arguments.workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.workdir) as workdir:
        measurements = benchmark(arguments, Path(workdir))
    print(f"\n{arguments.workers} cores, seed {arguments.seed}\n")
    print(table(measurements))
    output = arguments.output
    if output is None and os.environ.get("OUT"):
        output = Path(os.environ["OUT"]) / "data_preparation.json"
    if output:
        figures = [{**asdict(m), "seconds": m.seconds} for m in measurements]
        output.write_text(json.dumps({"cores": arguments.workers, "measurements": figures}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
