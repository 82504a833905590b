'use strict';
// The page of ranked queries, after charts.js. All it knows was written by ranked.py; the address keeps what is shown.
const IMG = DATA.images, VIEWS = DATA.views, SEVERAL = VIEWS.length > 1;
const MARKS = {
  r: ['✓', 'right', 'same identity'], w: ['✗', 'wrong', 'other identity'],
  j: ['–', 'not counted', 'removed by the protocol: junk, or the query’s own camera'], '-': ['', '', ''],
};
const INFRARED = new Set(DATA.infrared), NOBODY = new Set(DATA.distractors);
const AP = 0, FIRST = 1, HITS = 2, IDS = 3, DIST = 4, MARK = 5, RANK = 6, PATHS = 7; // of a row, see ranked.py

const who = i => `id ${IMG.pid[i]}, camera ${IMG.cam[i]}${INFRARED.size ? INFRARED.has(IMG.cam[i]) ? ', infrared' : ', colour' : ''}`;

// ---------------------------------------------------------------- state, kept in the address
const DEFAULTS = {view: '0', against: SEVERAL ? '1' : '', sort: 'ap', down: '', rank1: 'all', change: 'all', cam: '',
  other: '', id: '', text: '', query: '', hit: '', ...DATA.start};
let state = {...DEFAULTS};
function readAddress() {
  const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  state = {...DEFAULTS};
  for (const name of Object.keys(DEFAULTS)) if (name in given) state[name] = given[name];
  if (!VIEWS[state.view]) state.view = '0';
  if (!VIEWS[state.against] || state.against === state.view) state.against = SEVERAL ? String(range(VIEWS.length).find(v => String(v) !== state.view)) : '';
  if (!DATA.labelled) state.sort = 'given';
}
function set(changes) {
  Object.assign(state, changes);
  if (state.against === state.view) state.against = String(range(VIEWS.length).find(v => String(v) !== state.view) ?? '');
  const said = new URLSearchParams(Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]));
  written = '#' + said;
  try { history.replaceState(null, '', written); } catch { location.replace(written); }
}
let written = location.hash;
addEventListener('hashchange', () => { if (location.hash !== written) { readAddress(); showAll(); } });

const view = () => VIEWS[state.view], against = () => VIEWS[state.against];
const row = (q, of = view()) => of.rows[q];
const firstDistance = q => { const r = row(q), at = r[MARK].indexOf('r'); return at < 0 ? null : r[DIST][at]; };
const nearest = q => { const r = row(q), at = [...r[MARK]].findIndex(mark => mark !== 'j'); return at < 0 ? null : r[IDS][at]; };
const change = q => !against() || row(q)[AP] === null || row(q, against())[AP] === null ? null : row(q)[AP] - row(q, against())[AP];
const changed = q => { const c = change(q); return c === null ? 'none' : c > 5e-4 ? 'better' : c < -5e-4 ? 'worse' : 'same'; };

// ---------------------------------------------------------------- sorting and filtering
const KEYS = {
  ap: ['AP', q => row(q)[AP]], first: ['rank of the first hit', q => row(q)[FIRST]],
  distance: ['distance of the first hit', firstDistance], cam: ['camera', q => IMG.cam[q]], id: ['identity', q => IMG.pid[q]],
  ...(SEVERAL ? {change: ['change of AP', change]} : {}), given: ['order of the data set', q => q],
};
function chosen() {
  const text = state.text.trim().toLowerCase();
  const kept = range(DATA.queries).filter(q => {
    const r = row(q);
    if (state.rank1 === 'right' && r[FIRST] !== 1) return false;
    if (state.rank1 === 'wrong' && (r[FIRST] === null || r[FIRST] === 1)) return false;
    if (state.rank1 === 'none' && r[FIRST] !== null) return false;
    if (state.cam !== '' && String(IMG.cam[q]) !== state.cam) return false;
    if (state.other !== '' && (nearest(q) === null || String(IMG.cam[nearest(q)]) !== state.other)) return false;
    if (state.id.trim() !== '' && String(IMG.pid[q]) !== state.id.trim()) return false;
    if (state.change !== 'all' && changed(q) !== state.change) return false;
    return !text || [q, ...r[IDS]].some(i => IMG.name[i].toLowerCase().includes(text));
  });
  const key = (KEYS[state.sort] ?? KEYS.given)[1], sign = state.down ? -1 : 1;
  const value = new Map(kept.map(q => [q, key(q)]));
  return kept.sort((a, b) => {
    const x = value.get(a), y = value.get(b);
    if (x === null || y === null) return (x === null) - (y === null) || a - b; // what has none comes last
    return sign * (x - y) || a - b;
  });
}

