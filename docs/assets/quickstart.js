// The quickstart of the first page: three questions, and the config block that answers them.
// The answers are in the hash of the address, so a link leads to the same block.
"use strict";

(() => {
  // What "averages without settings" means, for every task. Change it here only.
  const AVERAGE = { "@optimizers": "EMA.v1" };
  const AVERAGE_REASON =
    "EMA averages about the last fifth of the training, whenever it ends: it needs neither a " +
    "start nor a length.";

  const QUESTIONS = {
    task: {
      legend: "What do you train?",
      answers: {
        ner: "Named entities",
        textcat: "Text classification",
        parsing: "Tagging and parsing",
        transformer: "Transformer fine-tuning",
        thinc: "Plain Thinc",
      },
    },
    end: {
      legend: "When does the training end?",
      answers: {
        steps: "After a known number of steps",
        patience: "By early stopping (patience)",
      },
    },
    want: {
      legend: "What do you want?",
      answers: {
        averages: "Averages without settings",
        swa: "SWA with its own rate",
        lookahead: "Lookahead, then SWA",
        groups: "Parameter groups",
      },
    },
  };

  // An early start in steps: with early stopping, a fraction of max_steps may never come.
  const EARLY_START = 1000;
  const START = { steps: 0.75, patience: EARLY_START };
  // SWA's own learning rate: about half of the rate before.
  const SWA_RATE = { transformer: 2e-5, other: 0.0005 };
  const MAX_STEPS = "${training.max_steps}";
  const MORE = {
    averages: ["ema.html", "EMA"],
    swa: ["swa.html", "SWA"],
    lookahead: ["lookahead.html", "Lookahead"],
    groups: ["param_groups.html", "Parameter groups"],
  };

  const isSpacy = (task) => task !== "thinc";

  function adam(task) {
    const rate =
      task === "transformer"
        ? {
            "@schedules": "warmup_linear.v1",
            initial_rate: 5e-5,
            warmup_steps: 250,
            total_steps: MAX_STEPS,
          }
        : 0.001;
    return {
      "@optimizers": "Adam.v1",
      learn_rate: rate,
      L2: 0.01,
      use_averages: false,
    };
  }

  // A fraction needs to know of what.
  function moment(name, end) {
    const settings = { [name]: START[end] };
    return end === "steps" ? { ...settings, total_steps: MAX_STEPS } : settings;
  }

  function swa(end, rate, optimizer) {
    const learn_rate = rate === null ? {} : { learn_rate: rate };
    return {
      "@optimizers": "SWA.v1",
      ...moment("start_step", end),
      freq: 10,
      ...learn_rate,
      optimizer,
    };
  }

  function lookahead(end, optimizer) {
    return {
      "@optimizers": "Lookahead.v1",
      freq: 6,
      pullback: 0.5,
      ...moment("end_step", end),
      optimizer,
    };
  }

  function paramGroups(task, optimizer) {
    const params = {
      transformer: ["*/b", "*bias", "*layer_norm*", "*layernorm*"],
      // Without a path, which `thinc-swa train` and a loop of one's own may not have.
      thinc: ["b"],
    }[task] || ["*/b", "*/G"];
    const layers =
      task === "transformer"
        ? { layer_lr_decay: 0.9, layer_patterns: ["*.embeddings.*", "*.layers.#.*"] }
        : {};
    return {
      "@optimizers": "ParamGroups.v1",
      groups: [{ name: "no_decay", params, L2: 0.0 }],
      ...layers,
      optimizer,
    };
  }

  function makeOptimizer({ task, end, want }) {
    const inner = adam(task);
    const rate = SWA_RATE[task] || SWA_RATE.other;
    switch (want) {
      case "averages":
        return { ...AVERAGE, optimizer: inner };
      case "swa":
        return swa(end, rate, inner);
      case "lookahead":
        // A rate that decays to zero leaves nothing to average.
        return swa(end, task === "transformer" ? rate : null, lookahead(end, inner));
      default:
        return { ...AVERAGE, optimizer: paramGroups(task, inner) };
    }
  }

  function makeBlock(answers) {
    const root = isSpacy(answers.task) ? "training.optimizer" : "optimizer";
    const lines = section(root, makeOptimizer(answers));
    if (answers.want === "groups" && isSpacy(answers.task)) {
      lines.push(
        "[initialize.after_init]",
        '@callbacks = "thinc_swa.register_parameter_paths.v1"',
        "",
      );
    }
    return lines.join("\n").trimEnd() + "\n";
  }

  // The lines of a section, and after them those of the sections in it.
  function section(name, settings) {
    const own = [`[${name}]`];
    const inner = [];
    for (const [key, value] of Object.entries(settings)) {
      if (value !== null && typeof value === "object" && !Array.isArray(value)) {
        inner.push(...section(`${name}.${key}`, value));
      } else {
        own.push(`${key} = ${format(value)}`);
      }
    }
    return [...own, "", ...inner];
  }

  function format(value) {
    if (value === MAX_STEPS) return value;
    if (Array.isArray(value) && typeof value[0] === "object") {
      const rows = value.map((row) => `    ${spaced(row)}`);
      return `[\n${rows.join(",\n")}\n  ]`;
    }
    return Array.isArray(value) ? spaced(value) : number(value);
  }

  // JSON with a space after commas and colons, as in spaCy's configs.
  function spaced(value) {
    if (Array.isArray(value)) return `[${value.map(spaced).join(", ")}]`;
    if (value !== null && typeof value === "object") {
      const pairs = Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${spaced(v)}`);
      return `{${pairs.join(", ")}}`;
    }
    return number(value);
  }

  function number(value) {
    if (value === 0) return "0.0";
    const isSmall = typeof value === "number" && Math.abs(value) < 1e-4;
    return isSmall ? value.toExponential() : JSON.stringify(value);
  }

  function explain({ task, end, want }) {
    const parts = [];
    const isStopped = end === "patience";
    const start = EARLY_START.toLocaleString("en");
    if (want === "averages" || want === "groups") parts.push(AVERAGE_REASON);
    if (want === "groups") {
      parts.push(
        task === "transformer"
          ? "In the inner blocks, biases and norms have no weight decay, and lower layers learn more slowly."
          : task === "thinc"
            ? "In the inner blocks, biases have no weight decay."
            : "In the inner blocks, biases and layer norms have no weight decay.",
      );
    }
    if (want === "swa" || want === "lookahead") {
      parts.push(
        isStopped
          ? "Early stopping usually comes long before three quarters of <code>max_steps</code>, so " +
              `SWA starts after ${start} steps` +
              (isSpacy(task)
                ? ": with spaCy's default <code>patience</code> of 1,600 every training gets there."
                : "; make <code>patience</code> longer than that. In <code>thinc-swa train</code>, " +
                  '<code>start_step = "plateau"</code> finds the start by itself.')
          : "The last quarter is averaged: in the studies, so late a start lost nothing.",
      );
    }
    if (want === "swa" || (want === "lookahead" && task === "transformer")) {
      parts.push(
        task === "transformer"
          ? "Its constant rate replaces the one that decays to zero, which would leave nothing " +
              "to average."
          : "Its own rate is half of the rate before; leave <code>learn_rate</code> out to keep that.",
      );
    }
    if (want === "lookahead") {
      parts.push("Until SWA starts, Lookahead tolerates a higher learning rate than Adam alone.");
    }
    return parts.join(" ");
  }

  function instruct({ task, end, want }) {
    if (!isSpacy(task)) {
      return (
        "Replace <code>[optimizer]</code> in a config for <code>thinc-swa train</code>, or " +
        "resolve it with <code>thinc.registry.resolve</code>."
      );
    }
    const parts = [
      "Replace <code>[training.optimizer]</code> and its subsections in your " +
        "<code>config.cfg</code>, then run <code>spacy train</code> as before.",
    ];
    if (end === "steps" && (want === "swa" || want === "lookahead")) {
      parts.push(
        "Set <code>patience = 0</code> in <code>[training]</code>, so that the training reaches " +
          "the start.",
      );
    }
    if (want === "groups") {
      parts.push(
        "Remove <code>after_init = null</code> from <code>[initialize]</code>: the callback " +
          "replaces it.",
      );
    }
    return parts.join(" ");
  }

  // The same text with the classes that the site's highlighting uses.
  function highlight(text) {
    const escape = (s) => s.replace(/&/g, "&amp;").replace(/</g, "&lt;");
    return text
      .split("\n")
      .map((line) => {
        if (/^\[[^\]"]+\]$/.test(line)) return `<span class="k">${escape(line)}</span>`;
        const match = /^([@\w]+)( = )(.*)$/.exec(line);
        if (!match) return escape(line);
        const [, key, equals, value] = match;
        const kind = /^-?[\d.]/.test(value) ? "mi" : value.startsWith('"') ? "s" : "kc";
        const shown = value === "[" ? value : `<span class="${kind}">${escape(value)}</span>`;
        return `<span class="na">${key}</span>${equals}${shown}`;
      })
      .join("\n");
  }

  function defaults() {
    return Object.fromEntries(
      Object.entries(QUESTIONS).map(([name, { answers }]) => [name, Object.keys(answers)[0]]),
    );
  }

  function readHash() {
    const found = new URLSearchParams(location.hash.slice(1));
    const known = Object.entries(QUESTIONS)
      .map(([name, { answers }]) => [name, found.get(name), answers])
      .filter(([, value, answers]) => value !== null && Object.hasOwn(answers, value))
      .map(([name, value]) => [name, value]);
    return known.length ? { ...defaults(), ...Object.fromEntries(known) } : null;
  }

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without permission, or not from https:// or localhost.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    const label = button.dataset.label;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1500);
  }

  function render(root) {
    const fields = Object.entries(QUESTIONS).map(([name, { legend, answers }]) => {
      const options = Object.entries(answers).map(
        ([value, label]) =>
          `<label><input type="radio" name="${name}" value="${value}"><span>${label}</span></label>`,
      );
      return `<fieldset><legend>${legend}</legend><div>${options.join("")}</div></fieldset>`;
    });
    root.innerHTML = `
      <form>${fields.join("")}</form>
      <p class="quickstart-reason" aria-live="polite"></p>
      <div class="quickstart-block highlight">
        <div class="quickstart-buttons">
          <button type="button" data-copy="block" data-label="Copy">Copy</button>
          <button type="button" data-copy="link" data-label="Copy link">Copy link</button>
        </div>
        <pre tabindex="0" aria-label="Config block"><code></code></pre>
      </div>
      <p class="quickstart-todo"></p>`;
    const form = root.querySelector("form");
    let block = "";

    const show = (answers) => {
      for (const [name, value] of Object.entries(answers)) form.elements[name].value = value;
      block = makeBlock(answers);
      const [page, title] = MORE[answers.want];
      root.querySelector("pre code").innerHTML = highlight(block);
      root.querySelector(".quickstart-reason").innerHTML = explain(answers);
      root.querySelector(".quickstart-todo").innerHTML =
        `${instruct(answers)} More: <a href="${page}">${title}</a>.`;
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => {
      const answers = Object.fromEntries(new FormData(form));
      history.replaceState(null, "", `#${new URLSearchParams(answers)}`);
      show(answers);
    });
    root.addEventListener("click", ({ target }) => {
      if (target.dataset.copy === "block") copy(block, target);
      if (target.dataset.copy === "link") {
        const answers = new URLSearchParams(new FormData(form));
        copy(`${location.href.split("#")[0]}#${answers}`, target);
      }
    });
    window.addEventListener("hashchange", () => {
      const answers = readHash();
      if (answers) show(answers);
    });
    const linked = readHash();
    show(linked || defaults());
    if (linked) root.scrollIntoView({ block: "center" });
  }

  const root = document.getElementById("quickstart-widget");
  if (root) render(root);
})();
