"""The study of spaCy's quickstart: its data, configs, runs and statistics."""

import json
import math
import random
import sys
from pathlib import Path

import numpy
import pytest
from helpers import require, scripts

require("spacy")

STUDY = Path(__file__).parents[1] / "examples" / "studies" / "spacy"


@pytest.fixture
def load():
    with scripts(STUDY / "scripts") as load:
        yield load


@pytest.fixture
def inference(analyse, load):
    return load("inference")


@pytest.fixture
def analyse(load):
    require("scipy", "statsmodels", "matplotlib")
    return load("analyse")


# Settings


def test_only_the_optimizer_differs_from_the_quickstart(load):
    train = load("train")
    for task in train.STEPS:
        run = train.Run("quickstart", task, "averages", 3)
        config, uses_averages = train.make_config(run, Path("corpus"), 100)
        # Adam alone, Thinc's averages, and those of this package.
        assert uses_averages == [False, True, False, False, False, False, False]
        section = config["training"]["optimizer"]
        names = []
        while "optimizer" in section:
            names.append(section["@optimizers"])
            section = section["optimizer"]
        assert [name for name in names if not name.startswith("thinc_swa.")] == [
            "EMA.v1",
            *["SWA.v1"] * 3,
            "LAWA.v1",
        ]
        quickstart = train.read_entries([STUDY / "configs" / f"{task}.cfg"], [], {})[0].config
        adam = dict(quickstart["training"]["optimizer"])
        assert not adam.pop("use_averages") and section.pop("use_averages")
        assert section == adam
        for settings in (config, quickstart):
            for key in ("optimizer", "max_steps", "patience", "seed"):
                settings["training"].pop(key)
            settings.pop("paths"), settings.pop("system")
        interpolated = quickstart.copy()
        for part in ("nlp", "components", "corpora"):
            assert set(config[part]) == set(interpolated[part])
        assert config["training"]["batcher"] == quickstart["training"]["batcher"]
        assert config["training"]["eval_frequency"] == 200


def test_runs_are_balanced_at_any_time(load):
    planned = list(load("train_all").planned(2))
    assert len(planned) == len(set(planned)) == 60 + 2 * 42
    first, later = planned[:60], planned[60:]
    assert [run.group for run in first] == ["averages"] * 30 + ["schedule_free"] * 30
    for runs in (first[:30], first[30:], later):
        assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    for i in range(0, len(planned), 6):
        assert {run.task for run in planned[i : i + 6]} == set(load("train").STEPS)
        assert len({(run.setting, run.group, run.seed) for run in planned[i : i + 6]}) == 1


def test_settings_change_the_rate_or_the_data_alone(load):
    train = load("train")
    configs = {}
    for setting in train.SETTINGS:
        run = train.Run(setting, "wnut17", "recommended", 0)
        config, uses_averages = train.make_config(run, Path("corpus"), 100)
        assert uses_averages == [False] * 3
        adam = config["training"]["optimizer"]
        while "optimizer" in adam:
            adam = adam["optimizer"]
        path = config["paths"].pop("train")
        assert config["corpora"]["train"].pop("path") == path
        configs[setting] = config, adam.pop("learn_rate"), path
    rest, rate, path = configs["quickstart"]
    for config, *_ in configs.values():
        assert config == rest
    assert {name: found[2] for name, found in configs.items() if found[2] != path} == {
        "quarter": str(Path("corpus/wnut17/quarter.spacy")),
        "corrupted": str(Path("corpus/wnut17/corrupted.spacy")),
    }
    rates = {name: found[1] for name, found in configs.items() if found[1] != rate}
    schedule = train.registry.resolve({"rate": rates.pop("decayed")})["rate"]
    decayed = [rate for rate, _ in zip(schedule, range(101), strict=False)]
    assert rate == 0.001 and rates == {"rate_0.3": 0.0003, "rate_3": 0.003}
    assert [decayed[step] for step in (0, 50, 100)] == [0.001, 0.0005, 0.0]


# Data