// ---------------------------------------------------------------- images
/** The picture of image i; of a tracklet its middle frame, which `play` moves. */
function shot(i, alt, lazy = true) {
  const n = IMG.frames[i];
  const img = make('img', {src: `thumbs/${IMG.file[i]}.jpg`, alt, loading: lazy ? 'lazy' : null, decoding: 'async', draggable: 'false'});
  const aspect = IMG.width[i] / IMG.height[i];
  if (n > 1) { img.dataset.frames = n; frame(img, Math.floor(n / 2)); }
  img.style.width = `calc(${n} * 100%)`;
  return {img, aspect};
}
const frame = (img, k) => { img.dataset.frame = k; img.style.transform = `translateX(${-100 * k / img.dataset.frames}%)`; };
let playing = false, clock = null;
function play(on) {
  playing = on;
  clearInterval(clock);
  if (on) clock = setInterval(() => document.querySelectorAll('img[data-frames]').forEach(img => frame(img, (Number(img.dataset.frame) + 1) % img.dataset.frames)), 250);
}
function playButton() {
  const said = () => playing ? '❚❚ Stop the tracklets' : '▶ Play the tracklets';
  return make('button', {type: 'button', class: 'play', 'aria-pressed': String(playing), onclick: () => {
    play(!playing);
    document.querySelectorAll('.play').forEach(each => { each.setAttribute('aria-pressed', String(playing)); each.textContent = said(); });
  }}, said());
}
function tile(q, i, place, r, attributes = {}) {
  const mark = place === null ? 'q' : r[MARK][place];
  const rank = place === null ? 'query' : mark === 'j' ? 'not counted' : `rank ${r[RANK][place]}`;
  const [sign, said] = place === null ? ['', ''] : MARKS[mark];
  const distance = place === null ? '' : short(r[DIST][place]);
  const known = DATA.labelled ? who(i) : IMG.name[i];
  const nobody = place !== null && mark === 'w' && NOBODY.has(IMG.pid[i]);
  const tag = [nobody && 'distractor', mark === 'j' && 'junk', INFRARED.size > 0 && (INFRARED.has(IMG.cam[i]) ? 'infrared' : 'colour'),
    IMG.length[i] > 1 && words(IMG.length[i], 'frame')].filter(Boolean).join(', ');
  const label = [rank, said, nobody && 'a distractor', known, distance && `distance ${distance}`, IMG.length[i] > 1 && tag].filter(Boolean).join(', ');
  const {img, aspect} = shot(i, '');
  const box = make('span', {class: 'shot'}, img, sign && make('span', {class: 'badge', 'aria-hidden': 'true'}, sign),
    tag && make('span', {class: 'tag', 'aria-hidden': 'true'}, tag));
  box.style.width = `calc(var(--tall) * ${Math.min(2, aspect)})`;
  return make('button', {type: 'button', class: `tile ${mark}${place === null ? ' of' : ''}`, 'aria-label': label, title: IMG.name[i], ...attributes},
    box, make('span', {class: 'under first'}, place === null ? 'query' : mark === 'j' ? distance : `${r[RANK][place]} · ${distance}`),
    make('span', {class: 'under'}, DATA.labelled ? `id ${IMG.pid[i]} · cam ${IMG.cam[i]}` : IMG.name[i]));
}
function strip(q, of, open, current = null) {
  const r = row(q, of), tiles = [tile(q, q, null, r, {onclick: () => open(q, '')})];
  let last = 0;
  r[IDS].forEach((i, place) => {
    const rank = r[RANK][place];
    if (rank !== null && last && rank > last + 1) tiles.push(make('span', {class: 'gap', 'aria-hidden': 'true'}, '⋯'));
    last = rank ?? last;
    tiles.push(tile(q, i, place, r, {onclick: () => open(q, String(place)), 'aria-current': current === place ? 'true' : null}));
  });
  return make('div', {class: 'strip', role: 'group', 'aria-label': `nearest images of ${IMG.name[q]}, nearest first, by ${of.name}`}, tiles);
}
function verdict(q, of = view()) {
  const r = row(q, of);
  if (!DATA.labelled) return [];
  if (r[FIRST] === null) return ['no match in the gallery'];
  return [`AP ${percent(r[AP])} %`, `first hit at rank ${count(r[FIRST])}`, `${words(r[HITS], 'match', 'matches')} in the gallery`];
}
function difference(q) {
  const c = change(q), kind = changed(q);
  if (c === null) return null;
  if (kind === 'same') return make('span', {class: 'faint'}, '= AP as before');
  return make('span', {class: kind, title: `than “${against().name}”`}, `AP ${kind === 'better' ? '▲ better' : '▼ worse'} by ${percent(Math.abs(c))}`);
}

