"""The quickstart of the first page, in a browser: every combination of answers gives a config
block that trains."""

import io
import itertools
import string
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy
import pytest
from helpers import require
from thinc.api import Config, registry

from thinc_swa.training import Callback, train

ROOT = Path(__file__).parents[2]
ANSWERS = {
    "task": ["ner", "textcat", "parsing", "transformer", "thinc"],
    "end": ["steps", "patience"],
    "want": ["averages", "swa", "lookahead", "groups"],
}
COMBINATIONS = [
    dict(zip(ANSWERS, values, strict=True)) for values in itertools.product(*ANSWERS.values())
]
MAX_STEPS = 4
# spaCy's default.
PATIENCE = 1600
COMPONENTS = {"ner": ["ner"], "textcat": ["textcat"], "parsing": ["tagger", "parser"]}


def each_combination():
    return pytest.mark.parametrize("answers", COMBINATIONS, ids=lambda a: "-".join(a.values()))


def block_of(browser):
    script = "return document.querySelector('#quickstart-widget pre code').textContent"
    return browser.execute_script(script)


def checked(browser):
    script = (
        "return [...document.querySelectorAll('#quickstart-widget input:checked')]"
        ".map((input) => [input.name, input.value])"
    )
    return dict(browser.execute_script(script))


def hash_of(browser):
    return dict(parse_qsl(urlsplit(browser.current_url).fragment))


def text_of(browser, name):
    return browser.find_element("css selector", f".quickstart-{name}").text


@pytest.fixture
def widget(show):
    return show("index.html")


@pytest.fixture(scope="module")
def blocks(browser, address):
    """The block of every combination, read from the page after a click on each answer."""
    browser.get("about:blank")
    browser.get(f"{address}/index.html")
    found = {}
    # The first combination is what the page begins with: no click would change anything.
    for answers in reversed(COMBINATIONS):
        for name, value in answers.items():
            selector = f"#quickstart-widget label:has([name={name}][value={value}])"
            label = browser.find_element("css selector", selector)
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", label)
            label.click()
        assert checked(browser) == answers == hash_of(browser)
        found[tuple(answers.values())] = block_of(browser)
    return found


# In the browser


def test_the_page_offers_exactly_these_answers(widget):
    script = (
        "return [...document.querySelectorAll('#quickstart-widget input')]"
        ".map((input) => [input.name, input.value])"
    )
    pairs = [[name, value] for name, values in ANSWERS.items() for value in values]
    assert widget.execute_script(script) == pairs
    assert checked(widget) == COMBINATIONS[0]


def test_every_combination_has_a_block_of_its_own(blocks):
    assert len(blocks) == len(COMBINATIONS) == 40
    for task, end, want in blocks:
        others = [key for key in blocks if blocks[key] == blocks[task, end, want]]
        # EMA is the same however the training ends, and for all but the transformer.
        assert all(key[2] == want for key in others)
        if want in ("swa", "lookahead"):
            assert {key[1] for key in others} == {end}


@each_combination()
def test_a_link_leads_to_its_combination(answers, show, blocks):
    browser = show(f"index.html#{urlencode(answers)}")
    assert checked(browser) == answers
    assert block_of(browser) == blocks[tuple(answers.values())]
    assert len(text_of(browser, "reason")) > 40 and "Replace" in text_of(browser, "todo")


@pytest.mark.parametrize("want", ANSWERS["want"])
def test_the_page_on_the_optimizer_exists(want, show, site):
    browser = show(f"index.html#want={want}")
    link = browser.find_element("css selector", ".quickstart-todo a").get_attribute("href")
    assert (site / urlsplit(link).path.lstrip("/")).is_file()


def test_a_link_with_unknown_answers_gives_the_known_ones(show):
    browser = show("index.html#task=thinc&end=never&want=__proto__")
    assert checked(browser) == {**COMBINATIONS[0], "task": "thinc"}


def test_going_to_another_link_changes_the_answers(widget):
    widget.execute_script("location.hash = 'task=textcat&want=swa'")
    assert checked(widget) == {"task": "textcat", "end": "steps", "want": "swa"}
    assert "SWA.v1" in block_of(widget)