def write_data(folder, tasks, load):
    """Small files of all kinds."""
    from corpus import generate_records

    tokens = ["Anna", "sees", "New", "York", "."]
    tags = ["B-PER", "O", "B-LOC", "I-LOC", "O"]
    relations = ["nsubj", "root", "compound", "obj", "punct"]
    for task in tasks:
        _, _, suffix = load("convert").TASKS[task]
        (folder / task).mkdir(parents=True)
        for part in ("train", "dev", "test"):
            if part == "test" and task in ("fashion_brands", "cooking"):
                continue
            if suffix == "jsonl":
                records = generate_records(part, 12)
                if task == "cooking":
                    records = [
                        {
                            "text": record["text"],
                            "cats": {"a": float(i % 2), "b": float(i % 3 > 1)},
                        }
                        for i, record in enumerate(records)
                    ]
                text = "".join(json.dumps(record) + "\n" for record in records)
            elif suffix == "conll":
                text = "\n".join(f"{w}\t{t}" for w, t in zip(tokens, tags, strict=True))
                text = f"{text}\n\t\n" * 5
            elif suffix == "iob2":
                lines = [
                    f"{i}\t{w}\t{t}\t-\t-"
                    for i, (w, t) in enumerate(zip(tokens, tags, strict=True), 1)
                ]
                text = ("# sent_id = 1\n# text = Anna\n" + "\n".join(lines) + "\n\n") * 5
            else:
                lines = [
                    f"{i}\t{w}\t{w}\tX\tT{i}\t_\t{0 if i == 2 else 2}\t{r}\t_\t_"
                    for i, (w, r) in enumerate(zip(tokens, relations, strict=True), 1)
                ]
                text = ("\n".join(lines) + "\n\n") * 25
            (folder / task / f"{part}.{suffix}").write_text(text, encoding="utf8")


def test_all_formats_are_read(tmp_path, load):
    convert = load("convert")
    write_data(tmp_path, convert.TASKS, load)
    found = {task: convert.read_task(tmp_path, task) for task in convert.TASKS}
    for parts in found.values():
        assert len(parts["quarter"]) == len(parts["train"]) // 4
        assert len(parts["corrupted"]) == len(parts["train"])
    for task in ("wnut17", "danish_ddt"):
        docs = found[task]["test"]
        assert len(docs) == 5
        assert [(ent.text, ent.label_) for ent in docs[0].ents] == [
            ("Anna", "PER"),
            ("New York", "LOC"),
        ]
    parses = found["afribooms"]["train"]
    assert [len(list(doc.sents)) for doc in parses] == [10, 10, 5]
    assert parses[0][0].dep_ == "nsubj" and parses[0][0].tag_ == "T1"
    # No test data: every second example of the dev data, which are disjoint.
    for task in ("fashion_brands", "cooking"):
        assert [len(found[task][name]) for name in ("train", "dev", "test")] == [12, 6, 6]
    assert found["cooking"]["dev"][1].cats == {"a": 0.0, "b": 1.0}
    assert any(doc.ents for doc in found["fashion_brands"]["dev"])


def test_one_document_in_five_is_corrupted(load):
    convert = load("convert")
    nlp = convert.spacy.blank("en")
    entities, tagged, labelled = [], [], []
    for i in range(50):
        words = ["Anna", "sees", "Rome", str(i)]
        entities.append(convert.Doc(nlp.vocab, words, ents=["B-PER", "O", "B-LOC", "O"]))
        tagged.append(convert.Doc(nlp.vocab, words, tags=["a", "b", "c", "d"]))
        labelled.append(convert.Doc(nlp.vocab, words))
        labelled[-1].cats = {"number": i}
    found = convert.corrupt(entities)
    assert sum(not doc.ents for doc in found) == 10
    assert all(doc.has_annotation("ENT_IOB") and len(doc.ents) in (0, 2) for doc in found)
    assert all(len(doc.ents) == 2 for doc in entities)
    found = convert.corrupt(tagged)
    changed = [doc for doc in found if [token.tag_ for token in doc] != ["a", "b", "c", "d"]]
    # Random tags are right by chance with a probability of 1/256.
    assert len(changed) == 10
    assert {token.tag_ for doc in changed for token in doc} == {"a", "b", "c", "d"}
    found = convert.corrupt(labelled)
    assert 8 <= sum(doc.cats["number"] != i for i, doc in enumerate(found)) <= 10
    assert [doc.text for doc in found] == [doc.text for doc in labelled]