// ---------------------------------------------------------------- the list: rows are filled while they are near the window
let order = [];
const items = new Map();
const watcher = new IntersectionObserver(entries => entries.forEach(entry => {
  if (entry.isIntersecting) fill(entry.target); else entry.target.replaceChildren();
}), {rootMargin: '900px 0px'});
function fill(item) {
  if (item.firstChild) return;
  const q = Number(item.dataset.query), right = row(q)[FIRST] === 1, judged = DATA.labelled && row(q)[FIRST] !== null;
  const line = make('div', {class: 'line'},
    make('button', {type: 'button', onclick: () => openLarge(q, '')}, `${order.indexOf(q) + 1}. ${judged ? right ? '✓ ' : '✗ ' : ''}${IMG.name[q]}`),
    DATA.labelled && make('span', {}, who(q)),
    judged && make('span', {class: right ? 'better' : 'worse'}, right ? 'rank 1 right' : 'rank 1 wrong'),
    verdict(q).map(said => make('span', {class: 'faint'}, said)), difference(q));
  item.append(make('div', {class: 'row'}, line, strip(q, view(), openLarge)));
}
function showList() {
  order = chosen();
  watcher.disconnect();
  byId('list').replaceChildren(...order.map((q, at) => {
    if (!items.has(q)) items.set(q, make('li', {'data-query': q}));
    const item = items.get(q);
    item.replaceChildren();
    return item;
  }));
  order.forEach(q => watcher.observe(items.get(q)));
  const right = order.filter(q => row(q)[FIRST] === 1).length;
  const all = order.filter(q => row(q)[FIRST] !== null).length;
  byId('count').textContent = `${count(order.length)} of ${words(DATA.queries, 'query', 'queries')}` +
    (DATA.labelled && all ? `, ${count(right)} right at rank 1 (${percent(right / all)} %)` : '');
}