def test_everything_can_be_done_with_the_keyboard(widget):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    def press(*keys):
        for key in keys:
            widget.switch_to.active_element.send_keys(key)

    first = widget.find_element(By.CSS_SELECTOR, "#quickstart-widget input")
    widget.execute_script("arguments[0].focus()", first)
    press(Keys.ARROW_RIGHT)
    assert checked(widget)["task"] == "textcat"
    press(Keys.TAB, Keys.ARROW_RIGHT, Keys.TAB, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert checked(widget) == {"task": "textcat", "end": "patience", "want": "lookahead"}
    assert "Lookahead.v1" in block_of(widget)
    press(Keys.TAB)
    assert widget.switch_to.active_element.text == "Copy"
    press(Keys.ENTER)
    # The clipboard is written in the background.
    WebDriverWait(widget, 20).until(lambda _: widget.switch_to.active_element.text == "Copied")


@pytest.mark.parametrize("button, is_link", [("block", False), ("link", True)])
@pytest.mark.parametrize("has_clipboard", [True, False])
def test_buttons_copy(button, is_link, has_clipboard, show, address):
    browser = show("index.html#task=ner&end=steps&want=swa")
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    if not has_clipboard:
        browser.execute_script(
            "navigator.clipboard.writeText = () => Promise.reject(new Error('refused'))"
        )
    browser.find_element("css selector", f"[data-copy={button}]").click()
    copied = browser.execute_async_script(
        "const done = arguments[0];"
        "setTimeout(() => navigator.clipboard.readText().then(done, (e) => done(`${e}`)), 300)"
    )
    link = f"{address}/index.html#task=ner&end=steps&want=swa"
    assert copied == (link if is_link else block_of(browser))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_text_has_contrast_in_both_schemes(scheme, width, show):
    browser = show("index.html", width=width, scheme=scheme)
    shown = browser.execute_script("return document.body.dataset.mdColorScheme")
    assert shown == {"light": "default", "dark": "slate"}[scheme]
    script = """
        const colours = (element) => {
            const style = getComputedStyle(element);
            for (let node = element; node; node = node.parentElement) {
                const background = getComputedStyle(node).backgroundColor;
                if (!/, 0\\)$/.test(background)) return [style.color, background];
            }
        };
        const select = (selector) => document.querySelector(`#quickstart-widget ${selector}`);
        const selectors = ["legend", "input:checked + span", "input:not(:checked) + span",
            "pre code", "button", ".quickstart-reason"];
        const context = document.createElement("canvas").getContext("2d",
            {willReadFrequently: true});
        const pixel = (layers) => {
            context.fillStyle = "#fff";
            for (const layer of layers) {
                context.fillStyle = layer;
                context.fillRect(0, 0, 1, 1);
            }
            return [...context.getImageData(0, 0, 1, 1).data];
        };
        return selectors.map((selector) => {
            const [colour, background] = colours(select(selector));
            return [selector, pixel([background, colour]), pixel([background])];
        });
    """
    for selector, colour, background in browser.execute_script(script):
        light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
        # WCAG 2.1, success criterion 1.4.3.
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector


def luminance(pixel):
    channels = numpy.array(pixel[:3]) / 255
    linear = numpy.where(
        channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])


# What the blocks do


@each_combination()
def test_a_block_makes_its_optimizer(answers, blocks):
    config = parse(blocks[tuple(answers.values())])
    if answers["task"] != "thinc":
        config = config["training"]
    config = Config({"training": {"max_steps": 20000}, "optimizer": config["optimizer"]})
    optimizer = registry.resolve(config.interpolate())["optimizer"]
    names = {"averages": "EMA", "swa": "SWA", "lookahead": "SWA", "groups": "EMA"}
    assert type(optimizer).__name__ == names[answers["want"]]
    inside = {"lookahead": "Lookahead", "groups": "ParamGroups"}.get(answers["want"])
    assert inside is None or type(optimizer.optimizer).__name__ == inside
    if answers["want"] in ("swa", "lookahead"):
        # Early stopping never ends a training before `patience` steps.
        is_early = answers["end"] == "patience"
        assert optimizer.start_step < PATIENCE if is_early else optimizer.start_step == 15000