def test_a_single_file_of_prodigy_is_divided(tmp_path, load):
    convert = load("convert")
    (tmp_path / "food_ingredients").mkdir()
    record = {"spans": [{"start": 0, "end": 4, "label": "INGRED"}]}
    lines = [
        json.dumps({**record, "text": f"Salt {i}", "answer": "accept" if i % 21 else "reject"})
        for i in range(105)
    ]
    path = tmp_path / "food_ingredients" / "train.jsonl"
    path.write_text("\n".join(lines), encoding="utf8")
    found = convert.read_task(tmp_path, "food_ingredients")
    quarter, _ = found.pop("quarter"), found.pop("corrupted")
    assert [doc.text for doc in quarter] == [doc.text for doc in found["train"][:17]]
    assert [len(docs) for docs in found.values()] == [70, 15, 15]
    texts = [doc.text for docs in found.values() for doc in docs]
    assert len(set(texts)) == 100 and "Salt 21" not in texts
    assert all(doc.ents[0].text == "Salt" for docs in found.values() for doc in docs)


# Runs


@pytest.mark.parametrize("task", ["fashion_brands", "cooking"])
def test_a_run_has_the_scores_of_all_optimizers(tmp_path, load, monkeypatch, task):
    train, convert = load("train"), load("convert")
    write_data(tmp_path / "data", [task], load)
    monkeypatch.setattr(convert, "TASKS", {task: convert.TASKS[task]})
    monkeypatch.setattr(
        sys, "argv", ["convert", str(tmp_path / "data"), "--output", str(tmp_path / "corpus")]
    )
    convert.main()
    for group, names in train.GROUPS.items():
        run = train.Run("quickstart", task, group, 0)
        rows = list(train.train(run, tmp_path / "corpus", 1))
        assert [row["optimizer"] for row in rows] == list(names)
        for row in rows:
            assert row["step"] == 0 and row["seed"] == 0 and row["task"] == task
            assert set(row) <= set(train.COLUMNS) and row["setting"] == "quickstart"
            assert all(0 <= row[name] <= 1 for name in ("raw_score", "score", "test_score"))
        by_name = {row["optimizer"]: row for row in rows}
        for name in {"adam", "swa_half", "swa_plateau"} & set(by_name):
            assert by_name[name]["score"] == by_name[name]["raw_score"]


@pytest.mark.parametrize(
    "scores, end, best",
    [
        # Every 200 steps: eight evaluations after the best one training ends.
        ([0.1, 0.5, *[0.4] * 20], 9, 1),
        # Of equal scores the first counts for the end, and the last is saved.
        ([0.1, 0.5, 0.4, 0.5, *[0.4] * 20], 9, 3),
        ([0.5, *[0.4] * 8, 0.6, *[0.4] * 20], 8, 0),
        ([0.5, *[0.4] * 6, 0.6, *[0.4] * 20], 15, 7),
        ([0.1, 0.2, 0.3], 2, 2),
    ],
)
def test_early_stopping_is_replayed(load, scores, end, best):
    replay = load("replay")
    steps = [200 * i for i in range(len(scores))]
    assert replay.stop_index(steps, scores) == end
    assert replay.stop_index(steps, scores, patience=0) == len(scores) - 1
    chosen = replay.chosen_indices(steps, scores)
    assert chosen["best"] == best and chosen["last"] == len(scores) - 1
    assert scores[chosen["best_of_all"]] == max(scores)


def test_the_weights_of_every_chosen_evaluation_are_kept(load):
    """As the recorder does: those that are not chosen so far are dropped."""
    replay, random_numbers = load("replay"), random.Random(0)
    for _ in range(200):
        scores = [random_numbers.randint(0, 9) / 10 for _ in range(30)]
        steps = [200 * i for i in range(30)]
        kept = set()
        for n in range(1, 31):
            indices = set(replay.chosen_indices(steps[:n], scores[:n]).values())
            kept = (kept & indices) | {n - 1}
        assert set(replay.chosen_indices(steps, scores).values()) <= kept


