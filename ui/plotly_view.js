// Draws a Plotly figure in a node that stays. New data go in by `Plotly.react`: no flash, and zoom and hover survive
// (the figure's `uirevision` says for how long).
//
// Streamlit calls the default export when the chart comes, when its data change and when the theme does. It knows nothing
// about what is drawn: figure, words and the address of plotly.min.js come from plotly_view.py.

const charts = new WeakMap(); // parentElement -> { frame, plot, data, send, ... }
let library; // promise of the Plotly object: one download for all charts of the page

export default function show({ data, parentElement, setTriggerValue }) {
  const chart = charts.get(parentElement) ?? mount(parentElement);
  Object.assign(chart, { data, send: setTriggerValue });
  draw(chart);
  return () => unmount(chart);
}

function mount(parentElement) {
  const frame = parentElement.querySelector(".plotly-view");
  const [plot, series, failure] = ["plot", "series", "failure"].map((part) => frame.querySelector(`.plotly-view-${part}`));
  series.id = `plotly-view-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  plot.setAttribute("aria-describedby", series.id);
  const chart = { parentElement, frame, plot, series, failure, lastEvent: 0 };
  chart.sizes = new ResizeObserver(() => resize(chart));
  chart.sizes.observe(frame);
  charts.set(parentElement, chart);
  return chart;
}

function unmount(chart) {
  // Streamlit also calls this for a run that was overtaken by the next one, while the chart stays on the page.
  if (chart.frame.isConnected) return;
  chart.sizes.disconnect();
  charts.delete(chart.parentElement);
  if (chart.plot.on) window.Plotly.purge(chart.plot);
}

async function draw(chart) {
  const { frame, plot, series, failure, data } = chart;
  const figure = JSON.parse(data.figure);
  plot.setAttribute("aria-label", data.alt);
  frame.classList.toggle("clickable", data.clicks);
  series.textContent = [...new Set(figure.data.map((trace) => trace.name))].filter(Boolean).join(", ");
  plot.style.height = `${figure.layout.height ?? 450}px`; // the room is taken before Plotly is there: nothing jumps
  let Plotly;
  try {
    Plotly = await load(data.script);
  } catch {
    plot.style.height = 0;
    failure.textContent = data.words.failure;
    return;
  }
  if (chart.data !== data || !frame.isConnected) return; // newer data came, or the page was left, while the library loaded
  failure.textContent = "";
  const words = JSON.stringify([data.words, data.tools]);
  if (chart.words !== words) {
    // Always the same object while the language is: for a new one `react` starts from scratch, without what listened.
    Object.assign(chart, { words, config: config(chart, Plotly), listens: false });
  }
  await Plotly.react(plot, figure.data, inTheme(figure.layout, plot), chart.config);
  if (!chart.listens) listen(chart);
}

function load(address) {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    // An older address may also be answered by a page of the app: then it loads, but brings no Plotly.
    script.onload = () => (window.Plotly ? resolve(window.Plotly) : reject());
    script.onerror = reject;
    document.head.append(script);
  });
  library.catch(() => (library = undefined)); // the next run tries again
  return library;
}

function resize({ plot, frame }) {
  const drawn = plot._fullLayout?.width;
  if (drawn && frame.clientWidth && drawn !== frame.clientWidth) window.Plotly.Plots.resize(plot);
}

// the theme ------------------------------------------------------------------------------------------------------------

// In the template, so that what the figure itself sets has the last word. Height is the node's, width follows the column.
function inTheme({ height, transition, ...layout }, plot) {
  const { text, faint, grid, background, font } = theme(plot);
  const own = layout.template?.layout ?? {};
  const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid };
  const looks = {
    ...own,
    font: { ...own.font, color: text, family: font },
    xaxis: { ...own.xaxis, ...axis },
    yaxis: { ...own.yaxis, ...axis },
    hoverlabel: { ...own.hoverlabel, bgcolor: background, bordercolor: grid, font: { color: text, family: font } },
    modebar: { ...own.modebar, bgcolor: "rgba(0, 0, 0, 0)", color: faint, activecolor: text },
  };
  const moves = transition && !matchMedia("(prefers-reduced-motion: reduce)").matches;
  return { ...layout, ...(moves && { transition }), template: { ...layout.template, layout: looks } };
}

function theme(node) {
  const style = getComputedStyle(node);
  const value = (name) => style.getPropertyValue(`--st-${name}`).trim();
  return {
    text: value("text-color"),
    faint: value("gray-text-color"),
    grid: value("border-color"),
    background: value("background-color"),
    font: value("font"),
  };
}

// buttons --------------------------------------------------------------------------------------------------------------

function config(chart, Plotly) {
  const { words, tools: dictionary, clicks } = chart.data;
  const png = { name: "png", title: words.png, icon: Plotly.Icons.camera, click: () => savePng(chart, Plotly) };
  const html = { name: "html", title: words.html, icon: Plotly.Icons.disk, click: () => saveHtml(chart) };
  const tools = ["zoom2d", "pan2d", ...(clicks ? ["select2d"] : []), "resetScale2d"];
  const language = { locale: "app", locales: { app: { dictionary } } };
  return { displaylogo: false, responsive: false, modeBarButtons: [[png, html], tools], ...language };
}

// The chart as it is seen, zoom included, on the background of the page: light text on nothing cannot be read on paper.
// A picture cannot use the page's font; text measured in one font and drawn in another would be cut off.
function onPaper({ data, plot }) {
  const background = theme(plot).background;
  const colours = { paper_bgcolor: background, plot_bgcolor: background };
  const size = { width: plot.clientWidth, height: plot.clientHeight };
  const template = structuredClone(plot.layout.template);
  template.layout.font.family = "sans-serif";
  return { data: JSON.parse(data.figure).data, layout: { ...plot.layout, ...colours, ...size, template } };
}

function savePng(chart, Plotly) {
  const figure = onPaper(chart);
  const { width, height } = figure.layout;
  return Plotly.downloadImage(figure, { format: "png", filename: chart.data.name, width, height, scale: 2 });
}

async function saveHtml(chart) {
  const { layout, data } = onPaper(chart);
  const response = await fetch(chart.data.script); // the browser has it already
  const script = await response.text();
  const figure = JSON.stringify({ data, layout: { ...layout, width: undefined } }).replaceAll("<", "\\u003c");
  const page = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title></title><style>body { background: ${layout.paper_bgcolor}; }</style>
<script>${script}</script></head><body><div id="chart"></div><script>
const figure = ${figure};
document.title = figure.layout.title?.text ?? "";
Plotly.newPlot("chart", figure.data, figure.layout, { displaylogo: false, responsive: true });
</script></body></html>`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  link.download = `${chart.data.name}.html`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // a browser may read it only once the person chose a folder
}