// ---------------------------------------------------------------- sort and filter
function choice(name, label, options) {
  const made = make('select', {id: `tool-${name}`, onchange: event => { set({[name]: event.target.value}); showList(); }},
    options.map(([value, said]) => make('option', {value, selected: state[name] === value}, said)));
  return make('label', {for: `tool-${name}`}, label, made);
}
function entry(name, label, more = {}) {
  const typed = event => { set({[name]: event.target.value}); showList(); };
  return make('label', {for: `tool-${name}`}, label, make('input', {id: `tool-${name}`, type: 'search', value: state[name], oninput: typed, ...more}));
}
function showTools() {
  const cameras = distinct(range(DATA.queries).map(q => IMG.cam[q])), others = distinct(range(DATA.queries).map(nearest).filter(i => i !== null).map(i => IMG.cam[i]));
  const numbered = list => [['', 'any'], ...list.map(c => [String(c), `camera ${c}${INFRARED.has(c) ? ' (infrared)' : ''}`])];
  const tools = !DATA.labelled ? [] : [
    choice('sort', 'Sort by', Object.entries(KEYS).map(([key, [said]]) => [key, said])),
    choice('down', 'Order', [['', 'smallest first'], ['1', 'largest first']]),
    choice('rank1', 'At rank 1', [['all', 'all'], ['right', '✓ right'], ['wrong', '✗ wrong'], ['none', 'no match exists']]),
    SEVERAL && choice('change', `Change of AP`, [['all', 'all'], ['better', '▲ better'], ['worse', '▼ worse'], ['same', '= same']]),
    choice('cam', 'Camera of the query', numbered(cameras)), choice('other', 'Camera at rank 1', numbered(others)),
    entry('id', 'Identity of the query', {inputmode: 'numeric', placeholder: 'number'}),
    entry('text', 'Text in a file name', {placeholder: 'such as c1s1'}),
    make('button', {type: 'button', onclick: () => { const {view, against} = state; set({...DEFAULTS, view, against}); showTools(); showList(); }}, 'Show all'),
  ];
  if (IMG.frames.some(n => n > 1)) tools.push(playButton());
  byId('tools').replaceChildren(...tools.filter(Boolean));
  const shown = new Set(view().rows.flatMap(r => [...r[MARK]]));
  byId('key').replaceChildren(...(DATA.labelled ? Object.entries(MARKS).filter(([mark]) => mark !== '-' && shown.has(mark)).map(([mark, [sign, , said]]) =>
    make('span', {}, make('span', {class: {r: 'better', w: 'worse', j: 'faint'}[mark]}, `${sign} `), said)) : []));
}
byId('tools').addEventListener('submit', event => event.preventDefault());

// ---------------------------------------------------------------- the head
function showHead() {
  const v = view(), published = v.published[0];
  const cards = v.numbers.map(({key, name, value, interval}) => make('div', {}, make('span', {class: 'faint'}, name), make('b', {}, `${percent(value)} %`),
    make('small', {}, interval ? `95 % interval ${percent(interval[0])} to ${percent(interval[1])}` : 'too few queries for an interval'),
    published && published[key] !== null && published[key] !== undefined && make('small', {}, `published ${published[key].toFixed(1)} %`)));
  const radios = (name, legend, skip) => make('fieldset', {}, make('legend', {}, legend), VIEWS.map((each, at) => String(at) !== skip && make('label', {},
    make('input', {type: 'radio', name, value: at, checked: state[name] === String(at), onchange: () => { set({[name]: String(at)}); showAll(); byId('head').querySelector(`input[name=${name}]:checked`)?.focus(); }}), each.name)));
  const facts = Object.entries(v.facts);
  byId('head').replaceChildren(...[make('h1', {}, DATA.title), DATA.note && make('p', {class: 'note'}, DATA.note),
    SEVERAL && radios('view', 'Ranking shown', null), SEVERAL && VIEWS.length > 2 && radios('against', 'Compared with', state.view),
    v.numbers.length && make('div', {class: 'numbers'}, cards),
    SEVERAL && DATA.labelled && make('p', {id: 'changes'}, summary()),
    published && make('p', {class: 'faint'}, `Published for this very run: ${v.published.map(p => `rank-1 ${p.rank1 ?? '–'}, mAP ${p.mAP ?? '–'} (${p.source})`).join('; ')}`),
    v.beside && make('p', {class: 'faint'}, v.beside),
    facts.length && make('details', {open: innerWidth > 900}, make('summary', {}, 'What was measured, with what'),
      make('dl', {class: 'facts'}, facts.map(([name, said]) => make('div', {}, make('dt', {}, name), make('dd', {}, said)))))].filter(Boolean));
}
function summary() {
  const kinds = range(DATA.queries).map(changed), number = kind => kinds.filter(each => each === kind).length;
  const fixed = range(DATA.queries).filter(q => row(q)[FIRST] === 1 && row(q, against())[FIRST] !== 1).length;
  const broken = range(DATA.queries).filter(q => row(q)[FIRST] !== 1 && row(q, against())[FIRST] === 1).length;
  return `“${view().name}” against “${against().name}”: AP is ▲ better for ${words(number('better'), 'query', 'queries')}, ▼ worse for ${count(number('worse'))}, ` +
    `the same for ${count(number('same'))}; rank 1 became right for ${count(fixed)} and wrong for ${count(broken)}.`;
}