# Statistics


def holm(p_values, n_tests):
    """Corrected *p* values, step by step."""
    corrected, highest = {}, 0.0
    for rank, p in enumerate(sorted(p_values)):
        highest = max(highest, min(1.0, (n_tests - rank) * p))
        corrected[p] = highest
    return [corrected[p] for p in p_values]


TASKS = ["a", "b", "c", "d"]


def make_values(effects, n_seeds=5, noise=0.01, seed=0):
    """A measure of each run with the quickstart: a level per task and seed, and the effect of
    the optimizer."""
    numbers = numpy.random.default_rng(seed)
    values = {}
    for task in TASKS:
        for i in range(n_seeds):
            level = numbers.normal(0.5, 0.1)
            for name, effect in effects.items():
                values["quickstart", name, task, i] = level + effect + numbers.normal(0, noise)
    return values


def test_differences_are_paired_by_seed(analyse, inference):
    from scipy import stats

    values = make_values({"adam": 0.0, "ema": 0.02})
    found = analyse.differences(values, TASKS, ["adam", "ema"], range(5))
    assert [x.task for x in found] == [*TASKS, inference.ALL]
    for task, difference in zip(TASKS, found, strict=False):
        own, other = (
            [values["quickstart", name, task, i] for i in range(5)] for name in ("ema", "adam")
        )
        expected = stats.ttest_rel(own, other)
        assert difference.mean == pytest.approx(numpy.mean(own) - numpy.mean(other))
        assert difference.p == pytest.approx(expected.pvalue)
        limits = expected.confidence_interval(0.95)
        assert (difference.low, difference.high) == pytest.approx(tuple(limits))
    pooled = found[-1]
    assert pooled.low < 0.02 < pooled.high and pooled.is_significant


def test_the_pooled_difference_is_that_of_statsmodels(inference):
    from statsmodels.stats.meta_analysis import combine_effects

    numbers = numpy.random.default_rng(1)
    values = {task: list(numbers.normal(i, 0.5, 5)) for i, task in enumerate(TASKS)}
    pooled = inference.pool(values, "ema")
    expected = combine_effects(
        numpy.array([numpy.mean(x) for x in values.values()]),
        numpy.array([numpy.var(x, ddof=1) / 5 for x in values.values()]),
        method_re="dl",
        use_t=True,
    )
    assert expected.tau2 > 0
    assert pooled.mean == pytest.approx(expected.mean_effect_re)
    half = (pooled.high - pooled.low) / 2
    assert half == pytest.approx(3.182446 * expected.sd_eff_w_re_hksj, rel=1e-5)


def test_the_pooled_difference_of_equal_tasks_by_hand(inference):
    """Without heterogeneity: the mean, and the interval of the inverse-variance weights."""
    values = dict.fromkeys(TASKS, [0.0, 1.0, 2.0])
    pooled = inference.pool(values, "ema")
    assert pooled.mean == 1.0
    # Four variances of 1 / 3: a standard error of sqrt(1 / 12), and t with three degrees.
    assert pooled.high - 1.0 == pytest.approx(3.182446 / math.sqrt(12), rel=1e-5)


def test_averages_that_never_start_do_not_decide(inference):
    numbers = numpy.random.default_rng(0)
    values = {task: list(numbers.normal(1.0, 0.5, 5)) for task in TASKS}
    values["a"] = [0.0] * 5
    pooled = inference.pool(values, "swa_plateau")
    assert 0.2 < pooled.mean < 1.2 and math.isfinite(pooled.p)
    never = inference.pool(dict.fromkeys(TASKS, [0.0] * 5), "swa_plateau")
    assert (never.mean, never.low, never.high, never.p) == (0.0, 0.0, 0.0, 1.0)


