// SPDX-License-Identifier: Apache-2.0
// swift-format-ignore-file

// Made by Page/generate. Change Page/*.html instead.

#if Server

/// The pages, and the policies that browsers apply to them.
enum PageContent {
    static let policy = "default-src 'none'; img-src data:; base-uri 'none'; frame-ancestors 'none'; style-src 'sha256-wle6QZudXKqI6Z2rytH3MAJiWWlkU7JNs90v0gXfcqg='; script-src 'sha256-uUms0p7Nn9hKUp9KYkxAMBFhe5psgj45I2RYId8TJaA='; connect-src 'self'; form-action 'none'"
    static let formPolicy = "default-src 'none'; img-src data:; base-uri 'none'; frame-ancestors 'none'; style-src 'sha256-JhgDmpo2L/7CEP/mt8qZPFWkWeFtgFFFyHbBqZgdDVQ='; script-src 'none'; form-action 'self'"

    static let page = ##"""
        <!doctype html>
        <!-- SPDX-License-Identifier: Apache-2.0 -->
        <html lang="en">
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>dedupe serve</title>
        <link rel="icon" href="data:,">
        <style>
        :root {
          --back: #f4f5f7; --card: #fff; --line: #dfe3e8; --text: #1b1f24; --soft: #5f6b7a;
          --first: #1f6feb; --second: #c2410c; --good: #15803d; --warn: #b45309; --bad: #b42318;
          --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
        }
        @media (prefers-color-scheme: dark) {
          :root {
            --back: #0e1116; --card: #171b22; --line: #2a313b; --text: #e7eaef; --soft: #98a3b3;
            --first: #6ea8fe; --second: #f59e5b; --good: #4ade80; --warn: #fbbf24; --bad: #f87171;
          }
        }
        * { box-sizing: border-box; }
        html { -webkit-text-size-adjust: 100%; }
        body {
          margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--back); color: var(--text);
          font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
        }
        header { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .6rem; margin-bottom: .9rem; }
        h1 { font-size: 1.15rem; margin: 0 .4rem 0 0; }
        h2 { font-size: .95rem; margin: 0; font-weight: 600; }
        .pill {
          border: 1px solid var(--line); border-radius: 99px; padding: .08rem .65rem; font-size: .85rem;
          background: var(--card); white-space: nowrap;
        }
        .pill::before { content: "●"; margin-right: .35rem; color: var(--soft); }
        .pill[data-state=open]::before, .pill[data-state=in-sync]::before { color: var(--good); }
        .pill[data-state=connecting]::before, .pill[data-state=resync]::before,
        .pill[data-state=wait-for-ready]::before { color: var(--warn); }
        .pill[data-state=closed]::before { color: var(--bad); }
        #about { margin-left: auto; color: var(--soft); font-size: .85rem; }
        section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem .9rem; }
        #tiles { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: .7rem; margin-bottom: .7rem; }
        #tiles > div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .6rem .8rem; }
        #tiles span { display: block; overflow: hidden; color: var(--soft); font-size: .8rem; text-overflow: ellipsis; white-space: nowrap; }
        #tiles b { font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
        #charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .7rem; margin-bottom: .7rem; }
        figure { margin: 0; }
        figcaption { display: flex; flex-wrap: wrap; gap: .1rem .8rem; align-items: baseline; margin-bottom: .3rem; }
        figcaption small { color: var(--soft); font-variant-numeric: tabular-nums; white-space: nowrap; }
        figcaption small::before { content: "▬ "; color: var(--first); }
        figcaption small + small::before { color: var(--second); }
        canvas { display: block; width: 100%; height: 110px; touch-action: pan-y; }
        .head { display: flex; flex-wrap: wrap; gap: .5rem .8rem; align-items: center; margin-bottom: .55rem; }
        .head small { color: var(--soft); }
        #clients { margin-bottom: .7rem; }
        .scroll { overflow-x: auto; }
        table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
        th { text-align: left; color: var(--soft); font-weight: 500; }
        th, td { padding: .22rem .7rem .22rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
        tr:last-child td { border-bottom: 0; }
        th.n, td.n { text-align: right; }
        input {
          flex: 1 1 12rem; min-width: 0; font: inherit; color: inherit; background: var(--back);
          border: 1px solid var(--line); border-radius: 8px; padding: .35rem .6rem;
        }
        input:focus-visible, .row:focus-visible, #list:focus-visible { outline: 2px solid var(--first); outline-offset: -1px; }
        #list { position: relative; overflow-y: auto; height: min(60vh, 34rem); border-top: 1px solid var(--line); }
        #space { position: relative; overflow: hidden; }
        .row {
          position: absolute; left: 0; right: 0; top: 0; height: 32px; display: grid;
          grid-template-columns: minmax(8rem, 2fr) minmax(8rem, 5fr) 4.5rem; gap: .8rem; align-items: center;
          border-bottom: 1px solid var(--line); font: 13px/32px var(--mono); cursor: pointer; padding: 0 .3rem;
        }
        .row > * { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
        .row .v { color: var(--soft); transition: color .6s, box-shadow .6s; padding: 0 .55rem; }
        .row .a { color: var(--soft); text-align: right; }
        .row.fresh .v { box-shadow: inset 3px 0 var(--first); color: var(--text); transition: none; }
        .row[aria-selected=true] { background: var(--back); }
        #empty { color: var(--soft); padding: .8rem .3rem; }
        #detail { margin: .6rem 0 0; padding: .6rem .8rem; background: var(--back); border-radius: 8px; }
        #detail pre { margin: .3rem 0 0; max-height: 16rem; overflow: auto; font: 13px/1.4 var(--mono); }
        #detail small { color: var(--soft); }
        #note:not(:empty) { color: var(--warn); font-size: .88rem; margin: .5rem 0 0; }
        [hidden] { display: none !important; }
        @media (max-width: 60rem) { #tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
        @media (max-width: 40rem) {
          body { padding: .7rem; }
          #about { margin-left: 0; width: 100%; }
          #charts { grid-template-columns: minmax(0, 1fr); }
          #tiles { gap: .5rem; }
          #tiles > div { padding: .45rem .6rem; }
          #tiles b { font-size: 1.1rem; }
          .wide { display: none; }
          .row { height: 50px; grid-template: 1fr 1fr / minmax(0, 1fr) auto; gap: 0 .5rem; line-height: 20px; padding: 5px .3rem; }
          .row .v { grid-area: 2 / 1 / 3 / 3; }
          .row .k { font-weight: 600; }
          th, td { padding-right: .5rem; }
        }
        @media (max-width: 22rem) { #tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
        @media (prefers-reduced-motion: reduce) { .row .v { transition: none; } }
        </style>

        <header>
          <h1>dedupe serve</h1>
          <span class="pill" id="state" data-state="connecting" role="status">connecting</span>
          <span class="pill" id="status" hidden></span>
          <span id="about"></span>
        </header>

        <div id="tiles">
          <div><span>in, per second</span><b id="in">–</b></div>
          <div><span>out, per second</span><b id="out">–</b></div>
          <div title="how many updates came in for each one that a client got"><span>conflation</span><b id="ratio">–</b></div>
          <div><span>clients</span><b id="clientCount">–</b></div>
          <div><span>keys</span><b id="keyCount">–</b></div>
          <div><span>pending</span><b id="pending">–</b></div>
        </div>

        <div id="charts"></div>

        <section id="clients">
          <div class="head"><h2>Clients</h2><small id="clientNote"></small></div>
          <div class="scroll"><table>
            <thead><tr>
              <th>client<th class="wide">protocol<th>path<th class="n">lag<th class="n">pending<th class="n wide">updates
              <th class="n wide">bytes<th class="n wide">for
            </tr></thead>
            <tbody id="clientRows"></tbody>
          </table></div>
        </section>

        <section id="keys">
          <div class="head">
            <h2>Keys</h2>
            <input id="search" type="search" placeholder="Search keys and values" aria-label="Search keys and values"
              autocomplete="off" autocapitalize="off" spellcheck="false">
            <small id="found"></small>
          </div>
          <div id="list" role="listbox" aria-label="Keys" tabindex="0"><div id="space"></div><div id="empty">No keys yet.</div></div>
          <div id="detail" hidden><b id="detailKey"></b> <small id="detailNote"></small><pre id="detailValue"></pre></div>
          <p id="note"></p>
        </section>

        <noscript>This page needs JavaScript. Without it: <code>curl -N</code> and the path <code>/events</code> or
        <code>/lines</code>.</noscript>

        <script>
        "use strict";
        const element = id => document.getElementById(id);
        const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };

        // ---- Numbers ----

        function short(number) {
          if (!isFinite(number)) return "–";
          for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
            if (number >= unit * 0.9995) return (number / unit).toPrecision(3) + name;
          }
          return number >= 100 || Number.isInteger(number) ? String(Math.round(number)) : number.toPrecision(2);
        }
        const exact = number => number < 1e6 ? number.toLocaleString("en") : short(number);
        function span(seconds) {
          if (seconds < 1) return "now";
          if (seconds < 60) return Math.floor(seconds) + " s";
          if (seconds < 3600) return Math.floor(seconds / 60) + " min";
          return seconds < 172800 ? Math.floor(seconds / 3600) + " h" : Math.floor(seconds / 86400) + " d";
        }

        // ---- The state of the source: a client of /events ----

        const MOST_KEYS = 200000;
        // One row for each key: its line as it came, when it came, and how many lines there were. By the
        // key's JSON, because the keys "[1]" and [1] look the same.
        const rows = new Map();
        let order = [], shown = [], query = "", orderIsOld = false, isDirty = true, selected = null, tooMany = false;
        let lastID = "", source = null;
        const parameters = new URLSearchParams(location.search);
        const prefixes = parameters.getAll("prefix");

        function connect() {
          const ask = new URLSearchParams(prefixes.map(prefix => ["prefix", prefix]));
          ask.set("interval", "250");
          if (lastID) ask.set("since", lastID);
          source = new EventSource("events?" + ask);
          source.onopen = () => setState("open", "live");
          source.onerror = () => {
            // A browser comes back by itself after a lost connection, and not after a refusal.
            if (source.readyState !== EventSource.CLOSED) return setState("connecting", "reconnecting");
            setState("closed", "not connected");
            source.close();
            setTimeout(connect, 3000);
          };
          source.addEventListener("restart", event => { clear(); lastID = event.lastEventId; });
          source.addEventListener("status", event => {
            lastID = event.lastEventId;
            const status = JSON.parse(event.data).status;
            element("status").hidden = false;
            element("status").dataset.state = status;
            setText(element("status"), status);
          });
          source.addEventListener("updates", event => {
            lastID = event.lastEventId;
            const now = performance.now();
            for (const line of event.data.split("\n")) take(line, now);
            isDirty = true;
          });
          source.addEventListener("end", () => setState("connecting", "the server is ending"));
        }

        function setState(state, text) {
          element("state").dataset.state = state;
          setText(element("state"), text);
        }

        function take(line, now) {
          const update = JSON.parse(line);
          const name = JSON.stringify(update.key);
          if (update.type === "deleted") {
            orderIsOld = rows.delete(name) || orderIsOld;
            return;
          }
          const row = rows.get(name);
          if (row) {
            row.line = line;
            row.at = now;
            row.count++;
          } else if (rows.size < MOST_KEYS) {
            const isPlain = typeof update.key === "string", key = isPlain ? update.key : name;
            rows.set(name, { name, key, line, at: now, count: 1, words: key.toLowerCase(), isPlain });
            orderIsOld = true;
          } else {
            tooMany = true;
          }
        }

        function clear() {
          rows.clear();
          orderIsOld = isDirty = true;
          tooMany = false;
        }

        // ---- The table of keys: only what can be seen is in the document ----

        const isNarrow = matchMedia("(max-width: 40rem)");
        // As in the style.
        const rowHeight = () => isNarrow.matches ? 50 : 32;
        const list = element("list"), space = element("space");
        const pool = [];
        const collator = new Intl.Collator("en", { numeric: true });

        function arrange() {
          if (orderIsOld) {
            order = Array.from(rows.values());
            // The exact order of very many keys is not worth a pause.
            order.sort(order.length > 20000
              ? (a, b) => (a.key < b.key ? -1 : 1) : (a, b) => collator.compare(a.key, b.key));
            orderIsOld = false;
          }
          const words = query.toLowerCase();
          shown = words ? order.filter(row => row.words.includes(words) || valueText(row).toLowerCase().includes(words)) : order;
          space.style.height = shown.length * rowHeight() + "px";
          element("empty").hidden = shown.length > 0;
          setText(element("empty"), words ? "Nothing is found." : "No keys yet.");
          setText(element("found"), words ? exact(shown.length) + " of " + exact(rows.size) : exact(rows.size));
          showNote();
          isDirty = true;
        }

        function showNote() {
          setText(element("note"), [
            prefixes.length && "Only keys that begin with " + prefixes.join(" or ") + ".",
            tooMany && "The page shows the first " + exact(MOST_KEYS) + " keys. With ?prefix= in its address it shows others.",
          ].filter(Boolean).join(" "));
        }

        // The value as the server sent it: what stands between the key and the end, or the revision.
        function valueText(row) {
          let text = row.line;
          if (row.isPlain) {
            text = text.slice(text.indexOf(',"value":') + 9).replace(/(,"revision":\d+)?}$/, "");
          } else {
            text = JSON.stringify(JSON.parse(text).value);
          }
          return text.length > 1000 ? text.slice(0, 1000) + "…" : text;
        }

        function makeRow() {
          const node = document.createElement("div");
          node.className = "row";
          node.setAttribute("role", "option");
          for (const name of ["k", "v", "a"]) {
            const cell = document.createElement("span");
            cell.className = name;
            node.append(cell);
          }
          node.addEventListener("click", () => {
            selected = selected === node.row.name ? null : node.row.name;
            isDirty = true;
          });
          space.append(node);
          return node;
        }

        function drawRows(now) {
          const height = rowHeight();
          const first = Math.max(0, Math.floor(list.scrollTop / height) - 4);
          const count = Math.min(shown.length - first, Math.ceil(list.clientHeight / height) + 8);
          while (pool.length < count) pool.push(makeRow());
          for (let i = 0; i < pool.length; i++) {
            const node = pool[i];
            const row = i < count ? shown[first + i] : null;
            node.hidden = !row;
            if (!row) continue;
            node.row = row;
            node.style.transform = "translateY(" + (first + i) * height + "px)";
            node.setAttribute("aria-selected", String(row.name === selected));
            node.classList.toggle("fresh", row.count > 1 && now - row.at < 400);
            setText(node.children[0], row.key);
            setText(node.children[1], valueText(row));
            setText(node.children[2], span((now - row.at) / 1000));
          }
          drawDetail(now);
        }

        function drawDetail(now) {
          const row = selected === null ? null : rows.get(selected);
          element("detail").hidden = !row;
          if (!row) return;
          setText(element("detailKey"), row.key);
          setText(element("detailNote"), row.count + (row.count === 1 ? " delivery" : " deliveries") + " since the page was opened, the last " +
            (now - row.at < 1000 ? "just now" : span((now - row.at) / 1000) + " ago"));
          setText(element("detailValue"), JSON.stringify(JSON.parse(row.line).value, null, 2));
        }

        let latestArrange = -1e9, latestDraw = 0;
        function frame(now) {
          // A search looks at all keys, so it is done at most once a second while values change.
          const isDue = now - latestArrange > 1000;
          if ((orderIsOld && now - latestArrange > 250) || (query && isDirty && isDue)) {
            arrange();
            latestArrange = now;
          }
          if (isDirty || now - latestDraw > 500) {
            isDirty = false;
            latestDraw = now;
            drawRows(now);
          }
          requestAnimationFrame(frame);
        }

        isNarrow.addEventListener("change", arrange);
        list.addEventListener("scroll", () => { isDirty = true; }, { passive: true });
        element("search").addEventListener("input", event => {
          query = event.target.value;
          list.scrollTop = 0;
          arrange();
        });

        // ---- Charts ----

        const SECONDS = 300;
        let history = [], nextRow = 0;
        const charts = [
          ["Updates per second", ["in", "out"], i => [rate(i, "received"), rate(i, "delivered")]],
          ["Conflation", ["in for each out"], i => [conflation(i)]],
          ["Changes behind", ["99 of 100 clients", "half of them"], i => [history[i].lag99, history[i].lagMedian]],
          ["Pending keys", ["all clients"], i => [history[i].pending]],
        ].map(makeChart);

        function makeChart([title, names, values]) {
          const figure = document.createElement("section");
          const caption = document.createElement("figcaption");
          const heading = document.createElement("h2");
          heading.textContent = title;
          caption.append(heading);
          const labels = names.map(name => {
            const label = document.createElement("small");
            caption.append(label);
            return label;
          });
          const canvas = document.createElement("canvas");
          canvas.setAttribute("role", "img");
          canvas.setAttribute("aria-label", title);
          figure.append(caption, canvas);
          element("charts").append(figure);
          const chart = { names, values, labels, canvas, pointer: null };
          canvas.addEventListener("pointermove", event => { chart.pointer = event.offsetX / canvas.clientWidth; draw(chart); });
          canvas.addEventListener("pointerleave", () => { chart.pointer = null; draw(chart); });
          return chart;
        }

        function rate(i, name) {
          if (i < 1) return NaN;
          const time = history[i].time - history[i - 1].time;
          return time > 0 ? Math.max(0, history[i][name] - history[i - 1][name]) / time : NaN;
        }

        // Over some seconds, because clients with an interval get what came in before.
        function conflation(i) {
          const j = Math.max(0, i - 5);
          const out = history[i].delivered - history[j].delivered;
          const clients = history.slice(j, i + 1).reduce((sum, row) => sum + row.clients, 0) / (i + 1 - j);
          return out > 0 ? (history[i].received - history[j].received) * clients / out : NaN;
        }

        function ceiling(number) {
          if (!(number > 0)) return 1;
          const unit = 10 ** Math.floor(Math.log10(number));
          return unit * [1, 2, 5, 10].find(step => step * unit >= number);
        }

        function draw(chart) {
          const { canvas, values, labels, names } = chart;
          const style = getComputedStyle(document.documentElement);
          const color = name => style.getPropertyValue(name).trim();
          const scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
          if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
          if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
          const context = canvas.getContext("2d");
          context.setTransform(scale, 0, 0, scale, 0, 0);
          context.clearRect(0, 0, width, height);
          const bottom = height - 16, top = 12;
          const end = history.length ? history[history.length - 1].time : 0;
          // A server that has just begun has a shorter past to show.
          const shownTime = Math.min(SECONDS, Math.max(60, end - (history.length ? history[0].time : 0)));
          const x = time => width * (1 - (end - time) / shownTime);
          const points = history.map((row, i) => values(i));
          const most = ceiling(Math.max(0, ...points.flat().filter(isFinite)));
          const y = value => bottom - (bottom - top) * value / most;
          context.font = "11px system-ui, sans-serif";
          context.lineWidth = 1;
          context.strokeStyle = color("--line");
          context.fillStyle = color("--soft");
          for (const part of [0, 0.5, 1]) {
            context.beginPath();
            context.moveTo(0, Math.round(y(most * part)) + 0.5);
            context.lineTo(width, Math.round(y(most * part)) + 0.5);
            context.stroke();
          }
          context.textBaseline = "bottom";
          context.textAlign = "left";
          context.fillText(short(most).replace(/\.0+(?=\D|$)/, ""), 0, y(most) - 1);
          context.textBaseline = "top";
          for (const [part, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
            const seconds = shownTime * (1 - part);
            context.textAlign = align;
            context.fillText(
              !seconds ? "now" : seconds < 120 ? "−" + Math.round(seconds) + " s" : "−" + +(seconds / 60).toFixed(1) + " min",
              width * part, bottom + 3);
          }
          names.forEach((name, series) => {
            context.strokeStyle = color(series ? "--second" : "--first");
            context.lineWidth = 1.75;
            context.lineJoin = "round";
            context.beginPath();
            let isDown = false;
            points.forEach((point, i) => {
              if (!isFinite(point[series])) { isDown = false; return; }
              context[isDown ? "lineTo" : "moveTo"](x(history[i].time), y(point[series]));
              isDown = true;
            });
            context.stroke();
          });
          let i = history.length - 1;
          if (chart.pointer !== null && history.length) {
            const time = end - shownTime * (1 - chart.pointer);
            i = history.reduce((best, row, j) => Math.abs(row.time - time) < Math.abs(history[best].time - time) ? j : best, 0);
            context.strokeStyle = color("--soft");
            context.lineWidth = 1;
            context.beginPath();
            context.moveTo(x(history[i].time), top);
            context.lineTo(x(history[i].time), bottom);
            context.stroke();
          }
          names.forEach((name, series) => setText(labels[series], name + " " + (i < 0 ? "–" : short(points[i][series]))));
        }

        const redraw = () => charts.forEach(draw);
        matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
        addEventListener("resize", () => { redraw(); isDirty = true; });

        // ---- Figures ----

        let latest = null;
        function show(statistics) {
          if (latest && statistics.seconds < latest.seconds) {
            // Another run of the server.
            history = [];
            nextRow = 0;
            latest = statistics;
            return;
          }
          latest = statistics;
          nextRow = statistics.history.next;
          history = history.concat(statistics.history.rows).slice(-SECONDS - 1);
          const i = history.length - 1;
          setText(element("in"), i < 1 ? "–" : short(rate(i, "received")));
          setText(element("out"), i < 1 ? "–" : short(rate(i, "delivered")));
          const ratio = i < 0 ? NaN : conflation(i);
          setText(element("ratio"), isFinite(ratio) ? short(ratio) + "×" : "–");
          setText(element("clientCount"), exact(statistics.clients.now));
          setText(element("keyCount"), exact(statistics.hub.keys));
          setText(element("pending"), short(statistics.clients.pending));
          const { input, version, seconds } = statistics;
          setText(element("about"), [
            version && "version " + version, "up " + span(seconds).replace("now", "0 s"),
            input.bad && exact(input.bad) + " bad lines", input.hasEnded && "the input has ended",
          ].filter(Boolean).join(" · "));
          showClients(statistics.clients);
          redraw();
        }

        function showClients(clients) {
          const list = clients.list.slice(0, 12);
          const lag = clients.lag;
          setText(element("clientNote"), "lag: half " + exact(lag.median) + ", 99 of 100 " + exact(lag.percentile99) +
            ", most " + exact(lag.maximum) + (clients.refused ? " · " + exact(clients.refused) + " refused" : "") +
            (clients.now > list.length ? " · the " + list.length + " furthest behind" : ""));
          const body = element("clientRows");
          while (body.rows.length > list.length) body.deleteRow(-1);
          list.forEach((client, i) => {
            const row = body.rows[i] || body.insertRow();
            const cells = [
              ["", "#" + client.number + " " + client.address], ["wide", client.version],
              ["", client.path + (client.prefixes.length ? " " + client.prefixes.map(prefix => prefix + "…").join(" ") : "")],
              ["n", exact(client.lag)], ["n", exact(client.pending)], ["n wide", short(client.delivered)],
              ["n wide", short(client.bytes)], ["n wide", span(client.seconds)],
            ];
            cells.forEach(([name, text], j) => {
              const cell = row.cells[j] || row.insertCell();
              cell.className = name;
              setText(cell, text);
            });
          });
        }

        async function poll() {
          try {
            const response = await fetch("statistics?history=" + nextRow, { signal: AbortSignal.timeout(5000) });
            if (response.status === 401) location.reload();
            if (response.ok) show(await response.json());
          } catch {
            // The stream of events tells that the server has gone.
          }
          setTimeout(poll, document.hidden ? 5000 : 1000);
        }

        showNote();
        connect();
        poll();
        requestAnimationFrame(frame);
        </script>
        </html>

        """##

    static let form = ##"""
        <!doctype html>
        <!-- SPDX-License-Identifier: Apache-2.0 -->
        <html lang="en">
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>dedupe serve</title>
        <link rel="icon" href="data:,">
        <style>
        :root { --back: #f4f5f7; --card: #fff; --line: #dfe3e8; --text: #1b1f24; --first: #1f6feb; }
        @media (prefers-color-scheme: dark) {
          :root { --back: #0e1116; --card: #171b22; --line: #2a313b; --text: #e7eaef; --first: #6ea8fe; }
        }
        body {
          margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--back); color: var(--text);
          font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
        }
        form {
          display: grid; gap: .7rem; width: min(22rem, 90vw); padding: 1.2rem; background: var(--card);
          border: 1px solid var(--line); border-radius: 10px;
        }
        label { display: grid; gap: .3rem; }
        input, button {
          font: inherit; color: inherit; padding: .45rem .6rem; border: 1px solid var(--line); border-radius: 8px;
          background: var(--back);
        }
        button { border-color: var(--first); cursor: pointer; }
        </style>
        <form method="post">
          <label>This server asks for a token.
            <input name="token" type="password" autocomplete="current-password" required autofocus>
          </label>
          <button>Show the page</button>
        </form>
        </html>

        """##
}

#endif