// ---------------------------------------------------------------- charts
function cameraTable(cameras) {
  const cell = (value, a, b) => {
    const made = make('td', {title: `queries of camera ${cameras.query_cameras[a]} in camera ${cameras.gallery_cameras[b]}: ${words(cameras.num_valid[a][b], 'query', 'queries')}`}, value === null ? '–' : percent(value));
    if (value !== null) made.style.background = `color-mix(in srgb, var(--accent) ${Math.round(55 * value)}%, transparent)`;
    return made;
  };
  return make('figure', {class: 'chart'}, make('h3', {}, 'mAP by pair of cameras (%)'), make('div', {class: 'scroll', tabindex: '0', role: 'group', 'aria-label': 'mAP by pair of cameras'}, make('table', {},
    make('thead', {}, make('tr', {}, make('th', {scope: 'col'}, 'query \\ in'), cameras.gallery_cameras.map(c => make('th', {scope: 'col'}, c)))),
    make('tbody', {}, cameras.mAP.map((values, a) => make('tr', {}, make('th', {scope: 'row'}, cameras.query_cameras[a]), values.map((value, b) => cell(value, a, b))))))),
  make('figcaption', {class: 'faint'}, 'queries of one camera (rows), ranked in the gallery of one camera alone (columns); – : none has a match there'));
}
function showCharts() {
  const v = view(), found = [];
  const curves = VIEWS.filter(each => each.cmc.length);
  if (curves.length) {
    const low = Math.min(...curves.map(each => each.cmc[0])), ranks = Math.min(20, curves[0].cmc.length);
    found.push(chart('Cumulative matching characteristic', {xlabel: 'rank', ylabel: 'queries matched (%)', whole: true, xlim: ranks > 1 ? [1, ranks] : undefined,
      ylim: [Math.max(0, Math.floor(10 * low - .5) * 10), 100], series: curves.map(each => ({name: `${each.name}: ${percent(each.cmc[0])} at rank 1`, x: range(ranks).map(i => i + 1), y: each.cmc.slice(0, ranks).map(c => 100 * c)}))}));
  }
  if (v.histogram.edges) {
    const {edges, same, other} = v.histogram, middle = same.map((_, i) => (edges[i] + edges[i + 1]) / 2), at = v.verification.eer_threshold;
    found.push(chart('Distances of pairs', {xlabel: `${v.unit}`, ylabel: 'share of the pairs (%)', ylim: [0, 105 * Math.max(...same, ...other)],
      series: [{name: 'same person', x: middle, y: same.map(s => 100 * s)}, {name: 'two people', x: middle, y: other.map(s => 100 * s)}],
      lines: at === null || at === undefined ? [] : [[at, `threshold ${short(at)} (equal error rate ${percent(v.verification.eer)} %)`]]}));
  }
  if (v.cameras.mAP && v.cameras.mAP.length) found.push(cameraTable(v.cameras));
  found.push(...trainingCharts());
  showIn('charts', found);
}
function trainingCharts() {
  const log = DATA.log, epochs = log.map(line => line.epoch), told = new Set(['epoch', 'lr', 'seconds', 'images_per_second']);
  if (!log.length) return [];
  const terms = [...new Set(log.flatMap(line => Object.keys(line).filter(key => !told.has(key) && typeof line[key] === 'number')))];
  const found = [], whole = true, xlabel = 'epoch', xlim = epochs.length > 1 ? [epochs[0], epochs[epochs.length - 1]] : undefined;
  if (terms.length) found.push(chart('Loss', {xlabel, ylabel: 'weighted term', whole, xlim, ylim: [0, 1.05 * Math.max(1e-6, ...log.flatMap(line => terms.map(t => line[t] ?? 0)))], series: terms.map(name => ({name, x: epochs, y: log.map(line => line[name] ?? null)}))}));
  if (log.some(line => line.lr > 0)) found.push(chart('Learning rate', {xlabel, ylabel: 'step size', whole, xlim, log: true, series: [{name: 'learning rate', x: epochs, y: log.map(line => line.lr ?? null)}]}));
  const tested = log.filter(line => line.metrics && Object.keys(line.metrics).length);
  const sets = [...new Set(tested.flatMap(line => Object.keys(line.metrics)))];
  if (sets.length) found.push(chart('Evaluation while training', {xlabel, ylabel: 'rank-1, mAP (%)', whole, xlim, ylim: [0, 100], series: sets.flatMap(set => [['rank1', 'rank-1'], ['mAP', 'mAP']].map(([key, said]) =>
    ({name: sets.length > 1 ? `${set} ${said}` : said, x: tested.map(line => line.epoch), y: tested.map(line => line.metrics[set]?.[key] === undefined ? null : 100 * line.metrics[set][key])})))}));
  return found;
}