def test_holm_by_hand(inference):
    def correct(p_values, n_tests):
        family = [inference.Difference("ema", "a", 0.0, 0.0, 0.0, p) for p in p_values]
        return [x.p_holm for x in inference.correct(family, n_tests)]

    p_values = [0.01, 0.04, 0.03, 0.005]
    assert correct(p_values, 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct(p_values, 6) == pytest.approx([0.05, 0.12, 0.12, 0.03])
    assert correct([0.9, 0.8], 2) == [1.0, 1.0]
    assert correct([], 0) == []
    assert correct(p_values, 6) == pytest.approx(holm(p_values, 6))


def test_families_are_corrected_apart(analyse, inference):
    values = make_values({"adam": 0.0, "ema": 0.02, "lawa": 0.0})
    found = analyse.differences(values, TASKS, ["adam", "ema", "lawa"], range(5))
    single = [x for x in found if x.task != inference.ALL]
    pooled = [x for x in found if x.task == inference.ALL]
    for family, n_tests in ((single, 7 * len(TASKS)), (pooled, 7)):
        expected = holm([x.p for x in family], n_tests)
        assert [x.p_holm for x in family] == pytest.approx(expected)
    assert len(single) == 8 and len(pooled) == 2


def test_false_positives_are_rare(analyse):
    """Without an effect the pooled interval contains zero in about 95 % of the studies."""
    n_missed = 0
    for seed in range(200):
        values = make_values({"adam": 0.0, "ema": 0.0}, seed=seed)
        pooled = analyse.differences(values, TASKS, ["adam", "ema"], range(5))[-1]
        n_missed += not pooled.low <= 0.0 <= pooled.high
    assert n_missed <= 20


def test_measures_by_hand(load):
    runs = load("runs")

    def run(scores, tests=None):
        tests = tests or [None] * len(scores)
        return [
            runs.Evaluation(200 * i, 0.0, score, test)
            for i, (score, test) in enumerate(zip(scores, tests, strict=True))
        ]

    found = run([0.1, 0.9, 0.5, 0.7, 0.6], [None, 0.8, None, None, 0.4])
    measures = {name: measure(found) for name, measure in runs.MEASURES.items()}
    assert measures == {
        "test score of model-best": 0.8,
        "test score after the last step": 0.4,
        # 0.5, 0.7 and 0.6.
        "swing": pytest.approx(0.15),
        "loss by stopping at a random moment": pytest.approx(0.3),
    }
    with pytest.raises(ValueError, match="step 200 has no test score"):
        runs.test_of(run([0.1, 0.9, 0.5]), "best")


def write_runs(folder, load, n_seeds, incomplete=(), setting="quickstart", group="averages"):
    """Files of runs with made-up scores."""
    train = load("train")
    numbers = numpy.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for task in train.STEPS:
        for seed in range(n_seeds):
            if (task, seed) in incomplete:
                continue
            lines = [",".join(train.COLUMNS)]
            for name in train.GROUPS[group]:
                for step in range(0, 1800, 200):
                    score = 0.5 + step / 10_000 + numbers.normal(0, 0.01)
                    cells = {
                        "setting": setting,
                        "task": task,
                        "optimizer": name,
                        "seed": seed,
                        "step": step,
                        "raw_score": score,
                        "score": score,
                        "test_score": score,
                    }
                    lines.append(",".join(str(cells.get(key, "")) for key in train.COLUMNS))
            path = folder / train.Run(setting, task, group, seed).file_name
            path.write_text("\n".join(lines) + "\n", encoding="utf8")


@pytest.mark.slow
def test_results_of_all_seeds(tmp_path, load, analyse):
    write_runs(tmp_path / "runs", load, 5)
    tasks = sorted(load("train").STEPS)
    analyse.analyse(sorted((tmp_path / "runs").iterdir()), tasks, tmp_path / "results")
    text = (tmp_path / "results" / "results.md").read_text(encoding="utf8")
    assert "Preliminary" not in text and "nan" not in text
    assert "1 of the 7 planned comparisons are not complete" in text
    assert text.count("\n- `ema`: ") == len(analyse.MEASURES)
    assert (tmp_path / "results" / "differences.svg").stat().st_size > 5000
    n_rows = len((tmp_path / "results" / "scores.csv").read_text().splitlines())
    assert n_rows == 1 + 6 * 5 * 7 * 9
    # The files can be made again from the table of all scores.
    analyse.analyse([tmp_path / "results" / "scores.csv"], tasks, tmp_path / "again")
    assert (tmp_path / "again" / "results.md").read_text(encoding="utf8") == text


def test_incomplete_results_are_preliminary_and_balanced(tmp_path, load, analyse):
    write_runs(tmp_path / "runs", load, 3, incomplete=[("cooking", 1)])
    tasks = sorted(load("train").STEPS)
    analyse.analyse(sorted((tmp_path / "runs").iterdir()), tasks, tmp_path / "results")
    text = (tmp_path / "results" / "results.md").read_text(encoding="utf8")
    assert "**Preliminary**: 2 of 5 seeds are complete" in text
    assert "Seeds 0, 2;" in text
    # No sentences about significance.
    assert "- `ema`: " not in text
    with pytest.raises(ValueError, match="no complete runs"):
        analyse.analyse([], tasks, tmp_path / "none")


# Other settings


def test_contrasts_by_hand(load, analyse):
    settings = load("settings")
    tasks, seeds = ["a", "b"], [0, 1]
    values = {
        ("quickstart", "adam", "a", 0): 0.5,
        ("quickstart", "adam", "a", 1): 0.7,
        ("quickstart", "ema", "a", 0): 0.6,
        ("quickstart", "ema", "a", 1): 0.7,
        ("rate_3", "adam", "a", 0): 0.3,
        ("rate_3", "adam", "a", 1): 0.5,
        ("rate_3", "ema", "a", 0): 0.6,
        ("rate_3", "ema", "a", 1): 0.6,
    }
    values |= {(*key[:2], "b", key[3]): 0.1 for key in values}
    effect = settings.effect("ema", "rate_3").by_task(values, tasks, seeds)
    assert effect == pytest.approx({"a": 0.2, "b": 0.0})
    change = settings.change("ema", "rate_3").by_task(values, tasks, seeds)
    assert change == pytest.approx({"a": 0.2 - 0.05, "b": 0.0})
    found = settings.measure([settings.effect("ema", "rate_3")], values, tasks, seeds, 1)[0]
    # t with one degree of freedom: 12.706.
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.mean == pytest.approx(0.1 * 12.706, rel=1e-4)
    assert found.p == found.p_holm
    found = settings.measure([settings.effect("ema", "rate_3")], values, tasks, seeds, 2)[0]
    assert found.p_holm == pytest.approx(min(1.0, 2 * found.p))


def test_every_question_needs_trainings_of_the_plan(load, analyse):
    train, settings = load("train"), load("settings")
    trained = {
        (run.setting, name)
        for run in load("train_all").planned()
        for name in train.GROUPS[run.group]
    }
    for contrasts in settings.QUESTIONS.values():
        assert set(settings.methods_of(contrasts)) <= trained
    assert set(settings.TITLES) == set(train.SETTINGS)


@pytest.mark.slow
def test_results_of_the_settings(tmp_path, load, analyse):
    runs, tasks = tmp_path / "runs", sorted(load("train").STEPS)
    write_runs(runs, load, 2)
    for setting in ("quarter", "rate_3"):
        write_runs(runs, load, 1, setting=setting, group="recommended")
    analyse.analyse(sorted(runs.iterdir()), tasks, tmp_path / "results")
    text = (tmp_path / "results" / "settings.md").read_text(encoding="utf8")
    *_, third, fourth, fifth, sixth = text.split("\n## ")
    for name in ("adam", "ema", "swa_late"):
        for rate in ("learning rate 0.0003", "decayed learning rate"):
            assert f"{rate}, `{name}`" in third.partition("###")[0]
    assert "`ema` − `adam`, learning rate 0.003" in third
    assert fourth.startswith("4. Fewer data\n\nSeeds: 0.")
    assert "###" not in fifth + sixth and "nan" not in text
    assert (tmp_path / "results" / "settings.svg").stat().st_size > 5000