@each_combination()
def test_a_block_trains(answers, blocks, tmp_path, monkeypatch):
    if answers["task"] == "transformer":
        require("torch", "spacy_curated_transformers")
        from spacy_curated_transformers.pipeline import transformer

        # It converts an array with one element, which NumPy 2.4 refuses.
        monkeypatch.setattr(transformer, "float", lambda array: array.item(), raising=False)
    text = blocks[tuple(answers.values())]
    if answers["task"] == "thinc":
        before, after, averages = train_thinc(text)
    else:
        before, after, averages = train_spacy(answers["task"], text, tmp_path)
    assert any(not numpy.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(numpy.isfinite(array).all() for array in after)
    # Four steps do not reach a start after a thousand.
    is_started = answers["end"] == "steps" or answers["want"] in (
        "averages",
        "groups",
        "lookahead",
    )
    assert bool(averages) == is_started


def parse(text):
    """A block, with the sections of the config that it is a part of."""
    sections = [name for name in ("training", "initialize") if f"[{name}." in text]
    text = "".join(f"[{name}]\n\n" for name in sections) + text
    return Config().from_str(text, interpolate=False)


def weights_of(model):
    return [
        node.get_param(name).copy()
        for node in model.walk()
        for name in node.param_names
        if node.has_param(name)
    ]


def train_thinc(text):
    require("sklearn")
    path = ROOT / "configs" / "digits" / "adam.cfg"
    config = Config().from_disk(path, interpolate=False)
    config["optimizer"] = parse(text)["optimizer"]
    config["training"].update(max_steps=MAX_STEPS, eval_frequency=MAX_STEPS)
    recorder = WeightsAtTheStart()
    trained = train(config.interpolate(), callbacks=[recorder])
    return recorder.weights, weights_of(trained.model), trained.optimizer.averages


class WeightsAtTheStart(Callback):
    def on_start(self, training):
        self.weights = weights_of(training.model)


def train_spacy(task, text, folder):
    require("spacy")
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train as train_pipeline
    from spacy.util import registry as spacy_registry
    from thinc.api import Optimizer

    optimizers = []

    @spacy_registry.optimizers("quickstart_test.v1")
    def keep(optimizer: Optimizer) -> Optimizer:
        optimizers.append(optimizer)
        return optimizer

    config = transformer_config(folder) if task == "transformer" else blank_config(task)
    write_corpus(folder / "corpus.spacy")
    block = parse(text)
    config["paths"].update(train=str(folder / "corpus.spacy"), dev=str(folder / "corpus.spacy"))
    config["training"].update(max_steps=MAX_STEPS, eval_frequency=2)
    config["training"]["optimizer"] = {
        "@optimizers": "quickstart_test.v1",
        "optimizer": block["training"]["optimizer"],
    }
    config["initialize"]["after_init"] = block.get("initialize", {}).get("after_init")
    nlp = init_nlp(config)
    before = [array for _, pipe in nlp.pipeline for array in weights_of(pipe.model)]
    nlp, _ = train_pipeline(nlp, stdout=io.StringIO(), stderr=io.StringIO())
    after = [array for _, pipe in nlp.pipeline for array in weights_of(pipe.model)]
    return before, after, optimizers[-1].averages


def blank_config(task):
    import spacy

    nlp = spacy.blank("en")
    for name in COMPONENTS[task]:
        nlp.add_pipe(name)
    return nlp.config.copy()


def transformer_config(folder):
    """A tiny one that starts from random weights and reads characters."""
    config = Config().from_disk(
        ROOT / "configs" / "spacy" / "transformer_groups.cfg", interpolate=False
    )
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.printable[:94]]
    (folder / "pieces.txt").write_text("\n".join(pieces), encoding="utf8")
    config["paths"]["pieces"] = str(folder / "pieces.txt")
    return config


def write_corpus(path):
    """Two sentences with all annotations."""
    import spacy
    from spacy.tokens import Doc, DocBin

    vocab = spacy.blank("en").vocab
    docs = []
    for words, label in (("Ada writes programs", 1.0), ("Bob reads letters", 0.0)):
        doc = Doc(
            vocab,
            words=words.split(),
            tags=["NNP", "VBZ", "NNS"],
            heads=[1, 1, 1],
            deps=["nsubj", "ROOT", "dobj"],
            ents=["B-PERSON", "O", "O"],
        )
        doc.cats = {"WRITING": label, "READING": 1.0 - label}
        docs.append(doc)
    # The parser leaves out labels that occur less than 30 times.
    DocBin(docs=docs * 16, store_user_data=True).to_disk(path)