function showMore() {
  const pictures = Object.entries(DATA.pictures), links = Object.entries(DATA.links), drawn = links.filter(([, file]) => file.endsWith('.png'));
  byId('more').replaceChildren(...pictures.flatMap(([title, file]) => [make('h2', {}, title), make('div', {class: 'sample scroll'}, make('img', {src: file, alt: title, loading: 'lazy'}))]),
    links.length ? make('h2', {}, 'Files') : '', make('div', {id: 'files'}, drawn.map(([title, file]) => // white sheets, in a frame
      make('a', {class: 'chart', href: file}, make('h3', {}, title), make('img', {src: file, alt: '', loading: 'lazy'})))),
    make('ul', {}, links.filter(each => !drawn.includes(each)).map(([title, file]) => make('li', {}, make('a', {href: file}, title)))));
}

// ---------------------------------------------------------------- the large view
const large = byId('large');
const shows = {map: true, stripes: true, path: true};
let before = null;
function openLarge(q, hit) {
  if (!large.open) before = document.activeElement;
  set({query: String(q), hit});
  showLarge();
}
function closeLarge() {
  set({query: '', hit: ''});
  if (large.open) large.close();
  before?.isConnected && before.focus();
}
function heat(i) {
  const maps = DATA.maps[view().maps], packed = maps.of[i];
  if (!packed) return null;
  const [h, w] = maps.size, bytes = atob(packed), small = make('canvas', {width: w, height: h}), pixels = new ImageData(w, h);
  const colours = DATA.heat.map(text => text.match(/\d+/g).map(Number)), steps = colours.length - 1;
  for (let p = 0; p < w * h; p++) {
    const x = bytes.charCodeAt(p) / 255 * steps, k = Math.min(steps - 1, Math.floor(x)), t = x - k;
    for (let c = 0; c < 3; c++) pixels.data[4 * p + c] = colours[k][c] * (1 - t) + colours[k + 1][c] * t;
    pixels.data[4 * p + 3] = 255;
  }
  small.getContext('2d').putImageData(pixels, 0, 0);
  const canvas = make('canvas', {width: 16 * w, height: 16 * h, role: 'img', 'aria-label': 'activation map over the image'}), context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return canvas;
}
const rows = (q, place) => { // into how many rows the network cuts this pair, and how they are matched
  const path = row(q)[PATHS]?.[place];
  return path ? {path, n: [...path].filter(c => c === 'q').length + 1, m: [...path].filter(c => c === 'g').length + 1} : null;
};
function panel(i, alt, map, cuts) {
  const {img, aspect} = shot(i, alt, false);
  if (map) delete img.dataset.frames; // of a tracklet the map is of this frame alone: it stands still
  const seen = make('div', {class: 'view'}, img, map), box = make('div', {class: 'panel'}, seen);
  const high = `var(--large) * ${Math.min(1, .6 / aspect)}`; // a wide image is no wider than a person's is
  box.style.height = `calc(${high})`;
  box.style.width = `calc(${high} * ${aspect})`;
  if (cuts.length) box.append(make('svg', {viewBox: '0 0 100 100', preserveAspectRatio: 'none', 'aria-hidden': 'true'},
    cuts.flatMap((n, k) => range(n - 1).map(j => make('line', {x1: 0, x2: 100, y1: 100 * (j + 1) / n, y2: 100 * (j + 1) / n, 'vector-effect': 'non-scaling-stroke', 'stroke-dasharray': k ? '6 4' : null})))));
  return box;
}
function person(i, heading, said, cuts, mirrored) {
  const map = shows.map ? heat(i) : null, panels = [panel(i, `${heading}: ${IMG.name[i]}`, null, cuts)];
  if (map) panels.push(panel(i, '', map, cuts));
  return make('figure', {}, make('div', {class: mirrored ? 'panels mirrored' : 'panels'}, panels), make('figcaption', {}, make('b', {}, heading), ' ', said), film(i));
}
function film(i) {
  if (IMG.frames[i] < 2) return null;
  const n = IMG.frames[i];
  return make('div', {class: 'film', role: 'img', 'aria-label': `${n} of ${words(IMG.length[i], 'frame')} of the tracklet`}, range(n).map(k => {
    const {img, aspect} = shot(i, '', false), box = make('span', {}, img);
    delete img.dataset.frames;
    img.style.transform = `translateX(${-100 * k / n}%)`;
    box.style.width = `${72 * aspect}px`;
    return box;
  }));
}
function links(match) {
  let a = 0, b = 0;
  const cells = [[0, 0], ...[...match.path].map(c => c === 'q' ? [++a, b] : [a, ++b])];
  return make('div', {class: 'links'}, make('svg', {viewBox: '0 0 100 100', preserveAspectRatio: 'none', role: 'img', 'aria-label': `alignment of the parts, query to gallery: ${cells.map(([s, t]) => `${s + 1}-${t + 1}`).join(', ')}`},
    cells.map(([s, t]) => make('line', {x1: 0, x2: 100, y1: 100 * (s + .5) / match.n, y2: 100 * (t + .5) / match.m, 'vector-effect': 'non-scaling-stroke'}))));
}
const first = r => r[IDS].length ? Math.max(0, [...r[MARK]].findIndex(mark => mark !== 'j')) : null; // place of the nearest that counts
function showLarge() {
  const q = Number(state.query), r = row(q);
  if (!r) return closeLarge();
  const place = state.hit === '' || !(Number(state.hit) < r[IDS].length) ? first(r) : Number(state.hit);
  const at = order.indexOf(q), i = place === null ? null : r[IDS][place], match = place === null ? null : rows(q, place);
  const v = view(), cuts = match && shows.path ? [match.n] : shows.stripes ? v.stripes : [];
  const step = (dq, words, sign) => make('button', {type: 'button', 'aria-label': words, title: words, onclick: () => moveQuery(dq), disabled: !order[at + dq] && order[at + dq] !== 0}, sign);
  const other = (d, words, sign) => make('button', {type: 'button', 'aria-label': words, title: words, onclick: () => moveHit(d), disabled: place === null || !(place + d in r[IDS])}, sign);
  const {size: hasMaps, of: maps} = DATA.maps[v.maps], mapped = maps[q] && (i === null || maps[i]);
  const mark = place === null ? '-' : r[MARK][place], [sign, said] = MARKS[mark];
  const about = place === null ? '' : `${sign} ${mark === 'j' ? 'not counted (junk)' : `rank ${r[RANK][place]}${said && ', ' + said}`}`;
  const nobody = mark === 'w' && NOBODY.has(IMG.pid[i]) ? ', a distractor: nobody who is looked for' : '';
  const toggle = (key, words) => make('label', {}, make('input', {type: 'checkbox', checked: shows[key], onchange: event => { shows[key] = event.target.checked; showLarge(); large.querySelector(`[data-switch=${key}]`)?.focus(); }, 'data-switch': key}), words);
  const open = (query, hit) => { set({query: String(query), hit}); showLarge(); };
  const kept = document.activeElement?.closest?.('dialog') ? document.activeElement.getAttribute('aria-label') : null;
  large.replaceChildren(make('div', {class: 'bar'}, step(-1, 'previous query (arrow left)', '←'), step(1, 'next query (arrow right)', '→'),
    other(-1, 'nearer image (arrow up)', '↑'), other(1, 'farther image (arrow down)', '↓'),
    make('strong', {role: 'status', 'aria-live': 'polite'}, `${at < 0 ? 'Query' : `${count(at + 1)} of ${count(order.length)}`}: ${IMG.name[q]}${about && `; ${about}`}`),
    make('button', {type: 'button', onclick: closeLarge}, 'Close (Esc)')),
  make('div', {class: 'inner'}, make('p', {class: 'faint', style: 'text-align:center'}, [DATA.labelled ? who(q) : '', ...verdict(q)].filter(Boolean).join(' · '), ' ', difference(q)),
    make('div', {class: 'stage'}, person(q, 'Query', DATA.labelled ? who(q) : IMG.name[q], cuts, Boolean(match)), match && shows.path && links(match),
      i !== null && person(i, about || `rank ${r[RANK][place]}`, `${DATA.labelled ? who(i) : IMG.name[i]}, ${v.unit} ${short(r[DIST][place])}${nobody}`, cuts, false)),
    make('div', {class: 'switches'}, hasMaps && toggle('map', `activation maps (${v.mapName}${IMG.frames[q] > 1 ? ', of the middle frame' : ''})`), v.stripes.length > 0 && toggle('stripes', `borders of ${v.stripes.join(' and ')} stripes`), match && toggle('path', 'alignment of the parts'),
      v.soft && make('span', {class: 'faint'}, 'The parts are soft: each position belongs to all of them, with a weight. There are no borders to draw.'),
      IMG.frames[q] > 1 && playButton(),
      !hasMaps && make('span', {class: 'faint'}, 'Activation maps: --mode visualize, without --vis or with actmap in it.'),
      hasMaps && shows.map && (mapped ? make('span', {}, 'least', ramp(), 'most active, in each image') : make('span', {class: 'faint'}, 'no activation map was computed of this pair: --num_maps N computes more'))),
    VIEWS.map(each => [make('h2', {}, each === v ? SEVERAL ? `${each.name} (shown)` : 'Nearest images' : each.name), each !== v && make('p', {class: 'faint'}, verdict(q, each).join(' · ')),
      strip(q, each, each === v ? open : (query, hit) => { set({view: String(VIEWS.indexOf(each))}); showHead(); showCharts(); showTools(); showList(); open(query, hit); }, each === v ? place : null)])));
  if (!large.open) large.showModal();
  const again = kept && [...large.querySelectorAll('button')].find(each => each.getAttribute('aria-label') === kept);
  if (again && !again.disabled) again.focus({preventScroll: true});
}
function ramp() {
  const made = make('span', {class: 'ramp', role: 'img', 'aria-label': 'colours from least to most'});
  made.style.background = `linear-gradient(90deg, ${DATA.heat.join(',')})`;
  return made;
}
function moveQuery(d) {
  const next = order[order.indexOf(Number(state.query)) + d];
  if (next !== undefined) openLarge(next, '');
}
function moveHit(d) {
  const r = row(Number(state.query)), n = r[IDS].length, next = (state.hit === '' ? first(r) : Number(state.hit)) + d;
  if (next >= 0 && next < n) openLarge(Number(state.query), String(next));
}
large.addEventListener('keydown', event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const act = {ArrowLeft: () => moveQuery(-1), ArrowRight: () => moveQuery(1), ArrowUp: () => moveHit(-1), ArrowDown: () => moveHit(1)}[event.key];
  if (act) { event.preventDefault(); act(); }
});
large.addEventListener('cancel', event => { event.preventDefault(); closeLarge(); });
addEventListener('keydown', event => { // on the page: walk the rows
  if (large.open || !['ArrowDown', 'ArrowUp', 'j', 'k'].includes(event.key) || event.target.closest('input, select, .scroll')) return;
  const item = document.activeElement.closest?.('#list > li');
  if (!item) return;
  const next = ['ArrowDown', 'j'].includes(event.key) ? item.nextElementSibling : item.previousElementSibling;
  if (!next) return;
  event.preventDefault();
  next.scrollIntoView({block: 'nearest'});
  fill(next);
  next.querySelector('button').focus();
});

function showAll() {
  showHead(); showCharts(); showTools(); showList(); showMore();
  if (state.query !== '') showLarge(); else if (large.open) large.close();
}
readAddress();
showAll();