// what goes back to Python ---------------------------------------------------------------------------------------------

function listen(chart) {
  chart.listens = true;
  chart.plot.on("plotly_click", ({ points }) => report(chart, place(points[0])));
  chart.plot.on("plotly_restyle", () => filter(chart));
  chart.plot.on("plotly_selected", (event) => select(chart, (event?.points ?? []).map(place)));
}

// Plotly also sends an empty selection with every click, and an old one again when the zoom is reset: neither is news.
function select(chart, selection) {
  const seen = JSON.stringify(selection);
  const isNews = selection.length && seen !== chart.selected;
  chart.selected = seen;
  if (isNews) report(chart, { selection });
}

// Ranges drawn on the axes of parallel coordinates: for each axis a list of [low, high], or null.
function filter(chart) {
  const { dimensions } = chart.plot.data[0];
  if (!dimensions) return;
  const ranges = dimensions.map(({ constraintrange: drawn }) => (drawn?.length ? (drawn[0].length ? drawn : [drawn]) : null));
  report(chart, { filter: ranges });
}

function report(chart, event) {
  if (!chart.data.clicks) return;
  chart.lastEvent = Math.max(Date.now(), chart.lastEvent + 1);
  chart.send("click", { ...event, seq: chart.lastEvent });
}

function place({ curveNumber, pointNumber, x, y, customdata, data }) {
  const legend = data.meta ?? data.name ?? null;
  return { curve: curveNumber, point: pointNumber, x, y, customdata: plain(customdata), legend };
}

function plain(value) {
  return ArrayBuffer.isView(value) ? Array.from(value) : (value ?? null); // JSON would make an object of a typed array
}
