'use strict';
// What the pages share: elements, numbers in words, curves. `DATA` is all that the page knows.
const DATA = JSON.parse(document.getElementById('data').textContent);

// ---------------------------------------------------------------- small tools
/** An element: make('p', {class: 'x', onclick: f}, child, 'text', ...); attributes that are null or false are left out. */
function make(tag, attributes = {}, ...children) {
  const svg = ['svg', 'path', 'line', 'text', 'circle', 'g', 'title'].includes(tag);
  const made = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== false));
  return made;
}
const byId = id => document.getElementById(id);
const percent = (x, digits = 1) => (100 * x).toFixed(digits);
const count = n => n.toLocaleString('en');
const words = (n, one, many = one + 's') => `${count(n)} ${n === 1 ? one : many}`;
const short = x => Math.abs(x) < 100 ? x.toFixed(3) : x.toPrecision(4);
const range = n => Array.from({length: n}, (_, i) => i);
const distinct = values => [...new Set(values)].sort((a, b) => a - b);

// ---------------------------------------------------------------- charts
/** Round numbers between low and high, about `most` of them; `around`: also the ones that enclose these two. */
function ticks(low, high, most = 6, around = false) {
  const rough = (high - low || Math.abs(high) || 1) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough * .9999);
  const first = Math[around ? 'floor' : 'ceil'](low / step + (around ? 1e-9 : -1e-9)), last = Math[around ? 'ceil' : 'floor'](high / step + (around ? -1e-9 : 1e-9));
  return range(Math.max(last - first, around ? 1 : 0) + 1).map(i => Number(((first + i) * step).toPrecision(12)));
}
const number = x => Math.abs(x) >= 1e5 || (x && Math.abs(x) < 1e-3) ? x.toExponential(0) : String(Number(x.toPrecision(4)));
const look = kind => `c${kind % 4} d${(kind + Math.floor(kind / 4)) % 4}`; // colour and dashes: no two of sixteen are alike
const swatch = kind => make('svg', {class: 'swatch', viewBox: '0 0 30 10', 'aria-hidden': 'true'}, make('path', {class: look(kind), d: 'M0 5H30'}));
/** Lines of {name, x, y}, of one `kind` if they are to look alike, with `end`, a letter at the last point, and `title`.
 *  lines: [x, text] of vertical ones. share: in percent, between 0 and 100. A point alone stands in the middle. */
function chart(title, {series, xlabel, ylabel, xlim, ylim, whole = false, log = false, share = false, lines = []}) {
  const kind = (s, k) => s.kind ?? k, named = new Map(series.map((s, k) => [s.name, kind(s, k)]));
  const svg = make('svg', {role: 'img', 'aria-label': `${title}: ${ylabel} over ${xlabel}. ${series.map(s => `${s.name}: ${number(s.y[0] ?? 0)} to ${number(s.y[s.y.length - 1] ?? 0)}`).join('; ')}`});
  const drawn = make('figure', {class: 'chart'}, make('h3', {}, title), svg, make('ul', {class: 'legend'}, [...named].map(([name, k]) => make('li', {}, swatch(k), name)),
    lines.map(([, said]) => make('li', {}, make('svg', {class: 'swatch', viewBox: '0 0 30 10', 'aria-hidden': 'true'}, make('path', {class: 'mark', d: 'M15 0V10'})), said))));
  const xs = series.flatMap(s => s.x), ys = series.flatMap(s => s.y).filter(y => y !== null && (!log || y > 0)).map(y => log ? Math.log10(y) : y);
  let [x0, x1] = xlim ?? [Math.min(...xs), Math.max(...xs)], [y0, y1] = ylim ?? [Math.min(...ys), Math.max(...ys)];
  if (x0 === x1) [x0, x1] = whole ? [x0 - 1, x1 + 1] : [x0 - .5, x1 + .5];
  if (log && y0 === y1) [y0, y1] = [y0 - 1, y1 + 1];
  if (!log && !ylim) {
    const round = ticks(y0, y1, 5, true);
    [y0, y1] = share ? [Math.max(0, round[0]), Math.min(100, round[round.length - 1])] : [round[0], round[round.length - 1]];
    if (y0 === y1) [y0, y1] = [0, 100]; // all of them are 100
  }
  drawn.redraw = () => {
    const w = svg.clientWidth || 320, h = 230, left = 52, right = w - (series.some(s => s.end) ? 24 : 10), top = 8, bottom = h - 42;
    const X = x => left + (right - left) * (x - x0) / (x1 - x0), Y = y => bottom - (bottom - top) * ((log ? Math.log10(y) : y) - y0) / (y1 - y0);
    let yt = ticks(y0, y1, 5).map(y => log ? 10 ** y : y), xt = ticks(x0, x1, Math.max(2, Math.floor(w / 70)));
    if (log) yt = yt.filter(y => Number.isInteger(Math.round(Math.log10(y) * 1e6) / 1e6));
    if (log && yt.length < 2) yt = [10 ** y0, 10 ** y1];
    if (whole) xt = distinct([x0, ...xt.filter(x => Number.isInteger(x) && x >= x0)].filter(x => Number.isInteger(x) && (x === x0 || X(x) - X(x0) > 22)));
    const parts = yt.map(y => [make('line', {class: 'grid', x1: left, x2: right, y1: Y(y), y2: Y(y)}), make('text', {class: 'axis', x: left - 6, y: Y(y) + 4, 'text-anchor': 'end'}, number(y))]);
    parts.push(xt.map(x => [make('line', {class: 'grid', x1: X(x), x2: X(x), y1: bottom, y2: bottom + 4}), make('text', {class: 'axis', x: X(x), y: bottom + 18, 'text-anchor': 'middle'}, number(x))]));
    parts.push(make('text', {class: 'axis', x: (left + right) / 2, y: h - 6, 'text-anchor': 'middle'}, xlabel),
      make('text', {class: 'axis', x: 0, y: 0, transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle'}, ylabel));
    const ends = new Map(); // of the first line of each letter
    series.forEach((s, k) => {
      const points = s.x.map((x, i) => [x, s.y[i]]).filter(([x, y]) => y !== null && y !== undefined && (!log || y > 0)).map(([x, y]) => [X(x), Y(y)]);
      if (!points.length) return;
      const path = make('path', {class: look(kind(s, k)), d: points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('')});
      const shown = s.end ? points.slice(-1) : points.length > 20 ? [] : points;
      parts.push(make('g', {}, s.title && make('title', {}, s.title), path, shown.map(([x, y]) => make('circle', {class: `c${kind(s, k) % 4}`, cx: x, cy: y, r: 3}))));
      if (s.end && !ends.has(s.end)) ends.set(s.end, points[points.length - 1]);
    });
    let free = bottom; // from below, each letter clear of the one before
    for (const [end, [x, y]] of [...ends].sort((a, b) => b[1][1] - a[1][1])) {
      parts.push(make('text', {x: x + 7, y: free = Math.min(y + 4, free)}, end));
      free -= 12;
    }
    parts.push(lines.map(([x]) => make('path', {class: 'mark', d: `M${X(x)} ${top}V${bottom}`})));
    svg.replaceChildren(...parts.flat(2));
  };
  return drawn;
}
const sizes = new ResizeObserver(entries => entries.forEach(entry => entry.target.redraw?.()));
/** Charts in the element of this id, drawn as wide as they are. */
function showIn(id, charts) {
  byId(id).replaceChildren(...charts);
  sizes.disconnect();
  charts.forEach(each => sizes.observe(each));
}
